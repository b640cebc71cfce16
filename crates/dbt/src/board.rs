//! What a processor needs of the machine around it.

use isa::Isa;

use crate::clock::Clock;
use crate::peers::{Forget, News, Peers};
use crate::state::State;

/// Devices, and what a description leaves to the machine: timers, interrupt controllers, firmware.
pub trait Board {
    /// Reads `size` bytes of a device at a physical address. Nothing if there is none.
    fn read(&mut self, address: u64, size: u8) -> Option<u64>;

    /// Writes them. Nothing if there is none.
    fn write(&mut self, address: u64, size: u8, value: u64) -> Option<()>;

    /// Answers a question of the description, by its number there.
    fn answer(&mut self, question: usize, arguments: &[u64], registers: &mut Registers<'_>) -> u64;

    /// What the description's `clock()` tells.
    fn clock(&self) -> Clock;

    /// Whether a processor has to look at its interrupts. Asked often.
    fn attention(&self) -> bool;

    /// Whether the processor is switched on. Asked when it has attention, and after questions that may change it.
    fn is_on(&self) -> bool {
        true
    }
}

/// A processor's registers by their names.
pub struct Registers<'r> {
    pub(crate) isa: &'r Isa,
    pub(crate) state: &'r mut State,
    peers: &'r Peers,
    /// Others were told something that is to be settled.
    pub(crate) must_settle: bool,
}

impl<'r> Registers<'r> {
    pub(crate) fn of(isa: &'r Isa, state: &'r mut State, peers: &'r Peers) -> Registers<'r> {
        Registers { isa, state, peers, must_settle: false }
    }

    /// Another processor, by its number, forgets something before this one goes on.
    pub fn have_forget(&mut self, processor: usize, what: Forget) {
        self.peers.tell(processor, News::Forget(what));
        self.must_settle = true;
    }

    /// A register's value; zero if there is none of this name.
    pub fn get(&self, name: &str, index: u32) -> u128 {
        self.isa.register(name).map_or(0, |register| self.state.get(register, index))
    }

    /// Gives it a value.
    pub fn set(&mut self, name: &str, index: u32, value: u128) {
        if let Some(register) = self.isa.register(name) {
            self.state.set(register, index, value);
        }
    }
}
