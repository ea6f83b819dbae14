//! Which replica a request goes to.

use std::collections::HashMap;
use std::str::FromStr;

use super::trace::Trace;

/// How requests are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routing {
    /// One after the other.
    RoundRobin,
    /// To the replica with the fewest unfinished requests.
    LeastLoaded,
    /// To the replica that last served the longest beginning of the prompt, unless it has much more to do than the least
    /// loaded; others to the least loaded. Source: Preble, arXiv:2407.00023.
    PrefixAffinity,
}

impl FromStr for Routing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "round_robin" => Ok(Self::RoundRobin),
            "least_loaded" => Ok(Self::LeastLoaded),
            "prefix_affinity" => Ok(Self::PrefixAffinity),
            _ => Err("expected round_robin, least_loaded or prefix_affinity".into()),
        }
    }
}

/// A router's state.
#[derive(Debug)]
pub struct Router {
    routing: Routing,
    next: usize,
    /// By beginning of a prompt, hashed: who served it last.
    served: HashMap<u64, usize>,
}

impl Router {
    /// How many times the least load (and [`Self::SLACK`] more) a replica may have and still draw its prefixes.
    const IMBALANCE: usize = 2;
    /// See [`Self::IMBALANCE`].
    const SLACK: usize = 4;

    /// Without history.
    pub fn new(routing: Routing) -> Self {
        Self { routing, next: 0, served: HashMap::new() }
    }

    /// The replica for request `index`, where `load` has the unfinished requests of each that the router knows of.
    pub fn route(&mut self, trace: &Trace, index: usize, load: &[usize]) -> usize {
        let least = || (0..load.len()).min_by_key(|&replica| load[replica]).unwrap_or(0);
        match self.routing {
            _ if load.len() == 1 => 0,
            Routing::RoundRobin => {
                self.next = (self.next + 1) % load.len();
                (self.next + load.len() - 1) % load.len()
            }
            Routing::LeastLoaded => least(),
            Routing::PrefixAffinity => {
                let hash = |chain: u64, id: &u32| crate::engine::block_manager::xxh3(chain, &[*id]);
                let chain = trace.hashes(&trace.requests[index]).iter().scan(0, |chain, id| {
                    *chain = hash(*chain, id);
                    Some(*chain)
                });
                let chain: Vec<u64> = chain.collect();
                let known = chain.iter().rev().find_map(|hash| self.served.get(hash).copied());
                let light = least();
                let most = Self::IMBALANCE * load[light] + Self::SLACK;
                let chosen = known.filter(|&replica| load[replica] <= most).unwrap_or(light);
                self.served.extend(chain.into_iter().map(|hash| (hash, chosen)));
                chosen
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::simulate::trace::TraceRequest;

    #[test]
    fn each_routing() {
        let request = |start, count| TraceRequest { hashes: (start, count), ..TraceRequest::default() };
        let trace = Trace {
            name: String::new(),
            requests: vec![request(0, 2), request(0, 2), request(2, 1), request(0, 1)],
            hash_ids: vec![1, 2, 3],
        };
        let route = |routing, loads: &[[usize; 3]]| {
            let mut router = Router::new(routing);
            let one = |(index, load): (usize, &[usize; 3])| router.route(&trace, index, load);
            loads.iter().enumerate().map(one).collect::<Vec<_>>()
        };
        let loads = [[5, 4, 0], [0, 0, 3], [2, 0, 1], [0, 0, 9]];
        assert_eq!(route(Routing::RoundRobin, &loads), [0, 1, 2, 0]);
        assert_eq!(route(Routing::LeastLoaded, &loads), [2, 0, 1, 0]);
        // The second shares the first's prompt, the third nothing; the fourth's replica has too much to do.
        assert_eq!(route(Routing::PrefixAffinity, &loads), [2, 2, 1, 0]);
    }
}
