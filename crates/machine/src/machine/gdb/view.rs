//! Registers as gdb knows them: by its features' names, from the description's banks.
//!
//! What a bank is, how many registers it has and how wide they are the description tells; what gdb calls them, and in which order, a
//! table here.

use std::fmt::Write as _;
use std::num::NonZeroUsize;

use dbt::{Board, Processor};
use gdbstub::arch::{Arch, RegId, Registers};
use isa::Isa;

/// Where a register's value is.
#[derive(Debug, Clone, Copy)]
enum Place {
    Pc,
    /// One of a bank.
    Bank(&'static str, u32),
    /// What entries of the description give and take.
    Entries(&'static str, Option<&'static str>),
}

/// A register as gdb sees it.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    feature: &'static str,
    name: String,
    bits: u32,
    kind: &'static str,
    place: Place,
}

/// A line of the table: the feature, the name (of a bank, what stands before the number), bits if the description does
/// not tell, gdb's type, where it is.
type Line = (&'static str, &'static str, Option<u32>, &'static str, Place);

const AARCH64: &[Line] = &[
    ("org.gnu.gdb.aarch64.core", "x", None, "int", Place::Bank("X", 0)),
    ("org.gnu.gdb.aarch64.core", "sp", Some(64), "data_ptr", Place::Entries("debug_sp", Some("debug_set_sp"))),
    ("org.gnu.gdb.aarch64.core", "pc", Some(64), "code_ptr", Place::Pc),
    ("org.gnu.gdb.aarch64.core", "cpsr", Some(32), "int", Place::Entries("debug_cpsr", None)),
    ("org.gnu.gdb.aarch64.fpu", "v", None, "uint128", Place::Bank("V", 0)),
    ("org.gnu.gdb.aarch64.fpu", "fpsr", Some(32), "int", Place::Entries("debug_fpsr", None)),
    ("org.gnu.gdb.aarch64.fpu", "fpcr", Some(32), "int", Place::Entries("debug_fpcr", None)),
];

const RISCV64: &[Line] = &[
    ("org.gnu.gdb.riscv.cpu", "x", None, "int", Place::Bank("X", 0)),
    ("org.gnu.gdb.riscv.cpu", "pc", Some(64), "code_ptr", Place::Pc),
    ("org.gnu.gdb.riscv.fpu", "f", None, "ieee_double", Place::Bank("F", 0)),
];

/// What gdb calls an architecture, and its registers.
fn table(isa: &Isa) -> Option<(&'static str, &'static [Line])> {
    match isa.name.as_str() {
        "aarch64" => Some(("aarch64", AARCH64)),
        "riscv64" => Some(("riscv:rv64", RISCV64)),
        _ => None,
    }
}

/// All registers that are shown, in gdb's order.
pub(super) fn shown(isa: &Isa) -> Option<Vec<Shown>> {
    let (_, lines) = table(isa)?;
    let mut all = Vec::new();
    for (feature, name, bits, kind, place) in lines.iter().copied() {
        match place {
            Place::Bank(bank, _) => {
                let register = isa.register(bank)?;
                let one = |number| Shown {
                    feature,
                    name: format!("{name}{number}"),
                    bits: register.width.into(),
                    kind,
                    place: Place::Bank(bank, number),
                };
                all.extend((0..register.count).map(one));
            }
            _ => all.push(Shown { feature, name: name.into(), bits: bits.unwrap_or(64), kind, place }),
        }
    }
    Some(all)
}

/// The same as gdb reads it ("Target Descriptions").
pub(super) fn description(isa: &Isa, shown: &[Shown]) -> String {
    let architecture = table(isa).map_or("", |it| it.0);
    let mut text = format!(
        "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target version=\"1.0\">\
         <architecture>{architecture}</architecture>"
    );
    for (number, it) in shown.iter().enumerate() {
        // Writing into a text does not fail.
        if number == 0 || shown[number - 1].feature != it.feature {
            let end = if number == 0 { "" } else { "</feature>" };
            let _ = write!(text, "{end}<feature name=\"{}\">", it.feature);
        }
        let Shown { name, bits, kind, .. } = it;
        let _ = write!(text, "<reg name=\"{name}\" bitsize=\"{bits}\" type=\"{kind}\" regnum=\"{number}\"/>");
    }
    text + "</feature></target>"
}

impl Shown {
    /// Its bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bits as usize / 8
    }

    pub(super) fn read(&self, processor: &mut Processor, board: &mut dyn Board) -> Vec<u8> {
        let value = match self.place {
            Place::Pc => processor.pc().into(),
            Place::Bank(bank, number) => processor.registers().get(bank, number),
            Place::Entries(entry, _) => processor.ask(board, entry, 0).unwrap_or(0),
        };
        value.to_le_bytes()[..self.bytes()].to_vec()
    }

    /// Gives it a value, if it takes one.
    pub(super) fn write(&self, processor: &mut Processor, board: &mut dyn Board, value: &[u8]) -> Option<()> {
        let value = value.iter().rev().fold(0u128, |value, byte| value << 8 | u128::from(*byte));
        match self.place {
            Place::Pc => processor.set_pc(value as u64),
            // RISC-V's first is always zero, which its description never reads.
            Place::Bank(bank, number) => processor.registers().set(bank, number, value),
            Place::Entries(_, Some(entry)) => drop(processor.ask(board, entry, value as u64)),
            Place::Entries(_, None) => return None,
        }
        Some(())
    }
}

/// Every processor that there is a description of, to `gdbstub`.
pub(super) enum Processors {}

impl Arch for Processors {
    type Usize = u64;
    type Registers = Bytes;
    type BreakpointKind = usize;
    type RegId = Number;
}

/// Registers, one behind the other.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl Registers for Bytes {
    type ProgramCounter = u64;

    /// Only ranges of steps ask, which there are none of.
    fn pc(&self) -> u64 {
        0
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        self.0.iter().for_each(|byte| write_byte(Some(*byte)));
    }

    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        self.0 = bytes.to_vec();
        Ok(())
    }
}

/// A register's number.
#[derive(Debug)]
pub(super) struct Number(pub(super) usize);

impl RegId for Number {
    fn from_raw_id(id: usize) -> Option<(Number, Option<NonZeroUsize>)> {
        Some((Number(id), None))
    }
}
