//! A machine: processors, and the board around them.
//!
//! Each processor has a thread of its own while the machine runs ([`Machine::run_for`]); between, all of them stand still
//! between two instructions, and everything that the machine is lies in memory: registers, devices, what was not heard yet.
//! One that is switched off has its thread, too, which waits.

mod frozen;
pub(crate) mod gdb;
mod host;
mod lockstep;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use dbt::{Clock, Mode, Ram, Stop, Translations};
use isa::Isa;
use vm::{Host, Memory};

use crate::arch::{self, Arch};
use crate::bells::Bells;
use crate::boot::{Header, Image};
use crate::bus::Bus;
use crate::console::Serial;
use crate::devices::{Devices, Slots};
use crate::error::{Error, Result};
use crate::power::Power;
use crate::processor::Processor;
use crate::saved::State;
use crate::watch::{Interrupter, Watch};
use crate::{arm, riscv};

pub use frozen::{Frozen, Thaw};
pub use lockstep::{Pair, Parted};

/// What a machine starts with.
pub struct Start<'s> {
    /// A kernel's image.
    pub kernel: Image<'s>,
    /// The first root file system.
    pub initrd: &'s [u8],
    /// What the kernel is told.
    pub command_line: &'s str,
    /// Bytes of memory.
    pub memory: u64,
    /// How many processors it has.
    pub processors: usize,
    /// How they work.
    pub mode: Mode,
    /// The serial port, which is there from a kernel's first word on.
    pub serial: Serial,
    /// What else the machine has.
    pub devices: Devices,
    /// What of the host's it hears of by itself.
    pub outside: Outside,
}

/// What a machine hears of its host, beside what its devices are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outside {
    /// What time it is, and random numbers.
    Host,
    /// Nothing: it is the same in each run. Its clock is moved by hand, it does not know what day it is, and its kernel's
    /// random numbers begin alike.
    Nothing,
}

/// Why a machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was switched off.
    PowerOff,
    /// It wants to be started again.
    Reboot,
}

/// Processors that a machine may have.
pub const MOST_PROCESSORS: usize = 8;

/// A processor's place on a board of devices and firmware.
pub(crate) trait Platform: dbt::Board + Send {
    /// Which processors are on.
    fn power(&self) -> &Power;

    /// How long nothing is due for this processor.
    fn idle(&self) -> Duration;

    /// The board's devices.
    fn bus(&self) -> &Bus;

    /// What this processor alone has of the board.
    fn save(&self) -> Result<State>;

    /// Takes on what another was.
    fn restore(&mut self, state: State) -> Result<()>;

    /// What all processors have of the board, beside its devices.
    fn save_board(&self) -> Result<State>;

    /// Takes on what another was.
    fn restore_board(&self, state: State) -> Result<()>;
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

/// A processor in its place.
struct Seated {
    number: usize,
    processor: Box<dyn Processor>,
    place: Box<dyn Platform>,
}

impl Seated {
    /// A processor of a description's, and its place.
    fn described(&mut self) -> Option<(&mut dbt::Processor, &mut dyn Platform)> {
        Some((self.processor.described_mut()?, &mut *self.place))
    }

    /// Works until it is told to stand still, or there is no time left.
    fn work(&mut self, watch: &Watch, until: Instant) {
        watch.hang_bell(self.number);
        if let Err(error) = self.processor.hang_here() {
            self.place.power().give_up(error.to_string());
            self.place.power().finish(End::Reboot);
        }
        while self.place.power().end().is_none() && !watch.is_stopping() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            if watch.take_ready() {
                self.place.bus().ready();
            }
            match self.processor.work(&mut *self.place) {
                Stop::Done => {}
                Stop::Waiting => {
                    if let Some(processor) = self.processor.described() {
                        processor.rest();
                    }
                    watch.wait(self.number, self.place.idle().min(left));
                }
                Stop::Off if self.start() => {}
                Stop::Off => watch.wait(self.number, left),
            }
        }
        watch.stop();
    }

    /// Is switched on, if it is to be.
    fn start(&mut self) -> bool {
        let Some(beginning) = self.place.power().take_start(self.number) else { return false };
        self.processor.restart(&mut *self.place, &beginning);
        true
    }
}

/// A machine.
pub struct Machine {
    processors: Vec<Seated>,
    ram: Ram,
    architecture: String,
    watch: Arc<Watch>,
}

