//! A board with processors of RISC-V: PLIC, a 16550, and the firmware's calls, which the board answers itself.
//!
//! The firmware is the interface of "RISC-V Supervisor Binary Interface Specification", 2.0: base, timer, processors'
//! states, interrupts from one to another, remote fences, reset and the debug console.

mod firmware;
mod tree;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dbt::{Clock, Ram, Registers};
use isa::Isa;
use serde::{Deserialize, Serialize};

use crate::bells::Bells;
use crate::boot::{Magic, header};
use crate::bus::{Bus, Line, Lines, Place};
use crate::clock::{self, Goldfish};
use crate::console::{self, Console};
use crate::devices::{self, First};
use crate::error::Result;
use crate::machine::{self, Loaded, Outside, Parts, Platform, Start};
use crate::plic::{self, Plic};
use crate::power::{Power, Switch};
use crate::saved::{State, data, of_data, unfit};

/// Where memory begins.
pub(crate) const MEMORY: u64 = 0x8000_0000;
pub(crate) const PLIC: u64 = 0x0c00_0000;
pub(crate) const CONSOLE: Place = Place { base: 0x1000_0000, size: console::SIZE, interrupt: 10 };
pub(crate) const CLOCK: Place = Place { base: 0x0010_1000, size: clock::SIZE, interrupt: 9 };
pub(crate) const SLOTS: First = First { base: 0x1000_1000, interrupt: 11 };
/// Ticks of the clock in a second.
pub(crate) const FREQUENCY: u64 = 10_000_000;

/// Devices and firmware, as all processors have them.
struct Board {
    questions: Vec<Question>,
    clock: Clock,
    controller: Arc<Controller>,
    /// Whose software's interrupts are pending.
    software: Vec<AtomicBool>,
    bus: Bus,
    ram: Ram,
    power: Power,
    bells: Arc<Bells>,
}

/// A processor's place on the board.
pub(crate) struct Seat {
    board: Arc<Board>,
    number: usize,
    /// When its timer is due.
    deadline: u64,
}

/// The interrupt controller, with a way to tell processors.
struct Controller {
    plic: Mutex<Plic>,
    bells: Arc<Bells>,
}

impl Controller {
    fn plic(&self) -> MutexGuard<'_, Plic> {
        self.plic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells processors whose lines are raised, but for one who knows by itself.
    fn ring(&self, plic: &Plic, but: Option<usize>) {
        let raised = (0..self.bells.count()).filter(|number| Some(*number) != but && plic.is_raised(*number));
        raised.for_each(|number| self.bells.ring(number));
    }
}

impl Lines for Controller {
    fn set_line(&self, source: u32, line: Line) {
        let mut plic = self.plic();
        plic.set_line(source, line);
        if line != Line::Low {
            self.ring(&plic, None);
        }
    }
}

/// What a board is beside its devices.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved<P> {
    plic: P,
    software: Vec<bool>,
    power: Vec<Switch>,
}

/// What the description asks.
#[derive(Debug, Clone, Copy)]
enum Question {
    SetTimer,
    SetSoftware,
    Interrupts,
    SupervisorCall,
    Unknown,
}

const SOFTWARE_LINE: u64 = 1 << 1;
const TIMER_LINE: u64 = 1 << 5;
const EXTERNAL_LINE: u64 = 1 << 9;

/// Puts what the machine starts with into its memory.
pub(crate) fn load(ram: &Ram, start: &Start<'_>, slots: usize) -> Result<Loaded> {
    let header = header(&start.kernel, Magic::Riscv64)?;
    machine::load(ram, start, header, |initrd| tree::describe(start, slots, initrd))
}

