//! The host's own processor, behind the same trait as a translated one: a virtual processor of `/dev/kvm`.
//!
//! A kernel that waits for an interrupt waits in the host's kernel, which has the interrupt controllers too. So such a processor is
//! idle, to its bell, whenever it is with its guest: who rings has it come back to look at its board.

use std::sync::Arc;

use dbt::Stop;
use sys::signal::{self, SignalSet};
use vm::{Pause, Touch, Virtual};

use crate::bells::Bells;
use crate::error::{Error, Result};
use crate::machine::{End, Platform};
use crate::pc;
use crate::power::Beginning;
use crate::processor::Processor;
use crate::saved::{State, data};

/// A processor of the host's kind.
pub(crate) struct Native {
    number: usize,
    inner: Virtual,
    bells: Arc<Bells>,
}

impl Native {
    pub(crate) fn new(number: usize, inner: Virtual, bells: Arc<Bells>) -> Native {
        Native { number, inner, bells }
    }
}

impl Processor for Native {
    /// What has it come back is a signal, which nobody else is to be given.
    fn hang_here(&mut self) -> Result<()> {
        signal::block(SignalSet::ALL).map_err(|errno| Error::Watching(errno.into()))?;
        self.bells.hang_guest_here(self.number, self.inner.adopt()?);
        Ok(())
    }

    fn work(&mut self, place: &mut dyn Platform) -> Stop {
        let mut serve = |touch: Touch<'_>| match touch {
            Touch::Load(at, bytes) => load(place, pc::address(at), bytes),
            Touch::Store(at, bytes) => store(place, pc::address(at), bytes),
        };
        // What it was served is its own only when it is with its guest again.
        let mut is_served = false;
        let why = loop {
            let is_away = self.bells.leave(self.number);
            let pause = match (is_away, is_served) {
                (true, _) => self.inner.run(&mut serve),
                (false, true) => self.inner.settle(&mut serve),
                (false, false) => return Stop::Done,
            };
            if is_away {
                self.bells.come_back(self.number);
            }
            is_served = pause == Pause::Served;
            match pause {
                Pause::Served => {}
                Pause::Interrupted if !is_away => return Stop::Done,
                Pause::Interrupted => {}
                Pause::Reset => break None,
                Pause::Broken(why) => break Some(why),
            }
        };
        if let Some(why) = why {
            let at = self.inner.instruction();
            place.power().give_up(format!("the host's processor cannot go on at {at:#x}: {why}"));
        }
        place.power().finish(End::Reboot);
        Stop::Done
    }

    /// The guest's own processors switch each other on, of which the host's kernel takes care.
    fn restart(&mut self, _place: &mut dyn Platform, _beginning: &Beginning) {}

    fn save(&self) -> Result<State> {
        data(&self.inner.keep()?)
    }

    fn described(&self) -> Option<&dbt::Processor> {
        None
    }

    fn described_mut(&mut self) -> Option<&mut dbt::Processor> {
        None
    }
}

/// What nobody answers for is ones, as on a bus that nobody pulls down.
fn load(place: &mut dyn Platform, address: u64, bytes: &mut [u8]) {
    for (piece, at) in bytes.chunks_mut(8).zip((address..).step_by(8)) {
        let value = place.read(at, piece.len() as u8).unwrap_or(u64::MAX).to_le_bytes();
        piece.copy_from_slice(&value[..piece.len()]);
    }
}

fn store(place: &mut dyn Platform, address: u64, bytes: &[u8]) {
    for (piece, at) in bytes.chunks(8).zip((address..).step_by(8)) {
        let mut value = [0; 8];
        value[..piece.len()].copy_from_slice(piece);
        let _ = place.write(at, piece.len() as u8, u64::from_le_bytes(value));
    }
}
