//! A board with processors of RISC-V: PLIC, a 16550, and the firmware's calls, which the board answers itself.
//!
//! The firmware is the interface of "RISC-V Supervisor Binary Interface Specification", 2.0: base, timer, IPI, remote
//! fences, reset and the debug console.

mod firmware;
mod tree;

use std::time::{Duration, Instant};

use dbt::{Ram, Registers};
use isa::Isa;

use crate::boot::{Magic, header};
use crate::console::{self, Console, Output};
use crate::error::Result;
use crate::machine::{self, End, Loaded, Platform, Start};
use crate::plic::{self, Plic};

/// Where memory begins.
pub(crate) const MEMORY: u64 = 0x8000_0000;
pub(crate) const PLIC: u64 = 0x0c00_0000;
pub(crate) const CONSOLE: u64 = 0x1000_0000;
pub(crate) const CONSOLE_SOURCE: u32 = 10;
/// Ticks of the clock in a second.
pub(crate) const FREQUENCY: u64 = 10_000_000;

/// Devices and firmware.
pub(crate) struct Board {
    questions: Vec<Question>,
    began: Instant,
    deadline: u64,
    plic: Plic,
    console: Console,
    ram: Ram,
    end: Option<End>,
}

/// What the description asks.
#[derive(Debug, Clone, Copy)]
enum Question {
    Time,
    SetTimer,
    Interrupts,
    SupervisorCall,
    Unknown,
}

const TIMER_LINE: u64 = 1 << 5;
const EXTERNAL_LINE: u64 = 1 << 9;

/// Puts what the machine starts with into its memory.
pub(crate) fn load(ram: &Ram, start: &Start<'_>) -> Result<Loaded> {
    let header = header(start.kernel, Magic::Riscv64)?;
    machine::load(ram, start, header, |initrd| tree::describe(start, initrd))
}

impl Board {
    pub(crate) fn new(isa: &Isa, ram: Ram, output: Output) -> Board {
        let question = |name: &str| match name {
            "time" => Question::Time,
            "set_timer" => Question::SetTimer,
            "interrupts" => Question::Interrupts,
            "supervisor_call" => Question::SupervisorCall,
            _ => Question::Unknown,
        };
        Board {
            questions: isa.externs.iter().map(|it| question(&it.name)).collect(),
            began: Instant::now(),
            deadline: u64::MAX,
            plic: Plic::default(),
            console: Console::new(output),
            ram,
            end: None,
        }
    }

    fn now(&self) -> u64 {
        (self.began.elapsed().as_nanos() / u128::from(1_000_000_000 / FREQUENCY)) as u64
    }

    fn lines(&self) -> u64 {
        let timer = if self.now() >= self.deadline { TIMER_LINE } else { 0 };
        let external = if self.plic.is_raised() { EXTERNAL_LINE } else { 0 };
        timer | external
    }

    fn poll_devices(&mut self) {
        if self.console.take_interrupt() {
            self.plic.raise(CONSOLE_SOURCE);
        }
    }
}

impl dbt::Board for Board {
    fn read(&mut self, address: u64, _size: u8) -> Option<u64> {
        match address {
            PLIC..=0x0fff_ffff if address - PLIC < plic::SIZE => Some(self.plic.read(address - PLIC)),
            CONSOLE.. if address - CONSOLE < console::SIZE => {
                let value = self.console.read(address - CONSOLE);
                self.poll_devices();
                Some(value)
            }
            _ => None,
        }
    }

    fn write(&mut self, address: u64, _size: u8, value: u64) -> Option<()> {
        match address {
            PLIC..=0x0fff_ffff if address - PLIC < plic::SIZE => self.plic.write(address - PLIC, value),
            CONSOLE.. if address - CONSOLE < console::SIZE => {
                self.console.write(address - CONSOLE, value);
                self.poll_devices();
            }
            _ => return None,
        }
        Some(())
    }

    fn answer(&mut self, question: usize, arguments: &[u64], registers: &mut Registers<'_>) -> u64 {
        match self.questions.get(question) {
            Some(Question::Time) => self.now(),
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

    fn attention(&self) -> bool {
        self.end.is_some() || self.lines() != 0
    }
}

impl Platform for Board {
    fn end(&self) -> Option<End> {
        self.end
    }

    fn idle(&self) -> Duration {
        let ticks = self.deadline.saturating_sub(self.now());
        Duration::from_nanos(ticks.saturating_mul(1_000_000_000 / FREQUENCY))
    }

    fn type_in(&mut self, bytes: &[u8]) -> usize {
        let taken = self.console.type_in(bytes);
        self.poll_devices();
        taken
    }
}
