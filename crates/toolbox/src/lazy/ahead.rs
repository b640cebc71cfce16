//! Unpacking ahead of who reads a tree from one end to the other: an archiver, a search, a linker.
//!
//! Unpacking is mostly decompression, so a second processor halves the wait. Threads take contents in batches, because small
//! neighbours lie in one compressed frame, which each thread would decompress for itself. The first content of a batch is
//! put where it must be asked for, the others where they need not: so the reader is heard of once a batch, early enough to
//! stay ahead of it, and is not held up by a request for every file. **Nothing is unpacked ahead but what stands
//! right behind a run of contents that were asked for in the tree's own order**, and never more than a window that grows
//! with the run: who only wants a shell gets a shell.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::mpsc::Receiver;
use std::sync::{Mutex, PoisonError};

use model::ObjectId;
use store::{Content, Kind, Tree};

use super::origin::Origin;

/// As many in a row make a run.
const RUN: usize = 4;
/// The most contents, and how many a run of `RUN` gets.
const WINDOW_MOST: usize = 128;
const WINDOW_LEAST: usize = 8;
/// A batch ends with the content that makes it so many bytes.
const BATCH: u64 = 2 << 20;
/// Names that a reader in order may leave out, or come to a little late, with the run still being one.
const SLACK: usize = 8;

/// The contents of a tree in the order of its names, each where it comes first.
#[derive(Default)]
pub(super) struct Order {
    contents: Vec<Content>,
    places: HashMap<ObjectId, usize>,
}

impl Order {
    pub(super) fn of(tree: &Tree) -> Self {
        let mut order = Self::default();
        let mut walk = tree.walk();
        while let Some((_, entry)) = walk.advance() {
            if let Kind::File(content) = entry.node.kind {
                order.push(content);
            }
        }
        order
    }

    /// Adds what is not there yet.
    pub(super) fn push(&mut self, content: Content) {
        if content.size > 0 && !self.places.contains_key(&content.id) {
            self.places.insert(content.id, self.contents.len());
            self.contents.push(content);
        }
    }

    /// Contents from `places`, as many as are worth being unpacked by one thread.
    fn batch(&self, places: Range<usize>) -> &[Content] {
        let contents = self.contents.get(places.start..places.end.min(self.contents.len())).unwrap_or_default();
        let mut bytes = 0u64;
        let most = contents.iter().position(|it| {
            bytes = bytes.saturating_add(it.size);
            bytes >= BATCH
        });
        contents.get(..most.map_or(contents.len(), |last| last + 1)).unwrap_or_default()
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
    window: usize,
}

impl Run {
    fn asked(&mut self, place: usize) {
        let reached = self.next.max(self.ahead);
        if place + SLACK < self.next || place > reached + SLACK {
            *self = Self { next: place + 1, length: 1, ahead: 0, window: 0 };
            return;
        }
        self.length += 1;
        self.next = self.next.max(place + 1);
        if self.length >= RUN {
            self.window = (self.window * 2).clamp(WINDOW_LEAST, WINDOW_MOST);
        }
    }

    /// The places that are worth being unpacked now; empty when none is.
    fn wanted(&self) -> Range<usize> {
        let begin = self.ahead.max(self.next);
        begin..(self.next + self.window).max(begin)
    }

    /// So many of those are being unpacked.
    fn took(&mut self, count: usize) {
        self.ahead = self.ahead.max(self.next) + count;
    }
}

/// What the threads that unpack ahead share.
pub(super) struct Ahead<'a> {
    asked: Receiver<ObjectId>,
    /// How many were asked for before the order was read.
    count: usize,
    read: Option<Box<dyn FnOnce() -> Order + Send + 'a>>,
    order: Order,
    run: Run,
}

impl<'a> Ahead<'a> {
    /// Of the tree whose order `read` gives, which is done when the first run may have begun.
    pub(super) fn new(asked: Receiver<ObjectId>, read: impl FnOnce() -> Order + Send + 'a) -> Mutex<Self> {
        let read: Box<dyn FnOnce() -> Order + Send + 'a> = Box::new(read);
        Mutex::new(Self { asked, count: 0, read: Some(read), order: Order::default(), run: Run::default() })
    }

    fn note(&mut self, id: &ObjectId) {
        self.count += 1;
        if self.count >= RUN
            && let Some(read) = self.read.take()
        {
            self.order = read();
        }
        if let Some(place) = self.order.places.get(id) {
            self.run.asked(*place);
        }
    }

    /// What to unpack next; nothing when nobody can ask for anything any more. Waits until there is something.
    fn next(&mut self) -> Option<Vec<Content>> {
        loop {
            while let Ok(id) = self.asked.try_recv() {
                self.note(&id);
            }
            let batch = self.order.batch(self.run.wanted()).to_vec();
            if !batch.is_empty() {
                self.run.took(batch.len());
                return Some(batch);
            }
            let id = self.asked.recv().ok()?;
            self.note(&id);
        }
    }
}

/// Unpacks ahead until nobody can ask for anything any more.
pub(super) fn run(shared: &Mutex<Ahead<'_>>, origin: &Origin<'_>) {
    // Who waits for something to do holds the lock: there is nothing for the others either.
    let next = || shared.lock().unwrap_or_else(PoisonError::into_inner).next();
    while let Some(batch) = next() {
        origin.ahead(&batch);
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
            let wanted = run.wanted();
            run.took(wanted.len());
            taken.extend(wanted);
        }
        taken
    }

    #[test]
    fn only_a_run_is_unpacked_ahead_and_nothing_twice() {
        assert!(taken(&[5, 90, 7, 300, 2, 1000]).is_empty());
        assert!(taken(&[40, 41, 42]).is_empty());
        assert_eq!(taken(&[40, 41, 42, 43]), (44..52).collect::<Vec<_>>());
        // What is unpacked ahead is not asked for; what is asked for then makes the window longer.
        assert_eq!(taken(&[40, 41, 42, 43, 52]), (44..52).chain(53..69).collect::<Vec<_>>());
        let all = taken(&(0..1000).collect::<Vec<_>>());
        assert!(all.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(all.last(), Some(&(999 + WINDOW_MOST)));
    }

    #[test]
    fn a_batch_is_limited_in_bytes_but_never_empty() {
        let content = |size| Content { id: Content::EMPTY.id, size };
        let contents = [BATCH * 3, 1, 2, BATCH, 7].map(content).to_vec();
        let order = Order { contents, places: HashMap::new() };
        let check = |places, sizes: &[u64]| {
            assert_eq!(order.batch(places).iter().map(|it| it.size).collect::<Vec<_>>(), sizes);
        };
        check(0..5, &[BATCH * 3]);
        check(1..5, &[1, 2, BATCH]);
        check(4..90, &[7]);
        check(7..90, &[]);
    }
}
