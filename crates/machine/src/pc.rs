//! A board with processors of the host's own kind, x86-64, as virtual machines have it today: no bus of cards, no clock but the
//! processor's, a 16550 at its old ports, and tables of ACPI that tell of all that.
//!
//! The interrupt controllers are the host's kernel's (`vm::System`), so nothing here delivers an interrupt: a device sets its
//! line, and that is all. Switching off and starting again are writes to ports that the tables name.

mod acpi;
mod linux;
mod memory;

use std::sync::Arc;
use std::time::Duration;

use dbt::{Clock, Ram, Registers};
use serde::{Deserialize, Serialize};
use vm::{Host, KeptSystem, Level, System};

use crate::bells::Bells;
use crate::bus::{self, Bus, Lines, Place};
use crate::console::Console;
use crate::console::Serial;
use crate::devices::{self, First, Slots};
use crate::error::{Error, Result};
use crate::machine::{End, Platform};
use crate::power::Power;
use crate::saved::{State, data, of_data, unfit};

pub(crate) use linux::load;
pub(crate) use memory::{HOLE, end, most, parts};

/// What it is called.
pub(crate) const NAME: &str = "amd64";
/// Where ports are among addresses: behind all that a processor has.
const PORTS: u64 = 1 << 60;
const CONSOLE_PORT: u16 = 0x3f8;
const CONSOLE_LINE: u32 = 4;
const CONSOLE: Place = Place { base: PORTS + CONSOLE_PORT as u64, size: 8, interrupt: CONSOLE_LINE };
/// Devices of virtio, and how many lines are left for them.
pub(crate) const SLOTS: First = First { base: 0xd000_0000, interrupt: 5 };
pub(crate) const MOST_SLOTS: usize = (vm::LINES - SLOTS.interrupt) as usize;

/// What a kernel writes to that wants to be switched off, and what it writes: how deep it sleeps (5), and that it does.
const SLEEP: u16 = 0x600;
const SLEEP_STATUS: u16 = 0x601;
const OFF_KIND: u8 = 5;
const OFF: u64 = (OFF_KIND << 2 | 1 << 5) as u64;
/// What it writes to that wants to start again.
const RESET: u16 = 0x602;
const RESET_VALUE: u8 = 1;

/// Where a place is that is no memory, as the bus has it.
pub(crate) fn address(place: vm::Place) -> u64 {
    match place {
        vm::Place::Address(at) => at,
        vm::Place::Port(port) => PORTS + u64::from(port),
    }
}

/// What all processors have.
struct Board {
    system: Arc<System>,
    clock: Clock,
    bus: Bus,
    power: Power,
}

/// A processor's place on the board.
pub(crate) struct Seat(Arc<Board>);

/// Lines end in the host's kernel.
struct Controller(Arc<System>);

impl Lines for Controller {
    fn set_line(&self, interrupt: u32, line: bus::Line) {
        match line {
            bus::Line::Low => self.0.set_line(interrupt, Level::Low),
            bus::Line::High => self.0.set_line(interrupt, Level::High),
            bus::Line::Edge => {
                self.0.set_line(interrupt, Level::High);
                self.0.set_line(interrupt, Level::Low);
            }
        }
    }
}

/// What the host's kernel has of the board.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedBoard {
    /// What this and the processors are states of: what is read of the host's kernel may become more.
    version: u32,
    system: KeptSystem,
}

const VERSION: u32 = 1;

impl SavedBoard {
    fn of(state: State) -> Result<SavedBoard> {
        if state.get("version").and_then(State::as_u64) != Some(VERSION.into()) {
            return unfit("its processors were kept by another version of this program");
        }
        of_data(state)
    }
}

/// What virtual processors do not go on from.
pub(crate) fn misfit(error: vm::Error) -> Error {
    Error::Saved { why: error.to_string() }
}

/// A virtual machine like that of such a board, without memory and processors yet.
pub(crate) fn like(host: &Host, board: &State) -> Result<System> {
    System::like(host, &SavedBoard::of(board.clone())?.system).map_err(misfit)
}

/// A board with the places of all its processors.
pub(crate) fn board(system: &Arc<System>, ram: &Ram, bells: &Arc<Bells>, parts: (Serial, Slots)) -> Vec<Seat> {
    let (serial, slots) = parts;
    let mut bus = Bus::new(Arc::new(Controller(Arc::clone(system))));
    bus.add(CONSOLE, Box::new(Console::new(serial.output, serial.input)));
    devices::plug(&mut bus, SLOTS, slots, ram);
    let board = Arc::new(Board { system: Arc::clone(system), clock: Clock::new(1), bus, power: Power::new(bells) });
    (0..bells.count()).map(|_| Seat(Arc::clone(&board))).collect()
}

impl dbt::Board for Seat {
    fn read(&mut self, address: u64, size: u8) -> Option<u64> {
        const STATUS: u64 = PORTS + SLEEP_STATUS as u64;
        match address {
            STATUS => Some(0),
            _ => self.0.bus.read(address, size),
        }
    }

    fn write(&mut self, address: u64, size: u8, value: u64) -> Option<()> {
        const SLEEPS: u64 = PORTS + SLEEP as u64;
        const RESETS: u64 = PORTS + RESET as u64;
        match address {
            SLEEPS if value == OFF => self.0.power.finish(End::PowerOff),
            RESETS if value == u64::from(RESET_VALUE) => self.0.power.finish(End::Reboot),
            _ => return self.0.bus.write(address, size, value),
        }
        Some(())
    }

    /// There is no description that would ask.
    fn answer(&mut self, _question: usize, _arguments: &[u64], _registers: &mut Registers<'_>) -> u64 {
        0
    }

    fn clock(&self) -> Clock {
        self.0.clock.clone()
    }

    fn attention(&self) -> bool {
        self.0.power.end().is_some()
    }
}

impl Platform for Seat {
    fn power(&self) -> &Power {
        &self.0.power
    }

    fn idle(&self) -> Duration {
        Duration::MAX
    }

    fn bus(&self) -> &Bus {
        &self.0.bus
    }

    /// Its timers are the processor's.
    fn save(&self) -> Result<State> {
        Ok(State::Null)
    }

    fn restore(&mut self, _state: State) -> Result<()> {
        Ok(())
    }

    fn save_board(&self) -> Result<State> {
        data(&SavedBoard { version: VERSION, system: self.0.system.keep()? })
    }

    /// When all processors have gone on: the controllers tell them what is still to be told.
    fn restore_board(&self, state: State) -> Result<()> {
        self.0.system.resume(&SavedBoard::of(state)?.system).map_err(misfit)
    }
}
