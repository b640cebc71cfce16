//! Tests of the container boundary against a real kernel. They need root and `/bin/busybox`; a test that lacks them says
//! so and passes.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests")]

mod fixture;
mod limits;
mod oracle;
mod rootfs;
mod security;
mod start;
mod terminal;
mod users;
