//! `skep create`

use super::Context;
use super::spec_args::SpecArgs;
use crate::error::Result;
use crate::output;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    spec: SpecArgs,
}

pub(super) fn execute(context: &Context, args: Args) -> Result<()> {
    let engine = context.engine()?;
    let explain = args.spec.explain;
    let spec = args.spec.specify(&engine)?;
    if explain {
        return output::pretty_json(&spec);
    }
    let (cell, _lock) = engine.create(spec)?;
    output::line(cell.spec.id.to_string())
}
