//! A machine: a processor, and the board around it.

mod frozen;
pub(crate) mod gdb;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use dbt::{Mode, Processor, Ram, Stop};
use isa::Isa;
use vm::Memory;

use crate::bus::Bus;
use crate::console::Serial;
use crate::devices::Devices;
use crate::error::{Error, Result};
use crate::saved::State;
use crate::watch::{Interrupter, Watch};
use crate::{arm, riscv};

pub use frozen::{Frozen, Thaw};

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
    /// The serial port, which is there from a kernel's first word on.
    pub serial: Serial,
    /// What else the machine has.
    pub devices: Devices,
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

    /// Its devices.
    fn bus(&mut self) -> &mut Bus;

    /// Has the interrupt controller see the devices' lines as they are.
    fn update_lines(&mut self);

    /// What it is beside its devices.
    fn save(&self) -> Result<State>;

    /// Takes on what another was.
    fn restore(&mut self, state: State) -> Result<()>;

    /// What was typed; gives how much of it was taken.
    fn type_in(&mut self, bytes: &[u8]) -> usize {
        let taken = self.bus().type_in(bytes);
        self.update_lines();
        taken
    }

    /// A descriptor of a device's has become ready.
    fn ready(&mut self) {
        self.bus().ready();
        self.update_lines();
    }
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

/// A machine with one processor.
pub struct Machine {
    processor: Processor,
    board: Box<dyn Platform>,
    ram: Ram,
    architecture: String,
    watch: Arc<Watch>,
}

impl Machine {
    /// A machine that is about to start its kernel. The description's architecture chooses the board.
    pub fn new(isa: Arc<Isa>, mut start: Start<'_>) -> Result<Machine> {
        let memory = Arc::new(Memory::new(start.memory as usize)?);
        let slots = std::mem::take(&mut start.devices).build()?;
        let ram = Ram::new(memory, memory_begins(&isa)?);
        let (processor, board): (Processor, Box<dyn Platform>) = if isa.name == "riscv64" {
            let loaded = riscv::load(&ram, &start, slots.len())?;
            let mut board = riscv::Board::new(&isa, ram.clone(), start.serial, slots);
            let arguments = [loaded.entry, 0, loaded.tree];
            (Processor::new(Arc::clone(&isa), start.mode, ram.clone(), &mut board, &arguments)?, Box::new(board))
        } else {
            let loaded = arm::load(&ram, &start, slots.len())?;
            let mut board = arm::Board::new(&isa, &ram, start.serial, slots);
            let arguments = [loaded.entry, loaded.tree];
            (Processor::new(Arc::clone(&isa), start.mode, ram.clone(), &mut board, &arguments)?, Box::new(board))
        };
        Machine::of_parts(&isa, processor, board, ram)
    }

    fn of_parts(isa: &Isa, processor: Processor, mut board: Box<dyn Platform>, ram: Ram) -> Result<Machine> {
        let watch = Arc::new(Watch::new(&board.bus().descriptors(), processor.attention())?);
        Ok(Machine { processor, board, ram, architecture: isa.name.clone(), watch })
    }

    /// Interprets so many instructions at most. Nothing if it goes on.
    pub fn run(&mut self, instructions: u64) -> Option<End> {
        let end = self.processor.count() + instructions;
        while self.processor.count() < end && self.board.end().is_none() {
            self.hear();
            let most = match self.processor.run(&mut *self.board, 10_000) {
                Stop::Waiting => self.board.idle(),
                Stop::Done => Duration::ZERO,
            };
            self.watch.look(Some(most));
        }
        self.board.end()
    }

    /// How another thread has [`Machine::run_for`] return.
    pub fn interrupter(&self) -> Interrupter {
        self.watch.interrupter()
    }

    /// Runs for so long, or until it is interrupted. Nothing if it goes on.
    pub fn run_for(&mut self, time: Duration) -> Option<End> {
        let until = Instant::now() + time;
        let me = thread::current();
        self.watch.begin();
        let watch = Arc::clone(&self.watch);
        let standing_by = thread::spawn(move || watch.stand_by(&me));
        while self.board.end().is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.watch.take_interrupted() {
                break;
            }
            self.hear();
            if self.processor.run_fast(&mut *self.board) == Stop::Waiting {
                self.watch.wait(self.board.idle().min(left));
            }
        }
        self.watch.end();
        let _ = standing_by.join();
        self.board.end()
    }

    /// Tells the devices of what has come.
    fn hear(&mut self) {
        if self.watch.take_ready() {
            self.board.ready();
        }
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

    /// Instructions that were interpreted, the most often first.
    pub fn interpreted(&self) -> Vec<(&str, u64)> {
        self.processor.interpreted()
    }

    /// Where the processor is.
    pub fn pc(&self) -> u64 {
        self.processor.pc()
    }
}

/// Where the board for a description's processors has its memory.
fn memory_begins(isa: &Isa) -> Result<u64> {
    match isa.name.as_str() {
        "riscv64" => Ok(riscv::MEMORY),
        "aarch64" => Ok(arm::MEMORY),
        other => Err(Error::NoBoard { architecture: other.into() }),
    }
}

/// What a kernel's random numbers begin with. One that has none makes each anew, at great cost, until it has seen enough.
pub(crate) fn seed() -> [u8; 64] {
    let mut seed = [0; 64];
    // Fewer bytes than asked for are zeros: a kernel believes in none of them alone.
    let _ = rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty());
    seed
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
