//! End-to-end tests: the binary as a user runs it, on real images, with nothing left behind.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod compare;
mod configure;
mod conformance;
mod debug;
mod debug_attacks;
mod debug_engines;
mod dump;
mod engine;
mod family;
mod hostile;
mod images;
mod jail;
mod jobs;
mod kills;
mod language;
mod lazy;
mod libraries;
mod life;
mod limits;
mod lockstep;
mod machine;
mod machine_boots;
mod machine_disks;
mod machine_forks;
mod machine_gdb;
mod machine_systemd;
mod machine_vsock;
mod machine_work;
mod meetings;
mod neighbours;
mod networks;
mod patched;
mod programs;
mod readme;
mod reference;
mod registries;
mod servers;
mod slim;
mod snapshot;
mod stack;
mod streams;
mod unikernel;
