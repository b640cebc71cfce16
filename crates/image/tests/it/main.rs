//! The crate from outside: real tools as oracles, hostile input, and servers on the loopback. Everything lives in temporary
//! directories; a test whose tool is not installed says so and passes.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says on its error stream what it skipped"
)]

mod deb;
mod env;
mod hostile;
mod local;
mod registry;
mod server;
mod tar;
