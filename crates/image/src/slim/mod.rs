//! Slimming: from what a program was seen to use to the part of its image that it needs, by functions on trees.
//!
//! [`Keeper`] follows what was observed through the original tree (links, libraries, interpreters, rules about whole
//! packages) and notes **for each kept path why**; [`split`] cuts the tree in two, and [`recombine`] puts the halves
//! together again: **slim and complement are the original, digest for digest**. [`misses`] tells which look-ups of a run
//! on the slim tree would have succeeded on the original.
//!
//! Absent on purpose: running and watching anything, which is the engine's business.

mod glob;
mod keeper;
mod languages;
mod loader;
mod observed;
mod passage;
mod path;
mod profile;
mod publish;
mod reason;
mod report;
mod rules;
mod split;
mod words;
mod workload;

pub use glob::Glob;
pub use keeper::{Files, Keeper, Kept};
pub use observed::Observed;
pub use passage::passage;
pub use path::TreePath;
pub use profile::profile;
pub use publish::{Cut, cut, publish};
pub use reason::Reason;
pub use report::{Answer, KeptPath, Miss, Report, Round, Sizes, kept_paths};
pub use split::{lost_entries, misses, recombine, short_listings, split};
pub use words::words;
pub use workload::{Command, Expectation, HttpStep, RunStep, Step, TcpStep, Workload};
