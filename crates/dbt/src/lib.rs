//! Processors that are made from descriptions.
//!
//! `isa` compiles a description to tables; here they are executed. [`Processor`] interprets them: it is the oracle that
//! every faster way is compared with. The build makes Rust of them, which does the same faster, and a translator code of the host's.
//!
//! **Invariant: nothing here knows an architecture.** What differs between two is in their descriptions (`/isa`), and what a
//! description leaves to the machine around it is asked of the [`Board`].

mod board;
mod clock;
mod contract;
mod error;
mod generated;
mod hear;
mod interpreter;
mod lockstep;
mod memory;
mod peers;
mod processor;
mod questions;
pub mod ram;
mod saved;
mod state;
pub mod tlb;
mod translate;

pub use board::{Board, Registers};
pub use clock::Clock;
pub use error::{Error, Result};
pub use lockstep::{Difference, Followed, Led, Stretch};
pub use peers::Forget;
pub use processor::{Mode, Outcome, Processor, Stop, Until};
pub use ram::Ram;
pub use saved::SavedProcessor;
pub use state::State;
pub use translate::Translations;
