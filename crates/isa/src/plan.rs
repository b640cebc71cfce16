//! What an instruction does, as a list of operations on values.
//!
//! A plan is made once from a description: functions are inlined, widths known, loops unrolled, constants folded. Each
//! operation that gives a value gives it once, and later ones name it by its index. Control goes forward only: `If` skips
//! to its `Else`, `Else` to its `End`. Values of an arm are used in that arm; what both arms give goes through a slot.
//!
//! **An operation is fixed if its value depends on nothing but the instruction's bits and the modes that code is
//! translated for.** A translator computes it and generates code for the others alone: the description is partially
//! evaluated, as in Captive (ATC'19, section 2).

use serde::{Deserialize, Serialize};

use crate::ops::{Binary, Float, Intrinsic, Unary};

/// An operation of a plan, by its index.
pub type Id = u32;
/// A register or bank of an architecture, by its index.
pub type RegisterId = u16;
/// Something a board answers, by its index.
pub type ExternId = u16;
/// What an engine may call by a name, by its index.
pub type EntryId = u16;

/// Operands of calls: at most this many.
pub const MOST_ARGUMENTS: usize = 6;

/// One operation. Operands come before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Op {
    /// A number of at most 64 bits.
    Const(u64),
    /// A number of more, which is in `Plan::wide`.
    Wide(u32),
    /// A field of the instruction.
    Field(u8),
    /// An argument of an entry.
    Argument(u8),
    /// Where the instruction is.
    Pc,
    /// How many bytes it has.
    Size,
    /// A register's value.
    Read {
        /// Which register.
        register: RegisterId,
        /// Which of a bank; of one that is no bank, the operation itself.
        index: Id,
    },
    /// Gives a register a value.
    Write {
        /// Which register.
        register: RegisterId,
        /// Which of a bank.
        index: Id,
        /// What it becomes.
        value: Id,
    },
    /// Of one operand, of the same width.
    Unary(Unary, Id),
    /// Of two operands of the same width, unless the operator says otherwise.
    Binary(Binary, Id, Id),
    /// The second if the first is 1, or else the third.
    Select(Id, Id, Id),
    /// Bits from this one on.
    Slice(Id, u8),
    /// The first above the second.
    Concat(Id, Id),
    /// Zeros above.
    Zext(Id),
    /// The highest bit above.
    Sext(Id),
    /// N, Z, C and V (bits 3 to 0) of the sum of two numbers and a carry of one bit.
    SumFlags(Id, Id, Id),
    /// An operation on lanes.
    Intrinsic {
        /// Which.
        which: Intrinsic,
        /// Bits of a lane.
        lane: u8,
        /// Its operands; those that it does not have repeat the first.
        of: [Id; 3],
    },
    /// An operation on floating-point numbers. Its flags are added to the register `float_flags`.
    Float {
        /// Which.
        which: Float,
        /// Bits of a lane.
        lane: u8,
        /// Of `ops::float::mode`: 8 bits.
        mode: Id,
        /// Its operands; those that it does not have repeat the first.
        of: [Id; 3],
    },
    /// Memory at a virtual address.
    Load {
        /// Where.
        address: Id,
        /// How: `access` has the bits.
        how: u8,
    },
    /// Puts into memory.
    Store {
        /// Where.
        address: Id,
        /// What.
        value: Id,
        /// How.
        how: u8,
    },
    /// Puts `new` there if `old` is there; gives what was there.
    CompareAndSwap {
        /// Where.
        address: Id,
        /// What has to be there.
        old: Id,
        /// What will be.
        new: Id,
        /// How.
        how: u8,
    },
    /// Changes memory as one; gives what was there.
    Atomic {
        /// How it is changed.
        kind: Atomic,
        /// Where.
        address: Id,
        /// With what.
        value: Id,
        /// How it is accessed.
        how: u8,
    },
    /// Memory at a physical address.
    PhysicalLoad(Id),
    /// As `CompareAndSwap`, at a physical address.
    PhysicalSwap {
        /// Where.
        address: Id,
        /// What has to be there.
        old: Id,
        /// What will be.
        new: Id,
    },
    /// Asks the board.
    Call {
        /// What.
        which: ExternId,
        /// Where its arguments begin in `Plan::arguments`.
        arguments: u32,
        /// How many there are.
        count: u8,
    },
    /// Gives a slot a value.
    Put(u16, Id),
    /// A slot's value.
    Get(u16),
    /// Goes on behind the `Else` at this index if the value is 0.
    If(Id, Id),
    /// Ends the first arm: goes on behind the `End` at this index.
    Else(Id),
    /// Ends the second arm.
    End,
    /// One of many: goes to where `Plan::tables` says.
    Switch(Id, u32),
    /// Ends an arm of a switch: goes to its `End`.
    Leave(Id),
    /// Says where the next instruction is.
    Jump(Id),
    /// Ends: goes on with an entry.
    Throw {
        /// Which.
        entry: EntryId,
        /// Where its arguments begin in `Plan::arguments`.
        arguments: u32,
        /// How many there are.
        count: u8,
    },
    /// Ends an entry with a value.
    Give(Id),
    /// Nothing, in place of what turned out to be unnecessary.
    Nothing,
}

