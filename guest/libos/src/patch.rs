//! System calls without a trap: the first time that an instruction traps, what is before it is replaced by a jump to a
//! trampoline, which makes the same call and comes back behind the instruction.
//!
//! Three shapes are replaced, which are nearly all there are. A number put into the register right before the instruction,
//! or the last argument, as the C library's `syscall` does: either has five bytes, which make a jump, and the instruction
//! stays for whoever is about to execute it. And a register zeroed before it, where the jump also takes the instruction and
//! the comparison behind it; that is left alone if anybody may come back into the middle of it. No byte of the program's
//! stack is touched: below its pointer is the red zone.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use abi::layout::PAGE;

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

/// Where trampolines are, and where programs were interrupted: there, code must stay as it is.
struct Patches {
    nests: Vec<Nest>,
    interrupted: Vec<u64>,
}

static PATCHES: Local<Patches> = Local::new(Patches { nests: Vec::new(), interrupted: Vec::new() });

const NEST: usize = 64 << 10;
/// A jump reaches two gibibytes; code and its trampolines are nearer.
const NEAR: usize = 1 << 30;

const JUMP: usize = 5;
const CALL: [u8; 2] = [0x0f, 0x05];
const SET_NUMBER: u8 = 0xb8;
const ZERO: [u8; 2] = [0x31, 0xc0];
/// `mov r9, [rsp + 8]`.
const LAST_ARGUMENT: [u8; JUMP] = [0x4c, 0x8b, 0x4c, 0x24, 0x08];
/// `cmp rax, -4096`, by which callers tell errors.
const COMPARE: [u8; 6] = [0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff];

/// What is replaced.
struct Site {
    begin: usize,
    /// What is done before the call: an instruction that was replaced.
    first: [u8; JUMP],
    /// What is replaced along with the instruction, to be done in the trampoline.
    rest: &'static [u8],
    /// Where the trampoline comes back to.
    back: usize,
}

/// The program was interrupted at this instruction, to which it will come back.
pub fn note_interruption(at: u64) {
    let interrupted = &mut PATCHES.get().interrupted;
    if !interrupted.contains(&at) && interrupted.len() < 4096 {
        interrupted.push(at);
    }
}

/// Another program is loaded.
pub fn forget() {
    let mut patches = PATCHES.get();
    patches.nests.clear();
    patches.interrupted.clear();
}

/// If the call came by a trap, sees to it that the next one from there need not.
pub fn consider(frame: &mut Frame) {
    if TRAPPED.swap(false, Ordering::Relaxed)
        // In a sealed guest nobody writes into code.
        && engine::port().sealed.load(Ordering::Relaxed) == 0
        && let Some(site) = site_before(frame.rip as usize)
        // What cannot be replaced goes on trapping.
        && let Ok(trampoline) = replace(&site)
        && !site.rest.is_empty()
    {
        // What is behind the instruction is replaced, too: this call already comes back to the trampoline.
        frame.rip = (trampoline + BEHIND) as u64;
        frame.rcx = frame.rip;
    }
}

fn site_before(back: usize) -> Option<Site> {
    const LONGEST: usize = 7;
    let begin = back.checked_sub(LONGEST)?;
    if PATCHES.get().nests.iter().any(|it| (it.begin..it.begin + NEST).contains(&begin)) {
        return None;
    }
    let readable = |at: usize, length: usize| SPACE.get().is_mapped(at, length, Protection::READ | Protection::EXECUTE);
    if !readable(begin, LONGEST) {
        return None;
    }
    // SAFETY: it is readable.
    let bytes = unsafe { &*(begin as *const [u8; LONGEST]) };
    if bytes[5..] != CALL {
        return None;
    }
    let first = [bytes[0], bytes[1], bytes[2], bytes[3], bytes[4]];
    if bytes[0] == SET_NUMBER || first == LAST_ARGUMENT {
        return Some(Site { begin, first, rest: &[], back });
    }
    if bytes[3..5] != ZERO || !readable(back, COMPARE.len()) {
        return None;
    }
    // SAFETY: the same.
    let behind = unsafe { &*(back as *const [u8; COMPARE.len()]) };
    let begin = back - 4;
    let inside = begin as u64 + 1..(back + COMPARE.len()) as u64;
    let disturbed = PATCHES.get().interrupted.iter().any(|it| inside.contains(it));
    (*behind == COMPARE && !disturbed && !thread::is_any_other_within(&inside)).then_some(Site {
        begin,
        first: [SET_NUMBER, 0, 0, 0, 0],
        rest: &COMPARE,
        back: back + COMPARE.len(),
    })
}

/// In a trampoline: what is behind the call.
const BEHIND: usize = 5 + 6 + 10 + 14 + CALL.len();

/// Gives the trampoline.
fn replace(site: &Site) -> Result<usize> {
    const LONGEST: usize = 56;
    let nest = nest_near(site.begin, LONGEST)?;
    let mut code = Vec::with_capacity(LONGEST);
    // The first; mov r11d, 0x202; movabs rcx, <behind this>; jmp [rip + 0]; entry
    code.extend(site.first);
    code.extend([0x41, 0xbb, 0x02, 0x02, 0, 0]);
    code.extend([0x48, 0xb9]);
    let back = if site.rest.is_empty() { site.back } else { nest + BEHIND };
    code.extend(back.to_le_bytes());
    code.extend([0xff, 0x25, 0, 0, 0, 0]);
    code.extend((call_entry as *const () as usize).to_le_bytes());
    if !site.rest.is_empty() {
        // Where an interrupted call is made again.
        code.extend(CALL);
        code.extend(site.rest);
        code.extend(jump(nest + code.len(), site.back));
    }
    write(nest, &code)?;
    write(site.begin, &jump(site.begin, nest))?;
    Ok(nest)
}

fn jump(from: usize, to: usize) -> [u8; JUMP] {
    let [a, b, c, d] = (to.wrapping_sub(from + JUMP) as i32).to_le_bytes();
    [0xe9, a, b, c, d]
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
