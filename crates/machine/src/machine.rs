//! A machine: a processor, and the board around it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dbt::{Mode, Processor, Ram, Stop};
use isa::Isa;
use vm::Memory;

use crate::console::Output;
use crate::error::{Error, Result};
use crate::{arm, riscv};

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

/// Devices and firmware around a processor.
pub(crate) trait Platform: dbt::Board + Send {
    /// Whether the machine has ended.
    fn end(&self) -> Option<End>;

    /// How long nothing is due.
    fn idle(&self) -> Duration;

    /// What was typed; gives how much of it was taken.
    fn type_in(&mut self, bytes: &[u8]) -> usize;
}

/// Where a kernel and what it is given are in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Loaded {
    /// Where the kernel begins.
    pub(crate) entry: u64,
    /// The device tree.
    pub(crate) tree: u64,
}

/// Large pages begin at its multiples.
const ALIGNMENT: u64 = 2 << 20;
/// Nobody sleeps longer, so that what comes from outside is seen.
const LONGEST_SLEEP: Duration = Duration::from_millis(10);

/// A machine with one processor.
pub struct Machine {
    processor: Processor,
    board: Box<dyn Platform>,
}

impl Machine {
    /// A machine that is about to start its kernel. The description's architecture chooses the board.
    pub fn new(isa: Arc<Isa>, start: Start<'_>) -> Result<Machine> {
        let memory = Arc::new(Memory::new(start.memory as usize)?);
        match isa.name.as_str() {
            "riscv64" => {
                let ram = Ram::new(memory, riscv::MEMORY);
                let loaded = riscv::load(&ram, &start)?;
                let mut board = riscv::Board::new(&isa, ram.clone(), start.output);
                let processor = Processor::new(isa, start.mode, ram, &mut board, &[loaded.entry, 0, loaded.tree])?;
                Ok(Machine { processor, board: Box::new(board) })
            }
            "aarch64" => {
                let ram = Ram::new(memory, arm::MEMORY);
                let loaded = arm::load(&ram, &start)?;
                let mut board = arm::Board::new(&isa, start.output);
                let processor = Processor::new(isa, start.mode, ram, &mut board, &[loaded.entry, loaded.tree])?;
                Ok(Machine { processor, board: Box::new(board) })
            }
            other => Err(Error::NoBoard { architecture: other.into() }),
        }
    }

    /// Interprets so many instructions at most. Nothing if it goes on.
    pub fn run(&mut self, instructions: u64) -> Option<End> {
        let end = self.processor.count() + instructions;
        while self.processor.count() < end && self.board.end().is_none() {
            if self.processor.run(&mut *self.board, 10_000) == Stop::Waiting {
                thread::sleep(self.board.idle().min(LONGEST_SLEEP));
            }
        }
        self.board.end()
    }

    /// Runs for so long. Nothing if it goes on.
    pub fn run_for(&mut self, time: Duration) -> Option<End> {
        let until = Instant::now() + time;
        let attention = self.processor.attention();
        let is_over = Arc::new(AtomicBool::new(false));
        let ticker = {
            let is_over = Arc::clone(&is_over);
            thread::spawn(move || {
                while !is_over.load(Ordering::Acquire) {
                    thread::sleep(Duration::from_millis(1));
                    attention.store(1, Ordering::Release);
                }
            })
        };
        while self.board.end().is_none() && Instant::now() < until {
            if self.processor.run_fast(&mut *self.board) == Stop::Waiting {
                thread::sleep(self.board.idle().min(LONGEST_SLEEP));
            }
        }
        is_over.store(true, Ordering::Release);
        let _ = ticker.join();
        self.board.end()
    }

    /// What was typed; gives how much of it was taken.
    pub fn type_in(&mut self, bytes: &[u8]) -> usize {
        self.board.type_in(bytes)
    }

    /// How many instructions were interpreted.
    pub fn count(&self) -> u64 {
        self.processor.count()
    }

    /// How many blocks were translated.
    pub fn blocks(&self) -> u64 {
        self.processor.blocks()
    }

    /// Where the processor is.
    pub fn pc(&self) -> u64 {
        self.processor.pc()
    }
}

/// Puts a kernel, the first root file system and a tree into memory, one behind the other.
pub(crate) fn load(
    ram: &Ram,
    start: &Start<'_>,
    header: crate::boot::Header,
    tree: impl FnOnce(u64) -> Result<Vec<u8>>,
) -> Result<Loaded> {
    let put = |what: &'static str, at: u64, bytes: &[u8]| {
        let needed = bytes.len() as u64;
        ram.copy_in(at, bytes).ok_or(Error::Room { what, needed, memory: ram.length() })
    };
    let entry = ram.base() + header.text_offset;
    put("a kernel", entry, start.kernel)?;
    let initrd = (entry + header.image_size).next_multiple_of(ALIGNMENT);
    put("a first root file system", initrd, start.initrd)?;
    let at = (initrd + start.initrd.len() as u64).next_multiple_of(ALIGNMENT);
    put("a device tree", at, &tree(initrd)?)?;
    Ok(Loaded { entry, tree: at })
}
