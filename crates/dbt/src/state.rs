//! A processor's registers, as its description lays them out.

use isa::Register;

/// What generated code finds before the registers: words, by their number.
pub(crate) mod head {
    /// The address of the page that code is run of.
    pub(crate) const PAGE: u32 = 0;
    /// Where a processor is when it leaves generated code.
    pub(crate) const PC: u32 = 1;
    /// Where a word of 32 bits is that is not zero if somebody wants the processor.
    pub(crate) const ATTENTION: u32 = 2;
    /// The tables of the mode and address space.
    pub(crate) const SET: u32 = 3;
    /// Code that leaves, with a reason in rax.
    pub(crate) const LEAVE: u32 = 4;
    /// Code that leaves for the address in rax.
    pub(crate) const UNKNOWN: u32 = 5;
    /// What is called for loads, stores and instructions.
    pub(crate) const LOAD: u32 = 6;
    pub(crate) const STORE: u32 = 7;
    pub(crate) const INTERPRET: u32 = 8;
    /// What those need to know.
    pub(crate) const RUN: u32 = 9;
    /// What looks for a page that is to be written.
    pub(crate) const TOUCH: u32 = 10;
    /// Not zero if an interrupt waits that is masked.
    pub(crate) const PENDING: u32 = 11;
    /// What makes ticks of the time stamp counter: see `Clock`.
    pub(crate) const CLOCK_MULTIPLIER: u32 = 12;
    pub(crate) const CLOCK_OFFSET: u32 = 13;
    /// What does not fit the registers of a call: two words.
    pub(crate) const WIDE: u32 = 14;
    /// The control word of floating-point operations: as they begin, and as they left it.
    pub(crate) const FLOAT_CONTROL: u32 = 16;
    pub(crate) const FLOAT_LEFT: u32 = 17;
    /// The same, from before something that may have to be taken back.
    pub(crate) const FLOAT_BEFORE: u32 = 18;
    /// Not zero if others were told what they have not been seen to hear.
    pub(crate) const UNSETTLED: u32 = 20;
    /// What a block calls for accesses: see `translate::generate::errands`.
    pub(crate) const ERRANDS: u32 = 21;
    /// Where the stack is while blocks run: who leaves in the midst of a region goes back there.
    pub(crate) const STACK: u32 = 27;
    /// Flags that were not computed yet: what they are the flags of, and which; see `translate::region`.
    pub(crate) const FLAGS: u32 = 28;
    /// What a region calls.
    pub(crate) const REGIONS: u32 = 32;
    /// What looks for a page: see `translate::generate::errands`.
    pub(crate) const LOOKS: u32 = 36;
    /// All of it, in words and in bytes: a multiple of sixteen.
    pub(crate) const WORDS: usize = 38;
    pub(crate) const SIZE: u32 = WORDS as u32 * 8;
    /// The reason that asks for the instruction to be interpreted.
    pub(crate) const INTERPRET_NEXT: u64 = u32::MAX as u64;
    /// The reason of a block that does not hold any more: whoever knew it has to forget it.
    pub(crate) const STALE: u64 = u32::MAX as u64 - 2;
    /// The reason of a block that runs often: it is worth more effort.
    pub(crate) const HOT: u64 = u32::MAX as u64 - 3;
    /// The reason that asks for code for other modes.
    pub(crate) const MODES_CHANGED: u64 = u32::MAX as u64 - 1;
}

/// Registers' bytes. Each lies at a multiple of its size, which is 8 or 16 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    words: Box<[u64]>,
}

impl State {
    /// All zero.
    pub fn new(size: u32) -> State {
        State { words: vec![0; head::WORDS + size as usize / 8].into() }
    }

    /// All zero again.
    pub(crate) fn clear(&mut self) {
        self.words.fill(0);
    }

    /// A register of at most 64 bits, at its offset.
    #[inline]
    pub fn narrow(&self, offset: u32) -> u64 {
        self.words[head::WORDS + offset as usize / 8]
    }

    /// Gives it a value.
    #[inline]
    pub fn set_narrow(&mut self, offset: u32, value: u64) {
        self.words[head::WORDS + offset as usize / 8] = value;
    }

    /// A register of more than 64 bits.
    #[inline]
    pub fn wide(&self, offset: u32) -> u128 {
        let at = head::WORDS + offset as usize / 8;
        u128::from(self.words[at + 1]) << 64 | u128::from(self.words[at])
    }

    /// Gives it a value.
    #[inline]
    pub fn set_wide(&mut self, offset: u32, value: u128) {
        let at = head::WORDS + offset as usize / 8;
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

    /// All registers.
    pub fn words(&self) -> &[u64] {
        &self.words[head::WORDS..]
    }

    /// Gives all registers their values, if there are as many.
    pub(crate) fn set_words(&mut self, words: &[u64]) -> bool {
        let own = &mut self.words[head::WORDS..];
        if own.len() == words.len() {
            own.copy_from_slice(words);
        }
        own.len() == words.len()
    }

    /// A word before the registers.
    pub(crate) fn head(&self, word: u32) -> u64 {
        self.words[word as usize]
    }

    /// Gives it a value.
    pub(crate) fn set_head(&mut self, word: u32, value: u64) {
        self.words[word as usize] = value;
    }

    /// Where it is, for generated code.
    pub(crate) fn address(&mut self) -> *mut u64 {
        self.words.as_mut_ptr()
    }
}
