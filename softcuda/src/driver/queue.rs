//! Deferred work and its order.
//!
//! Nothing runs when it is enqueued. Each item knows the items it comes after: the one before it in its stream, the
//! events it waits for, and what the legacy default stream adds. Whoever waits for an item runs what that item needs
//! and nothing else, so work that is not ordered before a read has not happened when the read does.
//!
//! Each item also carries a vector clock, the count of items of each stream that happen before it; from it
//! [`crate::check::history`] finds races. The client's synchronisation orders too: what the host has waited for is
//! before all that it enqueues later.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::work::Work;
use crate::check::history::Clock;

/// A place in the order: an item, also after it has run.
#[derive(Debug, Clone)]
pub struct Point {
    /// The item's number.
    pub item: u64,
    /// What happens before its end, itself included.
    pub clock: Arc<Clock>,
}

/// Where an item was enqueued.
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    /// The context it runs in.
    pub context: usize,
    /// The stream.
    pub stream: usize,
    /// Whose items come one after the other: the stream, or a branch of a graph that was launched to it.
    pub lane: usize,
}

/// An item that has not run.
#[derive(Debug)]
struct Item {
    origin: Origin,
    work: Work,
    clock: Arc<Clock>,
    after: Vec<u64>,
}

/// An item that runs.
#[derive(Debug)]
pub struct Started {
    /// Where it was enqueued.
    pub origin: Origin,
    /// What it does.
    pub work: Work,
    /// What happens before its end.
    pub clock: Arc<Clock>,
}

/// The items of all streams of the process.
#[derive(Debug, Default)]
pub struct Queue {
    items: BTreeMap<u64, Item>,
    next: u64,
    /// All that was enqueued.
    ticks: Clock,
    /// All that the host has waited for.
    host: Clock,
}

impl Queue {
    /// Adds an item that comes after `after`, among which is the last of its lane.
    pub fn push(&mut self, origin: Origin, after: &[Point], work: Work) -> Point {
        let mut clock = self.host.clone();
        after.iter().for_each(|point| clock.join(&point.clock));
        let tick = self.ticks.get(origin.lane) + 1;
        self.ticks.set(origin.lane, tick);
        clock.set(origin.lane, tick);
        let point = Point { item: self.next, clock: Arc::new(clock) };
        self.next += 1;
        let after =
            after.iter().map(|point| point.item).filter(|item| self.items.contains_key(item)).collect();
        self.items.insert(point.item, Item { origin, work, clock: point.clock.clone(), after });
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
    pub fn start(&mut self, item: u64) -> Option<Started> {
        let item = self.items.get_mut(&item)?;
        let work = std::mem::replace(&mut item.work, Work::Marker);
        Some(Started { origin: item.origin, work, clock: item.clock.clone() })
    }

    /// The item has run.
    pub fn finish(&mut self, item: u64) {
        self.items.remove(&item);
    }

    /// Drops what waits in a context.
    pub fn discard(&mut self, context: usize) {
        self.items.retain(|_, item| item.origin.context != context);
    }

    /// The host has waited for `point`.
    pub fn host_waited(&mut self, point: &Point) {
        self.host.join(&point.clock);
    }

    /// Whether the host has waited for all that was ever enqueued.
    pub fn is_settled(&self) -> bool {
        self.host == self.ticks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(queue: &mut Queue, lane: usize, after: &[&Point]) -> Point {
        let after: Vec<Point> = after.iter().map(|&point| point.clone()).collect();
        queue.push(Origin { context: 0, stream: lane, lane }, &after, Work::Marker)
    }

    #[test]
    fn only_what_is_ordered_before_is_needed() {
        let mut queue = Queue::default();
        let a = push(&mut queue, 1, &[]);
        let b = push(&mut queue, 2, &[]);
        let c = push(&mut queue, 1, &[&a]);
        let d = push(&mut queue, 2, &[&b, &c]);
        assert_eq!(queue.needed(std::slice::from_ref(&c)), [0, 2]);
        assert_eq!(queue.needed(std::slice::from_ref(&d)), [0, 1, 2, 3]);
        queue.finish(0);
        assert_eq!(queue.needed(std::slice::from_ref(&d)), [1, 2, 3]);
        let seen = |point: &Point| [1, 2].map(|lane| point.clock.get(lane));
        assert_eq!([&a, &b, &c, &d].map(seen), [[1, 0], [0, 1], [2, 0], [2, 2]]);
    }

    #[test]
    fn what_the_host_waited_for_is_before_all_later_work() {
        let mut queue = Queue::default();
        let a = push(&mut queue, 1, &[]);
        let b = push(&mut queue, 2, &[]);
        assert_eq!(b.clock.get(1), 0);
        queue.host_waited(&a);
        assert!(!queue.is_settled());
        queue.host_waited(&b);
        assert!(queue.is_settled());
        assert_eq!(push(&mut queue, 3, &[]).clock.get(1), 1);
        assert!(!queue.is_settled());
    }
}
