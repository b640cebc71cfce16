//! The container boundary: a cell as processes of the host's own kernel, kept apart by namespaces, control groups,
//! capabilities and a system call filter.
//!
//! [`prepare`] makes everything but runs nothing of the image; [`Prepared::start`] lets the program go. Between the two
//! the caller connects the network. **The parent compiles, the child obeys**: all text, paths and decisions are made
//! before the clone; the child only makes system calls from that script and allocates nothing, so it starts in well under
//! a millisecond and is safe whatever threads the parent has. Mounts exist only in the cell's own mount namespace: when
//! its processes are gone, so are they.
//!
//! What is deliberately absent: helper programs, shells, a daemon, state on disk. The caller keeps [`cgroup::Cgroup`].

mod access;
mod attend;
pub mod cgroup;
mod child;
mod command;
mod error;
mod exec;
mod ids;
mod init;
mod layout;
mod mounts;
mod neighbour;
mod overlay;
mod path;
mod plan;
mod prepare;
mod program;
mod protocol;
mod rootfs;
mod seccomp;
mod users;
mod usher;
mod visit;

pub use access::{open_in, program_of, root_of_running, root_of_stopped};
pub use attend::Attendant;
pub use command::{Command, DEFAULT_PATH, Streams};
pub use error::{Error, Result};
pub use exec::{Target, exec, exec_as, exec_attended};
pub use plan::{Acts, Body, Inhabitant, IpcNs, NetNs, Plan, Resident, Stdio};
pub use prepare::{Prepared, Running, Words, prepare};
pub use program::capabilities_of;
pub use protocol::{Failure, Stage};
pub use rootfs::ScratchRoot;
pub use seccomp::{BASELINE, Named, announced_name, filter_of, named_paths, syscall_name, syscall_number};
pub use store::Rootfs;
pub use sys::process::Ended;
pub use sys::pty::WindowSize;
pub use usher::{Line, Memory, send_in, tell_terminal};
pub use visit::Bond;
