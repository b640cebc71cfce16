//! A balloon: memory that the guest does not need goes back to the host.
//!
//! The guest tells of pages that it has just freed, by itself. And somebody on the host may ask for memory, by which the
//! balloon grows: then the guest looks for pages that it can do without. **Invariant: what is given back is zero**, and is
//! the guest's again as soon as it touches it: to lie about it harms nobody but the guest.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use dbt::Ram;
use rustix::event::{EventfdFlags, eventfd};

use super::{Broken, Cause, Device, Queues};
use crate::error::{Error, Result};
use crate::saved::{State, data, of_data};

const PAGE: u64 = 4096;
/// The guest takes pages out when it has none left itself.
const DEFLATE_ON_NEED: u64 = 1 << 2;
const REPORTING: u64 = 1 << 5;

const INFLATE: usize = 0;
const DEFLATE: usize = 1;
/// Behind the other two: queues that are not offered have no number.
const REPORT: usize = 2;
/// Bytes of numbers of pages that come at once at most.
const MOST_NUMBERS: u64 = 4096;

/// How large a machine's balloon is to be, from another thread.
#[derive(Clone)]
pub struct Balloon(Arc<Wish>);

struct Wish {
    pages: AtomicU32,
    changed: OwnedFd,
}

impl Balloon {
    /// A balloon that is empty.
    pub fn new() -> Result<Balloon> {
        let changed = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let changed = changed.map_err(|errno| Error::Watching(errno.into()))?;
        Ok(Balloon(Arc::new(Wish { pages: AtomicU32::new(0), changed })))
    }

    /// Asks the guest for so many bytes of its memory, or gives them back if they are fewer than before.
    pub fn ask(&self, bytes: u64) {
        self.0.pages.store(u32::try_from(bytes / PAGE).unwrap_or(u32::MAX), Ordering::Release);
        let _ = rustix::io::write(&self.0.changed, &1u64.to_ne_bytes());
    }
}

/// The device.
pub(crate) struct Inflatable {
    wish: Arc<Wish>,
    /// What the guest says is in it.
    actual: u32,
}

impl Inflatable {
    pub(crate) fn new(balloon: Balloon) -> Inflatable {
        Inflatable { wish: balloon.0, actual: 0 }
    }

    /// Pages by their numbers; such as follow each other go at once.
    fn inflate(queues: &mut Queues<'_>) -> std::result::Result<(), Broken> {
        while let Some(mut chain) = queues.pop(INFLATE)? {
            if chain.left() > MOST_NUMBERS {
                return Err(Broken);
            }
            let mut bytes = vec![0; chain.left() as usize];
            chain.read(queues.ram, &mut bytes)?;
            let mut run = (0, 0);
            for it in bytes.chunks_exact(4) {
                let page = u64::from(u32::from_le_bytes([it[0], it[1], it[2], it[3]])) * PAGE;
                if page == run.0 + run.1 {
                    run.1 += PAGE;
                } else {
                    discard(queues.ram, run.0, run.1);
                    run = (page, PAGE);
                }
            }
            discard(queues.ram, run.0, run.1);
            queues.push(INFLATE, &chain)?;
        }
        Ok(())
    }

    fn report(queues: &mut Queues<'_>) -> std::result::Result<(), Broken> {
        while let Some(chain) = queues.pop_places(REPORT)? {
            chain.rooms().for_each(|(at, size)| discard(queues.ram, at, size));
            queues.push(REPORT, &chain)?;
        }
        Ok(())
    }
}

/// What is not there, or no whole pages, stays as it is.
fn discard(ram: &Ram, at: u64, size: u64) {
    if size > 0 {
        let _ = ram.discard(at, size);
    }
}

impl Device for Inflatable {
    fn id(&self) -> u32 {
        5
    }

    fn features(&self) -> u64 {
        DEFLATE_ON_NEED | REPORTING
    }

    fn queues(&self) -> usize {
        3
    }

    fn configuration(&self) -> Vec<u8> {
        [self.wish.pages.load(Ordering::Acquire).to_le_bytes(), self.actual.to_le_bytes(), [0; 4], [0; 4]].concat()
    }

    fn write_configuration(&mut self, offset: u64, value: u64) {
        if offset == 4 {
            self.actual = value as u32;
        }
    }

    fn reset(&mut self) {
        self.actual = 0;
    }

    fn work(&mut self, queues: &mut Queues<'_>, cause: Cause) -> std::result::Result<(), Broken> {
        if cause == Cause::Ready && rustix::io::read(&self.wish.changed, &mut [0; 8]).is_ok() {
            queues.has_changed = true;
        }
        Inflatable::inflate(queues)?;
        while let Some(chain) = queues.pop(DEFLATE)? {
            queues.push(DEFLATE, &chain)?;
        }
        Inflatable::report(queues)
    }

    /// What its guest was asked for it is asked for still.
    fn save(&self) -> Result<State> {
        data(&(self.wish.pages.load(Ordering::Acquire), self.actual))
    }

    fn restore(&mut self, state: State) -> Result<()> {
        let (wished, actual) = of_data(state)?;
        self.wish.pages.store(wished, Ordering::Release);
        self.actual = actual;
        Ok(())
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.wish.changed.as_fd()]
    }
}
