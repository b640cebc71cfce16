//! Attaching a toolbox to anything that runs: a shell with every tool, inside a target that has none.
//!
//! A **target** is a process with its namespaces, control groups and privileges: a cell's program, a container of another
//! engine, or any process of this machine. A **toolbox** is a root file system of its own. A session is a program of the
//! toolbox that sees all that the target sees, may do just what the target may, and changes nothing of it.
//!
//! What always holds: **fail closed** (a session that cannot be confined as its target is does not begin), **a target is
//! hostile** (paths in it are resolved inside it, and nothing of it is executed or believed with more privileges than it
//! has), **nothing is left** when a session has ended.

#![forbid(unsafe_code)]

mod confinement;
pub mod engines;
mod environment;
mod error;
mod facts;
mod inside;
mod launcher;
pub mod lazy;
mod program;
mod remains;
mod root;
mod session;
mod steward;
mod swap;
mod target;
mod usher;
mod view;

pub use confinement::{Privileges, Trust};
pub use error::{Error, Result};
pub use remains::Remains;
pub use session::{Arrangement, Tools, Wish, attach};
pub use target::{Filters, Target, Unstarted};
