//! A machine that is there twice, interpreted and translated, and compared as it runs.
//!
//! The translated one leads, a stretch at a time ([`dbt::Stretch`]); the other does the same instructions one after the
//! other. Both begin alike and hear nothing of the host ([`Outside::Nothing`]): their clocks go on between two stretches, by
//! what was done in the first of them, or to when something is due if both wait for that. Interrupts are taken there, too.
//! **Invariant: after each stretch all registers of both are the same, and so is what was written in it**, or the pair has
//! [`Parted`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use dbt::{Difference, Mode, Stop, Stretch};
use isa::Isa;

use super::{End, Machine, Outside, Seated, Start};
use crate::error::{Error, Result};

/// Both.
pub struct Pair {
    leader: Machine,
    follower: Machine,
    isa: Arc<Isa>,
    /// Instructions, and stretches.
    instructions: u64,
    stretches: u64,
    /// Places where only memory and devices said that a stretch ends later.
    lookalikes: u64,
    /// Instructions for which the clocks did not go on yet.
    untimed: u64,
}

/// Why a pair does not go on.
#[derive(Debug)]
pub enum Parted {
    /// They do different things.
    Different {
        /// After so many instructions that were the same.
        instructions: u64,
        /// In what.
        difference: Box<Difference>,
        /// The first instructions of the stretch, as text.
        path: Vec<String>,
    },
    /// One has ended, or waits, and the other has not.
    Apart,
    /// Both wait for something that never comes.
    Stuck,
}

impl fmt::Display for Parted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Parted::Apart => write!(f, "one has ended or waits, and the other does not"),
            Parted::Stuck => write!(f, "both wait for something that never comes"),
            Parted::Different { instructions, difference, path } => {
                writeln!(f, "after {instructions} instructions, in a stretch to {:#x} of:", difference.led_to)?;
                path.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
                let differ = &difference.registers;
                let mut each = differ.iter().map(|(name, led, followed)| (name, led, followed));
                each.try_for_each(|(name, led, followed)| {
                    writeln!(f, "  {name}: {led:016x} translated, {followed:016x} interpreted")
                })?;
                if let Some(place) = difference.place {
                    writeln!(f, "  when all registers were the same, memory at {place:#x} was not")?;
                }
                let (led, followed) = difference.accesses;
                writeln!(f, "  accesses to the board: {led} translated, {followed} interpreted")
            }
        }
    }
}

/// Instructions that the clocks take a second for.
const PACE: u64 = 200_000_000;
/// How often a leader is disturbed that is not to leave generated code by itself.
const DISTURBED: Duration = Duration::from_micros(100);
/// What is due later is not waited for.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Bytes of memory that are compared at once.
const PIECE: u64 = 1 << 20;

