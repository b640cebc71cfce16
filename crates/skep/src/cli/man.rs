//! `skep man`

use std::path::PathBuf;

use crate::error::{CommandError, Result};
use crate::output;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Write a page for each command into DIR instead
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn execute(args: Args) -> Result<()> {
    let mut definition = super::definition();
    definition.build();
    let Some(dir) = args.dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(definition).render(&mut page)?;
        return output::line(String::from_utf8_lossy(&page).trim_end());
    };
    std::fs::create_dir_all(&dir)
        .and_then(|()| clap_mangen::generate_to(definition, &dir))
        .map_err(|e| CommandError::failed(format!("writing manual pages into {}: {e}", dir.display())))
}
