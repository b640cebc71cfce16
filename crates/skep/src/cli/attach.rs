//! `skep attach`

use super::Context;
use crate::error::Result;
use crate::foreground::{self, CaughtSignals, OnBrokenPipe};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Send no input
    #[arg(long)]
    no_stdin: bool,
    /// The cell, by name or id
    #[arg(value_name = "CELL")]
    cell: String,
}

pub(super) fn execute(context: &Context, args: Args) -> Result<()> {
    let engine = context.engine()?;
    let cell = engine.find(&args.cell)?;
    let signals = CaughtSignals::catch()?;
    let conversation = engine.attach(&cell)?;
    let input = if args.no_stdin { model::Stdin::Closed } else { cell.spec.process.stdin };
    foreground::follow(&cell, conversation, signals, input, OnBrokenPipe::Leave)
}
