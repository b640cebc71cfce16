//! An image of one program that has begun already: a root file system as the program left it, and its snapshot.

use std::fs::File;
use std::path::Path;

use model::{ByteSize, ImageConfig, ImageName, ImageRecord, LayerRecord, Progress, Sha256};
use sha2::Digest;
use store::{Kind, Metadata, Node, RefChange, Store};

use crate::oci::json::{self, ConfigFile, History};
use crate::record::canonical_digest;
use crate::{Error, Fetched, Result};

/// The label of an appliance: what its snapshot's description must hash to (BLAKE3). The description says the same of
/// everything else in the snapshot.
pub const APPLIANCE_LABEL: &str = "skep.appliance";

/// The label that says which system calls of the host it may make, by name.
pub const CALLS_LABEL: &str = "skep.appliance.calls";

/// The label of an appliance whose program makes code while it runs.
pub const JIT_LABEL: &str = "skep.appliance.jit";

/// Where its snapshot is.
pub const STATE_PATH: &str = "/.skep/state";
/// Its pages.
pub const BYTES_PATH: &str = "/.skep/bytes";

/// What an appliance is made of.
#[derive(Clone, Debug)]
pub struct ApplianceParts<'a> {
    /// The directory where the host sees the root file system, nothing mounted inside.
    pub root: &'a Path,
    /// What the snapshot says about itself.
    pub state: &'a Path,
    /// Its pages.
    pub bytes: &'a Path,
    /// How the image is run, with the labels.
    pub config: ImageConfig,
}

/// Directories of which only the directory belongs into the image: others are mounted there while a cell runs.
const CLEARED: [&str; 3] = ["dev", "proc", "sys"];

/// Makes it an image.
pub fn publish_appliance(
    store: &Store,
    original: (&str, &ImageRecord),
    parts: ApplianceParts<'_>,
    name: &ImageName,
    progress: &dyn Progress,
) -> Result<Fetched> {
    progress.begin("taking in the appliance", None);
    let (of, original) = original;
    let reader = store.reader()?;
    let mut writer = store.writer()?;
    let mut tree = writer.directory(parts.root)?;
    for path in CLEARED {
        if tree.get(path).is_some_and(|entry| entry.node.kind == Kind::Directory) {
            tree.clear(path)?;
        }
    }
    for (path, file) in [(STATE_PATH, parts.state), (BYTES_PATH, parts.bytes)] {
        let path = path.trim_start_matches('/');
        let content = writer.file(File::open(file).map_err(|error| Error::io(file.display(), error))?)?;
        tree.make_parents(path, &Metadata::new(0o755))?;
        tree.insert(path, Node::file(Metadata::new(0o444), content))?;
    }
    let id = writer.tree(&tree)?;
    writer.publish(&[])?;
    let (diff_id, size) = canonical_digest(&tree, &reader)?;
    let created_by = format!("skep image build --as unikernel {of}");
    let history = vec![History { created: json::time_text(original.created), created_by, ..History::default() }];
    let file = ConfigFile::new(original.arch, &parts.config, vec![diff_id], history, original.created);
    let oci_config = file.to_bytes()?;
    let mut writer = store.writer()?;
    let record = ImageRecord {
        tree: id,
        config: parts.config,
        oci_config: writer.blob(&oci_config)?,
        oci_id: Sha256::from_bytes(sha2::Sha256::digest(&oci_config).into()),
        layers: vec![LayerRecord { diff_id, size: ByteSize::bytes(size), recipe: id, original: None }],
        size: ByteSize::bytes(tree.content_size()),
        slim: None,
        ..original.clone()
    };
    let id = writer.image(&record)?;
    writer.publish(&[RefChange::Set(name.clone(), id)])?;
    progress.end();
    Ok(Fetched { name: name.clone(), id, record, notes: Vec::new() })
}
