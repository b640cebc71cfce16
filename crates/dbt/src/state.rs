//! A processor's registers, as its description lays them out.

use isa::Register;

/// Registers' bytes. Each lies at a multiple of its size, which is 8 or 16 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    words: Box<[u64]>,
}

impl State {
    /// All zero.
    pub fn new(size: u32) -> State {
        State { words: vec![0; size as usize / 8].into() }
    }

    /// A register of at most 64 bits, at its offset.
    #[inline]
    pub fn narrow(&self, offset: u32) -> u64 {
        self.words[offset as usize / 8]
    }

    /// Gives it a value.
    #[inline]
    pub fn set_narrow(&mut self, offset: u32, value: u64) {
        self.words[offset as usize / 8] = value;
    }

    /// A register of more than 64 bits.
    #[inline]
    pub fn wide(&self, offset: u32) -> u128 {
        let at = offset as usize / 8;
        u128::from(self.words[at + 1]) << 64 | u128::from(self.words[at])
    }

    /// Gives it a value.
    #[inline]
    pub fn set_wide(&mut self, offset: u32, value: u128) {
        let at = offset as usize / 8;
        self.words[at] = value as u64;
        self.words[at + 1] = (value >> 64) as u64;
    }

    /// A register, number `index` if it is a bank.
    pub fn get(&self, register: &Register, index: u32) -> u128 {
        let offset = register.offset + register.stride * index.min(register.count - 1);
        if register.width > 64 { self.wide(offset) } else { self.narrow(offset).into() }
    }

    /// Gives it a value.
    pub fn set(&mut self, register: &Register, index: u32, value: u128) {
        let offset = register.offset + register.stride * index.min(register.count - 1);
        let value = value & isa::ops::mask(register.width);
        if register.width > 64 { self.set_wide(offset, value) } else { self.set_narrow(offset, value as u64) }
    }

    /// All of it.
    pub fn words(&self) -> &[u64] {
        &self.words
    }
}
