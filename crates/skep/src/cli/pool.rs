//! `skep pool`: the store beneath images.

use model::{ByteSize, counted};
use store::{DamageState, Repair};

use super::Context;
use crate::error::{CommandError, Result};
use crate::output::{self, Align, Reporter, Table};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Show what the pool holds and what that takes
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete what no image and no cell needs
    Gc {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Check everything that the pool holds
    Fsck {
        /// Mend what can be mended
        #[arg(long)]
        repair: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn execute(context: &Context, command: Command) -> Result<()> {
    let engine = context.engine()?;
    match command {
        Command::Status { json } => status(&engine, json),
        Command::Gc { json } => gc(&engine, json),
        Command::Fsck { repair, json } => fsck(&engine, if repair { Repair::Mend } else { Repair::CheckOnly }, json),
    }
}

fn status(engine: &engine::Engine, json: bool) -> Result<()> {
    let status = engine.store().status()?;
    if json {
        return output::json(&status);
    }
    let mut table = Table::new([("", Align::Left), ("", Align::Right)]);
    table.row(["images".into(), format!("{} ({})", status.images, counted(status.refs, "name", "names"))]);
    table.row(["objects".into(), format!("{} in {}", status.objects, counted(status.packs, "pack", "packs"))]);
    table.row(["content of all images".into(), status.logical.to_string()]);
    table.row(["without duplicates".into(), format!("{} ({:.2} x less)", status.unique, status.dedup_ratio)]);
    table.row(["stored".into(), format!("{} ({:.2} x less)", status.stored, status.compression_ratio)]);
    table.row(["unpacked for cells".into(), status.unpacked.to_string()]);
    table.print()
}

fn gc(engine: &engine::Engine, json: bool) -> Result<()> {
    let mut report = engine.store().gc(&engine.trees_in_use()?, &Reporter::new())?;
    let others = engine.collect_copies()?.saturating_add(engine.collect_translations()?);
    report.freed = ByteSize::bytes(report.freed.get().saturating_add(others));
    if json {
        return output::json(&report);
    }
    output::line(format!(
        "freed {}: {}, {}",
        report.freed,
        counted(report.packs_removed, "pack", "packs"),
        counted(report.images_removed, "image record", "image records")
    ))?;
    if report.deferred {
        output::note("somebody was reading: run it again to free the rest");
    }
    Ok(())
}

fn fsck(engine: &engine::Engine, repair: Repair, json: bool) -> Result<()> {
    let report = engine.store().fsck(repair, &Reporter::new())?;
    if json {
        output::json(&report)?;
    } else {
        output::line(format!(
            "read {} in {}, {}, {}",
            counted(report.objects, "object", "objects"),
            counted(report.packs, "pack", "packs"),
            counted(report.images, "image", "images"),
            counted(report.unpacked, "unpacked file", "unpacked files")
        ))?;
        for damage in &report.damage {
            let state = match damage.state {
                DamageState::Found => "damaged",
                DamageState::Mended => "mended",
                DamageState::Lost => "LOST",
            };
            let images: Vec<_> = damage.images.iter().map(String::as_str).collect();
            let concerned = if images.is_empty() { String::new() } else { format!(" (in {})", images.join(", ")) };
            output::line(format!("{state}: {}: {}{concerned}", damage.what, damage.why))?;
        }
    }
    if report.is_sound() {
        return Ok(());
    }
    let error = CommandError::failed("the pool is damaged");
    Err(match repair {
        Repair::CheckOnly => error.hinted("'skep pool fsck --repair' mends what can be mended"),
        Repair::Mend => error.hinted("'skep image pull' gets the images named above again"),
    })
}
