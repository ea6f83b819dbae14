//! Deferred work and its order.
//!
//! Nothing runs when it is enqueued. Each item knows the items it comes after: the one before it in its stream, the
//! events it waits for, and what the legacy default stream adds. Whoever waits for an item runs what that item needs
//! and nothing else, so work that is not ordered before a read has not happened when the read does.
//!
//! Each item also carries a vector clock, the count of items per stream that happen before it. Two items race if
//! neither clock covers the other. The client's synchronisation orders too: what the host has waited for is before
//! all that it enqueues later.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::work::Work;

/// How many items of each stream happen before, by stream handle.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Clock(BTreeMap<usize, u64>);

impl Clock {
    /// Takes in what another clock covers.
    pub fn join(&mut self, other: &Self) {
        for (&stream, &count) in &other.0 {
            let own = self.0.entry(stream).or_default();
            *own = (*own).max(count);
        }
    }

    #[allow(dead_code, reason = "for races between streams")]
    /// Whether all that `earlier` covers happens before this.
    pub fn covers(&self, earlier: &Self) -> bool {
        earlier.0.iter().all(|(stream, &count)| self.0.get(stream).is_some_and(|&own| own >= count))
    }
}

/// A place in the order: an item, also after it has run.
#[derive(Debug, Clone)]
pub struct Point {
    /// The item's number.
    pub item: u64,
    /// What happens before its end, itself included.
    pub clock: Arc<Clock>,
}

/// An item that has not run.
#[allow(dead_code, reason = "for races between streams")]
#[derive(Debug)]
pub struct Item {
    /// The context it runs in.
    pub context: usize,
    /// The stream it was enqueued to.
    pub stream: usize,
    /// What it does.
    pub work: Work,
    /// Its place in the order.
    pub clock: Arc<Clock>,
    after: Vec<u64>,
}

/// The items of all streams of the process.
#[derive(Debug, Default)]
pub struct Queue {
    items: BTreeMap<u64, Item>,
    next: u64,
    ticks: BTreeMap<usize, u64>,
    host: Clock,
}

impl Queue {
    /// Adds an item that comes after `after`.
    pub fn push(&mut self, context: usize, stream: usize, after: &[Point], work: Work) -> Point {
        let mut clock = self.host.clone();
        after.iter().for_each(|point| clock.join(&point.clock));
        let tick = self.ticks.entry(stream).or_default();
        *tick += 1;
        clock.0.insert(stream, *tick);
        let point = Point { item: self.next, clock: Arc::new(clock) };
        self.next += 1;
        let after =
            after.iter().map(|point| point.item).filter(|item| self.items.contains_key(item)).collect();
        self.items.insert(point.item, Item { context, stream, work, clock: point.clock.clone(), after });
        point
    }

    /// What must run for `points` to be reached, in the order to run it. Empty when they are reached.
    pub fn needed(&self, points: &[Point]) -> Vec<u64> {
        let mut open: Vec<u64> = points.iter().map(|point| point.item).collect();
        let mut needed = BTreeSet::new();
        while let Some(item) = open.pop() {
            if let Some(found) = self.items.get(&item)
                && needed.insert(item)
            {
                open.extend(&found.after);
            }
        }
        // An item comes after items with lower numbers only.
        needed.into_iter().collect()
    }

    /// Whether the item still waits.
    pub fn is_pending(&self, item: u64) -> bool {
        self.items.contains_key(&item)
    }

    /// Takes out an item's work; the item stays pending until [`Queue::finish`].
    pub fn start(&mut self, item: u64) -> Option<(usize, Work)> {
        let item = self.items.get_mut(&item)?;
        Some((item.context, std::mem::replace(&mut item.work, Work::Marker)))
    }

    /// The item has run.
    pub fn finish(&mut self, item: u64) {
        self.items.remove(&item);
    }

    /// Drops what waits in a context.
    pub fn discard(&mut self, context: usize) {
        self.items.retain(|_, item| item.context != context);
    }

    /// The host has waited for `point`.
    pub fn host_waited(&mut self, point: &Point) {
        self.host.join(&point.clock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_ordered_before_is_needed() {
        let mut queue = Queue::default();
        let a = queue.push(0, 1, &[], Work::Marker);
        let b = queue.push(0, 2, &[], Work::Marker);
        let c = queue.push(0, 1, std::slice::from_ref(&a), Work::Marker);
        let d = queue.push(0, 2, &[b.clone(), c.clone()], Work::Marker);
        assert_eq!(queue.needed(std::slice::from_ref(&c)), [0, 2]);
        assert_eq!(queue.needed(std::slice::from_ref(&d)), [0, 1, 2, 3]);
        queue.finish(0);
        assert_eq!(queue.needed(std::slice::from_ref(&d)), [1, 2, 3]);
        assert!(d.clock.covers(&a.clock) && d.clock.covers(&b.clock));
        assert!(!b.clock.covers(&c.clock) && !c.clock.covers(&b.clock));
    }

    #[test]
    fn what_the_host_waited_for_is_before_all_later_work() {
        let mut queue = Queue::default();
        let a = queue.push(0, 1, &[], Work::Marker);
        assert!(!queue.push(0, 2, &[], Work::Marker).clock.covers(&a.clock));
        queue.host_waited(&a);
        assert!(queue.push(0, 3, &[], Work::Marker).clock.covers(&a.clock));
    }
}
