//! A machine that is there twice: what it is at a moment, and another that goes on from there.
//!
//! Memory is had by both until one writes to it ([`vm::Memory::freeze`]): neither making a copy nor having one takes time
//! or room by how much there is.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use dbt::{Clock, Mode, Ram};
use isa::Isa;
use vm::{Host, Memory};

use super::{MOST_PROCESSORS, Machine, Outside, board, frequency, memory_begins};
use crate::arch::{self, Arch};
use crate::console::Serial;
use crate::devices::Devices;
use crate::error::{Error, Result};
use crate::saved::{SavedMachine, of_data, unfit};

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
        // What one processor has not heard of another yet is of code and pages that it knows: a copy knows none.
        let place = &self.processors[0].place;
        let machine = SavedMachine {
            architecture: self.architecture.clone(),
            processors: self.processors.iter().map(|it| it.processor.save()).collect::<Result<_>>()?,
            seats: self.processors.iter().map(|it| it.place.save()).collect::<Result<_>>()?,
            ticks: place.clock().now(),
            board: place.save_board()?,
            devices: place.bus().save()?,
        };
        Ok(Frozen { machine, memory: self.ram.freeze()? })
    }

    /// A machine of that architecture that goes on from there; the host's own needs what virtual machines are made with.
    pub(crate) fn thaw_of(arch: Arch, kvm: Option<OwnedFd>, frozen: Frozen, thaw: Thaw) -> Result<Machine> {
        match arch {
            Arch::Amd64 => Machine::thaw_native(&Host::from(kvm.ok_or(Error::NoKvm)?), frozen, thaw),
            Arch::Arm64 | Arch::Riscv64 => Machine::thaw(arch::isa(arch)?, frozen, thaw),
        }
    }

    /// A machine that goes on from there.
    pub fn thaw(isa: Arc<Isa>, frozen: Frozen, thaw: Thaw) -> Result<Machine> {
        let Frozen { machine, memory } = frozen;
        let count = processors(&machine, &isa.name)?;
        let ram = Ram::shared(Arc::new(Memory::thaw(&memory)?), memory_begins(&isa)?, count);
        let (clock, outside) = (Clock::at(frequency(&isa), machine.ticks), Outside::Host);
        let (bells, mut places) = board(&isa, &ram, clock, (thaw.serial, thaw.devices.build(outside)?, outside));
        places[0].restore_board(machine.board)?;
        places[0].bus().restore(machine.devices)?;
        places.iter_mut().zip(machine.seats).try_for_each(|(place, seat)| place.restore(seat))?;
        Machine::of_parts(&isa.name, &ram, (bells, places), |number, place| {
            let saved = of_data(machine.processors[number].clone())?;
            Ok(Box::new(dbt::Processor::resume(Arc::clone(&isa), thaw.mode, ram.clone(), place, &saved)?))
        })
    }
}

/// How many processors of that kind a kept machine has.
pub(super) fn processors(machine: &SavedMachine, architecture: &str) -> Result<usize> {
    if machine.architecture != architecture {
        return unfit("it is one of another architecture");
    }
    let count = machine.processors.len();
    if !(1..=MOST_PROCESSORS).contains(&count) || machine.seats.len() != count {
        return unfit("it has other processors");
    }
    Ok(count)
}
