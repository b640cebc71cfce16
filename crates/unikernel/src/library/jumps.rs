//! Jumps at the beginnings of the old functions, for whoever has their addresses where nobody knows.

use std::collections::BTreeMap;

use super::Trouble;
use super::elf::{Bytes, EXECUTE};
use super::linked::Kind;
use super::plan::Planner;

/// As long as a jump is.
const JUMP: u64 = 5;

impl Planner<'_> {
    /// What is put at the beginnings of the old functions. One too short for a jump, and one that may jump into its own
    /// beginning, where somebody may come back to, stays as it is: whoever has its address uses the old one.
    pub(crate) fn jumps(&self) -> Result<Vec<(u64, Vec<u8>)>, Trouble> {
        let linked = &self.old.linked;
        let mut targets: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for (index, symbol) in linked.exported().filter(|(_, it)| it.kind() == Kind::Function) {
            let new = self.new.linked.find(linked.name(symbol), linked.version(index));
            if let Some(new) = new.filter(|it| it.kind() == Kind::Function) {
                targets.entry(symbol.value).or_insert((symbol.size, new.value));
            }
        }
        let places: Vec<u64> = targets.keys().copied().collect();
        let mut jumps = Vec::new();
        for (at, (size, new)) in targets {
            let next = places.get(places.partition_point(|it| *it <= at)).copied().unwrap_or(u64::MAX);
            let Some(code) = self.code_of(at, size) else { continue };
            let fits = next - at >= JUMP && (size >= JUMP || is_filling(code.get(size as usize..JUMP as usize)));
            if !fits || comes_back_to_its_beginning(&code) {
                continue;
            }
            let (from, to) = (self.old.base.wrapping_add(at), self.base.wrapping_add(new));
            let Ok(distance) = i32::try_from(to.wrapping_sub(from + JUMP) as i64) else { continue };
            let mut jump = vec![0xe9];
            jump.extend(distance.to_le_bytes());
            jumps.push((from, jump));
        }
        let begins: Vec<u64> = jumps.iter().map(|it| it.0).collect();
        let is_within = |word: u64| {
            let before = begins.partition_point(|it| *it < word).checked_sub(1).and_then(|it| begins.get(it));
            before.is_some_and(|it| word - it < JUMP)
        };
        if self.standing.is_held_by_threads(is_within) {
            return Err(Trouble::NotNow("a thread is at the beginning of a function"));
        }
        Ok(jumps)
    }

    /// A function's code, or as much as a jump takes of a short one.
    fn code_of(&self, at: u64, size: u64) -> Option<Vec<u8>> {
        let length = size.max(JUMP);
        self.shape.segment(at, length).filter(|it| it.rights & EXECUTE != 0)?;
        self.old.bytes.bytes(at, length).ok()
    }
}

/// Whether those bytes are what compilers fill the room between functions with.
fn is_filling(bytes: Option<&[u8]>) -> bool {
    bytes.is_some_and(|it| it.iter().all(|it| matches!(it, 0x90 | 0xcc | 0x66 | 0x0f | 0x1f | 0x2e | 0x40 | 0x44 | 0)))
}

/// Whether a function may jump into its own first bytes but the very first: told by whatever looks like a jump in it.
fn comes_back_to_its_beginning(code: &[u8]) -> bool {
    let inside = |target: i64| (1..JUMP as i64).contains(&target);
    code.iter().enumerate().any(|(at, byte)| {
        let near = |from: usize| {
            let distance = code.get(from..from + 4)?.try_into().ok().map(i32::from_le_bytes)?;
            Some((from + 4) as i64 + i64::from(distance))
        };
        let target = match (*byte, code.get(at + 1)) {
            (0xeb | 0x70..=0x7f | 0xe0..=0xe3, Some(distance)) => {
                Some((at + 2) as i64 + i64::from(i8::from_le_bytes([*distance])))
            }
            (0x0f, Some(0x80..=0x8f)) => near(at + 2),
            (0xe8 | 0xe9, _) => near(at + 1),
            _ => None,
        };
        target.is_some_and(inside)
    })
}
