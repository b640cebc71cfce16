//! Devices at physical addresses, and their lines to the interrupt controller: the same for every board.
//!
//! The controller itself is not on the bus, since processors ask it questions too; a board has it by name.
//!
//! All processors use the bus at once. Each device has a lock, so that one that reads a disk holds up nobody who does not
//! want that disk. **Locks are taken in this order: a device's, the controller's**; nobody waits for a processor who has one.

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::saved::{State, unfit};

/// A device's line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    /// It wants nothing.
    Low,
    /// It wants attention until it is given that.
    High,
    /// It wanted attention, once, since it was last asked.
    Edge,
}

/// What has registers.
pub(crate) trait Device: Send {
    /// Reads `size` bytes. What is no register is zero.
    fn read(&mut self, offset: u64, size: u8) -> u64;

    /// Writes them. What is no register stays as it is.
    fn write(&mut self, offset: u64, size: u8, value: u64);

    /// Its line.
    fn line(&mut self) -> Line;

    /// What was typed; gives how much of it was taken.
    fn type_in(&mut self, _bytes: &[u8]) -> usize {
        0
    }

    /// What it reads from and writes to.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    /// One of its descriptors may have become ready.
    fn ready(&mut self) {}

    /// Its state.
    fn save(&self) -> Result<State>;

    /// Takes on the state of one that was like it.
    fn restore(&mut self, state: State) -> Result<()>;
}

/// Where a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its first address.
    pub(crate) base: u64,
    /// Bytes that its registers take.
    pub(crate) size: u64,
    /// Its line's number at the controller.
    pub(crate) interrupt: u32,
}

/// Where devices' lines end: an interrupt controller.
pub(crate) trait Lines: Send + Sync {
    /// A line, as it is now.
    fn set_line(&self, interrupt: u32, line: Line);
}

/// A device where it is. It does one thing at a time, whoever asks.
struct Slot {
    place: Place,
    plugged: Mutex<Plugged>,
}

/// A device, and what the controller knows of its line: it is told nothing while that stays the same.
struct Plugged {
    device: Box<dyn Device>,
    told: Option<Line>,
}

impl Slot {
    fn plugged(&self) -> MutexGuard<'_, Plugged> {
        self.plugged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the device; then its line is what it is. Nobody else's word comes between.
    fn with<T>(&self, lines: &dyn Lines, what: impl FnOnce(&mut dyn Device) -> T) -> T {
        let mut plugged = self.plugged();
        let done = what(&mut *plugged.device);
        let line = plugged.device.line();
        if line == Line::Edge || plugged.told != Some(line) {
            plugged.told = Some(line);
            lines.set_line(self.place.interrupt, line);
        }
        done
    }
}

/// All devices of a board.
pub(crate) struct Bus {
    slots: Vec<Slot>,
    lines: Arc<dyn Lines>,
}

impl Bus {
    /// Without any device yet.
    pub(crate) fn new(lines: Arc<dyn Lines>) -> Bus {
        Bus { slots: Vec::new(), lines }
    }

    /// Puts a device where none is yet.
    pub(crate) fn add(&mut self, place: Place, device: Box<dyn Device>) {
        debug_assert!(
            self.slots.iter().all(|Slot { place: it, .. }| {
                it.base + it.size <= place.base || place.base + place.size <= it.base
            }),
            "two devices at {:#x}",
            place.base
        );
        self.slots.push(Slot { place, plugged: Mutex::new(Plugged { device, told: None }) });
    }

    fn find(&self, address: u64) -> Option<(u64, &Slot)> {
        let found = self.slots.iter().find(|slot| address.wrapping_sub(slot.place.base) < slot.place.size);
        found.map(|slot| (address - slot.place.base, slot))
    }

    /// Reads `size` bytes. Nothing if no device is there.
    pub(crate) fn read(&self, address: u64, size: u8) -> Option<u64> {
        let (offset, slot) = self.find(address)?;
        Some(slot.with(&*self.lines, |device| device.read(offset, size)) & isa::ops::mask64(size * 8))
    }

    /// Writes them. Nothing if no device is there.
    pub(crate) fn write(&self, address: u64, size: u8, value: u64) -> Option<()> {
        let (offset, slot) = self.find(address)?;
        slot.with(&*self.lines, |device| device.write(offset, size, value));
        Some(())
    }

    /// What was typed, for the first device that takes any.
    pub(crate) fn type_in(&self, bytes: &[u8]) -> usize {
        let each = self.slots.iter().map(|slot| slot.with(&*self.lines, |device| device.type_in(bytes)));
        each.into_iter().find(|taken| *taken > 0).unwrap_or(0)
    }

    /// Each descriptor that one of them reads from or writes to, until that fails.
    pub(crate) fn each_descriptor<E>(
        &self,
        mut what: impl FnMut(BorrowedFd<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        for slot in &self.slots {
            slot.plugged().device.descriptors().into_iter().try_for_each(&mut what)?;
        }
        Ok(())
    }

    /// The states of all.
    pub(crate) fn save(&self) -> Result<Vec<State>> {
        self.slots.iter().map(|slot| slot.plugged().device.save()).collect()
    }

    /// Has each take on its state.
    pub(crate) fn restore(&self, states: Vec<State>) -> Result<()> {
        if states.len() != self.slots.len() {
            return unfit("it has other devices");
        }
        let restore = |(slot, state): (&Slot, State)| {
            let mut plugged = slot.plugged();
            // The controller takes on what it knew then.
            plugged.told = None;
            plugged.device.restore(state)
        };
        self.slots.iter().zip(states).try_for_each(restore)
    }

    /// Some descriptor has become ready.
    pub(crate) fn ready(&self) {
        self.slots.iter().for_each(|slot| slot.with(&*self.lines, |device| device.ready()));
    }
}
