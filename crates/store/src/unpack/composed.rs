//! The composed layout: one file per distinct content, one metadata image per tree.

use std::collections::BTreeMap;

use model::{ObjectId, Progress};

use super::{Fresh, Staging, Taken, announce, in_pack_order};
use crate::durable;
use crate::erofs::{self, Inline};
use crate::error::Result;
use crate::layout::Paths;
use crate::object::Content;
use crate::reader::Reader;
use crate::tree::{Kind, Tree};

/// The distinct contents of a tree that need a file in `objects`.
fn contents(tree: &Tree) -> BTreeMap<ObjectId, Content> {
    let mut found = BTreeMap::new();
    let mut walk = tree.walk();
    while let Some((_, entry)) = walk.advance() {
        if let Kind::File(content) = &entry.node.kind
            && erofs::needs_object(content)
        {
            found.insert(content.id, *content);
        }
    }
    found
}

/// The metadata image of a tree.
pub(crate) fn metadata_image(reader: &Reader, tree: &Tree, inline: Inline) -> Result<Vec<u8>> {
    erofs::build(tree, inline, |content| {
        let mut bytes = Vec::with_capacity(content.size as usize);
        for extent in reader.extents(content)? {
            if let crate::object::Extent::Chunk { id, size } = extent {
                bytes.extend_from_slice(&reader.chunk(&id, size)?);
            }
        }
        Ok(bytes)
    })
}

/// Unpacks a tree. The caller found that its metadata image is not there.
pub(crate) fn compose(paths: &Paths, id: &ObjectId, progress: &dyn Progress) -> Result<()> {
    let reader = Reader::open(paths)?;
    let tree = reader.tree(id)?;
    let mut wanted = contents(&tree);
    wanted.retain(|id, _| !Paths::fanned(&paths.objects, id).exists());
    announce(progress, id, wanted.values().map(|content| content.size).sum());
    let fresh = Fresh::of(paths)?;
    let mut staging = Staging::begin(paths)?;
    for content in in_pack_order(&reader, wanted)? {
        let name = Paths::fanned(&paths.objects, &content.id);
        match fresh.find(&content.id) {
            Some(unpacked) => staging.adopt(&unpacked, name)?,
            None => drop(staging.write(&reader, &content, name)?),
        }
        progress.advance(content.size);
    }
    staging.publish(Taken::Keep)?;
    let image = metadata_image(&reader, &tree, Inline::Small)?;
    durable::write_file(&paths.tmp, &paths.root_image(id), &image, durable::ROOT)?;
    progress.end();
    Ok(())
}
