//! The `skep` binary: arguments in, text and exit codes out.
//!
//! Nothing here decides anything about cells or images; the engine and the image crate do. What is decided here is how
//! things read: words, tables, hints, exit codes.

mod cli;
mod error;
mod foreground;
mod output;
mod relay;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    // A supervisor is started for every cell: it must not pay for the command line's parser. Nor must a server, which a
    // starting session waits for.
    let first = args.nth(1).unwrap_or_default();
    // What goes into cells as itself is made sure of there as well; here it has not read the command line yet.
    if first == "exec" {
        let _ = sys::process::protect_own_program();
    }
    if first == engine::SUPERVISE {
        code(engine::supervisor_main(args))
    } else if first == engine::GUARD {
        code(engine::guard_main(args))
    } else if first == toolbox::lazy::SERVE {
        code(toolbox::lazy::server_main(args))
    } else {
        cli::main()
    }
}

/// Nobody reads what such a process says.
fn code<E>(ended: Result<(), E>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
