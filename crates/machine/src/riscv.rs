//! A board with processors of RISC-V: PLIC, a 16550, and the firmware's calls, which the board answers itself.
//!
//! The firmware is the interface of "RISC-V Supervisor Binary Interface Specification", 2.0: base, timer, IPI, remote
//! fences, reset and the debug console.

mod firmware;
mod tree;

use std::time::Duration;

use dbt::{Clock, Ram, Registers};
use isa::Isa;
use serde::{Deserialize, Serialize};

use crate::boot::{Magic, header};
use crate::bus::{Bus, Place};
use crate::clock::{self, Goldfish};
use crate::console::{self, Console, Serial};
use crate::devices::{self, First, Slots};
use crate::error::Result;
use crate::machine::{self, End, Loaded, Platform, Start};
use crate::plic::{self, Plic};
use crate::saved::{State, data, of_data};

/// Where memory begins.
pub(crate) const MEMORY: u64 = 0x8000_0000;
pub(crate) const PLIC: u64 = 0x0c00_0000;
pub(crate) const CONSOLE: Place = Place { base: 0x1000_0000, size: console::SIZE, interrupt: 10 };
pub(crate) const CLOCK: Place = Place { base: 0x0010_1000, size: clock::SIZE, interrupt: 9 };
pub(crate) const SLOTS: First = First { base: 0x1000_1000, interrupt: 11 };
/// Ticks of the clock in a second.
pub(crate) const FREQUENCY: u64 = 10_000_000;

/// Devices and firmware.
pub(crate) struct Board {
    questions: Vec<Question>,
    clock: Clock,
    deadline: u64,
    plic: Plic,
    bus: Bus,
    ram: Ram,
    end: Option<End>,
}

/// What a board is beside its devices.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved<P> {
    ticks: u64,
    deadline: u64,
    plic: P,
}

/// What the description asks.
#[derive(Debug, Clone, Copy)]
enum Question {
    SetTimer,
    Interrupts,
    SupervisorCall,
    Unknown,
}

const TIMER_LINE: u64 = 1 << 5;
const EXTERNAL_LINE: u64 = 1 << 9;

/// Puts what the machine starts with into its memory.
pub(crate) fn load(ram: &Ram, start: &Start<'_>, slots: usize) -> Result<Loaded> {
    let header = header(start.kernel, Magic::Riscv64)?;
    machine::load(ram, start, header, |initrd| tree::describe(start, slots, initrd))
}

impl Board {
    pub(crate) fn new(isa: &Isa, ram: Ram, serial: Serial, slots: Slots) -> Board {
        let question = |name: &str| match name {
            "set_timer" => Question::SetTimer,
            "interrupts" => Question::Interrupts,
            "supervisor_call" => Question::SupervisorCall,
            _ => Question::Unknown,
        };
        let mut bus = Bus::default();
        bus.add(CONSOLE, Box::new(Console::new(serial.output, serial.input)));
        bus.add(CLOCK, Box::new(Goldfish::default()));
        devices::plug(&mut bus, SLOTS, slots, &ram);
        Board {
            questions: isa.externs.iter().map(|it| question(&it.name)).collect(),
            clock: Clock::new(FREQUENCY),
            deadline: u64::MAX,
            plic: Plic::default(),
            bus,
            ram,
            end: None,
        }
    }

    fn now(&self) -> u64 {
        self.clock.now()
    }

    fn lines(&self) -> u64 {
        let timer = if self.now() >= self.deadline { TIMER_LINE } else { 0 };
        let external = if self.plic.is_raised() { EXTERNAL_LINE } else { 0 };
        timer | external
    }

    fn update_lines(&mut self) {
        self.bus.lines().for_each(|(source, line)| self.plic.set_line(source, line));
    }
}

impl dbt::Board for Board {
    fn read(&mut self, address: u64, size: u8) -> Option<u64> {
        if address.wrapping_sub(PLIC) < plic::SIZE {
            return Some(self.plic.read(address - PLIC));
        }
        let value = self.bus.read(address, size)?;
        self.update_lines();
        Some(value)
    }

    fn write(&mut self, address: u64, size: u8, value: u64) -> Option<()> {
        if address.wrapping_sub(PLIC) < plic::SIZE {
            self.plic.write(address - PLIC, value);
            return Some(());
        }
        self.bus.write(address, size, value)?;
        self.update_lines();
        Some(())
    }

    fn answer(&mut self, question: usize, arguments: &[u64], registers: &mut Registers<'_>) -> u64 {
        match self.questions.get(question) {
            Some(Question::SetTimer) => {
                self.deadline = arguments.first().copied().unwrap_or(u64::MAX);
                0
            }
            Some(Question::Interrupts) => self.lines(),
            Some(Question::SupervisorCall) => {
                self.firmware(registers);
                0
            }
            _ => 0,
        }
    }

    fn clock(&self) -> Clock {
        self.clock
    }

    fn attention(&self) -> bool {
        self.end.is_some() || self.lines() != 0
    }
}

impl Platform for Board {
    fn end(&self) -> Option<End> {
        self.end
    }

    fn idle(&self) -> Duration {
        self.clock.until(self.deadline)
    }

    fn bus(&mut self) -> &mut Bus {
        &mut self.bus
    }

    fn update_lines(&mut self) {
        Board::update_lines(self);
    }

    fn save(&self) -> Result<State> {
        data(&Saved { ticks: self.now(), deadline: self.deadline, plic: &self.plic })
    }

    fn restore(&mut self, state: State) -> Result<()> {
        let Saved { ticks, deadline, plic } = of_data(state)?;
        (self.clock, self.deadline, self.plic) = (Clock::at(FREQUENCY, ticks), deadline, plic);
        Ok(())
    }
}
