//! From a trace to what is simulated: its own arrivals at another rate, or drawn ones with lengths from the trace.

use std::str::FromStr;

use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp, Gamma, LogNormal};

use super::trace::{Trace, TraceRequest};
use crate::error::{Error, Result};

/// When requests come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrivals {
    /// As in the trace.
    Trace,
    /// Independently of one another.
    Poisson,
    /// With gamma-distributed gaps of this coefficient of variation: above 1, in bursts. Source: BurstGPT,
    /// arXiv:2401.17644.
    Gamma(f64),
    /// Poisson for this many seconds, then none for that many.
    OnOff(f64, f64),
}

impl FromStr for Arrivals {
    type Err = String;

    /// `trace`, `poisson`, `gamma:CV`, `onoff:ON,OFF`.
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| match text.parse::<f64>() {
            Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
            _ => Err(format!("{text:?}, expected a number above 0")),
        };
        let (name, rest) = text.split_once(':').unwrap_or((text, ""));
        match (name, rest.split_once(',')) {
            ("trace", None) if rest.is_empty() => Ok(Self::Trace),
            ("poisson", None) if rest.is_empty() => Ok(Self::Poisson),
            ("gamma", None) => Ok(Self::Gamma(number(rest)?)),
            ("onoff", Some((on, off))) => Ok(Self::OnOff(number(on)?, number(off)?)),
            _ => Err("expected trace, poisson, gamma:CV or onoff:ON_SECONDS,OFF_SECONDS".into()),
        }
    }
}

/// What a policy is told of output lengths.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Predictor {
    /// Nothing: policies fall back on `max_tokens`.
    None,
    /// The true length.
    Exact,
    /// The true length times a log-normal factor of this sigma.
    LogNormal(f64),
}

impl FromStr for Predictor {
    type Err = String;

    /// `none`, `exact`, `lognormal:SIGMA`.
    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("lognormal:").map(str::parse::<f64>)) {
            ("none", _) => Ok(Self::None),
            ("exact", _) => Ok(Self::Exact),
            (_, Some(Ok(sigma))) if sigma >= 0.0 && sigma.is_finite() => Ok(Self::LogNormal(sigma)),
            _ => Err("expected none, exact or lognormal:SIGMA".into()),
        }
    }
}

/// How to make a workload of a trace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Workload {
    /// When requests come.
    pub arrivals: Arrivals,
    /// Requests a second; `None` is the trace's own.
    pub rate: Option<f64>,
    /// How many; `None` is as many as the trace has.
    pub requests: Option<usize>,
    /// Prompts and outputs are shortened to this share of theirs, at least one token.
    pub length_scale: f64,
    /// Tenants to spread the requests over; `None` leaves the trace's own.
    pub tenants: Option<u32>,
    /// Share of the requests that the first tenant sends, if there are several.
    pub greedy: Option<f64>,
    /// What policies are told.
    pub predictor: Predictor,
}

impl Workload {
    /// The workload; the same seed gives the same.
    ///
    /// Drawn arrivals come with rows drawn from the trace, with replacement. The trace's own arrivals come with its own
    /// rows, over and over if it has too few, so that a seed then matters only to tenants and predictions.
    ///
    /// # Errors
    /// [`Error::Config`] for a rate, number of requests or share that cannot be.
    pub fn make(&self, trace: &Trace, seed: u64) -> Result<Trace> {
        let rate = self.rate.unwrap_or_else(|| trace.rate());
        let count = self.requests.unwrap_or(trace.requests.len());
        if !(rate > 0.0 && rate.is_finite()) {
            return Err(Error::config("rate", rate, "requests a second, above 0"));
        }
        if count == 0 || count >= 1 << 31 {
            return Err(Error::config("requests", count, "1 to 2^31 - 1"));
        }
        if let Some(share) = self.greedy.filter(|share| !(0.0..=1.0).contains(share)) {
            return Err(Error::config("greedy", share, "0 to 1"));
        }
        if !(self.length_scale > 0.0 && self.length_scale <= 1.0) {
            return Err(Error::config("length_scale", self.length_scale, "more than 0 and at most 1"));
        }
        let shorter = |len: u32| ((f64::from(len) * self.length_scale).round() as u32).max(1);
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut requests = match self.arrivals {
            Arrivals::Trace => scaled(trace, count, rate),
            _ => self.drawn(trace, count, rate, &mut random)?,
        };
        for request in &mut requests {
            (request.prompt, request.output) = (shorter(request.prompt), shorter(request.output));
            request.hashes.1 = request.hashes.1.min(request.prompt.div_ceil(Trace::HASH_BLOCK as u32));
            if let Some(tenants) = self.tenants {
                let first = tenants > 1 && self.greedy.is_some_and(|share| random.random_bool(share));
                let others = u32::from(tenants > 1 && self.greedy.is_some());
                request.tenant = if first { 0 } else { random.random_range(others..tenants.max(1)) };
            }
            request.predicted = match self.predictor {
                Predictor::None => None,
                Predictor::Exact => Some(request.output),
                Predictor::LogNormal(sigma) => {
                    let factor = LogNormal::new(0.0, sigma)
                        .map_err(|e| Error::config("sigma", sigma, e.to_string()))?;
                    Some((f64::from(request.output) * factor.sample(&mut random)).round().max(1.0) as u32)
                }
            };
        }
        Ok(Trace { name: trace.name.clone(), requests, hash_ids: trace.hash_ids.clone() })
    }

