//! Which objects are needed: everything that can be reached from names and from running cells.
//!
//! **Marking is strict:** when an object on the way cannot be read, what it points at is unknown, so marking fails, and
//! with it whatever wanted to throw away the rest.

use std::collections::HashSet;

use model::{ImageRecord, ObjectId};

use crate::error::{Error, Result};
use crate::object::{Content, EMPTY_ID, Extent, Kind, Linked, decode_extents};
use crate::pack::Location;
use crate::reader::Reader;
use crate::{refs, tree};

/// Objects found needed so far.
pub(crate) struct Marker<'a> {
    reader: &'a Reader,
    live: HashSet<ObjectId>,
    todo: Vec<ObjectId>,
}

impl<'a> Marker<'a> {
    pub(crate) fn new(reader: &'a Reader) -> Self {
        Self { reader, live: HashSet::from([EMPTY_ID]), todo: Vec::new() }
    }

    /// Marks an object and all that it points at.
    pub(crate) fn mark(&mut self, id: ObjectId) -> Result<()> {
        self.push(id);
        while let Some(id) = self.todo.pop() {
            let location = self.reader.locate(&id)?.ok_or(Error::Missing(id))?;
            self.follow(&id, &location)?;
        }
        Ok(())
    }

    /// Marks an image: its record, its tree, its configuration, the recipes of its layers, what slimming took from it.
    pub(crate) fn image(&mut self, id: ObjectId, record: &ImageRecord) -> Result<()> {
        let recipes = record.layers.iter().map(|layer| layer.recipe);
        let slim = record.slim.iter().flat_map(|it| [it.complement, it.report, it.seccomp]);
        [id, record.tree, record.oci_config].into_iter().chain(recipes).chain(slim).try_for_each(|id| self.mark(id))
    }

    /// What was marked.
    pub(crate) fn finish(self) -> HashSet<ObjectId> {
        self.live
    }

    fn push(&mut self, id: ObjectId) {
        if self.live.insert(id) {
            self.todo.push(id);
        }
    }

    fn follow(&mut self, id: &ObjectId, location: &Location) -> Result<()> {
        if matches!(location.kind, Kind::Chunk | Kind::Image) {
            return Ok(());
        }
        let (kind, bytes) = self.reader.object_at(id, location)?;
        references(kind, &bytes)
            .map_err(|why| Error::damaged(format!("object {id}"), why))?
            .into_iter()
            .for_each(|reference| self.push(reference));
        Ok(())
    }
}

/// The objects that an object points at.
fn references(kind: Kind, bytes: &[u8]) -> Result<Vec<ObjectId>, &'static str> {
    let mut found = Vec::new();
    match kind {
        Kind::Chunk | Kind::Image => {}
        Kind::List => found.extend(decode_extents(bytes)?.into_iter().filter_map(|extent| match extent {
            Extent::Chunk { id, .. } => Some(id),
            Extent::Zeros { .. } => None,
        })),
        Kind::Directory | Kind::Tree => {
            let (directories, contents) = tree::references(kind, bytes)?;
            found.extend(directories);
            found.extend(contents.iter().map(|content: &Content| content.id));
        }
        Kind::Linked => {
            let linked = Linked::decode(bytes)?;
            found.extend(linked.links);
            found.push(linked.payload.id);
        }
    }
    Ok(found)
}

/// The record of an image that has a name: from its file, or else from the packs.
pub(crate) fn record_of(reader: &Reader, id: &ObjectId) -> Result<ImageRecord> {
    match refs::read_image(reader.paths(), id) {
        Ok(record) => Ok(record),
        Err(_) => refs::parse_image(id, &reader.object(id)?.1),
    }
}
