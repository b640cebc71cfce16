//! The copy of a file's code in which system calls are jumps: a decision on the file's bytes, and on nothing else.
//!
//! What is before a call becomes a jump to a trampoline that does the same and comes back behind the call, only if all of this
//! holds: from the beginning of the function on, one instruction ends where the next begins, up to the call; what is replaced
//! are whole instructions that do the same anywhere; and nothing can lead between them. Unless it is the one instruction that
//! nearly all calls have before them, that takes a function that is known to its end, as long as who made the file says that it is:
//! no direct jump anywhere in the code leads between, the function has none to where a register says, and no exception leads
//! into it. **The call itself stays**, for whoever was interrupted in it, and for whoever looks at where a thread is; but for one
//! shape that leaves no room (a zeroed register, the call and the comparison behind it), which is replaced as the library
//! operating system replaces it.

use std::ops::Range;

use abi::layout::PATCHED_ENTRY;
use abi::patched::Nest;

use super::elf::{self, Landing, Text};
use super::instruction::{self, Instruction, Kind};

/// Another number whenever the same file would give another copy.
pub(super) const VERSION: u32 = 1;

const PAGE: usize = 4096;
const CALL: [u8; 2] = [0x0f, 0x05];
const JUMP: usize = 5;
const SET_NUMBER: u8 = 0xb8;
/// `mov r9, [rsp + 8]`.
const LAST_ARGUMENT: [u8; JUMP] = [0x4c, 0x8b, 0x4c, 0x24, 0x08];
/// A register zeroed, the call, and how callers tell errors.
const ZERO: [u8; 10] = [0x31, 0xc0, 0x0f, 0x05, 0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff];
/// Where in that the call ends.
const ZERO_CALL: usize = 4;
/// How a signal's frame is left, which whoever unwinds a stack knows by its bytes: `mov eax, 15` in both of its forms.
const SIGNAL_RETURN: [&[u8]; 2] = [&[0xb8, 15, 0, 0, 0], &[0xc7, 0xc0, 15, 0, 0, 0]];
/// The trampolines of code that may be anywhere are so far below it: where a loader puts libraries side by side, theirs are
/// side by side, too, and out of the way.
const BELOW: i64 = 256 << 20;
/// A jump reaches two gibibytes.
const NEAR: i64 = 1 << 30;

/// A copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Copy {
    /// Of which part of the file: where it begins, in bytes.
    pub(super) offset: u64,
    /// How long that is, in bytes of whole pages.
    pub(super) length: u64,
    /// Where its trampolines belong.
    pub(super) nest: Nest,
    /// The code, and the trampolines behind it.
    pub(super) bytes: Vec<u8>,
    /// What is replaced, as places in the code, in order.
    pub(super) places: Vec<Place>,
}

/// What is replaced before a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) begin: usize,
    /// Behind the call instruction.
    pub(super) back: usize,
    /// For a call that is not left where it is: up to where it is replaced along with what is behind it.
    pub(super) end: Option<usize>,
}

/// The copy of that file's code; nothing when there is nothing to replace in it.
pub(super) fn copy(file: &[u8]) -> Option<Copy> {
    let text = Text::of(file)?;
    let (begin, length) = (text.part.start as usize, (text.part.end - text.part.start) as usize);
    let distance = match text.fixed {
        Some(end) => i64::try_from(end.checked_sub(text.address)?).ok().filter(|it| *it < NEAR)?,
        None => -BELOW,
    };
    let mut bytes = vec![0; length];
    let there = file.get(begin..file.len().min(begin + length))?;
    bytes[..there.len()].copy_from_slice(there);
    let places = places(&bytes, &text);
    if places.is_empty() {
        return None;
    }
    let mut nest = stub().to_vec();
    for place in &places {
        let here = distance + nest.len() as i64;
        nest.extend(trampoline(&bytes, place, here, distance));
        bytes[place.begin..place.begin + JUMP].copy_from_slice(&jump(place.begin as i64, here));
    }
    nest.resize(nest.len().next_multiple_of(PAGE), 0xcc);
    let pages = u16::try_from(nest.len() / PAGE).ok()?;
    bytes.extend(nest);
    let nest = Nest { distance: (distance / PAGE as i64) as i32, pages };
    Some(Copy { offset: text.part.start, length: length as u64, nest, bytes, places })
}

/// What is done in the place of what is replaced. Distances are those in memory: from the beginning of the code.
fn trampoline(code: &[u8], place: &Place, here: i64, stub: i64) -> Vec<u8> {
    const LOAD: usize = 7;
    let call = place.back - CALL.len();
    let mut all = code[place.begin..call].to_vec();
    let loaded = here + (all.len() + LOAD) as i64;
    let back = match place.end {
        None => place.back as i64,
        // Behind the call in here, which is for whoever was interrupted.
        Some(_) => loaded + (JUMP + CALL.len()) as i64,
    };
    // lea rcx, [rip + …]
    all.extend([0x48, 0x8d, 0x0d]);
    all.extend(((back - loaded) as i32).to_le_bytes());
    all.extend(jump(loaded, stub));
    if let Some(end) = place.end {
        all.extend(CALL);
        all.extend(&code[place.back..end]);
        all.extend(jump(here + all.len() as i64, end as i64));
    }
    all
}