/// A board with the places of all its processors.
pub(crate) fn board(isa: &Isa, ram: &Ram, bells: &Arc<Bells>, clock: Clock, parts: Parts) -> Vec<Seat> {
    let (serial, slots, outside) = parts;
    let question = |name: &str| match name {
        "set_timer" => Question::SetTimer,
        "set_software" => Question::SetSoftware,
        "interrupts" => Question::Interrupts,
        "supervisor_call" => Question::SupervisorCall,
        _ => Question::Unknown,
    };
    let plic = Mutex::new(Plic::new(bells.count()));
    let controller = Arc::new(Controller { plic, bells: Arc::clone(bells) });
    let mut bus = Bus::new(Arc::clone(&controller) as Arc<dyn Lines>);
    bus.add(CONSOLE, Box::new(Console::new(serial.output, serial.input)));
    if outside == Outside::Host {
        bus.add(CLOCK, Box::new(Goldfish::default()));
    }
    devices::plug(&mut bus, SLOTS, slots, ram);
    let board = Arc::new(Board {
        questions: isa.externs.iter().map(|it| question(&it.name)).collect(),
        clock,
        controller,
        software: (0..bells.count()).map(|_| AtomicBool::new(false)).collect(),
        bus,
        ram: ram.clone(),
        power: Power::new(bells),
        bells: Arc::clone(bells),
    });
    (0..bells.count()).map(|number| Seat { board: Arc::clone(&board), number, deadline: u64::MAX }).collect()
}

impl Seat {
    fn lines(&self) -> u64 {
        let if_so = |is: bool, line: u64| if is { line } else { 0 };
        if_so(self.board.clock.now() >= self.deadline, TIMER_LINE)
            | if_so(self.board.software[self.number].load(Ordering::SeqCst), SOFTWARE_LINE)
            | if_so(self.board.controller.plic().is_raised(self.number), EXTERNAL_LINE)
    }
}

impl dbt::Board for Seat {
    fn read(&mut self, address: u64, size: u8) -> Option<u64> {
        if address.wrapping_sub(PLIC) < plic::SIZE {
            return Some(self.board.controller.plic().read(address - PLIC));
        }
        self.board.bus.read(address, size)
    }

    fn write(&mut self, address: u64, size: u8, value: u64) -> Option<()> {
        if address.wrapping_sub(PLIC) < plic::SIZE {
            let mut plic = self.board.controller.plic();
            plic.write(address - PLIC, value);
            self.board.controller.ring(&plic, Some(self.number));
            return Some(());
        }
        self.board.bus.write(address, size, value)
    }

    fn answer(&mut self, question: usize, arguments: &[u64], registers: &mut Registers<'_>) -> u64 {
        let first = arguments.first().copied();
        match self.board.questions.get(question) {
            Some(Question::SetTimer) => self.deadline = first.unwrap_or(u64::MAX),
            Some(Question::SetSoftware) => {
                self.board.software[self.number].store(first.unwrap_or(0) != 0, Ordering::SeqCst);
            }
            Some(Question::Interrupts) => return self.lines(),
            Some(Question::SupervisorCall) => self.firmware(registers),
            Some(Question::Unknown) | None => {}
        }
        0
    }

    fn clock(&self) -> Clock {
        self.board.clock.clone()
    }

    fn attention(&self) -> bool {
        self.lines() != 0 || self.board.power.end().is_some()
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
        self.board.clock.until(self.deadline)
    }

    fn bus(&self) -> &Bus {
        &self.board.bus
    }

    fn save(&self) -> Result<State> {
        data(&self.deadline)
    }

    fn restore(&mut self, state: State) -> Result<()> {
        self.deadline = of_data(state)?;
        Ok(())
    }

    fn save_board(&self) -> Result<State> {
        let software = self.board.software.iter().map(|it| it.load(Ordering::SeqCst)).collect();
        data(&Saved { plic: &*self.board.controller.plic(), software, power: self.board.power.save() })
    }

    fn restore_board(&self, state: State) -> Result<()> {
        let Saved { plic, software, power } = of_data(state)?;
        if software.len() != self.board.software.len() {
            return unfit("it has other processors");
        }
        self.board.software.iter().zip(software).for_each(|(it, is)| it.store(is, Ordering::SeqCst));
        self.board.controller.plic().restore(plic)?;
        self.board.power.restore(power)
    }
}
