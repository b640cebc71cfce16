//! The one home of raw system calls.
//!
//! Everything above this crate is safe Rust: what the kernel offers and `rustix` does not wrap is wrapped here, each call
//! with the reason why it is sound. Nothing here decides anything: policy (which namespaces, which capabilities, which
//! cgroup) belongs to the callers. **Errors are the kernel's own numbers** ([`rustix::io::Errno`]); callers add the words.
//!
//! Functions marked *fork-safe* neither allocate nor take a lock, so they may be called between [`fork::spawn`] and
//! `exec` even when the parent had other threads.

pub mod capability;
pub mod cgroup;
pub mod exec;
pub mod file_identity;
pub mod fork;
pub mod limit;
