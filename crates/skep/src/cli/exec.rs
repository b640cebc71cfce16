//! `skep exec`

use std::path::PathBuf;

use engine::{ExecRequest, ExecStreams};
use model::{Stdin, Terminal, UserSpec};

use super::{Context, select};
use crate::error::{CommandError, Result};
use crate::foreground;
use crate::output;
use crate::relay::{self, Relays};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Leave it running, and print its process number
    #[arg(short, long)]
    detach: bool,
    /// Hand on standard input
    #[arg(short, long)]
    interactive: bool,
    /// Give the program a terminal
    #[arg(short, long)]
    tty: bool,
    /// Set an environment variable
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Start in this directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<PathBuf>,
    /// Run as this user
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<UserSpec>,
    /// The cell, by name or id
    #[arg(value_name = "CELL")]
    cell: String,
    /// The command and its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<String>,
}

pub(super) fn execute(context: &Context, args: Args) -> Result<()> {
    sys::process::protect_own_program()?;
    run(context, args).map_err(CommandError::before_program)
}

fn run(context: &Context, args: Args) -> Result<()> {
    let engine = context.engine()?;
    let cell = engine.find(&args.cell)?;
    let request = ExecRequest {
        argv: args.command,
        env: select::environment(&args.env)?,
        cwd: args.workdir,
        user: args.user,
        terminal: if args.tty { Terminal::Pty } else { Terminal::None },
        stdin: if args.interactive { Stdin::Open } else { Stdin::Closed },
    };
    let process = engine::companion(&cell.spec, request);
    if args.tty && !args.detach {
        let (rows, columns) = foreground::terminal_size();
        let running =
            engine.exec(&cell, &process, ExecStreams::Pty(rows, columns)).map_err(foreground::start_failure)?;
        return foreground::exit_with(&foreground::drive_terminal(running, process.stdin)?);
    }
    let (streams, relays) = match args.detach {
        true => (ExecStreams::Nothing, Relays::default()),
        false => relay::streams(process.stdin)?,
    };
    let running = engine.exec(&cell, &process, streams).map_err(foreground::start_failure)?;
    if args.detach {
        return output::line(running.pid().to_string());
    }
    foreground::exit_with(&foreground::wait_forwarding_signals(running, relays)?)
}
