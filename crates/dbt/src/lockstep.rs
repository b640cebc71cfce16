//! Two processors that do the same in two ways, each with a memory and a board of its own, compared as they go.
//!
//! One leads: it runs generated code for a *stretch*, to where that would look at its board. The other follows: it does one
//! instruction after the other until it is where the leader is. Neither takes an interrupt within a stretch, and who drives
//! them moves their clocks between stretches only, so both see the same. **How many instructions a stretch has nobody needs
//! to know:** generated code does not count them.
//!
//! **The follower is where the leader is when all that the leader may have changed is the same**: registers, pages that it
//! may have written, and how often it turned to its board, whose devices nobody looks into. Registers alone do not say it: a
//! loop that counts in memory or waits for a device may have the same ones each time round, and who goes by them stops some
//! rounds too early. Where all of it is the same twice, either place will do: what both do from there is the same. (What a
//! walk through tables writes into them is not noted: who walks when depends on what is known already.)
//!
//! There are too many turns to look at all that generated code may write to at each. There, what the follower itself has
//! written since the last one is looked at, and what the leader wrote by us. (A turn may be several rounds, of which a block is made
//! together. Who comes to such a loop from elsewhere, and was there before, may be a turn late, and makes up for it with the next.)

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustc_hash::FxHashSet;

use crate::board::{Board, Registers};
use crate::clock::Clock;
use crate::processor::{Processor, Stop};
use crate::ram::Ram;
use crate::state::head;
use crate::tlb::{Access, PAGE_BITS};

/// How far a stretch goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stretch {
    /// To the first place where generated code looks whether somebody wants its processor: where it turns back, or goes to
    /// an address that it computed. The same in each run.
    Turn,
    /// Until somebody wants the processor ([`Processor::attention`]): from block to block as it does otherwise.
    Wanted,
}

/// A stretch that was led.
#[derive(Debug)]
pub struct Led {
    stretch: Stretch,
    /// How often the leader turned to its board.
    accesses: u64,
    written: Written,
}

/// Where something is in memory: its physical address, and how long it is. That is a page at most.
type Place = (u64, u64);

/// Places that may have been written.
#[derive(Debug, Default)]
pub(crate) struct Written {
    places: FxHashSet<Place>,
}

impl Written {
    /// One that is not the same in both memories.
    fn apart(&self, one: &Ram, other: &Ram) -> Option<Place> {
        self.places.iter().copied().find(|place| is_apart(*place, one, other))
    }
}

fn is_apart((at, size): Place, one: &Ram, other: &Ram) -> bool {
    let mut bytes = [0; PAGE as usize];
    let bytes = &mut bytes[..size.min(PAGE) as usize];
    one.copy_out(at, bytes).is_some() && !other.is(at, bytes)
}

/// A stretch that was followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Followed {
    /// How many instructions it had.
    pub instructions: u64,
    /// How often, before its end, all registers were as they are there, and the rest was not.
    pub lookalikes: u64,
}

/// What the two do not have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Where the stretch began.
    pub began: u64,
    /// Where the leader is.
    pub led_to: u64,
    /// Registers by name, with the leader's value and the follower's, where the follower first came to that address.
    pub registers: Vec<(String, u64, u64)>,
    /// What was not the same in memory when all registers were, the last time that they were.
    pub place: Option<u64>,
    /// How often the leader turned to its board, and the follower.
    pub accesses: (u64, u64),
    /// The first instructions of the stretch, as the follower did them: addresses and bits.
    pub path: Vec<(u64, u32)>,
}

const PAGE: u64 = 1 << PAGE_BITS;
/// Instructions of a stretch that are told of.
const TOLD: usize = 64;
/// Pages that are compared at the end of a stretch although nobody may have written there.
const MOST_WRITABLE: usize = 128;

impl Processor {
    /// Leads: runs translated code for a stretch.
    pub fn lead(&mut self, board: &mut dyn Board, stretch: Stretch) -> Led {
        let isa = Arc::clone(&self.isa);
        let mut board = Counted { board, accesses: 0 };
        self.attention.store((stretch == Stretch::Turn).into(), Ordering::SeqCst);
        self.state.set_head(head::CLOCK_OFFSET, self.clock.offset());
        self.written = Some(match stretch {
            Stretch::Turn => Written::default(),
            Stretch::Wanted => self.writable(),
        });
        self.come();
        self.run_translated(&isa, &mut board);
        self.go();
        Led { stretch, accesses: board.accesses, written: self.written.take().unwrap_or_default() }
    }