fn jump(from: i64, to: i64) -> [u8; JUMP] {
    let [a, b, c, d] = ((to - (from + JUMP as i64)) as i32).to_le_bytes();
    [0xe9, a, b, c, d]
}

/// At the beginning of the trampolines: `movabs r11, PATCHED_ENTRY; jmp [r11]`.
fn stub() -> [u8; 16] {
    let mut code = [0xcc; 16];
    code[..2].copy_from_slice(&[0x49, 0xbb]);
    code[2..10].copy_from_slice(&PATCHED_ENTRY.to_le_bytes());
    code[10..13].copy_from_slice(&[0x41, 0xff, 0x23]);
    code
}

/// What is replaced, in order.
fn places(code: &[u8], text: &Text) -> Vec<Place> {
    let base = text.part.start as usize;
    let read = |it: &elf::Function| Function::read(code, it.part.start - base..it.part.end - base, it.landing);
    let mut targets = Vec::new();
    for it in &text.functions {
        targets.extend(read(it).targets());
    }
    targets.sort_unstable();
    let has_call =
        |it: &&elf::Function| code[it.part.start - base..it.part.end - base].windows(CALL.len()).any(|it| it == CALL);
    text.functions.iter().filter(has_call).flat_map(|it| read(it).places(code, &targets)).collect()
}

/// A function, instruction by instruction, as far as each is known.
struct Function {
    /// Where each begins.
    all: Vec<(usize, Instruction)>,
    end: usize,
    /// Whether all that may lead into its middle is known.
    is_known: bool,
}

impl Function {
    fn read(code: &[u8], part: Range<usize>, landing: Landing) -> Self {
        let mut all = Vec::new();
        let mut at = part.start;
        while let Some(it) = code.get(at..part.end).and_then(instruction::read) {
            all.push((at, it));
            at += it.length;
        }
        let jumps_anywhere = all.iter().any(|it| it.1.kind == Kind::Anywhere);
        let is_known = at == part.end && landing == Landing::None && !jumps_anywhere;
        Self { all, end: part.end, is_known }
    }

    /// Where it jumps to and calls.
    fn targets(&self) -> impl Iterator<Item = usize> {
        let target = |(at, it): &(usize, Instruction)| usize::try_from((at + it.length) as i64 + it.jump?).ok();
        self.all.iter().filter_map(target)
    }

    /// What is replaced in it. `targets` is where anything jumps to.
    fn places(&self, code: &[u8], targets: &[usize]) -> Vec<Place> {
        let mut places = Vec::new();
        let mut free = 0;
        for (index, _) in self.all.iter().enumerate().filter(|it| it.1.1.kind == Kind::Call) {
            let is_jumped_into = |from: usize, to: usize| {
                targets.get(targets.partition_point(|it| *it <= from)).is_some_and(|it| *it < to)
            };
            let place = self.before(code, index).or_else(|| self.around(code, index));
            let last = |it: &Place| it.end.unwrap_or(it.back);
            let is_right = |it: &Place| {
                let changed = it.end.unwrap_or(it.back - CALL.len());
                it.begin >= free && last(it) <= self.end && !is_jumped_into(it.begin, changed)
            };
            if let Some(place) = place.filter(is_right) {
                free = last(&place);
                places.push(place);
            }
        }
        places
    }

    /// The instructions before the call that is of that number: as few as make room for a jump.
    fn before(&self, code: &[u8], index: usize) -> Option<Place> {
        let call = self.all[index].0;
        let movable = self.all[..index].iter().rev().take_while(|(_, it)| it.kind == Kind::Movable);
        let begin = movable.map(|it| it.0).find(|it| call - it >= JUMP)?;
        let is_signals = SIGNAL_RETURN.iter().any(|it| code[..call].ends_with(it));
        let is_right = is_usual(&code[begin..call]) || self.is_known;
        (is_right && !is_signals).then_some(Place { begin, back: call + CALL.len(), end: None })
    }

    /// The shape that takes the call with it.
    fn around(&self, code: &[u8], index: usize) -> Option<Place> {
        let begin = self.all.get(index.checked_sub(1)?)?.0;
        let end = begin + ZERO.len();
        let is_zero = code.get(begin..end)? == ZERO && self.all[index].0 == begin + ZERO_CALL - CALL.len();
        (is_zero && self.is_known).then_some(Place { begin, back: begin + ZERO_CALL, end: Some(end) })
    }
}

/// Whether those bytes are what nearly all calls have before them, and nothing else has: data among code, which a decoder takes
/// for instructions, is not taken for that. One instruction is nothing that could be led into.
fn is_usual(before: &[u8]) -> bool {
    match before {
        [SET_NUMBER, number @ ..] if number.len() == 4 => number[2..] == [0, 0] && number[1] < 4,
        _ => before == LAST_ARGUMENT,
    }
}
