//! What the build has made of the descriptions that there are (`build/function.rs`): a function for each entry and each
//! instruction, which does what its plan says, and which the compiler has optimised.
//!
//! A walk through a guest's tables is two hundred operations, and so many times the interpreter decides what to do; the compiler does
//! it once. The same holds for what is done once or twice, and so is not worth translating.
//!
//! **Nothing is assumed of a description**: one that the build has not seen is interpreted operation by operation. That stays
//! ([`Mode::Evaluate`](crate::Mode::Evaluate)), because it is what these functions are compared with: it takes each operator
//! from `isa::ops`, where they are Rust of their own, and it can do a description that is being worked on.

use isa::Isa;
use isa::ops::{self, Binary, Float, Intrinsic, Saturating, Unary};
use isa::plan::{Atomic, MOST_ARGUMENTS};

use crate::board::Board;
use crate::processor::{End, Processor, Thrown};

/// What an entry is given.
pub(crate) type Arguments = [u64; MOST_ARGUMENTS];

type Entry = fn(&mut Processor, &Isa, &mut dyn Board, &Arguments) -> End;
type Instruction = fn(&mut Processor, &Isa, &mut dyn Board, u32) -> End;

/// What was made of a description.
pub(crate) struct Code {
    /// Which one: see [`Isa::digest`].
    digest: u64,
    /// By their numbers there.
    pub(crate) entries: &'static [Entry],
    /// The same.
    pub(crate) instructions: &'static [Instruction],
}

impl Code {
    /// What was made of this description.
    pub(crate) fn of(isa: &Isa) -> &'static Code {
        made::ALL.iter().find(|code| code.digest == isa.digest).unwrap_or(Code::none())
    }

    /// Nothing.
    pub(crate) const fn none() -> &'static Code {
        &Code { digest: 0, entries: &[], instructions: &[] }
    }
}

/// The value, or what is thrown instead.
macro_rules! tried {
    ($done:expr) => {
        match $done {
            Ok(value) => value,
            Err(thrown) => return End::Throw(thrown),
        }
    };
}

#[allow(
    clippy::all,
    unreachable_code,
    unused_comparisons,
    unused_assignments,
    unused_imports,
    unused_mut,
    unused_parens,
    unused_variables,
    reason = "written by a program: what a plan does not need, the compiler leaves out"
)]
mod made {
    use super::*;

    include!(concat!(env!("OUT_DIR"), "/generated.rs"));
}

#[cfg(test)]
mod tests;
