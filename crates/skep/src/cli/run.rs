//! `skep run`

use std::os::fd::AsFd;

use engine::{Attach, Cell, CellLock, Conversation, Engine};

use super::Context;
use super::spec_args::SpecArgs;
use crate::error::{CommandError, Result};
use crate::foreground::{self, CaughtSignals, OnBrokenPipe};
use crate::output;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Leave it running, and print its id
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    spec: SpecArgs,
}

pub(super) fn execute(context: &Context, args: Args) -> Result<()> {
    if args.spec.tty && !args.detach && !rustix::termios::isatty(std::io::stdin().as_fd()) && args.spec.interactive {
        return Err(
            CommandError::usage("standard input is not a terminal").hinted("leave out -t to feed it from a pipe")
        );
    }
    if args.spec.explain {
        let engine = context.engine()?;
        return output::pretty_json(&args.spec.specify(&engine)?);
    }
    run(context, args).map_err(CommandError::before_program)
}

fn run(context: &Context, args: Args) -> Result<()> {
    let interactive = args.spec.interactive;
    let engine = context.engine()?;
    let spec = args.spec.specify(&engine)?;
    engine.check_neighbour(&spec)?;
    let (cell, lock) = engine.create(spec)?;
    if !args.detach {
        let signals = CaughtSignals::catch()?;
        let conversation = start(&engine, &cell, lock, Attach::Streams(foreground::own_terminal()))?;
        let input = if interactive { model::Stdin::Open } else { model::Stdin::Closed };
        return foreground::follow(&cell, conversation, signals, input, OnBrokenPipe::TellProgram);
    }
    let mut conversation = start(&engine, &cell, lock, Attach::Nothing)?;
    match conversation.started()? {
        Ok(warnings) => warnings.iter().for_each(output::warning),
        Err(report) => return Err(foreground::ending(&cell, &report)),
    }
    output::line(cell.spec.id.to_string())
}

/// Starts a cell that was just made; one that shall vanish with its program vanishes when it cannot be started at all.
fn start(engine: &Engine, cell: &Cell, lock: CellLock, attach: Attach) -> Result<Conversation> {
    engine.start(cell, lock, attach).map_err(|error| {
        if cell.spec.lifetime == model::Lifetime::RemoveOnExit {
            let _ = engine.remove(cell.clone());
        }
        error.into()
    })
}
