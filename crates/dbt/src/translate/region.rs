//! Loops as a whole: the second tier.
//!
//! A place that is turned back to often is the head of a loop. The blocks of that loop, and of loops inside it, are made
//! anew without going into each other, and given to Cranelift as one function: registers of the guest are its variables,
//! so they stay in the host's from one turn to the next, and what does not change is computed once. A thread in the
//! background compiles; until it is done, and wherever the loop is not entered at its head, blocks do what they did.
//!
//! **What is ours.** Guest memory is looked up as blocks do, and what is not there is asked for by cold code, which writes
//! all registers that changed to the state first: whoever looks sees what a block would have shown. Nothing that a region
//! calls comes back if something was thrown. The condition flags of an architecture that has them are kept as what they are
//! the flags of ([`flags`]), and computed only where somebody looks. Each turn looks for who wants the processor.
//!
//! **What a region leaves to blocks:** floating point and vectors, atomic operations, whatever is interpreted, and what is on
//! another page. A block with such is not part of it, nor is a loop through one.

mod form;
mod lower;
mod request;
mod workshop;

pub(super) use self::workshop::Workshop;

/// How a region is left, by the number that its code gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Way {
    /// To so many bytes from the beginning of its page.
    Direct(i64),
    /// To the address that is in the state's head.
    Indirect,
    /// To the interpreter, at this instruction: it will throw.
    Interpreter(u32),
    /// To whoever wants the processor, which is at this instruction.
    Attention(u32),
}

/// What condition flags are the flags of: the words of the head, of which the last says which they are of, and where their
/// register is. That is 0 if they are in the state.
pub(super) mod flags {
    /// Two numbers, a carry, and the kind.
    pub(in crate::translate) const FIRST: u32 = 0;
    pub(in crate::translate) const SECOND: u32 = 1;
    pub(in crate::translate) const CARRY: u32 = 2;
    pub(in crate::translate) const KIND: u32 = 3;
    /// The kind's low bits: a sum of 32 bits or of 64, or the first number itself.
    pub(in crate::translate) const SUM32: u8 = 1;
    pub(in crate::translate) const SUM64: u8 = 2;
    pub(in crate::translate) const NUMBER: u8 = 3;
    pub(in crate::translate) const WHICH: u8 = 3;
    /// The carry is in its word; or else it is this.
    pub(in crate::translate) const CARRY_IN_WORD: u8 = 4;
    pub(in crate::translate) const CARRY_IS_ONE: u8 = 8;
    /// Above these is the offset of the register.
    pub(in crate::translate) const OFFSET_AT: u8 = 8;
}