    /// Follows to where the other is, in so many instructions at most. The leader has done one at least.
    pub fn follow(
        &mut self,
        board: &mut dyn Board,
        (leader, led): (&Processor, &Led),
        most: u64,
    ) -> Result<Followed, Difference> {
        let isa = Arc::clone(&self.isa);
        let mut board = Counted { board, accesses: 0 };
        let (began, mut registers, mut apart, mut path) = (self.pc, None, None, Vec::new());
        let mut lookalikes = self.is_where(leader).into();
        self.written = (led.stretch == Stretch::Turn).then(Written::default);
        self.come();
        for instructions in 1..=most {
            if path.len() < TOLD {
                path.push((self.pc, self.word_here()));
            }
            self.step(&isa, &mut board);
            if self.pc != leader.pc {
                continue;
            }
            if !self.is_where(leader) {
                registers.get_or_insert_with(|| self.differences(leader));
                continue;
            }
            if board.accesses == led.accesses {
                apart = self.apart(apart, leader, &led.written);
                if apart.is_none() {
                    self.written = None;
                    self.go();
                    return Ok(Followed { instructions, lookalikes });
                }
            }
            lookalikes += 1;
        }
        self.written = None;
        self.go();
        let registers = registers.unwrap_or_else(|| self.differences(leader));
        let (accesses, place) = ((led.accesses, board.accesses), apart.map(|(at, _)| at));
        Err(Difference { began, led_to: leader.pc, registers, place, accesses, path })
    }

    /// What is not the same in memory. That which was it last is the first to be looked at.
    fn apart(&self, last: Option<Place>, leader: &Processor, led: &Written) -> Option<Place> {
        let last = last.filter(|place| is_apart(*place, &leader.ram, &self.ram));
        let own = || self.written.as_ref()?.apart(&leader.ram, &self.ram);
        last.or_else(own).or_else(|| led.apart(&leader.ram, &self.ram))
    }

    /// What generated code may write to without asking anybody. It asks anew of all of it when that has become much.
    fn writable(&mut self) -> Written {
        let Some(translator) = &mut self.translator else { return Written::default() };
        let mut hosts = translator.writable();
        if hosts.len() > MOST_WRITABLE {
            translator.forget_writable();
            hosts.clear();
        }
        Written { places: hosts.into_iter().map(|host| (self.ram.physical(host), PAGE)).collect() }
    }

    /// So many bytes were written.
    #[inline]
    pub(crate) fn note_written(&mut self, physical: u64, size: u64) {
        if let Some(written) = &mut self.written {
            written.places.insert((physical, size));
        }
    }

    /// Generated code may write to a page from now on.
    pub(crate) fn note_writable(&mut self, physical: u64) {
        self.note_written(physical & !(PAGE - 1), PAGE);
    }

    /// Whether it has something to look at its board for.
    pub fn is_wanted(&self, board: &dyn Board) -> bool {
        self.must_attend || self.is_waiting || self.state.head(head::PENDING) != 0 || board.attention()
    }

    /// Looks at its board, between two stretches.
    pub fn look(&mut self, board: &mut dyn Board) -> Stop {
        let isa = Arc::clone(&self.isa);
        if !board.is_on() {
            return Stop::Off;
        }
        if self.is_waiting {
            if !board.attention() {
                return Stop::Waiting;
            }
            self.is_waiting = false;
        }
        self.come();
        self.attend(&isa, board);
        self.go();
        Stop::Done
    }

    fn is_where(&self, other: &Processor) -> bool {
        (self.pc, self.is_waiting) == (other.pc, other.is_waiting) && self.state.words() == other.state.words()
    }

    /// What the follower, which this is, has in other registers than the leader.
    fn differences(&self, leader: &Processor) -> Vec<(String, u64, u64)> {
        let pairs = leader.state.words().iter().zip(self.state.words()).enumerate();
        let name = |word: usize| {
            let offset = word as u32 * 8;
            let register = self.isa.registers.iter().rev().find(|it| it.offset <= offset);
            register.map_or_else(String::new, |it| format!("{}[{}]", it.name, (offset - it.offset) / it.stride.max(8)))
        };
        let differ = pairs.filter(|(_, (one, other))| one != other);
        differ.map(|(word, (one, other))| (name(word), *one, *other)).collect()
    }

    /// The bits where it is, if it has been there.
    fn word_here(&self) -> u32 {
        let physical = self.tlb.look(Access::Fetch, self.pc, self.key, self.space());
        physical.and_then(|at| self.ram.read(at, 32)).unwrap_or(0) as u32
    }
}

/// A board, and how often somebody turned to it for what may change it.
struct Counted<'b> {
    board: &'b mut dyn Board,
    accesses: u64,
}

impl Board for Counted<'_> {
    fn read(&mut self, address: u64, size: u8) -> Option<u64> {
        self.accesses += 1;
        self.board.read(address, size)
    }

    fn write(&mut self, address: u64, size: u8, value: u64) -> Option<()> {
        self.accesses += 1;
        self.board.write(address, size, value)
    }

    fn answer(&mut self, question: usize, arguments: &[u64], registers: &mut Registers<'_>) -> u64 {
        self.accesses += 1;
        self.board.answer(question, arguments, registers)
    }

    fn clock(&self) -> Clock {
        self.board.clock()
    }

    fn attention(&self) -> bool {
        self.board.attention()
    }

    fn is_on(&self) -> bool {
        self.board.is_on()
    }
}