impl Machine {
    /// A machine that is about to start its kernel. The description's architecture chooses the board.
    pub fn new(isa: Arc<Isa>, mut start: Start<'_>) -> Result<Machine> {
        if !(1..=MOST_PROCESSORS).contains(&start.processors) {
            return Err(Error::Processors { count: start.processors, most: MOST_PROCESSORS });
        }
        let memory = Arc::new(Memory::new(start.memory as usize)?);
        let slots = std::mem::take(&mut start.devices).build(start.outside)?;
        let ram = Ram::shared(memory, memory_begins(&isa)?, start.processors);
        let beginning = if isa.name == "riscv64" {
            let loaded = riscv::load(&ram, &start, slots.len())?;
            [loaded.entry, 0, loaded.tree]
        } else {
            let loaded = arm::load(&ram, &start, slots.len())?;
            [loaded.entry, loaded.tree, 0]
        };
        let clock = match start.outside {
            Outside::Host => Clock::at(frequency(&isa), 0),
            Outside::Nothing => Clock::by_hand(frequency(&isa)),
        };
        let (mode, board) = (start.mode, board(&isa, &ram, clock, (start.serial, slots, start.outside)));
        // All but the first begin anew when they are switched on.
        Machine::of_parts(&isa.name, &ram, board, |_, place| {
            Ok(Box::new(dbt::Processor::new(Arc::clone(&isa), mode, ram.clone(), place, &beginning)?))
        })
    }

    /// A machine of that architecture; the host's own needs what virtual machines are made with.
    pub(crate) fn of_arch(arch: Arch, kvm: Option<OwnedFd>, start: Start<'_>) -> Result<Machine> {
        match arch {
            Arch::Amd64 => Machine::native(&Host::from(kvm.ok_or(Error::NoKvm)?), start),
            Arch::Arm64 | Arch::Riscv64 => Machine::new(arch::isa(arch)?, start),
        }
    }

    /// Seats a processor at each place of a board.
    fn of_parts(
        architecture: &str,
        ram: &Ram,
        (bells, places): Board,
        make: impl Fn(usize, &mut dyn Platform) -> Result<Box<dyn Processor>>,
    ) -> Result<Machine> {
        let watch = Arc::new(Watch::new(places[0].bus(), bells)?);
        let seated = |(number, mut place): (usize, Box<dyn Platform>)| {
            Ok(Seated { number, processor: make(number, &mut *place)?, place })
        };
        let processors = places.into_iter().enumerate().map(seated).collect::<Result<_>>()?;
        Ok(Machine { processors, ram: ram.clone(), architecture: architecture.into(), watch })
    }

    /// Why the host could not go on with it, if that is how it ended.
    pub(crate) fn failure(&self) -> Option<String> {
        self.processors[0].place.power().failure().map(str::to_owned)
    }

    /// What it translates is looked for here first, and added to it.
    pub fn share(&mut self, translations: Arc<Translations>) {
        let described = self.processors.iter_mut().filter_map(|it| it.processor.described_mut());
        described.for_each(|it| it.share(Arc::clone(&translations)));
    }

    fn end(&self) -> Option<End> {
        self.processors[0].place.power().end()
    }

    /// Has so many instructions done at most, by one processor after the other. Nothing if it goes on.
    pub fn run(&mut self, instructions: u64) -> Option<End> {
        let end = self.count() + instructions;
        while self.count() < end && self.end().is_none() {
            self.hear();
            let mut most = Duration::MAX;
            for seated in &mut self.processors {
                let Some(processor) = seated.processor.described_mut() else { return self.run_for(SLICE) };
                most = match processor.run(&mut *seated.place, TURN) {
                    Stop::Waiting => most.min(seated.place.idle()),
                    Stop::Off if !seated.start() => most,
                    Stop::Off | Stop::Done => Duration::ZERO,
                };
            }
            self.watch.look(Some(most));
        }
        self.end()
    }

    /// How another thread has [`Machine::run_for`] return.
    pub fn interrupter(&self) -> Interrupter {
        self.watch.interrupter()
    }

    /// Runs for so long, or until it is interrupted, each processor on a thread of its own. Nothing if it goes on.
    pub fn run_for(&mut self, time: Duration) -> Option<End> {
        let until = Instant::now() + time;
        let watch = &*self.watch;
        watch.begin();
        let (first, others) = self.processors.split_first_mut()?;
        thread::scope(|scope| {
            scope.spawn(|| watch.stand_by(until));
            let others: Vec<_> = others.iter_mut().map(|it| scope.spawn(|| it.work(watch, until))).collect();
            first.work(watch, until);
            others.into_iter().for_each(|it| _ = it.join());
            watch.end();
        });
        self.end()
    }

