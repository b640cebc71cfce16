//! `skep version`

use crate::error::Result;
use crate::output;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn execute(args: Args) -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    if args.json {
        return output::json(&serde_json::json!({ "version": version, "arch": model::Arch::HOST }));
    }
    output::line(format!("skep {version}"))
}
