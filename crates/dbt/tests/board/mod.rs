//! A board for processors that are tried by themselves.

use dbt::{Board, Clock, Registers};

/// A machine with nothing in it.
pub(crate) struct Nothing;

impl Board for Nothing {
    fn read(&mut self, _address: u64, _size: u8) -> Option<u64> {
        None
    }

    fn write(&mut self, _address: u64, _size: u8, _value: u64) -> Option<()> {
        None
    }

    fn answer(&mut self, _question: usize, _arguments: &[u64], _registers: &mut Registers<'_>) -> u64 {
        0
    }

    fn clock(&self) -> Clock {
        Clock::new(1_000_000)
    }

    fn attention(&self) -> bool {
        false
    }
}