impl Pair {
    /// Two machines that are about to start. Each starts with what it is made of for its mode, and has one processor.
    pub fn new<'s>(isa: &Arc<Isa>, leads: Mode, mut start: impl FnMut(Mode) -> Start<'s>) -> Result<Pair> {
        let mut machine = |mode| {
            let start = Start { mode, outside: Outside::Nothing, ..start(mode) };
            match start.processors {
                1 => Machine::new(Arc::clone(isa), start),
                count => Err(Error::Processors { count, most: 1 }),
            }
        };
        let (leader, follower) = (machine(leads)?, machine(Mode::Interpret)?);
        Ok(Pair { leader, follower, isa: Arc::clone(isa), instructions: 0, stretches: 0, lookalikes: 0, untimed: 0 })
    }

    /// Has both do so many instructions more, or a few beyond. Nothing if they go on from there.
    pub fn run(&mut self, stretch: Stretch, instructions: u64) -> std::result::Result<Option<End>, Parted> {
        let is_over = AtomicBool::new(false);
        let Some(attention) = self.leader.processors[0].processor.described().map(dbt::Processor::attention) else {
            return Err(Parted::Apart);
        };
        thread::scope(|scope| {
            if stretch == Stretch::Wanted {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Acquire) {
                        thread::sleep(DISTURBED);
                        attention.store(1, Ordering::SeqCst);
                    }
                });
            }
            let end = self.instructions + instructions;
            let mut outcome = Ok(None);
            while outcome.as_ref().is_ok_and(Option::is_none) && self.instructions < end {
                outcome = self.step(stretch);
            }
            is_over.store(true, Ordering::Release);
            outcome
        })
    }

    /// A stretch of both, and what is between it and the next.
    fn step(&mut self, stretch: Stretch) -> std::result::Result<Option<End>, Parted> {
        let [leader, follower] = [&mut self.leader.processors[0], &mut self.follower.processors[0]];
        // Both are made of a description, in `new`.
        let (Some(leads), Some(follows)) = (leader.processor.described_mut(), follower.processor.described_mut())
        else {
            return Err(Parted::Apart);
        };
        let led = leads.lead(&mut *leader.place, stretch);
        let most = match stretch {
            Stretch::Turn => 100_000,
            // Whoever disturbs it may have to wait for a processor of the host's.
            Stretch::Wanted => 1_000_000_000,
        };
        let followed = follows.follow(&mut *follower.place, (leads, &led), most);
        let followed = followed.map_err(|difference| {
            let line = |(at, word): &(u64, u32)| {
                format!("{at:x}: {word:08x} {}", self.isa.disassemble(*word).unwrap_or_default())
            };
            let path = difference.path.iter().map(line).collect();
            Parted::Different { instructions: self.instructions, difference: Box::new(difference), path }
        })?;
        self.instructions += followed.instructions;
        self.lookalikes += followed.lookalikes;
        self.stretches += 1;
        self.untimed += followed.instructions;
        let ends = (leader.place.power().end(), follower.place.power().end());
        match ends {
            (None, None) => {}
            (led, followed) if led == followed => return Ok(led),
            _ => return Err(Parted::Apart),
        }
        self.go_on()
    }

    /// The clocks go on, and interrupts are taken.
    fn go_on(&mut self) -> std::result::Result<Option<End>, Parted> {
        let both = [&mut self.leader.processors[0], &mut self.follower.processors[0]];
        let clock = both[0].place.clock();
        // Whoever turns in a circle until it is later may have done nothing that is to be seen.
        let ticks = (self.untimed * clock.frequency() / PACE).max(1);
        self.untimed = 0;
        both.iter().for_each(|it| it.place.clock().advance(ticks));
        let is_wanted = |it: &&mut Seated| it.processor.described().is_some_and(|own| own.is_wanted(&*it.place));
        if !both.iter().any(is_wanted) {
            return Ok(None);
        }
        match both.map(look) {
            [Stop::Waiting, Stop::Waiting] => self.wait(),
            [led, followed] if led == followed => Ok(None),
            _ => Err(Parted::Apart),
        }
    }

    /// Both wait for an interrupt: it is as late at once as it would be when one comes.
    fn wait(&mut self) -> std::result::Result<Option<End>, Parted> {
        let both = [&mut self.leader.processors[0], &mut self.follower.processors[0]];
        let idle = both[0].place.idle();
        if idle > PATIENCE {
            return Err(Parted::Stuck);
        }
        let clock = both[0].place.clock();
        let ticks = (idle.as_nanos() * u128::from(clock.frequency()) / 1_000_000_000) as u64 + 1;
        both.iter().for_each(|it| it.place.clock().advance(ticks));
        match both.map(look) {
            [led, followed] if led == followed => Ok(None),
            _ => Err(Parted::Apart),
        }
    }

    /// Where their memories differ, first.
    pub fn differs_at(&self) -> Option<u64> {
        let (one, other) = (&self.leader.ram, &self.follower.ram);
        let [mut led, mut followed] = [vec![0; PIECE as usize], vec![0; PIECE as usize]];
        let pieces = (one.base()..one.base() + one.length()).step_by(PIECE as usize);
        pieces.into_iter().find_map(|at| {
            one.copy_out(at, &mut led)?;
            other.copy_out(at, &mut followed)?;
            let within = led.iter().zip(&followed).position(|(one, other)| one != other)?;
            Some(at + within as u64)
        })
    }

    /// How many instructions both did.
    pub fn instructions(&self) -> u64 {
        self.instructions
    }

    /// How often they were compared.
    pub fn stretches(&self) -> u64 {
        self.stretches
    }

    /// How often all registers were already as they were at the end of a stretch, and memory or devices were not.
    pub fn lookalikes(&self) -> u64 {
        self.lookalikes
    }

    /// How many blocks were translated.
    pub fn blocks(&self) -> u64 {
        self.leader.blocks()
    }
}

fn look(seated: &mut Seated) -> Stop {
    seated.processor.described_mut().map_or(Stop::Off, |it| it.look(&mut *seated.place))
}
