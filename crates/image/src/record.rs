//! From a tree to an image: the OCI configuration, the canonical layer, the record, the names.

use std::io::Write;

use model::{Arch, ByteSize, ImageConfig, ImageName, ImageRecord, LayerRecord, ObjectId, Sha256, Source, Timestamp};
use sha2::Digest;
use store::{Reader, RefChange, Store, Tree};

use crate::layer::canonical;
use crate::oci::json::{self, ConfigFile, History};
use crate::{Error, Fetched, Result};

/// An image built here, before it has an id.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) source: Source,
    pub(crate) arch: Arch,
    pub(crate) config: ImageConfig,
    pub(crate) inputs: Vec<String>,
    pub(crate) created: Timestamp,
    pub(crate) notes: Vec<String>,
}

/// Makes the image whose root file system is `tree`, which and whose contents the pool holds. `reader` was opened before
/// they were published, so no collector takes them away meanwhile.
pub(crate) fn keep(
    store: &Store,
    reader: &Reader,
    tree: ObjectId,
    draft: Draft,
    extra_name: Option<&ImageName>,
) -> Result<Fetched> {
    let root = reader.tree(&tree)?;
    let (diff_id, size) = canonical_digest(&root, reader)?;
    let comment = format!("skep {}", draft.source);
    let history = vec![History { created: json::time_text(draft.created), created_by: comment, ..History::default() }];
    let file = ConfigFile::new(draft.arch, &draft.config, vec![diff_id], history, draft.created);
    let oci_config = file.to_bytes()?;
    let mut writer = store.writer()?;
    let record = ImageRecord {
        tree,
        arch: draft.arch,
        config: draft.config,
        oci_config: writer.blob(&oci_config)?,
        oci_id: Sha256::from_bytes(sha2::Sha256::digest(&oci_config).into()),
        // The recipe of a canonical layer is the tree itself.
        layers: vec![LayerRecord { diff_id, size: ByteSize::bytes(size), recipe: tree, original: None }],
        source: draft.source.to_string(),
        inputs: draft.inputs,
        created: draft.created,
        size: ByteSize::bytes(root.content_size()),
        slim: None,
    };
    publish(writer, &draft.source, record, draft.notes, extra_name)
}

/// Publishes a record under its source's own text, and under a further name when one is given.
pub(crate) fn publish(
    mut writer: store::Writer,
    source: &Source,
    record: ImageRecord,
    notes: Vec<String>,
    extra_name: Option<&ImageName>,
) -> Result<Fetched> {
    let name = source_name(source)?;
    let id = writer.image(&record)?;
    let mut changes = vec![RefChange::Set(name.clone(), id)];
    changes.extend(extra_name.filter(|extra| **extra != name).map(|extra| RefChange::Set(extra.clone(), id)));
    writer.publish(&changes)?;
    Ok(Fetched { name, id, record, notes })
}

/// The name that an image of a source is stored under.
pub(crate) fn source_name(source: &Source) -> Result<ImageName> {
    let text = source.to_string();
    text.parse().map_err(|_| Error::Unsupported {
        what: format!("'{text}'"),
        why: "it is longer than 255 letters or holds spaces, and so cannot be the image's name".to_owned(),
    })
}

/// Digest and size of a tree's canonical layer.
pub(crate) fn canonical_digest(tree: &Tree, reader: &Reader) -> Result<(Sha256, u64)> {
    let mut sink = HashSink { hash: sha2::Sha256::new(), count: 0 };
    canonical::write(tree, reader, &mut sink)?;
    Ok((Sha256::from_bytes(sink.hash.finalize().into()), sink.count))
}

struct HashSink {
    hash: sha2::Sha256,
    count: u64,
}

impl Write for HashSink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.hash.update(bytes);
        self.count += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
