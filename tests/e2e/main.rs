//! End-to-end tests: the binary as a user runs it, on real images, with nothing left behind.

#![expect(clippy::print_stderr, reason = "a skipped test says so")]

mod engine;
mod images;
mod language;
mod life;
mod limits;
mod networks;
mod readme;
mod streams;
