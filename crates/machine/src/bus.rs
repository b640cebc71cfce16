//! Devices at physical addresses, and their lines to the interrupt controller: the same for every board.
//!
//! The controller itself is not on the bus, since processors ask it questions too; a board has it by name.

use std::os::fd::BorrowedFd;

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

/// All devices of a board.
#[derive(Default)]
pub(crate) struct Bus {
    slots: Vec<(Place, Box<dyn Device>)>,
}

impl Bus {
    /// Puts a device where none is yet.
    pub(crate) fn add(&mut self, place: Place, device: Box<dyn Device>) {
        debug_assert!(
            self.slots.iter().all(|(it, _)| it.base + it.size <= place.base || place.base + place.size <= it.base),
            "two devices at {:#x}",
            place.base
        );
        self.slots.push((place, device));
    }

    fn find(&mut self, address: u64) -> Option<(u64, &mut Box<dyn Device>)> {
        let found = self.slots.iter_mut().find(|(place, _)| address.wrapping_sub(place.base) < place.size);
        found.map(|(place, device)| (address - place.base, device))
    }

    /// Reads `size` bytes. Nothing if no device is there.
    pub(crate) fn read(&mut self, address: u64, size: u8) -> Option<u64> {
        self.find(address).map(|(offset, device)| device.read(offset, size) & isa::ops::mask64(size * 8))
    }

    /// Writes them. Nothing if no device is there.
    pub(crate) fn write(&mut self, address: u64, size: u8, value: u64) -> Option<()> {
        self.find(address).map(|(offset, device)| device.write(offset, size, value))
    }

    /// Every line, by its number.
    pub(crate) fn lines(&mut self) -> impl Iterator<Item = (u32, Line)> {
        self.slots.iter_mut().map(|(place, device)| (place.interrupt, device.line()))
    }

    /// What was typed, for the first device that takes any.
    pub(crate) fn type_in(&mut self, bytes: &[u8]) -> usize {
        self.slots.iter_mut().map(|(_, device)| device.type_in(bytes)).find(|taken| *taken > 0).unwrap_or(0)
    }

    /// What all of them read from and write to.
    pub(crate) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.slots.iter().flat_map(|(_, device)| device.descriptors()).collect()
    }

    /// The states of all.
    pub(crate) fn save(&self) -> Result<Vec<State>> {
        self.slots.iter().map(|(_, device)| device.save()).collect()
    }

    /// Has each take on its state.
    pub(crate) fn restore(&mut self, states: Vec<State>) -> Result<()> {
        if states.len() != self.slots.len() {
            return unfit("it has other devices");
        }
        self.slots.iter_mut().zip(states).try_for_each(|((_, device), state)| device.restore(state))
    }

    /// Some descriptor has become ready.
    pub(crate) fn ready(&mut self) {
        self.slots.iter_mut().for_each(|(_, device)| device.ready());
    }
}
