//! Trees that are mounted before they are unpacked.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on fails")]

#[path = "../../../store/tests/store/compare.rs"]
mod compare;
mod fixture;
mod posix;
mod random;
mod serving;
mod trouble;
mod whole;