    /// Tells the devices of what has come.
    fn hear(&self) {
        if self.watch.take_ready() {
            self.processors[0].place.bus().ready();
        }
    }

    /// What was typed; gives how much of it was taken.
    pub fn type_in(&mut self, bytes: &[u8]) -> usize {
        self.processors[0].place.bus().type_in(bytes)
    }

    /// How many instructions were interpreted.
    pub fn count(&self) -> u64 {
        self.processors.iter().map(|it| it.processor.described().map_or(0, dbt::Processor::count)).sum()
    }

    /// How many blocks were translated.
    pub fn blocks(&self) -> u64 {
        self.processors.iter().map(|it| it.processor.described().map_or(0, dbt::Processor::blocks)).sum()
    }

    /// Instructions that the first processor interpreted, the most often first.
    pub fn interpreted(&self) -> Vec<(&str, u64)> {
        self.processors[0].processor.described().map_or_else(Vec::new, dbt::Processor::interpreted)
    }

    /// Where each processor is.
    pub fn places(&self) -> Vec<u64> {
        self.processors.iter().filter_map(|it| it.processor.described()).map(dbt::Processor::pc).collect()
    }
}

/// For so long processors work that do not count what they do, where others do so many instructions.
const SLICE: Duration = Duration::from_millis(20);
/// Instructions that a processor does before it is another's turn, where they take turns.
const TURN: u64 = 10_000;

/// Where the board for a description's processors has its memory.
fn memory_begins(isa: &Isa) -> Result<u64> {
    match isa.name.as_str() {
        "riscv64" => Ok(riscv::MEMORY),
        "aarch64" => Ok(arm::MEMORY),
        other => Err(Error::NoBoard { architecture: other.into() }),
    }
}

/// What is on a board's bus: the serial port, devices, and whether what day it is.
pub(crate) type Parts = (Serial, Slots, Outside);

/// Processors' bells, and their places.
type Board = (Arc<Bells>, Vec<Box<dyn Platform>>);

/// Ticks of the clock in a second.
fn frequency(isa: &Isa) -> u64 {
    if isa.name == "riscv64" { riscv::FREQUENCY } else { arm::FREQUENCY }
}

/// A board for the processors that share a memory.
fn board(isa: &Isa, ram: &Ram, clock: Clock, parts: Parts) -> Board {
    let bells = Arc::new(Bells::new(ram));
    let places = if isa.name == "riscv64" {
        riscv::board(isa, ram, &bells, clock, parts).into_iter().map(boxed).collect()
    } else {
        arm::board(isa, ram, &bells, clock, parts).into_iter().map(boxed).collect()
    };
    (bells, places)
}

fn boxed(seat: impl Platform + 'static) -> Box<dyn Platform> {
    Box::new(seat)
}

/// What a kernel's random numbers begin with. One that has none makes each anew, at great cost, until it has seen enough.
pub(crate) fn seed(outside: Outside) -> [u8; 64] {
    let mut seed = [0; 64];
    if outside == Outside::Nothing {
        return seed.map(|_| 0x5e);
    }
    // Fewer bytes than asked for are zeros: a kernel believes in none of them alone.
    let _ = rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty());
    seed
}

/// Puts a kernel, the first root file system and a tree into memory, one behind the other.
pub(crate) fn load(
    ram: &Ram,
    start: &Start<'_>,
    header: Header,
    tree: impl FnOnce(u64) -> Result<Vec<u8>>,
) -> Result<Loaded> {
    let put = |what: &'static str, at: u64, bytes: &[u8]| {
        let needed = bytes.len() as u64;
        ram.copy_in(at, bytes).ok_or(Error::Room { what, needed, memory: ram.length() })
    };
    let entry = ram.base() + header.text_offset;
    start.kernel.put(ram, entry)?;
    let initrd = (entry + header.image_size).next_multiple_of(ALIGNMENT);
    put("a first root file system", initrd, start.initrd)?;
    let at = (initrd + start.initrd.len() as u64).next_multiple_of(ALIGNMENT);
    put("a device tree", at, &tree(initrd)?)?;
    Ok(Loaded { entry, tree: at })
}
