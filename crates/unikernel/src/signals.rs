//! Signals on their way to a member: what goes into its port, and what waits for room there.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use abi::signal::{FIRST_QUEUED, Info, Queue};
use sys::Errno;

use crate::creds::Three;

/// What a member is to hear of, on the tender's side.
#[derive(Debug, Default)]
pub(crate) struct Letters {
    /// How many were ever put into the port.
    put: u32,
    /// Those for which there was no room.
    waiting: VecDeque<Info>,
    /// How many have to be taken for the guest to know that it was last told to go on.
    continued: Option<u32>,
}

/// No more wait.
const MOST: usize = 4096;

impl Letters {
    /// Sends one, after those that wait.
    pub(crate) fn send(&mut self, queue: &Queue, info: Info) -> Result<(), Errno> {
        const SIGCONT: i32 = 18;
        if !self.waiting.is_empty() || queue.put(self.put, &info).is_none() {
            let known = self.waiting.iter_mut().any(|it| {
                it.absorb(&info) || (it.signal, it.thread) == (info.signal, info.thread) && info.signal < FIRST_QUEUED
            });
            if !known {
                if self.waiting.len() >= MOST {
                    return Err(Errno::AGAIN);
                }
                self.waiting.push_back(info);
            }
            queue.more.store(1, Ordering::SeqCst);
        } else {
            self.put = self.put.wrapping_add(1);
        }
        if info.signal == SIGCONT {
            self.continued = Some(self.put.wrapping_add(self.waiting.len() as u32));
        }
        Ok(())
    }

    /// Puts what waits, as far as there is room; gives how many.
    pub(crate) fn hand_over(&mut self, queue: &Queue) -> u64 {
        let before = self.waiting.len();
        while let Some(info) = self.waiting.front()
            && queue.put(self.put, info).is_some()
        {
            self.put = self.put.wrapping_add(1);
            self.waiting.pop_front();
        }
        queue.more.store(u32::from(!self.waiting.is_empty()), Ordering::SeqCst);
        (before - self.waiting.len()) as u64
    }

    /// Whether a process that had taken so many was told to go on since.
    pub(crate) fn is_continued_since(&self, taken: u32) -> bool {
        self.continued.is_some_and(|it| it.wrapping_sub(taken) as i32 > 0)
    }

    /// All that the member has not taken.
    pub(crate) fn all(&self, queue: &Queue) -> Vec<Info> {
        let taken = queue.taken.load(Ordering::SeqCst);
        let there = self.put.wrapping_sub(taken).min(abi::signal::ROOM as u32);
        let put = (0..there).map(|it| queue.at(taken.wrapping_add(it)));
        put.chain(self.waiting.iter().copied()).collect()
    }
}

/// Who sends a signal: nobody, or a process and its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sender {
    pub(crate) process: u32,
    pub(crate) user: Three,
}

impl Sender {
    /// Somebody outside, who may everything.
    pub(crate) const OUTSIDE: Self = Self { process: 0, user: Three { real: 0, effective: 0, saved: 0 } };

    /// Whether it may signal a process of that user.
    pub(crate) fn may(self, target: Three) -> bool {
        let Three { real, effective, .. } = self.user;
        effective == 0 || [real, effective].iter().any(|it| [target.real, target.saved].contains(it))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> Queue {
        Queue::default()
    }

    #[test]
    fn what_finds_no_room_comes_later_and_in_order() {
        let (queue, mut letters) = (queue(), Letters::default());
        let info = |second| Info { signal: 40, second, ..Info::default() };
        for number in 0..100 {
            letters.send(&queue, info(number)).unwrap();
        }
        let mut seen = Vec::new();
        while queue.has_news() || queue.more.load(Ordering::SeqCst) != 0 {
            while let Some(it) = queue.take() {
                seen.push(it.second);
            }
            letters.hand_over(&queue);
        }
        assert_eq!(seen, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn a_count_that_no_guest_has_leaves_no_room() {
        let (queue, mut letters) = (queue(), Letters::default());
        queue.taken.store(77, Ordering::SeqCst);
        for _ in 0..MOST {
            letters.send(&queue, Info { signal: 40, ..Info::default() }).unwrap();
        }
        assert_eq!(letters.send(&queue, Info { signal: 40, ..Info::default() }), Err(Errno::AGAIN));
        assert_eq!(letters.all(&queue).len(), MOST + abi::signal::ROOM);
    }

    #[test]
    fn a_timer_that_is_early_counts() {
        let (queue, mut letters) = (queue(), Letters::default());
        let tick = Info { signal: 40, code: abi::signal::BY_TIMER, first: 7, ..Info::default() };
        for _ in 0..abi::signal::ROOM + 3 {
            letters.send(&queue, tick).unwrap();
        }
        assert_eq!(letters.waiting, [Info { first: 7 | 2 << 32, ..tick }]);
    }

    #[test]
    fn who_may_signal_whom() {
        let root = Sender::OUTSIDE;
        let user = |id| Sender { process: 2, user: Three::all(id) };
        assert!(root.may(Three::all(33)) && user(33).may(Three::all(33)));
        assert!(!user(33).may(Three::all(0)) && !user(33).may(Three::all(34)));
        assert!(user(33).may(Three { real: 5, effective: 0, saved: 33 }));
    }
}
