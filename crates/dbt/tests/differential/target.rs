//! What differs between the architectures: how registers get into a block of memory and out of it.
//!
//! A block has a register's value at its place: vectors from 0 on, general registers from 512 on, what is special behind
//! them.

use dbt::Registers;

pub(crate) const BLOCK: usize = 1024;
pub(crate) const GENERAL: usize = 512;
pub(crate) const SPECIAL: usize = 768;
/// Where the code of a case is.
pub(crate) const CODE: usize = 800;
/// What a case that jumps makes zero.
pub(crate) const JUMPED: usize = 792;
/// Where what is compared of a block ends.
pub(crate) const END: usize = 800;
/// Bytes from the end of an instruction to where its case jumps to, if it does.
pub(crate) const JUMP: u64 = 4;

pub(crate) trait Target {
    /// Its description's directory.
    fn name(&self) -> &'static str;
    fn qemu(&self) -> &'static str;
    /// The machine's number in a program's header.
    fn machine(&self) -> u16;
    /// A general register that no case uses.
    fn base(&self) -> u64;
    /// The general register that has an address where no field says so.
    fn stack(&self) -> usize;
    /// The field that says which register has an address, and which may have what is added to it.
    fn address_field(&self) -> (&'static str, &'static str);
    /// Registers of the description that are compared: an instruction that writes others is not tried.
    fn registers(&self) -> &'static [&'static str];
    /// Fills a block with what belongs to special registers.
    fn special(&self, random: &mut crate::values::Random, block: &mut [u8]);
    /// An instruction with this number in the fields that say how far it jumps.
    fn aimed(&self, instruction: &isa::Instruction, word: u32, by: u64) -> u32;
    /// Has instructions of floating-point numbers trap; and the bank that they use.
    fn without_float(&self, registers: &mut Registers<'_>) -> &'static str;
    /// From a block to the interpreter's registers.
    fn put(&self, registers: &mut Registers<'_>, block: &[u8]);
    /// The other way.
    fn take(&self, registers: &mut Registers<'_>, block: &mut [u8]);
    /// Code at `at` that begins with the block at `first`: loads what it says, and jumps to its code.
    fn load(&self, first: u64) -> Vec<u8>;
    /// Code that follows, to which cases jump: stores what became of it, and goes on with the next block, to `begin` bytes
    /// from its own beginning (backwards).
    fn save(&self, load_length: usize, first_length: usize) -> Vec<u8>;
    /// A case's code at `at`: the instruction, and a jump to `save`; what is jumped over notes that something jumped. And
    /// where in it the instruction is.
    fn case(&self, at: u64, save: u64, word: u32, size: u8) -> (Vec<u8>, u64);
    /// Code that begins a program without anything below it: lets floating-point numbers be used, and jumps.
    fn begin(&self, at: u64, to: u64) -> Vec<u8>;
    /// Code that waits for what never comes.
    fn halt(&self) -> Vec<u8>;
    /// Code that writes these parts of memory, by address and length, to the standard output, and ends.
    fn exit(&self, parts: &[(u64, u64)]) -> Vec<u8>;
}

pub(crate) fn word(block: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(block[at..at + 8].try_into().unwrap())
}

pub(crate) fn set_word(block: &mut [u8], at: usize, value: u64) {
    block[at..at + 8].copy_from_slice(&value.to_le_bytes());
}
