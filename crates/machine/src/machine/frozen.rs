//! A machine that is there twice: what it is at a moment, and another that goes on from there.
//!
//! Memory is had by both until one writes to it ([`vm::Memory::freeze`]): neither making a copy nor having one takes time
//! or room by how much there is.

use std::sync::Arc;

use dbt::{Mode, Processor, Ram};
use isa::Isa;
use vm::Memory;

use super::{Machine, Platform, memory_begins};
use crate::console::Serial;
use crate::devices::Devices;
use crate::error::Result;
use crate::saved::{SavedMachine, unfit};
use crate::{arm, riscv};

/// A machine at a moment.
#[derive(Debug)]
pub struct Frozen {
    /// What it is.
    pub machine: SavedMachine,
    /// What is in its memory.
    pub memory: vm::Frozen,
}

/// What a machine that goes on is given anew.
pub struct Thaw {
    /// How its processor works.
    pub mode: Mode,
    /// Its serial port.
    pub serial: Serial,
    /// Devices like those that it had.
    pub devices: Devices,
}

impl Machine {
    /// What it is now, between two instructions. It may go on.
    pub fn freeze(&mut self) -> Result<Frozen> {
        let machine = SavedMachine {
            architecture: self.architecture.clone(),
            processors: vec![self.processor.save()],
            board: self.board.save()?,
            devices: self.board.bus().save()?,
        };
        Ok(Frozen { machine, memory: self.ram.freeze()? })
    }

    /// A machine that goes on from there.
    pub fn thaw(isa: Arc<Isa>, frozen: Frozen, thaw: Thaw) -> Result<Machine> {
        let Frozen { machine, memory } = frozen;
        if machine.architecture != isa.name {
            return unfit("it is one of another architecture");
        }
        let [processor] = machine.processors.as_slice() else { return unfit("it has other processors") };
        let ram = Ram::new(Arc::new(Memory::thaw(&memory)?), memory_begins(&isa)?);
        let slots = thaw.devices.build()?;
        let mut board: Box<dyn Platform> = match isa.name.as_str() {
            "riscv64" => Box::new(riscv::Board::new(&isa, ram.clone(), thaw.serial, slots)),
            _ => Box::new(arm::Board::new(&isa, &ram, thaw.serial, slots)),
        };
        board.restore(machine.board)?;
        board.bus().restore(machine.devices)?;
        let processor = Processor::resume(Arc::clone(&isa), thaw.mode, ram.clone(), &mut *board, processor)?;
        Machine::of_parts(&isa, processor, board, ram)
    }
}
