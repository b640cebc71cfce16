//! A description, compiled: what engines, disassemblers and test generators work from.

use serde::{Deserialize, Serialize};

use crate::decode::Decoder;
use crate::plan::{EntryId, ExternId, Plan};

/// An architecture.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Isa {
    /// Its name.
    pub name: String,
    /// Of what its sources say: what was made of another description is of no use to this one.
    pub digest: u64,
    /// Every instruction's length is a multiple of these bits: 16 or 32.
    pub unit: u8,
    /// Registers, by their ids.
    pub registers: Vec<Register>,
    /// What a board answers, by id.
    pub externs: Vec<Extern>,
    /// What an engine calls, by id.
    pub entries: Vec<Entry>,
    /// Every instruction; one that was described with `each` is here once for each value.
    pub instructions: Vec<Instruction>,
    /// Finds an instruction from its bits.
    pub decoder: Decoder,
    /// Lists of names that assembly uses.
    pub names: Vec<Vec<String>>,
}

/// A register, or a bank of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// Its name.
    pub name: String,
    /// Bits.
    pub width: u8,
    /// How many; 1 if it is no bank.
    pub count: u32,
    /// Whether it is a bank.
    pub is_bank: bool,
    /// Whether code is translated for its value.
    pub is_mode: bool,
    /// Bytes from the beginning of a processor's state.
    pub offset: u32,
    /// Bytes from one of a bank to the next.
    pub stride: u32,
}

/// A question to the board.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extern {
    /// Its name.
    pub name: String,
    /// Whether modes may be different afterwards.
    pub is_sync: bool,
}

/// What an engine calls by its name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// How many arguments it has.
    pub arguments: u8,
    /// What it does.
    pub plan: Plan,
}

/// An instruction.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Instruction {
    /// Its name in the description.
    pub name: String,
    /// Bits that are given.
    pub mask: u32,
    /// What they are.
    pub value: u32,
    /// Its length in bytes.
    pub size: u8,
    /// What varies.
    pub fields: Vec<Field>,
    /// What has to hold of its fields besides: all of them 1.
    pub when: Vec<Plan>,
    /// How it is written, the first that applies.
    pub assembly: Vec<Assembly>,
    /// What it does.
    pub plan: Plan,
}

/// A part of an instruction's bits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Its lowest bit.
    pub low: u8,
    /// Its bits.
    pub width: u8,
}

/// How an instruction is written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Assembly {
    /// When this is how.
    pub when: Option<Plan>,
    /// One behind the other.
    pub parts: Vec<Part>,
}

/// A part of an instruction as it is written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Part {
    /// As it is.
    Text(String),
    /// A number in decimal.
    Decimal(Plan),
    /// A number in hexadecimal, with `0x`.
    Hexadecimal(Plan),
    /// A number in decimal, its highest bit being its sign.
    Signed(Plan),
    /// One of `Isa::names`, by number.
    Named(usize, Plan),
}

impl Isa {
    /// The entry of this name.
    pub fn entry(&self, name: &str) -> Option<EntryId> {
        self.entries.iter().position(|entry| entry.name == name).map(|at| at as EntryId)
    }

    /// The question of this name.
    pub fn question(&self, name: &str) -> Option<ExternId> {
        self.externs.iter().position(|question| question.name == name).map(|at| at as ExternId)
    }

    /// The register or bank of this name.
    pub fn register(&self, name: &str) -> Option<&Register> {
        self.registers.iter().find(|register| register.name == name)
    }

    /// Bytes of a processor's state.
    pub fn state_size(&self) -> u32 {
        self.registers.last().map_or(0, |last| last.offset + last.stride * last.count).next_multiple_of(16)
    }
}

impl Field {
    /// Its value in an instruction.
    #[inline]
    pub fn of(&self, word: u32) -> u64 {
        u64::from(word >> self.low) & crate::ops::mask64(self.width)
    }
}
