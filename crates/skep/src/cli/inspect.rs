//! `skep inspect`

use serde_json::json;

use super::{Context, select};
use crate::error::{CommandError, Result};
use crate::output;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Cells by name or id, or images
    #[arg(value_name = "CELL|IMAGE", required = true)]
    names: Vec<String>,
}

pub(super) fn execute(context: &Context, args: Args) -> Result<()> {
    let engine = context.engine()?;
    let mut found = Vec::new();
    for name in &args.names {
        match engine.find(name) {
            Ok(cell) => found.push(json!({
                "spec": cell.spec,
                "record": cell.record,
                "dir": cell.dir,
            })),
            Err(not_a_cell @ engine::Error::NoSuchCell { .. }) => {
                let image = name.parse().map_err(CommandError::from).and_then(|it| select::stored_image(&engine, &it));
                let image = image.map_err(|_| CommandError::from(not_a_cell))?;
                found.push(json!({ "name": image.name, "id": image.id, "image": image.record }));
            }
            Err(error) => return Err(error.into()),
        }
    }
    output::pretty_json(&found)
}
