//! A board with processors of AArch64: GICv3, a PL011, the generic timer, and PSCI behind HVC.
//!
//! Processors share all of it but their timers, which are looked at whenever the controller is: so nobody but a processor
//! itself, and the tick that has it look, makes its timers interrupt it.

mod firmware;
mod tree;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dbt::{Clock, Ram, Registers};
use isa::Isa;
use serde::{Deserialize, Serialize};

use crate::bells::Bells;
use crate::boot::{Magic, header};
use crate::bus::{Bus, Line, Lines, Place};
use crate::clock::{self, Pl031};
use crate::devices::{self, First};
use crate::error::Result;
use crate::gic::{self, Gic};
use crate::machine::{self, Loaded, Outside, Parts, Platform, Start};
use crate::pl011::{self, Pl011};
use crate::power::{Power, Switch};
use crate::saved::{State, data, of_data};

/// Where memory begins.
pub(crate) const MEMORY: u64 = 0x4000_0000;
pub(crate) const DISTRIBUTOR: u64 = 0x0800_0000;
pub(crate) const REDISTRIBUTOR: u64 = 0x080a_0000;
/// Bytes of all redistributors that there is room for.
const REDISTRIBUTORS: u64 = gic::MOST_PROCESSORS as u64 * gic::REDISTRIBUTOR_SIZE;
const CONSOLE_BASE: u64 = 0x0900_0000;
pub(crate) const CONSOLE: Place = Place { base: CONSOLE_BASE, size: pl011::SIZE, interrupt: 33 };
pub(crate) const CLOCK: Place = Place { base: 0x0901_0000, size: clock::SIZE, interrupt: 34 };
pub(crate) const SLOTS: First = First { base: 0x0a00_0000, interrupt: 48 };
/// Interrupts of the timers, which are the processor's own.
const VIRTUAL_TIMER: u32 = 27;
const PHYSICAL_TIMER: u32 = 30;
/// Ticks of the counter in a second, as the description says.
pub(crate) const FREQUENCY: u64 = 62_500_000;

/// Devices and firmware, as all processors have them.
struct Board {
    questions: Vec<Question>,
    clock: Clock,
    controller: Arc<Controller>,
    bus: Bus,
    power: Power,
}

/// A processor's place on the board.
pub(crate) struct Seat {
    board: Arc<Board>,
    number: usize,
    /// When each of its timers is due: virtual and physical.
    deadlines: [u64; 2],
}

/// The interrupt controller, with a way to tell processors.
struct Controller {
    gic: Mutex<Gic>,
    bells: Arc<Bells>,
}

impl Controller {
    fn gic(&self) -> MutexGuard<'_, Gic> {
        self.gic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells processors whose lines are raised, but for one who knows by itself.
    fn ring(&self, gic: &Gic, but: Option<usize>) {
        let raised = (0..self.bells.count()).filter(|number| Some(*number) != but && gic.is_raised(*number));
        raised.for_each(|number| self.bells.ring(number));
    }
}

impl Lines for Controller {
    fn set_line(&self, interrupt: u32, line: Line) {
        let mut gic = self.gic();
        if gic.set_line(0, interrupt, line != Line::Low) && line != Line::Low {
            self.ring(&gic, None);
        }
    }
}

/// What a board is beside its devices.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved<G> {
    gic: G,
    power: Vec<Switch>,
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
    let header = header(&start.kernel, Magic::Arm64)?;
    machine::load(ram, start, header, |initrd| tree::describe(start, slots, initrd))
}

/// A board with the places of all its processors.
pub(crate) fn board(isa: &Isa, ram: &Ram, bells: &Arc<Bells>, clock: Clock, parts: Parts) -> Vec<Seat> {
    let (serial, slots, outside) = parts;
    let question = |name: &str| match name {
        "set_timer" => Question::SetTimer,
        "interrupts" => Question::Interrupts,
        "gic_read" => Question::GicRead,
        "gic_write" => Question::GicWrite,
        "hypercall" => Question::Hypercall,
        _ => Question::Unknown,
    };
    let gic = Mutex::new(Gic::new(bells.count()));
    let controller = Arc::new(Controller { gic, bells: Arc::clone(bells) });
    let mut bus = Bus::new(Arc::clone(&controller) as Arc<dyn Lines>);
    bus.add(CONSOLE, Box::new(Pl011::new(serial.output, serial.input)));
    if outside == Outside::Host {
        bus.add(CLOCK, Box::new(Pl031::default()));
    }
    devices::plug(&mut bus, SLOTS, slots, ram);
    let board = Arc::new(Board {
        questions: isa.externs.iter().map(|it| question(&it.name)).collect(),
        clock,
        controller,
        bus,
        power: Power::new(bells),
    });
    let seat = |number| Seat { board: Arc::clone(&board), number, deadlines: [u64::MAX; 2] };
    (0..bells.count()).map(seat).collect()
}

