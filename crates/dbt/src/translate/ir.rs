//! What a block of guest code does, before it is the host's.
//!
//! Operations give a value once. A value of `width` bits has zeros above. Guest registers are values, too: what a block
//! knows of them is in a [`Known`] of each place where somebody may look, and is written there only if somebody does.

use isa::ops::{Binary, Unary};

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
    Unary(Unary, u8, Val),
    Binary(Binary, u8, Val, Val),
    Select(u8, Val, Val, Val),
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
    Load {
        address: Val,
        width: u8,
        how: u8,
        at: StateId,
    },
    Store {
        address: Val,
        value: Val,
        width: u8,
        how: u8,
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
    /// Leaves the block.
    Exit {
        to: Exit,
        at: StateId,
    },
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

/// What has to be written to the state if somebody looks, and where the instruction is in its page.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub(super) dirty: Vec<(u32, Val)>,
    pub(super) pc: u32,
}

/// A block.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub(super) code: Vec<Ir>,
    pub(super) states: Vec<Known>,
    /// Where it begins in its page.
    pub(super) begin: u32,
    /// How many instructions it is of.
    pub(super) instructions: u32,
}

impl Ir {
    /// Calls `f` with each operand.
    pub(super) fn each(&self, mut f: impl FnMut(Val)) {
        match *self {
            Ir::Read { .. } | Ir::Page { .. } | Ir::Interpret { .. } => {}
            Ir::Unary(_, _, a) | Ir::Slice { of: a, .. } | Ir::Sext { of: a, .. } => f(a),
            Ir::Binary(_, _, a, b) => [a, b].into_iter().for_each(f),
            Ir::Select(_, a, b, c) | Ir::Flags { a, b, carry: c, .. } => [a, b, c].into_iter().for_each(f),
            Ir::Load { address, .. } => f(address),
            Ir::Store { address, value, .. } => [address, value].into_iter().for_each(f),
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
            Ir::Load { at, .. }
            | Ir::Store { at, .. }
            | Ir::Interpret { at, .. }
            | Ir::ExitIf { at, .. }
            | Ir::Exit { at, .. } => Some(at),
            _ => None,
        }
    }

    /// Whether it can be left out if nobody wants its value.
    pub(super) fn is_pure(&self) -> bool {
        self.state().is_none()
    }
}
