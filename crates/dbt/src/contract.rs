//! What an engine and a description call each other by: the names that every description has, and what each means.
//!
//! | entry | when an engine calls it |
//! |---|---|
//! | `reset(pc, argument, …)` | a processor is switched on |
//! | `translate(address: u64, access: u8) -> u64` | a page is not in the translation cache. `access` is an [`Access`](crate::tlb::Access), 4 more if without privileges. It gives the page's physical address, with [`found`](crate::tlb::found) below, or throws |
//! | `undefined(word: u32)` | bits are no instruction |
//! | `unreachable(address: u64, access: u8)` | nothing is at a physical address |
//! | `poll() -> u64` | the board or the description (`attend`) wants interrupts looked at: it throws if one is to be taken, and gives what waits and is masked |
//!
//! A description may have entries beside, for what a debugger wants to see of registers that are several here: who shows
//! them calls them by their names ([`Processor::ask`](crate::Processor::ask)).
//!
//! An engine answers these questions itself, and the board all others: `tlb_flush()`, `tlb_flush_page(address)`,
//! `tlb_flush_space(space)`, `wait()` for an interrupt, `attend()`, `clock()`, which is the board's [`Clock`](crate::Clock). If there is a register `address_space`, what was found
//! in one space is not used in another.
//!
//! Of processors that share their memory: the same of all of them with `_shared` behind the name, which is settled at the
//! next `settle()`; `memory_fence()`, before which all stores are done that come before it, and behind which all loads are;
//! `synchronise()`, behind which instructions are done as they stand in memory; and `relax()`, while another is waited for.
//! **The host's order of memory is taken for granted**: loads and stores are done in theirs, but for a load that passes an
//! earlier store; what changes memory as one is a fence. A processor that is alone needs no fences, and has none.
//!
//! Floating-point operations (`Op::Float`) add their flags, of [`isa::ops::float::flags`], to the register `float_flags`,
//! whose bits a description neither sets without them nor clears but by writing all of it. An engine may hold new ones
//! elsewhere as long as nothing reads or writes that register.

use isa::Isa;
use isa::plan::EntryId;

use crate::error::{Error, Result};

/// Entries by their meaning.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entries {
    pub(crate) reset: EntryId,
    pub(crate) translate: EntryId,
    pub(crate) undefined: EntryId,
    pub(crate) unreachable: EntryId,
    pub(crate) poll: EntryId,
}

impl Entries {
    pub(crate) fn of(isa: &Isa) -> Result<Entries> {
        let find = |entry: &'static str| {
            isa.entry(entry).ok_or_else(|| Error::NoEntry { architecture: isa.name.clone(), entry })
        };
        Ok(Entries {
            reset: find("reset")?,
            translate: find("translate")?,
            undefined: find("undefined")?,
            unreachable: find("unreachable")?,
            poll: find("poll")?,
        })
    }
}

/// Who answers a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    Flush,
    FlushPage,
    FlushSpace,
    FlushShared,
    FlushPageShared,
    FlushSpaceShared,
    Settle,
    Fence,
    Synchronise,
    Relax,
    Wait,
    Attend,
    Clock,
    Board,
}

impl Question {
    pub(crate) fn of(name: &str) -> Question {
        match name {
            "tlb_flush" => Question::Flush,
            "tlb_flush_page" => Question::FlushPage,
            "tlb_flush_space" => Question::FlushSpace,
            "tlb_flush_shared" => Question::FlushShared,
            "tlb_flush_page_shared" => Question::FlushPageShared,
            "tlb_flush_space_shared" => Question::FlushSpaceShared,
            "settle" => Question::Settle,
            "memory_fence" => Question::Fence,
            "synchronise" => Question::Synchronise,
            "relax" => Question::Relax,
            "wait" => Question::Wait,
            "attend" => Question::Attend,
            "clock" => Question::Clock,
            _ => Question::Board,
        }
    }
}
