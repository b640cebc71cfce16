//! What a block of guest code does, before it is the host's.
//!
//! Operations give a value once. A value of `width` bits has zeros above. Guest registers are values, too: what a block
//! knows of them is in a [`Known`] of each place where somebody may look, and is written there only if somebody does.

use std::ops::Range;

use isa::ops::{Binary, Float, Intrinsic, Unary};
use isa::plan::Atomic;

/// What an operation gives, by the operation's index.
pub(super) type Value = u32;

/// An operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Val {
    Number(u64),
    Value(Value),
}

/// Registers that are not in the processor's state as they should be: offset and value. By its index.
pub(super) type StateId = u32;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Ir {
    /// A guest register.
    Read {
        offset: u32,
    },
    /// The address of the page that the block is in, and so many bytes.
    Page {
        plus: u32,
    },
    /// The clock.
    Clock,
    /// Flags of floating-point operations: those of the state, and those that the host has met since.
    FloatFlags {
        offset: u32,
    },
    /// The flags are these from now on.
    SetFloatFlags {
        offset: u32,
        value: Val,
    },
    Unary(Unary, u8, Val),
    Binary(Binary, u8, Val, Val),
    /// One of two values.
    Select(u8, Test, Val, Val),
    /// So many bits of a value, from one on.
    Slice {
        of: Val,
        low: u8,
        width: u8,
    },
    /// The sign of a value of `from` bits above it, up to `to` bits.
    Sext {
        of: Val,
        from: u8,
        to: u8,
    },
    Flags {
        width: u8,
        a: Val,
        b: Val,
        carry: Val,
    },
    /// Finds where a page is for all accesses to bytes `low..high` from an address: what is added to an address of the guest's
    /// to have ours, or 0 if they are not all on one page that is known.
    Window {
        base: Val,
        low: i32,
        high: i32,
        table: Table,
        /// How many accesses there are.
        uses: u16,
    },
    Load {
        address: Val,
        /// What is added to the address.
        offset: i32,
        /// The window that it looks through.
        window: Option<Value>,
        width: u8,
        how: u8,
        at: StateId,
        class: Class,
    },
    /// What is done in a vector register, or with one.
    Vector(Vector),
    Store {
        address: Val,
        offset: i32,
        window: Option<Value>,
        value: Val,
        width: u8,
        how: u8,
        at: StateId,
    },
    /// Changes memory as one; gives what was there.
    Atomic {
        kind: Atomic,
        address: Val,
        value: Val,
        width: u8,
        at: StateId,
    },
    CompareAndSwap {
        address: Val,
        old: Val,
        new: Val,
        width: u8,
        at: StateId,
    },
    Fence(Fence),
    /// Goes to the interpreter if others were told what they may not have heard.
    Settle {
        at: StateId,
    },
    /// Leaves if somebody wants the processor: it may have heard of code that is another by now.
    Synchronise {
        next: u32,
        at: StateId,
    },
    /// Leaves if an interrupt waits that was masked.
    Poll {
        next: u32,
        at: StateId,
    },
    /// The instruction is interpreted; afterwards, registers are in the state.
    Interpret {
        instruction: u32,
        word: u32,
        at: StateId,
    },
    /// Leaves the block if the condition holds.
    ExitIf {
        test: Test,
        to: Exit,
        at: StateId,
    },
    /// Leaves the block; if modes have changed, other code comes next.
    Exit {
        to: Exit,
        at: StateId,
        modes: Modes,
    },
}

/// Which pages are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Table {
    Read,
    Write,
}

/// Which registers of the host hold a value. One in a vector register has zeros above its width, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Class {
    General,
    Vector,
}

/// Operations with vector registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Vector {
    /// A guest register of more than 64 bits.
    Read {
        offset: u32,
    },
    Const {
        low: u64,
        high: u64,
    },
    Logic(Binary, Val, Val),
    /// Two halves.
    Join {
        high: Val,
        low: Val,
    },
    /// 64 bits from bit 0 or 64 on, or the lowest 32.
    Part {
        of: Val,
        low: u8,
        width: u8,
    },
    /// By so many bytes, to the left if more than none.
    Shift {
        of: Val,
        bytes: i8,
    },
    Lanes {
        which: Intrinsic,
        lane: u8,
        of: [Val; 3],
    },
    /// It is interpreted if it is not plain: if a result is no number, or does not fit.
    Float {
        which: Float,
        lane: u8,
        width: u8,
        rounding: u8,
        of: [Val; 3],
        at: StateId,
    },
}

/// What is done before what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Fence {
    /// Stores before it before loads behind it.
    Memory,
    /// Loads before it before the clock is read behind it.
    Clock,
}

/// Whether code for the same modes comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Modes {
    Same,
    Changed,
}

/// A condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Test {
    pub(super) kind: TestKind,
    pub(super) width: u8,
    pub(super) a: Val,
    pub(super) b: Val,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum TestKind {
    Equal,
    NotEqual,
    Below,
    NotBelow,
    Less,
    NotLess,
}

impl TestKind {
    pub(super) fn inverted(self) -> TestKind {
        match self {
            TestKind::Equal => TestKind::NotEqual,
            TestKind::NotEqual => TestKind::Equal,
            TestKind::Below => TestKind::NotBelow,
            TestKind::NotBelow => TestKind::Below,
            TestKind::Less => TestKind::NotLess,
            TestKind::NotLess => TestKind::Less,
        }
    }
}

/// Where a block goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Exit {
    /// So many bytes from the beginning of its page.
    Direct { plus: i64 },
    /// At an address.
    Indirect(Val),
    /// At this instruction, by the interpreter: it will throw.
    Interpreter,
}

