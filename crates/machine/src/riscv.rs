//! A board with processors of RISC-V: PLIC, a 16550, and the firmware's calls, which the board answers itself.
//!
//! The firmware is the interface of "RISC-V Supervisor Binary Interface Specification", 2.0: base, timer, IPI, remote
//! fences, reset and the debug console.

mod firmware;
mod tree;

use std::sync::Arc;
use std::time::Instant;

use dbt::{Mode, Processor, Ram, Registers, Stop};
use isa::Isa;
use vm::Memory;

use crate::boot::{Magic, header};
use crate::console::{self, Console, Output};
use crate::error::{Error, Result};
use crate::plic::{self, Plic};

/// Where memory begins.
pub(crate) const MEMORY: u64 = 0x8000_0000;
pub(crate) const PLIC: u64 = 0x0c00_0000;
pub(crate) const CONSOLE: u64 = 0x1000_0000;
pub(crate) const CONSOLE_SOURCE: u32 = 10;
/// Ticks of the clock in a second.
pub(crate) const FREQUENCY: u64 = 10_000_000;
/// Large pages begin at its multiples.
const ALIGNMENT: u64 = 2 << 20;

/// What a machine starts with.
pub struct Start<'s> {
    /// A kernel's image.
    pub kernel: &'s [u8],
    /// The first root file system.
    pub initrd: &'s [u8],
    /// What the kernel is told.
    pub command_line: &'s str,
    /// Bytes of memory.
    pub memory: u64,
    /// How its processor works.
    pub mode: Mode,
    /// Where the console writes to.
    pub output: Output,
}

/// Why a machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was switched off.
    PowerOff,
    /// It wants to be started again.
    Reboot,
}

/// A machine with one processor.
pub struct Machine {
    processor: Processor,
    board: Board,
}

/// Devices and firmware.
struct Board {
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

impl Machine {
    /// A machine that is about to start its kernel.
    pub fn new(isa: Arc<Isa>, start: Start<'_>) -> Result<Machine> {
        let memory = Arc::new(Memory::new(start.memory as usize)?);
        let ram = Ram::new(memory, MEMORY);
        let (entry, tree) = load(&ram, &start)?;
        let question = |name: &str| match name {
            "time" => Question::Time,
            "set_timer" => Question::SetTimer,
            "interrupts" => Question::Interrupts,
            "supervisor_call" => Question::SupervisorCall,
            _ => Question::Unknown,
        };
        let mut board = Board {
            questions: isa.externs.iter().map(|it| question(&it.name)).collect(),
            began: Instant::now(),
            deadline: u64::MAX,
            plic: Plic::default(),
            console: Console::new(start.output),
            ram: ram.clone(),
            end: None,
        };
        let processor = Processor::new(isa, start.mode, ram, &mut board, &[entry, 0, tree])?;
        Ok(Machine { processor, board })
    }

    /// Runs for so many instructions at most. Nothing if it goes on.
    pub fn run(&mut self, instructions: u64) -> Option<End> {
        let end = self.processor.count() + instructions;
        while self.processor.count() < end && self.board.end.is_none() {
            if self.processor.run(&mut self.board, 10_000) == Stop::Waiting {
                self.board.sleep();
            }
        }
        self.board.end
    }

    /// Runs translated code for so long. Nothing if it goes on.
    pub fn run_for(&mut self, time: std::time::Duration) -> Option<End> {
        let until = Instant::now() + time;
        let attention = self.processor.attention();
        let is_over = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let ticker = {
            let is_over = Arc::clone(&is_over);
            std::thread::spawn(move || {
                while !is_over.load(std::sync::atomic::Ordering::Acquire) {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                    attention.store(1, std::sync::atomic::Ordering::Release);
                }
            })
        };
        while self.board.end.is_none() && Instant::now() < until {
            if self.processor.run_fast(&mut self.board) == Stop::Waiting {
                self.board.sleep();
            }
        }
        is_over.store(true, std::sync::atomic::Ordering::Release);
        let _ = ticker.join();
        self.board.end
    }

    /// How many blocks were translated.
    pub fn blocks(&self) -> u64 {
        self.processor.blocks()
    }

    /// What was typed; gives how much of it was taken.
    pub fn type_in(&mut self, bytes: &[u8]) -> usize {
        self.board.console.type_in(bytes)
    }

    /// How many instructions were done.
    pub fn count(&self) -> u64 {
        self.processor.count()
    }

    /// Where the processor is.
    pub fn pc(&self) -> u64 {
        self.processor.pc()
    }
}

/// Puts the kernel, the tree and the first root file system into memory. Gives where the first two are.
fn load(ram: &Ram, start: &Start<'_>) -> Result<(u64, u64)> {
    let header = header(start.kernel, Magic::Riscv64)?;
    let put = |what: &'static str, at: u64, bytes: &[u8]| {
        let needed = bytes.len() as u64;
        ram.copy_in(at, bytes).ok_or(Error::Room { what, needed, memory: ram.length() })
    };
    let kernel = MEMORY + header.text_offset;
    put("a kernel", kernel, start.kernel)?;
    let initrd = (kernel + header.image_size).next_multiple_of(ALIGNMENT);
    put("a first root file system", initrd, start.initrd)?;
    let tree = (initrd + start.initrd.len() as u64).next_multiple_of(ALIGNMENT);
    let blob = tree::describe(start, initrd)?;
    put("a device tree", tree, &blob)?;
    Ok((kernel, tree))
}

impl Board {
    fn now(&self) -> u64 {
        (self.began.elapsed().as_nanos() / u128::from(1_000_000_000 / FREQUENCY)) as u64
    }

    fn lines(&self) -> u64 {
        let timer = if self.now() >= self.deadline { TIMER_LINE } else { 0 };
        let external = if self.plic.is_raised() { EXTERNAL_LINE } else { 0 };
        timer | external
    }

    /// Until the timer is due.
    fn sleep(&self) {
        let ticks = self.deadline.saturating_sub(self.now()).min(FREQUENCY / 100);
        std::thread::sleep(std::time::Duration::from_nanos(ticks * (1_000_000_000 / FREQUENCY)));
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