/// How memory is changed as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is what its name says")]
pub enum Atomic {
    Swap,
    Add,
    And,
    Or,
    Xor,
    SignedMax,
    SignedMin,
    UnsignedMax,
    UnsignedMin,
}

/// Bits of how memory is accessed.
pub mod access {
    /// Acquires if it loads, and releases if it stores.
    pub const ORDERED: u8 = 1;
    /// With the rights of the least privileged level.
    pub const UNPRIVILEGED: u8 = 2;
}

/// An operation, how wide its value is, and whether it is fixed.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Node {
    /// What it does.
    pub op: Op,
    /// Bits of its value; 0 if it has none.
    pub width: u8,
    /// Whether it is known when an instruction is translated.
    pub fixed: bool,
}

/// Where a `Switch` goes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Table {
    /// Values and where each goes, by value.
    pub arms: Vec<(u64, Id)>,
    /// Where any other goes.
    pub other: Id,
}

/// What an instruction or an entry does.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Plan {
    /// In order.
    pub nodes: Vec<Node>,
    /// Numbers of more than 64 bits.
    pub wide: Vec<u128>,
    /// Operands of calls and throws.
    pub arguments: Vec<Id>,
    /// Where switches go.
    pub tables: Vec<Table>,
    /// How many slots there are.
    pub slots: u16,
}

impl Table {
    /// Where a value goes.
    #[inline]
    pub fn target(&self, value: u64) -> Id {
        match self.arms.binary_search_by_key(&value, |(value, _)| *value) {
            Ok(at) => self.arms[at].1,
            Err(_) => self.other,
        }
    }
}

impl Op {
    /// Calls `f` with each operand.
    pub fn each_operand(&self, arguments: &[Id], own: Id, mut f: impl FnMut(Id)) {
        match *self {
            Op::Const(_) | Op::Wide(_) | Op::Field(_) | Op::Argument(_) | Op::Pc | Op::Size | Op::Get(_) => {}
            Op::Else(_) | Op::End | Op::Leave(_) | Op::Nothing => {}
            Op::Read { index, .. } => {
                if index != own {
                    f(index);
                }
            }
            Op::Write { index, value, .. } => {
                if index != own {
                    f(index);
                }
                f(value);
            }
            Op::Unary(_, a) | Op::Slice(a, _) | Op::Zext(a) | Op::Sext(a) | Op::PhysicalLoad(a) => f(a),
            Op::Put(_, a) | Op::If(a, _) | Op::Switch(a, _) | Op::Jump(a) | Op::Give(a) => f(a),
            Op::Load { address, .. } => f(address),
            Op::Binary(_, a, b) | Op::Concat(a, b) => [a, b].into_iter().for_each(f),
            Op::Select(a, b, c) | Op::SumFlags(a, b, c) => [a, b, c].into_iter().for_each(f),
            Op::Intrinsic { of, .. } => of.into_iter().for_each(f),
            Op::Float { mode, of: [a, b, c], .. } => [mode, a, b, c].into_iter().for_each(f),
            Op::Store { address, value, .. } | Op::Atomic { address, value, .. } => {
                [address, value].into_iter().for_each(f);
            }
            Op::CompareAndSwap { address, old, new, .. } | Op::PhysicalSwap { address, old, new } => {
                [address, old, new].into_iter().for_each(f);
            }
            Op::Call { arguments: at, count, .. } | Op::Throw { arguments: at, count, .. } => {
                arguments[at as usize..at as usize + usize::from(count)].iter().copied().for_each(f);
            }
        }
    }

    /// Whether leaving it out changes nothing but its value.
    pub fn is_pure(&self) -> bool {
        !matches!(
            self,
            Op::Write { .. }
                | Op::Float { .. }
                | Op::Load { .. }
                | Op::Store { .. }
                | Op::CompareAndSwap { .. }
                | Op::Atomic { .. }
                | Op::PhysicalLoad(_)
                | Op::PhysicalSwap { .. }
                | Op::Call { .. }
                | Op::Put(..)
                | Op::If(..)
                | Op::Else(_)
                | Op::End
                | Op::Switch(..)
                | Op::Leave(_)
                | Op::Jump(_)
                | Op::Throw { .. }
                | Op::Give(_)
        )
    }
}
