//! What is replaced around a system call instruction, and by what: decisions on bytes, which know of no memory and no
//! thread. They are checked on the host, too.
//!
//! **A place is one only if its bytes and the call itself say the same**: an instruction's bytes can be the end of another,
//! so the number that the call came with must be the one that was put into the register.

use alloc::vec::Vec;
use core::ops::Range;

pub const JUMP: usize = 5;
const CALL: [u8; 2] = [0x0f, 0x05];
const SET_NUMBER: u8 = 0xb8;
const ZERO: [u8; 2] = [0x31, 0xc0];
/// `mov r9, [rsp + 8]`.
const LAST_ARGUMENT: [u8; JUMP] = [0x4c, 0x8b, 0x4c, 0x24, 0x08];
/// `cmp rax, -4096`, by which callers tell errors.
const COMPARE: [u8; 6] = [0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff];

/// In a trampoline of a site with a rest: what is behind the call.
pub const BEHIND: usize = 5 + 6 + 10 + 14 + CALL.len();

/// No trampoline is longer.
pub const LONGEST: usize = 56;

/// What is replaced.
pub struct Site {
    pub begin: usize,
    /// What is done before the call: an instruction that was replaced.
    first: [u8; JUMP],
    /// What is replaced along with the instruction, to be done in the trampoline.
    rest: &'static [u8],
    /// Where the trampoline comes back to.
    back: usize,
}

/// What is before the call instruction that ends at `back` and came with that number, if it is to be replaced. `read` copies
/// code from an address, if it can be read as such; `is_within` tells whether anybody will come back to one of these.
pub fn before(
    back: usize,
    number: u64,
    read: impl Fn(usize, &mut [u8]) -> Option<()>,
    is_within: impl FnOnce(&Range<u64>) -> bool,
) -> Option<Site> {
    const LONGEST: usize = 7;
    let begin = back.checked_sub(LONGEST)?;
    let mut bytes = [0; LONGEST];
    read(begin, &mut bytes)?;
    if bytes[JUMP..] != CALL {
        return None;
    }
    let [set, a, b, c, d, ..] = bytes;
    let first = [set, a, b, c, d];
    let sets_number = set == SET_NUMBER && u64::from(u32::from_le_bytes([a, b, c, d])) == number;
    // What cannot be read is no part of the instruction.
    let mut prefix = [0];
    let _ = begin.checked_sub(1).and_then(|at| read(at, &mut prefix));
    if sets_number && !names_another_register(prefix[0]) || first == LAST_ARGUMENT {
        return Some(Site { begin, first, rest: &[], back });
    }
    if [c, d] != ZERO || number != 0 || names_another_register(b) {
        return None;
    }
    let mut behind = [0; COMPARE.len()];
    read(back, &mut behind)?;
    let begin = back - ZERO.len() - CALL.len();
    let end = back + COMPARE.len();
    let is_whole = behind == COMPARE && !is_within(&(begin as u64 + 1..end as u64));
    is_whole.then_some(Site { begin, first: [SET_NUMBER, 0, 0, 0, 0], rest: &COMPARE, back: end })
}

/// Whether with that byte before it an instruction on eax is one on a register that was added later.
fn names_another_register(prefix: u8) -> bool {
    const REGISTER: u8 = 4;
    const BASE: u8 = 1;
    prefix & 0xf0 == 0x40 && prefix & (REGISTER | BASE) != 0
}

impl Site {
    /// Whether what is behind the instruction is replaced, too, so that whoever is in the call must come back to
    /// [`BEHIND`].
    pub fn takes_the_call(&self) -> bool {
        !self.rest.is_empty()
    }

    /// What the trampoline is if it stands there, and calls are answered at `entry`.
    pub fn trampoline(&self, here: usize, entry: usize) -> Vec<u8> {
        let mut code = Vec::with_capacity(LONGEST);
        // The first; mov r11d, 0x202; movabs rcx, <behind this>; jmp [rip + 0]; entry
        code.extend(self.first);
        code.extend([0x41, 0xbb, 0x02, 0x02, 0, 0]);
        code.extend([0x48, 0xb9]);
        let back = if self.takes_the_call() { here + BEHIND } else { self.back };
        code.extend(back.to_le_bytes());
        code.extend([0xff, 0x25, 0, 0, 0, 0]);
        code.extend(entry.to_le_bytes());
        if self.takes_the_call() {
            // Where an interrupted call is made again.
            code.extend(CALL);
            code.extend(self.rest);
            code.extend(jump(here + code.len(), self.back));
        }
        code
    }

    /// What stands at its begin from then on.
    pub fn jump(&self, trampoline: usize) -> [u8; JUMP] {
        jump(self.begin, trampoline)
    }
}

fn jump(from: usize, to: usize) -> [u8; JUMP] {
    let [a, b, c, d] = (to.wrapping_sub(from + JUMP) as i32).to_le_bytes();
    [0xe9, a, b, c, d]
}

/// Where programs were interrupted: there, code must stay as it is.
pub struct Interrupted(Vec<u64>);

impl Interrupted {
    /// So many places are known one by one.
    pub const MOST: usize = 4096;

    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// The program will come back to this instruction.
    pub fn note(&mut self, at: u64) {
        if self.0.len() < Self::MOST && !self.0.contains(&at) {
            self.0.push(at);
        }
    }

    /// Whether the program may come back to one of these. Where there are too many places to know, it may to any.
    pub fn is_any_within(&self, addresses: &Range<u64>) -> bool {
        self.0.len() == Self::MOST || self.0.iter().any(|it| addresses.contains(it))
    }

    /// Another program is loaded.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}