    fn drawn(
        &self,
        trace: &Trace,
        count: usize,
        rate: f64,
        random: &mut ChaCha8Rng,
    ) -> Result<Vec<TraceRequest>> {
        let wrong = |what: &str| Error::config("arrivals", format!("{:?}", self.arrivals), what);
        let exponential = Exp::new(rate).map_err(|e| wrong(&e.to_string()))?;
        // Shape 1/cv^2 and mean 1/rate.
        let gamma = match self.arrivals {
            Arrivals::Gamma(cv) => {
                Some(Gamma::new(1.0 / (cv * cv), cv * cv / rate).map_err(|e| wrong(&e.to_string()))?)
            }
            _ => None,
        };
        let mut now = 0.0;
        let one = |_| {
            now += match gamma {
                Some(gamma) => gamma.sample(random),
                None => exponential.sample(random),
            };
            let mut request = trace.requests[random.random_range(0..trace.requests.len())].clone();
            request.arrival = match self.arrivals {
                // The same mean rate, with all of it while on.
                Arrivals::OnOff(on, off) => {
                    let busy = now * on / (on + off);
                    (busy / on).floor() * (on + off) + busy % on
                }
                _ => now,
            };
            request
        };
        Ok((0..count).map(one).collect())
    }
}

/// The trace's requests, repeated to `count`, with gaps scaled to the rate.
fn scaled(trace: &Trace, count: usize, rate: f64) -> Vec<TraceRequest> {
    let len = trace.requests.len();
    let own = trace.rate();
    let factor = if own.is_finite() { own / rate } else { 0.0 };
    let one = |i: usize| {
        let mut request = trace.requests[i % len].clone();
        request.arrival = request.arrival * factor + (i / len * len) as f64 / rate;
        request
    };
    (0..count).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace() -> Trace {
        let request = |i: u32| TraceRequest {
            arrival: f64::from(i) * 0.5,
            prompt: 10 + i,
            output: 1 + i,
            ..Default::default()
        };
        Trace { name: "t".into(), requests: (0..9).map(request).collect(), hash_ids: vec![] }
    }

    fn workload(arrivals: Arrivals, rate: f64) -> Workload {
        let (requests, predictor) = (Some(40_000), Predictor::Exact);
        Workload {
            arrivals,
            rate: Some(rate),
            requests,
            length_scale: 1.0,
            tenants: None,
            greedy: None,
            predictor,
        }
    }

    /// Mean and coefficient of variation of the gaps.
    fn gaps(trace: &Trace) -> (f64, f64) {
        let gaps: Vec<f64> = trace.requests.windows(2).map(|w| w[1].arrival - w[0].arrival).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        (mean, variance.sqrt() / mean)
    }

    #[test]
    fn drawn_gaps_have_the_mean_and_variation_asked_for() {
        for (arrivals, cv) in
            [(Arrivals::Poisson, 1.0), (Arrivals::Gamma(3.0), 3.0), (Arrivals::Gamma(0.5), 0.5)]
        {
            let made = workload(arrivals, 4.0).make(&trace(), 1).unwrap();
            let (mean, variation) = gaps(&made);
            // 40,000 draws: standard errors of the mean are at most 1.5%, of the variation a few percent.
            approx::assert_relative_eq!(mean, 0.25, max_relative = 0.06);
            approx::assert_relative_eq!(variation, cv, max_relative = 0.1);
            assert!(made.requests.is_sorted_by(|a, b| a.arrival <= b.arrival));
        }
    }

    #[test]
    fn on_and_off() {
        let made = workload(Arrivals::OnOff(2.0, 6.0), 4.0).make(&trace(), 1).unwrap();
        assert!(made.requests.iter().all(|r| r.arrival % 8.0 < 2.0));
        approx::assert_relative_eq!(gaps(&made).0, 0.25, max_relative = 0.06);
    }

    #[test]
    fn the_traces_own_arrivals_scale_and_repeat() {
        let made =
            Workload { requests: Some(20), ..workload(Arrivals::Trace, 4.0) }.make(&trace(), 1).unwrap();
        let arrivals: Vec<f64> = made.requests.iter().map(|r| r.arrival).collect();
        assert_eq!(arrivals[..3], [0.0, 0.25, 0.5]);
        assert_eq!((arrivals[9], made.requests[9].prompt, arrivals[19]), (2.25, 10, 4.75));
    }

    #[test]
    fn seeds_tenants_and_predictions() {
        let base = Workload { tenants: Some(3), greedy: Some(0.5), ..workload(Arrivals::Poisson, 4.0) };
        let made = base.make(&trace(), 1).unwrap();
        assert_eq!(made, base.make(&trace(), 1).unwrap());
        assert_ne!(made, base.make(&trace(), 2).unwrap());
        let share = |tenant| made.requests.iter().filter(|r| r.tenant == tenant).count() as f64 / 40_000.0;
        for (tenant, want) in [(0, 0.5), (1, 0.25), (2, 0.25)] {
            approx::assert_abs_diff_eq!(share(tenant), want, epsilon = 0.015);
        }
        assert!(made.requests.iter().all(|r| r.predicted == Some(r.output)));
        let noisy = Workload { predictor: Predictor::LogNormal(1.0), ..base }.make(&trace(), 1).unwrap();
        assert!(noisy.requests.iter().any(|r| r.predicted != Some(r.output)));
        assert!("gamma:0".parse::<Arrivals>().is_err() && "lognormal:-1".parse::<Predictor>().is_err());
        assert_eq!("onoff:1,2".parse(), Ok(Arrivals::OnOff(1.0, 2.0)));
    }
}
