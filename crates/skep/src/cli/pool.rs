//! `skep pool`: the store beneath images.

use super::Context;
use crate::error::Result;
use crate::output::{self, Align, Table};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Show what the pool holds and what that takes
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn execute(context: &Context, command: Command) -> Result<()> {
    let engine = context.engine()?;
    match command {
        Command::Status { json } => status(&engine, json),
    }
}

fn status(engine: &engine::Engine, json: bool) -> Result<()> {
    let status = engine.store().status()?;
    if json {
        return output::json(&status);
    }
    let mut table = Table::new([("", Align::Left), ("", Align::Right)]);
    table.row(["images".into(), format!("{} ({} names)", status.images, status.refs)]);
    table.row(["objects".into(), format!("{} in {} packs", status.objects, status.packs)]);
    table.row(["content of all images".into(), status.logical.to_string()]);
    table.row(["without duplicates".into(), format!("{} ({:.2} x less)", status.unique, status.dedup_ratio)]);
    table.row(["stored".into(), format!("{} ({:.2} x less)", status.stored, status.compression_ratio)]);
    table.row(["unpacked for cells".into(), status.unpacked.to_string()]);
    table.print()
}
