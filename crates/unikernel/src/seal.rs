//! Which calls of the host a family makes, and which it may make.
//!
//! What was called is always noted, so that a family that has warmed up can say what it needed. A sealed family makes the
//! calls of its seal and no others: the tender refuses them, **outside of the guest's reach**. That no new code appears is
//! refused here for files, in the guest's library operating system for an honest program, and for one that has taken over
//! its whole guest by the page tables, which the tender writes ([`crate::kvm`]).

use std::sync::atomic::{AtomicU64, Ordering};

use abi::call;

/// What a family may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// The system calls of the host that it may make, by number.
    pub calls: Vec<u32>,
    /// Whether code may come up after its start.
    pub code: Code,
}

/// Whether there may be new executable memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// None.
    Fixed,
    /// The program makes its own.
    Generated,
}

/// In the number of a call that was refused: it is one that is implemented, and outside of the seal.
pub const OUTSIDE: u32 = call::OUTSIDE;

const WORDS: usize = 8;
const EXECUTE: u64 = 4;

/// What a family calls and may call.
pub(crate) struct Gate {
    seen: [AtomicU64; WORDS],
    allowed: [u64; WORDS],
    code: Code,
}

impl Gate {
    pub(crate) fn new(seal: Option<&Seal>) -> Self {
        let mut allowed = [if seal.is_some() { 0 } else { u64::MAX }; WORDS];
        for number in seal.iter().flat_map(|it| &it.calls) {
            if let Some(word) = allowed.get_mut(*number as usize / 64) {
                *word |= 1 << (number % 64);
            }
        }
        Self { seen: Default::default(), allowed, code: seal.map_or(Code::Generated, |it| it.code) }
    }

    /// What of Linux's that is, for what a guest asks in words of its own.
    fn linux(number: u32, arguments: [u64; 6]) -> Option<u32> {
        match number {
            call::FORK if arguments[0] == call::FORK_AS_CHILD => Some(libc::SYS_fork as u32),
            call::EXECUTED => Some(libc::SYS_execve as u32),
            _ => (number < call::BOOT).then_some(number),
        }
    }

    /// Notes a call. Gives its number if it is refused.
    pub(crate) fn refuses(&self, number: u32, arguments: [u64; 6]) -> Option<u32> {
        if number == call::MAP && arguments[3] & EXECUTE != 0 && self.code == Code::Fixed {
            return Some(libc::SYS_mmap as u32);
        }
        let number = Self::linux(number, arguments)?;
        let bit = 1 << (number % 64);
        let (Some(seen), Some(allowed)) = (self.seen.get(number as usize / 64), self.allowed.get(number as usize / 64))
        else {
            // There is none.
            return None;
        };
        if seen.load(Ordering::Relaxed) & bit == 0 {
            seen.fetch_or(bit, Ordering::Relaxed);
        }
        (allowed & bit == 0).then_some(number)
    }

    /// Whether no new code may come up.
    pub(crate) fn is_code_fixed(&self) -> bool {
        self.code == Code::Fixed
    }

    /// What was called so far.
    pub(crate) fn seen(&self) -> Vec<u32> {
        let words = self.seen.each_ref().map(|it| it.load(Ordering::Relaxed));
        (0..WORDS as u32 * 64).filter(|it| words[*it as usize / 64] >> (it % 64) & 1 != 0).collect()
    }

    /// Whether no new code may come up, as the guest is told.
    pub(crate) fn code(&self) -> u32 {
        u32::from(self.is_code_fixed())
    }

    /// Whether anything is refused.
    pub(crate) fn is_closed(&self) -> bool {
        self.allowed != [u64::MAX; WORDS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_lets_through_what_it_names() {
        let open = Gate::new(None);
        let closed = Gate::new(Some(&Seal { calls: vec![0, 1, 231], code: Code::Fixed }));
        let exec_map = [3, 0, 4096, EXECUTE, 0, 0];
        let cases = [
            (0, [0; 6], None),
            (231, [0; 6], None),
            (2, [0; 6], Some(2)),
            (41, [0; 6], Some(41)),
            (call::WAIT, [0; 6], None),
            (call::FORK, [call::FORK_AS_CELL, 0, 0, 0, 0, 0], None),
            (call::FORK, [call::FORK_AS_CHILD, 0, 0, 0, 0, 0], Some(57)),
            (call::MAP, exec_map, Some(9)),
            (call::MAP, [3, 0, 4096, 1, 0, 0], None),
            (4000, [0; 6], None),
            (u32::MAX, [0; 6], None),
        ];
        for (number, arguments, refused) in cases {
            assert_eq!(closed.refuses(number, arguments), refused, "{number}");
            assert_eq!(open.refuses(number, arguments), None, "{number}");
        }
        assert_eq!(open.seen(), [0, 2, 41, 57, 231]);
        assert!(closed.is_closed() && !open.is_closed());
    }
}
