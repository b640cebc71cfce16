//! Fetches the kernel of machines that have this host's own processor, as a run of one does, where none can be run:
//! `cargo run --package skep-image --example kernel -- HOME`.

#![expect(clippy::print_stderr, reason = "a tool of a developer's")]

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(home) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: kernel HOME");
        return ExitCode::from(2);
    };
    let options = image::FetchOptions::new(home.join("cache"));
    match image::deb::kernel(None, model::Arch::HOST, &options, &()) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kernel: {error}");
            ExitCode::FAILURE
        }
    }
}
