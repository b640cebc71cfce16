//! The copy of a file's code in which system calls are jumps: a decision on the file's bytes, and on nothing else.
//!
//! A place is replaced only if all of this holds: from the beginning of its function on, one instruction after the other, one
//! ends where the five bytes begin; those put the call's number, or its last argument, into the register, and the call is
//! right behind; and nothing in the function jumps between. Whoever was interrupted anywhere finds what he left: **only the
//! five bytes of one instruction become one jump**, and the call stays for whoever is about to make it.

use std::collections::BTreeMap;

use abi::layout::PATCHED_ENTRY;
use abi::patched::Nest;

use super::elf::Text;
use super::instruction::{self, Instruction};

/// Another number whenever the same file would give another copy.
pub(super) const VERSION: u32 = 1;

const PAGE: usize = 4096;
const CALL: [u8; 2] = [0x0f, 0x05];
const JUMP: usize = 5;
/// What is replaced, and the call behind it.
const PLACE: usize = JUMP + CALL.len();
const SET_NUMBER: u8 = 0xb8;
/// `mov r9, [rsp + 8]`.
const LAST_ARGUMENT: [u8; JUMP] = [0x4c, 0x8b, 0x4c, 0x24, 0x08];
/// Numbers that system calls can have.
const NUMBERS: std::ops::Range<u32> = 0..1024;
/// Whoever unwinds a stack knows a signal's frame by the bytes of this call.
const SIGNAL_RETURN: u32 = 15;
/// The trampolines of code that may be anywhere are so far below it: where a loader puts libraries side by side, theirs are
/// side by side, too, and out of the way.
const BELOW: i64 = 256 << 20;
/// A jump reaches two gibibytes.
const NEAR: i64 = 1 << 30;
/// At the beginning of the trampolines: `movabs r11, PATCHED_ENTRY; jmp [r11]`.
const STUB: usize = 16;
const TRAMPOLINE: usize = JUMP + 7 + JUMP;

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
    /// How many calls are jumps.
    pub(super) calls: usize,
}

/// The copy of that file's code; nothing when there is nothing to replace in it.
pub(super) fn copy(file: &[u8]) -> Option<Copy> {
    let text = Text::of(file)?;
    let places = places(file, &text);
    let length = (text.part.end - text.part.start) as usize;
    let pages = (STUB + places.len() * TRAMPOLINE).div_ceil(PAGE);
    let distance = match text.fixed {
        Some(end) => i64::try_from(end.checked_sub(text.address)?).ok().filter(|it| *it < NEAR)?,
        None => -BELOW,
    };
    if places.is_empty() {
        return None;
    }
    let nest = Nest { distance: (distance / PAGE as i64) as i32, pages: u16::try_from(pages).ok()? };
    let mut bytes = vec![0; length + nest.length()];
    let begin = text.part.start as usize;
    let there = file.get(begin..file.len().min(begin + length))?;
    bytes[..there.len()].copy_from_slice(there);
    bytes[length..length + STUB].copy_from_slice(&stub());
    for (index, place) in places.iter().map(|it| it - begin).enumerate() {
        // Distances are those in memory, where the trampolines are not behind the code.
        let inside = STUB + index * TRAMPOLINE;
        let here = distance + inside as i64;
        let mut code = [0; TRAMPOLINE];
        code[..JUMP].copy_from_slice(&bytes[place..place + JUMP]);
        // lea rcx, [rip + …]: behind the call.
        code[JUMP..JUMP + 3].copy_from_slice(&[0x48, 0x8d, 0x0d]);
        let back = (place + PLACE) as i64 - (here + JUMP as i64 + 7);
        code[JUMP + 3..JUMP + 7].copy_from_slice(&(back as i32).to_le_bytes());
        code[JUMP + 7..].copy_from_slice(&jump(here + JUMP as i64 + 7, distance));
        bytes[length + inside..length + inside + TRAMPOLINE].copy_from_slice(&code);
        bytes[place..place + JUMP].copy_from_slice(&jump(place as i64, here));
    }
    Some(Copy { offset: text.part.start, length: length as u64, nest, bytes, calls: places.len() })
}

fn jump(from: i64, to: i64) -> [u8; JUMP] {
    let [a, b, c, d] = ((to - (from + JUMP as i64)) as i32).to_le_bytes();
    [0xe9, a, b, c, d]
}

fn stub() -> [u8; STUB] {
    let mut code = [0xcc; STUB];
    code[..2].copy_from_slice(&[0x49, 0xbb]);
    code[2..10].copy_from_slice(&PATCHED_ENTRY.to_le_bytes());
    code[10..13].copy_from_slice(&[0x41, 0xff, 0x23]);
    code
}

/// Where calls are that become jumps, as places in the file, in order.
fn places(file: &[u8], text: &Text) -> Vec<usize> {
    let mut by_function: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for at in text.code.clone().take(text.code.len().saturating_sub(PLACE - 1)) {
        let function = || text.starts[..text.starts.partition_point(|it| *it <= at)].last();
        if is_place(&file[at..at + PLACE])
            && let Some(begin) = function()
        {
            by_function.entry(*begin).or_default().push(at);
        }
    }
    let mut places = Vec::new();
    for (begin, seeming) in by_function {
        let next = text.starts.partition_point(|it| *it <= begin);
        let end = text.starts.get(next).copied().unwrap_or(text.code.end);
        places.extend(confirmed(&file[begin..end], &seeming, begin));
    }
    places
}

fn is_place(bytes: &[u8]) -> bool {
    let [a, b, c, d, e, rest @ ..] = bytes else { return false };
    let number = u32::from_le_bytes([*b, *c, *d, *e]);
    let sets_number = *a == SET_NUMBER && NUMBERS.contains(&number) && number != SIGNAL_RETURN;
    rest == CALL && (sets_number || bytes[..JUMP] == LAST_ARGUMENT)
}

/// Those of some places in a function that are what they seem.
fn confirmed(function: &[u8], seeming: &[usize], begin: usize) -> Vec<usize> {
    let mut boundaries = Vec::new();
    let mut targets = Vec::new();
    let mut at = 0;
    while let Some(Instruction { length, jump }) = function.get(at..).and_then(instruction::read) {
        boundaries.push(at);
        targets.extend(jump.and_then(|it| usize::try_from((at + length) as i64 + it).ok()));
        at += length;
    }
    targets.sort_unstable();
    let is_right = |place: &usize| {
        let at = place - begin;
        let is_boundary = |it: usize| boundaries.binary_search(&it).is_ok();
        let first = targets.partition_point(|it| *it <= at);
        let jumped_into = targets.get(first).is_some_and(|it| *it < at + JUMP);
        is_boundary(at) && is_boundary(at + JUMP) && !jumped_into
    };
    seeming.iter().copied().filter(is_right).collect()
}
