//! A board with processors of AArch64: GICv3, a PL011, the generic timer, and PSCI behind HVC.

mod firmware;
mod tree;

use std::time::Duration;

use dbt::{Clock, Ram, Registers};
use isa::Isa;
use serde::{Deserialize, Serialize};

use crate::boot::{Magic, header};
use crate::bus::{Bus, Line, Place};
use crate::clock::{self, Pl031};
use crate::console::Serial;
use crate::devices::{self, First, Slots};
use crate::error::Result;
use crate::gic::{self, Gic};
use crate::machine::{self, End, Loaded, Platform, Start};
use crate::pl011::{self, Pl011};
use crate::saved::{State, data, of_data};

/// Where memory begins.
pub(crate) const MEMORY: u64 = 0x4000_0000;
pub(crate) const DISTRIBUTOR: u64 = 0x0800_0000;
pub(crate) const REDISTRIBUTOR: u64 = 0x080a_0000;
pub(crate) const CONSOLE: Place = Place { base: 0x0900_0000, size: pl011::SIZE, interrupt: 33 };
pub(crate) const CLOCK: Place = Place { base: 0x0901_0000, size: clock::SIZE, interrupt: 34 };
pub(crate) const SLOTS: First = First { base: 0x0a00_0000, interrupt: 48 };
/// Interrupts of the timers, which are the processor's own.
const VIRTUAL_TIMER: u32 = 27;
const PHYSICAL_TIMER: u32 = 30;
/// Ticks of the counter in a second, as the description says.
const FREQUENCY: u64 = 62_500_000;

/// Devices and firmware.
pub(crate) struct Board {
    questions: Vec<Question>,
    clock: Clock,
    /// When each timer is due: virtual and physical.
    deadlines: [u64; 2],
    gic: Gic,
    bus: Bus,
    end: Option<End>,
}

/// What a board is beside its devices.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved<G> {
    ticks: u64,
    deadlines: [u64; 2],
    gic: G,
}

/// What the description asks.
#[derive(Debug, Clone, Copy)]
enum Question {
    SetTimer,
    Interrupts,
    GicRead,
    GicWrite,
    Hypercall,
    Unknown,
}

/// Puts what the machine starts with into its memory.
pub(crate) fn load(ram: &Ram, start: &Start<'_>, slots: usize) -> Result<Loaded> {
    let header = header(start.kernel, Magic::Arm64)?;
    machine::load(ram, start, header, |initrd| tree::describe(start, slots, initrd))
}

impl Board {
    pub(crate) fn new(isa: &Isa, ram: &Ram, serial: Serial, slots: Slots) -> Board {
        let question = |name: &str| match name {
            "set_timer" => Question::SetTimer,
            "interrupts" => Question::Interrupts,
            "gic_read" => Question::GicRead,
            "gic_write" => Question::GicWrite,
            "hypercall" => Question::Hypercall,
            _ => Question::Unknown,
        };
        let mut bus = Bus::default();
        bus.add(CONSOLE, Box::new(Pl011::new(serial.output, serial.input)));
        bus.add(CLOCK, Box::new(Pl031::default()));
        devices::plug(&mut bus, SLOTS, slots, ram);
        Board {
            questions: isa.externs.iter().map(|it| question(&it.name)).collect(),
            clock: Clock::new(FREQUENCY),
            deadlines: [u64::MAX; 2],
            gic: Gic::default(),
            bus,
            end: None,
        }
    }

    fn now(&self) -> u64 {
        self.clock.now()
    }

    /// A timer's control word: enabled (bit 0) and not masked (bit 1).
    fn set_timer(&mut self, arguments: &[u64]) {
        if let [which @ (0 | 1), control, at] = *arguments {
            self.deadlines[which as usize] = if control & 3 == 1 { at } else { u64::MAX };
            self.update_lines();
        }
    }

    fn update_lines(&mut self) {
        let now = self.now();
        self.gic.set_line(VIRTUAL_TIMER, now >= self.deadlines[0]);
        self.gic.set_line(PHYSICAL_TIMER, now >= self.deadlines[1]);
        self.bus.lines().for_each(|(interrupt, line)| self.gic.set_line(interrupt, line != Line::Low));
    }
}

impl dbt::Board for Board {
    fn read(&mut self, address: u64, size: u8) -> Option<u64> {
        self.update_lines();
        let controller = match address {
            DISTRIBUTOR.. if address - DISTRIBUTOR < gic::DISTRIBUTOR_SIZE => {
                self.gic.read_distributor(address - DISTRIBUTOR)
            }
            REDISTRIBUTOR.. if address - REDISTRIBUTOR < gic::REDISTRIBUTOR_SIZE => {
                self.gic.read_redistributor(address - REDISTRIBUTOR)
            }
            _ => {
                let value = self.bus.read(address, size)?;
                self.update_lines();
                return Some(value);
            }
        };
        Some(controller & isa::ops::mask64(size * 8))
    }

    fn write(&mut self, address: u64, size: u8, value: u64) -> Option<()> {
        match address {
            // A priority is a byte, and may be written as one.
            DISTRIBUTOR.. if size == 1 && address - DISTRIBUTOR < 0x800 => {
                self.gic.write_priority((address - DISTRIBUTOR).wrapping_sub(0x400), value as u8);
            }
            DISTRIBUTOR.. if address - DISTRIBUTOR < gic::DISTRIBUTOR_SIZE => {
                self.gic.write_distributor(address - DISTRIBUTOR, value);
            }
            REDISTRIBUTOR.. if address - REDISTRIBUTOR < gic::REDISTRIBUTOR_SIZE => {
                self.gic.write_redistributor(address - REDISTRIBUTOR, value);
            }
            _ => self.bus.write(address, size, value)?,
        }
        self.update_lines();
        Some(())
    }

    fn answer(&mut self, question: usize, arguments: &[u64], registers: &mut Registers<'_>) -> u64 {
        let argument = |number: usize| arguments.get(number).copied().unwrap_or(0);
        match self.questions.get(question) {
            Some(Question::SetTimer) => self.set_timer(arguments),
            Some(Question::Interrupts) => {
                self.update_lines();
                return self.gic.is_raised().into();
            }
            Some(Question::GicRead) => {
                self.update_lines();
                return self.gic.read_register(argument(0));
            }
            Some(Question::GicWrite) => self.gic.write_register(argument(0), argument(1)),
            Some(Question::Hypercall) => self.firmware(registers),
            Some(Question::Unknown) | None => {}
        }
        0
    }

    fn clock(&self) -> Clock {
        self.clock
    }

    fn attention(&self) -> bool {
        let now = self.now();
        self.end.is_some() || self.deadlines.iter().any(|deadline| now >= *deadline) || self.gic.is_raised()
    }
}

impl Platform for Board {
    fn end(&self) -> Option<End> {
        self.end
    }

    fn idle(&self) -> Duration {
        let first = self.deadlines[0].min(self.deadlines[1]);
        self.clock.until(first)
    }

    fn bus(&mut self) -> &mut Bus {
        &mut self.bus
    }

    fn update_lines(&mut self) {
        Board::update_lines(self);
    }

    fn save(&self) -> Result<State> {
        data(&Saved { ticks: self.now(), deadlines: self.deadlines, gic: &self.gic })
    }

    fn restore(&mut self, state: State) -> Result<()> {
        let Saved { ticks, deadlines, gic } = of_data(state)?;
        (self.clock, self.deadlines, self.gic) = (Clock::at(FREQUENCY, ticks), deadlines, gic);
        Ok(())
    }
}
