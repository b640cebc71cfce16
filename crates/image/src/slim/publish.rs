//! Cutting an image's tree and keeping the result in the pool.

use model::{ByteSize, ImageName, ImageRecord, LayerRecord, ObjectId, Sha256, SlimRecord};
use serde_json::Value;
use sha2::Digest;
use store::{Reader, RefChange, Store, Tree};

use super::{Kept, Report, recombine, split};
use crate::oci::json::{self, ConfigFile, History};
use crate::record::canonical_digest;
use crate::{Error, Fetched, Result};

/// The two halves of a tree, in the pool without a name: whoever cut them holds a reader that was opened before.
pub struct Cut {
    /// What is kept.
    pub slim: Tree,
    /// Its id.
    pub slim_id: ObjectId,
    /// What is not.
    pub complement: Tree,
    /// Its id.
    pub complement_id: ObjectId,
}

/// Cuts the original and stores both halves.
///
/// # Errors
/// Also when the halves, put together again, would not be the original to the last bit.
pub fn cut(store: &Store, original: (&Tree, ObjectId), kept: &Kept) -> Result<Cut> {
    let (tree, id) = original;
    let (slim, complement) = split(tree, &kept.keys().cloned().collect())?;
    let mut writer = store.writer()?;
    let (slim_id, complement_id) = (writer.tree(&slim)?, writer.tree(&complement)?);
    let whole = writer.tree(&recombine(&slim, &complement)?)?;
    if whole != id {
        let (expected, found) = (id.to_string(), whole.to_string());
        return Err(Error::Mismatch { what: "slim image with its complement".to_owned(), expected, found });
    }
    writer.publish(&[])?;
    Ok(Cut { slim, slim_id, complement, complement_id })
}

/// Gives the slim half a name, as an image that is run as the original is.
pub fn publish(
    store: &Store,
    reader: &Reader,
    original: &ImageRecord,
    cut: &Cut,
    report: &Report,
    profile: &Value,
    name: &ImageName,
) -> Result<Fetched> {
    let (diff_id, size) = canonical_digest(&cut.slim, reader)?;
    let created_by = format!("skep image slim {}", report.original);
    let history = vec![History { created: json::time_text(original.created), created_by, ..History::default() }];
    let file = ConfigFile::new(original.arch, &original.config, vec![diff_id], history, original.created);
    let oci_config = file.to_bytes()?;
    let json = |error: serde_json::Error| Error::malformed("report", error.to_string());
    let mut writer = store.writer()?;
    let report_bytes = serde_json::to_vec(report).map_err(json)?;
    let slim = SlimRecord {
        original: report.original_id,
        name: report.original.clone(),
        complement: cut.complement_id,
        report: writer.blob(&report_bytes)?,
        seccomp: writer.blob(&serde_json::to_vec_pretty(profile).map_err(json)?)?,
    };
    let record = ImageRecord {
        tree: cut.slim_id,
        oci_config: writer.blob(&oci_config)?,
        oci_id: Sha256::from_bytes(sha2::Sha256::digest(&oci_config).into()),
        layers: vec![LayerRecord { diff_id, size: ByteSize::bytes(size), recipe: cut.slim_id, original: None }],
        size: ByteSize::bytes(cut.slim.content_size()),
        slim: Some(slim),
        ..original.clone()
    };
    let id = writer.image(&record)?;
    writer.publish(&[RefChange::Set(name.clone(), id)])?;
    Ok(Fetched { name: name.clone(), id, record, notes: Vec::new() })
}

impl Report {
    /// The report that an image of the pool was stored with.
    pub fn of(reader: &Reader, slim: &SlimRecord) -> Result<Self> {
        let bytes = reader.blob(&slim.report)?;
        serde_json::from_slice(&bytes).map_err(|error| Error::malformed("report of a slim image", error.to_string()))
    }
}
