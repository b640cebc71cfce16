//! The `skep` binary: arguments in, text and exit codes out.
//!
//! Nothing here decides anything about cells or images; the engine and the image crate do. What is decided here is how
//! things read: words, tables, hints, exit codes.

mod cli;
mod error;
mod foreground;
mod output;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    // A supervisor is started for every cell: it must not pay for the command line's parser.
    if args.nth(1).is_some_and(|it| it == engine::SUPERVISE) {
        return match engine::supervisor_main(args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    cli::main()
}
