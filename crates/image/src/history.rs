//! How an image came to be, layer by layer.

use model::{ImageRecord, LayerRecord, Timestamp};
use store::Store;

use crate::Result;
use crate::oci::json::{self, ConfigFile};

/// One step of an image's making, by its own account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// When, if it is told.
    pub created: Option<Timestamp>,
    /// The command that was run, or what made it.
    pub created_by: String,
    /// A remark.
    pub comment: String,
    /// The layer it made, if it made one.
    pub layer: Option<LayerRecord>,
}

/// An image's history, the oldest step first. Layers that the history does not tell of come last, without a command.
pub fn history(store: &Store, record: &ImageRecord) -> Result<Vec<HistoryEntry>> {
    let file: ConfigFile = json::from_bytes("configuration", &store.reader()?.blob(&record.oci_config)?)?;
    let mut layers = record.layers.iter().cloned();
    let mut entries: Vec<HistoryEntry> = file
        .history
        .into_iter()
        .map(|step| HistoryEntry {
            created: step.created.as_deref().and_then(json::parse_time),
            created_by: step.created_by,
            comment: step.comment,
            layer: if step.empty_layer { None } else { layers.next() },
        })
        .collect();
    entries.extend(layers.map(|layer| HistoryEntry {
        created: None,
        created_by: String::new(),
        comment: String::new(),
        layer: Some(layer),
    }));
    Ok(entries)
}
