//! The store from outside: what goes in comes out, whatever happens in between.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on fails")]

mod compare;
mod damage;
mod faults;
mod mount;
mod rootfs;
mod together;