/// What a register has to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dirty {
    pub(super) offset: u32,
    pub(super) value: Val,
    /// Whether it has more than 64 bits.
    pub(super) is_wide: bool,
}

/// What has to be written to the state if somebody looks, and where the instruction is in its page.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    /// Where they are in the block's list of all of them.
    dirty: Range<usize>,
    pub(super) pc: u32,
}

/// A block.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub(super) code: Vec<Ir>,
    pub(super) states: Vec<Known>,
    dirty: Vec<Dirty>,
    /// Where it begins in its page.
    pub(super) begin: u32,
    /// How many instructions it is of.
    pub(super) instructions: u32,
}

impl Block {
    /// Another one, in its place.
    pub(super) fn again(mut self, begin: u32) -> Block {
        self.code.clear();
        self.states.clear();
        self.dirty.clear();
        Block { begin, instructions: 0, ..self }
    }

    /// What is known at a place from now on.
    pub(super) fn add_state(&mut self, dirty: &[Dirty], pc: u32) -> StateId {
        let range = match self.states.last() {
            // Mostly it is what it was: nothing was written in between.
            Some(last) if self.dirty[last.dirty.clone()] == *dirty => last.dirty.clone(),
            _ => {
                let begin = self.dirty.len();
                self.dirty.extend_from_slice(dirty);
                begin..self.dirty.len()
            }
        };
        self.states.push(Known { dirty: range, pc });
        self.states.len() as StateId - 1
    }

    /// What has to be written there.
    pub(super) fn dirty(&self, at: StateId) -> &[Dirty] {
        &self.dirty[self.states[at as usize].dirty.clone()]
    }
}

impl Ir {
    /// Calls `f` with each operand.
    pub(super) fn each(&self, mut f: impl FnMut(Val)) {
        match *self {
            Ir::Read { .. }
            | Ir::Page { .. }
            | Ir::Clock
            | Ir::FloatFlags { .. }
            | Ir::Interpret { .. }
            | Ir::Fence(_)
            | Ir::Settle { .. }
            | Ir::Synchronise { .. }
            | Ir::Poll { .. } => {}
            Ir::Unary(_, _, a) | Ir::Slice { of: a, .. } | Ir::Sext { of: a, .. } => f(a),
            Ir::SetFloatFlags { value, .. } => f(value),
            Ir::Binary(_, _, a, b) => [a, b].into_iter().for_each(f),
            Ir::Vector(vector) => vector.each(f),
            Ir::Select(_, test, yes, no) => [test.a, test.b, yes, no].into_iter().for_each(f),
            Ir::Flags { a, b, carry: c, .. } | Ir::CompareAndSwap { address: a, old: b, new: c, .. } => {
                [a, b, c].into_iter().for_each(f)
            }
            Ir::Window { base, .. } => f(base),
            Ir::Load { address, window, .. } => {
                f(address);
                window.map(Val::Value).into_iter().for_each(f);
            }
            Ir::Store { address, window, value, .. } => {
                [address, value].into_iter().for_each(&mut f);
                window.map(Val::Value).into_iter().for_each(f);
            }
            Ir::Atomic { address, value, .. } => [address, value].into_iter().for_each(f),
            Ir::ExitIf { test, to, .. } => {
                f(test.a);
                f(test.b);
                if let Exit::Indirect(at) = to {
                    f(at);
                }
            }
            Ir::Exit { to, .. } => {
                if let Exit::Indirect(at) = to {
                    f(at);
                }
            }
        }
    }

    /// Where somebody may look at the state.
    pub(super) fn state(&self) -> Option<StateId> {
        match *self {
            Ir::Vector(Vector::Float { at, .. })
            | Ir::Load { at, .. }
            | Ir::Store { at, .. }
            | Ir::Atomic { at, .. }
            | Ir::CompareAndSwap { at, .. }
            | Ir::Poll { at, .. }
            | Ir::Settle { at }
            | Ir::Synchronise { at, .. }
            | Ir::Interpret { at, .. }
            | Ir::ExitIf { at, .. }
            | Ir::Exit { at, .. } => Some(at),
            _ => None,
        }
    }

    /// Where its value is.
    pub(super) fn class(&self) -> Class {
        match self {
            Ir::Load { class, .. } => *class,
            Ir::Vector(Vector::Float {
                which: Float::Order | Float::ToSigned | Float::ToUnsigned | Float::ToSignedHalf | Float::ToUnsignedHalf,
                ..
            }) => Class::General,
            Ir::Vector(_) | Ir::CompareAndSwap { width: 128, .. } => Class::Vector,
            _ => Class::General,
        }
    }

    /// Whether it is a window that is worth a register.
    pub(super) fn is_open(&self) -> bool {
        matches!(*self, Ir::Window { uses: 2.., .. })
    }

    /// Whether it can be left out if nobody wants its value.
    pub(super) fn is_pure(&self) -> bool {
        self.state().is_none() && !matches!(self, Ir::SetFloatFlags { .. } | Ir::Fence(_))
    }
}

impl Vector {
    fn each(self, f: impl FnMut(Val)) {
        match self {
            Vector::Read { .. } | Vector::Const { .. } => {}
            Vector::Logic(_, a, b) | Vector::Join { high: a, low: b } => [a, b].into_iter().for_each(f),
            Vector::Part { of, .. } | Vector::Shift { of, .. } => [of].into_iter().for_each(f),
            Vector::Lanes { of, .. } | Vector::Float { of, .. } => of.into_iter().for_each(f),
        }
    }
}
