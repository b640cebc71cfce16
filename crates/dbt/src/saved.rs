//! A processor as data: what it is made again of, elsewhere or later.
//!
//! That is its registers and where it is. **Nothing that was found out about a guest is kept**: translated code and
//! translations of addresses are made anew, so a saved processor fits whatever program has the same description.

use std::sync::Arc;

use isa::Isa;
use serde::{Deserialize, Serialize};

use crate::board::Board;
use crate::error::{Error, Result};
use crate::processor::{Mode, Processor};
use crate::ram::Ram;

/// A processor that stands still.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedProcessor {
    /// Where it is.
    pub pc: u64,
    /// All its registers, as its description lays them out.
    pub registers: Vec<u64>,
    /// Whether it waits for an interrupt.
    pub is_waiting: bool,
}

impl Processor {
    /// What it is, between two instructions.
    pub fn save(&self) -> SavedProcessor {
        SavedProcessor { pc: self.pc, registers: self.state.words().to_vec(), is_waiting: self.is_waiting }
    }

    /// A processor that goes on from there.
    pub fn resume(
        isa: Arc<Isa>,
        mode: Mode,
        ram: Ram,
        board: &mut dyn Board,
        saved: &SavedProcessor,
    ) -> Result<Processor> {
        let mut processor = Processor::blank(isa, mode, ram, board)?;
        if !processor.state.set_words(&saved.registers) {
            let architecture = processor.isa.name.clone();
            return Err(Error::Registers { architecture, count: saved.registers.len() });
        }
        // No register has more bits than its description gives it, whatever was written.
        let isa = Arc::clone(&processor.isa);
        for register in &isa.registers {
            for index in 0..register.count {
                let value = processor.state.get(register, index);
                processor.state.set(register, index, value);
            }
        }
        (processor.pc, processor.is_waiting) = (saved.pc, saved.is_waiting);
        processor.update_key();
        Ok(processor)
    }
}
