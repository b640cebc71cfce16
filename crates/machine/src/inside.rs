//! What happens inside a machine whose host runs programs in it: a cell's.
//!
//! In the guest there is next to nothing: its kernel, and as process 1 the [`agent`], which executes system calls that it
//! is sent. **Everything that is decided is decided on the host**, by [`monitor`], the same for each architecture: the
//! mounts, the programs, their streams, their ends. A [`script`] is what the agent is sent, [`link`] the line to it.

mod agent;
mod archive;
mod copies;
mod guest;
mod kept;
mod link;
mod monitor;
mod pump;
mod renew;
mod root;
mod runner;
mod script;
mod setup;
mod spawn;
mod whole;

pub use guest::{Guest, Network, Origin};
pub use monitor::run;
pub use root::Module;
pub use whole::{DiskFile, System, boot};
