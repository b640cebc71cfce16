//! A description as it was written: names not yet looked up, widths not yet computed.

use crate::error::Place;

/// Whatever stands at the outermost level of a source.
#[derive(Debug)]
pub(crate) enum Item {
    /// `arch NAME unit 16;`: the name, and the bits that every instruction is a multiple of.
    Arch { name: String, unit: Expr },
    /// `bank X[31]: u64;`, `reg PC: u64;`, `mode EL: u2;`.
    Register(Register),
    /// `const NAME = EXPR;`.
    Const { name: Name, value: Expr },
    /// `names xreg = "x" 0..30, "xzr";`: what a disassembler calls the values of a field.
    Names { name: Name, list: Vec<String> },
    /// `extern fn NAME(…) -> TYPE;`: what a board answers.
    Extern(Signature),
    /// `fn NAME(…) -> TYPE { … }`, which is part of whatever calls it.
    Function(Function),
    /// `entry fn …`: what an engine calls by its name.
    Entry(Function),
    /// `sysreg NAME at KEY reads LEVEL writes LEVEL …`.
    System(Box<System>),
    /// `insn NAME = PATTERN …`.
    Instruction(Instruction),
}

/// A name at its place.
#[derive(Debug, Clone)]
pub(crate) struct Name {
    pub(crate) text: String,
    pub(crate) place: Place,
}

#[derive(Debug)]
pub(crate) struct Register {
    pub(crate) name: Name,
    pub(crate) count: Option<Expr>,
    pub(crate) class: Type,
    pub(crate) kind: RegisterKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RegisterKind {
    /// Many of one width.
    Bank,
    One,
    /// One that code is translated for: its value is known when an instruction is translated.
    Mode,
}

#[derive(Debug)]
pub(crate) struct Signature {
    pub(crate) name: Name,
    pub(crate) parameters: Vec<(Name, Type)>,
    pub(crate) result: Type,
    /// `sync`: modes may be different afterwards, so that nothing that is known of them may be used.
    pub(crate) is_sync: bool,
}

#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) signature: Signature,
    pub(crate) body: Block,
}

#[derive(Debug)]
pub(crate) struct System {
    pub(crate) name: Name,
    pub(crate) key: Expr,
    /// The least level that may read it; nobody may if there is none.
    pub(crate) reads: Option<Expr>,
    pub(crate) writes: Option<Expr>,
    /// Without one, it is a plain register of its name.
    pub(crate) read: Option<Block>,
    pub(crate) write: Option<(Name, Block)>,
}

#[derive(Debug)]
pub(crate) struct Instruction {
    pub(crate) name: Name,
    pub(crate) pattern: Vec<Bits>,
    /// Fields of which each value makes an instruction of its own, in which it is a known number.
    pub(crate) each: Vec<Name>,
    pub(crate) when: Vec<Expr>,
    pub(crate) assembly: Vec<Assembly>,
    pub(crate) body: Block,
}

/// A part of a pattern, most significant first.
#[derive(Debug, Clone)]
pub(crate) enum Bits {
    Given { digits: String },
    Field { name: Name, width: u32 },
}

/// `asm "add {r(rd)}, #{imm}" when COND`: the first whose condition holds is used.
#[derive(Debug)]
pub(crate) struct Assembly {
    pub(crate) parts: Vec<AssemblyPart>,
    pub(crate) when: Option<Expr>,
}

#[derive(Debug)]
pub(crate) enum AssemblyPart {
    Text(String),
    /// `{EXPR}`: in decimal. `{NAMES(EXPR)}`: one of a list of names.
    Operand(Expr),
    /// `{x:EXPR}`.
    Hexadecimal(Expr),
    /// `{s:EXPR}`: in decimal, its highest bit being its sign.
    Signed(Expr),
}

/// A type as it is written.
#[derive(Debug, Clone)]
pub(crate) enum Type {
    /// A number that is known when the description is compiled.
    Int,
    Bits(Box<Expr>),
    /// Of none: nothing.
    Tuple(Vec<Type>),
}

/// Statements, and what they are worth.
#[derive(Debug, Clone, Default)]
pub(crate) struct Block {
    pub(crate) statements: Vec<Statement>,
    pub(crate) value: Option<Box<Expr>>,
}

#[derive(Debug, Clone)]
pub(crate) enum Statement {
    Let {
        names: Vec<Name>,
        class: Option<Type>,
        value: Expr,
        is_variable: bool,
    },
    Assign {
        target: Expr,
        value: Expr,
    },
    If {
        condition: Expr,
        yes: Block,
        no: Block,
    },
    Match {
        of: Expr,
        arms: Vec<Arm>,
    },
    For {
        name: Name,
        from: Expr,
        to: Expr,
        body: Block,
    },
    Return {
        value: Option<Expr>,
        place: Place,
    },
    /// `throw ENTRY(…);`: the instruction has done nothing more than it has; the engine goes on with the entry.
    Throw {
        entry: Name,
        arguments: Vec<Expr>,
    },
    Do(Expr),
}

#[derive(Debug, Clone)]
pub(crate) struct Arm {
    /// Of none: whatever else.
    pub(crate) values: Vec<Expr>,
    pub(crate) body: Block,
}

#[derive(Debug, Clone)]
pub(crate) struct Expr {
    pub(crate) kind: ExprKind,
    pub(crate) place: Place,
}

#[derive(Debug, Clone)]
pub(crate) enum ExprKind {
    Number(u128),
    Name(String),
    Call(Name, Vec<Expr>),
    /// `a[i]`: a register of a bank, or a bit.
    Index(Box<Expr>, Box<Expr>),
    /// `a[hi:lo]`.
    Slice(Box<Expr>, Box<Expr>, Box<Expr>),
    Unary(Unary, Box<Expr>),
    Binary(Binary, Box<Expr>, Box<Expr>),
    If(Box<Expr>, Block, Block),
    Match(Box<Expr>, Vec<Arm>),
    Tuple(Vec<Expr>),
    Block(Block),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unary {
    Negate,
    /// All bits.
    Invert,
    /// Of one bit.
    Not,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Binary {
    Or,
    And,
    BitOr,
    BitXor,
    BitAnd,
    Equal,
    Unequal,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    ShiftLeft,
    ShiftRight,
    Add,
    Subtract,
    Multiply,
}
