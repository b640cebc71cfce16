//! System calls without a trap: the first time that an instruction traps, what is before it is replaced by a jump to a
//! trampoline, which makes the same call and comes back behind the instruction. Most instructions never do: where the tender
//! has a copy of a file's code in which that was done before ([`abi::patched`]), the copy is what is mapped.
//!
//! Three shapes are replaced, which are nearly all there are. A number put into the register right before the instruction,
//! or the last argument, as the C library's `syscall` does: either has five bytes, which make a jump, and the instruction
//! stays for whoever is about to execute it. And a register zeroed before it, where the jump also takes the instruction and
//! the comparison behind it; that is left alone if anybody may come back into the middle of it. No byte of the program's
//! stack is touched: below its pointer is the red zone.

mod site;

use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};

use abi::layout::PAGE;

use self::site::{Interrupted, Site};
use crate::engine::{self, Source};
use crate::entry::call_entry;
use crate::errno::{EFAULT, Result};
use crate::frame::Frame;
use crate::space::{Place, Protection, SPACE};
use crate::sync::Local;
use crate::thread;

/// Set by the ways in that begin with a trap.
#[unsafe(no_mangle)]
pub static TRAPPED: AtomicBool = AtomicBool::new(false);

/// Room for trampolines near the code that needs them.
struct Nest {
    begin: usize,
    used: usize,
}

/// Where trampolines are, and where programs were interrupted.
struct Patches {
    nests: Vec<Nest>,
    interrupted: Interrupted,
}

static PATCHES: Local<Patches> = Local::new(Patches { nests: Vec::new(), interrupted: Interrupted::new() });

const NEST: usize = 64 << 10;
/// A jump reaches two gibibytes; code and its trampolines are nearer.
const NEAR: usize = 1 << 30;

/// The program was interrupted at this instruction, to which it will come back.
pub fn note_interruption(at: u64) {
    PATCHES.get().interrupted.note(at);
}

/// Another program is loaded.
pub fn forget() {
    let mut patches = PATCHES.get();
    patches.nests.clear();
    patches.interrupted.clear();
}

/// If the call came by a trap, sees to it that the next one from there need not.
pub fn consider(frame: &mut Frame) {
    if !TRAPPED.swap(false, Ordering::Relaxed) {
        return;
    }
    engine::port().traps.fetch_add(1, Ordering::Relaxed);
    // In a sealed guest nobody writes into code.
    if engine::port().sealed.load(Ordering::Relaxed) == 0
        && let Some(site) = site_before(frame.rip as usize, frame.call)
        // What cannot be replaced goes on trapping.
        && let Ok(trampoline) = replace(&site)
        && site.takes_the_call()
    {
        // What is behind the instruction is replaced, too: this call already comes back to the trampoline.
        frame.rip = (trampoline + site::BEHIND) as u64;
        frame.rcx = frame.rip;
    }
}

fn site_before(back: usize, number: u64) -> Option<Site> {
    let is_trampolines = |nest: &Nest| (nest.begin..nest.begin + NEST).contains(&back);
    if PATCHES.get().nests.iter().any(is_trampolines) {
        return None;
    }
    let read = |at: usize, into: &mut [u8]| {
        let readable = SPACE.get().is_mapped(at, into.len(), Protection::READ | Protection::EXECUTE);
        // SAFETY: it is readable, and nothing else runs.
        readable.then(|| unsafe { core::ptr::copy_nonoverlapping(at as *const u8, into.as_mut_ptr(), into.len()) })
    };
    let is_within = |addresses: &Range<u64>| {
        PATCHES.get().interrupted.is_any_within(addresses) || thread::is_any_other_within(addresses)
    };
    site::before(back, number, read, is_within)
}

/// Gives the trampoline.
fn replace(site: &Site) -> Result<usize> {
    let nest = nest_near(site.begin, site::LONGEST)?;
    write(nest, &site.trampoline(nest, call_entry as *const () as usize))?;
    write(site.begin, &site.jump(nest))?;
    Ok(nest)
}

/// Writes into code. Whatever may be done with it otherwise, may be done with it afterwards.
fn write(at: usize, bytes: &[u8]) -> Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        let here = at + done;
        let part = (PAGE - here % PAGE).min(bytes.len() - done);
        let rights = SPACE.get().rights(here).ok_or(EFAULT)?;
        engine::rewrite(here, &bytes[done..done + part], rights)?;
        done += part;
    }
    Ok(())
}

/// Room for a trampoline that a jump at `site` reaches.
fn nest_near(site: usize, length: usize) -> Result<usize> {
    let mut patches = PATCHES.get();
    let near = |nest: &&mut Nest| nest.begin.abs_diff(site) < NEAR && nest.used + length <= NEST;
    if let Some(nest) = patches.nests.iter_mut().find(near) {
        nest.used += length;
        return Ok(nest.begin + nest.used - length);
    }
    let mut space = SPACE.get();
    let begin = space.gap_below(site, NEST, NEAR).ok_or(crate::errno::ENOMEM)?;
    let rights = Protection::READ | Protection::EXECUTE;
    let begin = space.map(Place::AtFree(begin), NEST, rights, Source::Anonymous)?;
    patches.nests.push(Nest { begin, used: length });
    Ok(begin)
}