impl Seat {
    /// The controller, with this processor's timers as they are.
    fn gic(&self) -> MutexGuard<'_, Gic> {
        let now = self.board.clock.now();
        let mut gic = self.board.controller.gic();
        gic.set_line(self.number, VIRTUAL_TIMER, now >= self.deadlines[0]);
        gic.set_line(self.number, PHYSICAL_TIMER, now >= self.deadlines[1]);
        gic
    }

    /// A timer's control word: enabled (bit 0) and not masked (bit 1).
    fn set_timer(&mut self, arguments: &[u64]) {
        if let [which @ (0 | 1), control, at] = *arguments {
            self.deadlines[which as usize] = if control & 3 == 1 { at } else { u64::MAX };
        }
    }
}

impl dbt::Board for Seat {
    fn read(&mut self, address: u64, size: u8) -> Option<u64> {
        let controller = match address {
            DISTRIBUTOR.. if address - DISTRIBUTOR < gic::DISTRIBUTOR_SIZE => {
                self.gic().read_distributor(address - DISTRIBUTOR)
            }
            REDISTRIBUTOR.. if address - REDISTRIBUTOR < REDISTRIBUTORS => {
                self.gic().read_redistributor(address - REDISTRIBUTOR)
            }
            _ => return self.board.bus.read(address, size),
        };
        Some(controller & isa::ops::mask64(size * 8))
    }

    fn write(&mut self, address: u64, size: u8, value: u64) -> Option<()> {
        let mut gic = match address {
            DISTRIBUTOR..CONSOLE_BASE => self.gic(),
            _ => return self.board.bus.write(address, size, value),
        };
        match address {
            // A priority is a byte, and may be written as one.
            DISTRIBUTOR.. if size == 1 && address - DISTRIBUTOR < 0x800 => {
                gic.write_priority((address - DISTRIBUTOR).wrapping_sub(0x400), value as u8);
            }
            DISTRIBUTOR.. if address - DISTRIBUTOR < gic::DISTRIBUTOR_SIZE => {
                gic.write_distributor(address - DISTRIBUTOR, value);
            }
            REDISTRIBUTOR.. if address - REDISTRIBUTOR < REDISTRIBUTORS => {
                gic.write_redistributor(address - REDISTRIBUTOR, value);
            }
            _ => return None,
        }
        self.board.controller.ring(&gic, Some(self.number));
        Some(())
    }

    fn answer(&mut self, question: usize, arguments: &[u64], registers: &mut Registers<'_>) -> u64 {
        let argument = |number: usize| arguments.get(number).copied().unwrap_or(0);
        match self.board.questions.get(question) {
            Some(Question::SetTimer) => self.set_timer(arguments),
            Some(Question::Interrupts) => return self.gic().is_raised(self.number).into(),
            Some(Question::GicRead) => return self.gic().read_register(self.number, argument(0)),
            Some(Question::GicWrite) => {
                let mut gic = self.gic();
                if gic.write_register(self.number, argument(0), argument(1)) {
                    self.board.controller.ring(&gic, Some(self.number));
                }
            }
            Some(Question::Hypercall) => self.firmware(registers),
            Some(Question::Unknown) | None => {}
        }
        0
    }

    fn clock(&self) -> Clock {
        self.board.clock.clone()
    }

    fn attention(&self) -> bool {
        self.gic().is_raised(self.number) || self.board.power.end().is_some()
    }

    fn is_on(&self) -> bool {
        self.board.power.is_on(self.number)
    }
}

impl Platform for Seat {
    fn power(&self) -> &Power {
        &self.board.power
    }

    fn idle(&self) -> Duration {
        self.board.clock.until(self.deadlines[0].min(self.deadlines[1]))
    }

    fn bus(&self) -> &Bus {
        &self.board.bus
    }

    fn save(&self) -> Result<State> {
        data(&self.deadlines)
    }

    fn restore(&mut self, state: State) -> Result<()> {
        self.deadlines = of_data(state)?;
        Ok(())
    }

    fn save_board(&self) -> Result<State> {
        data(&Saved { gic: &*self.board.controller.gic(), power: self.board.power.save() })
    }

    fn restore_board(&self, state: State) -> Result<()> {
        let Saved { gic, power } = of_data(state)?;
        self.board.controller.gic().restore(gic)?;
        self.board.power.restore(power)
    }
}
