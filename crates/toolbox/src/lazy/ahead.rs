//! Unpacking ahead of who reads a tree from one end to the other: an archiver, a search, a linker.
//!
//! Unpacking is mostly decompression, so a second processor halves the wait. **Nothing is unpacked ahead but what stands
//! right behind a run of contents that were asked for in the tree's own order**, and never more than a window that grows
//! with the run: who only wants a shell gets a shell.

use std::collections::{HashMap, HashSet};
use std::sync::mpsc::Receiver;
use std::sync::{Condvar, Mutex, PoisonError};

use model::ObjectId;
use store::{Filler, Kind, Tree};

/// As many in a row make a run.
const RUN: usize = 4;
/// The most contents, and how many a run of `RUN` gets.
const WINDOW_MOST: usize = 128;
const WINDOW_LEAST: usize = 8;
/// Names that a reader in order may leave out, or come to a little late, with the run still being one.
const SLACK: usize = 8;

/// Contents that somebody is unpacking. Who wants one of them waits instead of doing it again.
#[derive(Default)]
pub(super) struct Flights {
    busy: Mutex<HashSet<ObjectId>>,
    landed: Condvar,
}

impl Flights {
    /// Makes a content be there.
    pub(super) fn fill(&self, filler: &Filler, id: &ObjectId) -> store::Result<()> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        while busy.contains(id) {
            busy = self.landed.wait(busy).unwrap_or_else(PoisonError::into_inner);
        }
        busy.insert(*id);
        drop(busy);
        let filled = filler.fill(id);
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        self.landed.notify_all();
        filled
    }
}

/// The contents of a tree in the order of its names, each where it comes first.
#[derive(Default)]
pub(super) struct Order {
    contents: Vec<ObjectId>,
    places: HashMap<ObjectId, usize>,
}

impl Order {
    pub(super) fn of(tree: &Tree) -> Self {
        let mut order = Self::default();
        let mut walk = tree.walk();
        while let Some((_, entry)) = walk.advance() {
            let Kind::File(content) = &entry.node.kind else { continue };
            if content.size > 0 && !order.places.contains_key(&content.id) {
                order.places.insert(content.id, order.contents.len());
                order.contents.push(content.id);
            }
        }
        order
    }
}

/// Tells from the places of what is asked for what will be asked for next. No I/O.
#[derive(Debug, Default)]
struct Run {
    /// Behind the last place that was asked for.
    next: usize,
    length: usize,
    /// Behind the last place that was unpacked ahead.
    ahead: usize,
}

impl Run {
    fn asked(&mut self, place: usize) {
        let reached = self.next.max(self.ahead);
        if place + SLACK >= self.next && place <= reached + SLACK {
            self.length += 1;
            self.next = self.next.max(place + 1);
        } else {
            *self = Self { next: place + 1, length: 1, ahead: 0 };
        }
    }

    /// The place to be unpacked now.
    fn take(&mut self) -> Option<usize> {
        if self.length < RUN {
            return None;
        }
        let window = (WINDOW_LEAST * self.length / RUN).min(WINDOW_MOST);
        let place = self.ahead.max(self.next);
        (place < self.next + window).then(|| {
            self.ahead = place + 1;
            place
        })
    }
}

/// Unpacks ahead as the ids that are asked for come in, until no more can.
pub(super) fn run(asked: &Receiver<ObjectId>, filler: &Filler, flights: &Flights, order: impl FnOnce() -> Order) {
    let mut order = Some(order);
    let mut known = Order::default();
    let (mut run, mut count) = (Run::default(), 0);
    while let Ok(id) = asked.recv() {
        let mut id = Some(id);
        loop {
            for id in id.take().into_iter().chain(asked.try_iter()) {
                count += 1;
                if count >= RUN
                    && let Some(order) = order.take()
                {
                    known = order();
                }
                if let Some(place) = known.places.get(&id) {
                    run.asked(*place);
                }
            }
            let Some(next) = run.take().and_then(|place| known.contents.get(place)) else { break };
            // Who asks for it hears of a failure.
            let _ = flights.fill(filler, next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(asked: &[usize]) -> Vec<usize> {
        let mut run = Run::default();
        let mut taken = Vec::new();
        for place in asked {
            run.asked(*place);
            taken.extend(std::iter::from_fn(|| run.take()));
        }
        taken
    }

    #[test]
    fn only_a_run_is_unpacked_ahead_and_nothing_twice() {
        assert!(taken(&[5, 90, 7, 300, 2, 1000]).is_empty());
        assert!(taken(&[40, 41, 42]).is_empty());
        assert_eq!(taken(&[40, 41, 42, 43]), (44..52).collect::<Vec<_>>());
        // What is unpacked already is not asked for: the next question comes from behind the window.
        assert_eq!(taken(&[40, 41, 42, 43, 52]).len(), 18);
        let all = taken(&(0..1000).collect::<Vec<_>>());
        assert!(all.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(all.last() <= Some(&(999 + WINDOW_MOST)));
    }
}
