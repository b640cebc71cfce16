//! Names, image records, and everything that can be reached from them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::Path;

use model::ObjectId;

use super::{DamageState, Fsck, Repair, reason};
use crate::error::{Context, Error, Result};
use crate::layout::names;
use crate::object::Kind as ObjectKind;
use crate::reader::Reader;
use crate::refs;
use crate::tree::Kind;

impl Fsck<'_> {
    pub(super) fn images(&mut self) -> Result<()> {
        let mut named: BTreeMap<ObjectId, BTreeSet<String>> = BTreeMap::new();
        for (path, result) in refs::each(self.paths)? {
            let read = match result {
                Ok(read) => Some(read),
                Err(error) => self.mend_ref(&path, &error)?,
            };
            if let Some((name, id)) = read {
                named.entry(id).or_default().insert(name.to_string());
            }
        }
        for name in names(&self.paths.images)? {
            match name.parse() {
                Ok(id) => drop(named.entry(id).or_default()),
                Err(_) => self.found(format!("images/{name}"), "it is not an image record", DamageState::Lost),
            }
        }
        self.progress.begin("checking images", Some(named.len() as u64));
        let reader = Reader::open(self.paths)?;
        for (id, names) in named {
            self.report.images += 1;
            self.image(&reader, &id, &names)?;
            self.progress.advance(1);
        }
        self.progress.end();
        Ok(())
    }

    /// A ref has its name in its file name's hash, its check in its last line: a single wrong bit can be found by trying.
    fn mend_ref(&mut self, path: &Path, error: &Error) -> Result<Option<(model::ImageName, ObjectId)>> {
        let bytes = fs::read(path).context("read", path)?;
        let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let right = bit_flips(&bytes).find_map(|text| {
            let (name, id) = refs::decode(std::str::from_utf8(&text).ok()?)?;
            (refs::file_name(&name) == file).then_some((name, id))
        });
        let state = if right.is_some() { DamageState::Mended } else { DamageState::Lost };
        self.found(self.name_of(path), reason(error), state);
        if self.repair == Repair::Mend {
            match &right {
                None => self.set_aside(path)?,
                Some((name, id)) => {
                    self.keep_aside(path)?;
                    refs::set(self.paths, name, id)?;
                }
            }
        }
        Ok(right)
    }

    fn image(&mut self, reader: &Reader, id: &ObjectId, names: &BTreeSet<String>) -> Result<()> {
        let file = self.paths.image_file(id);
        let record = match refs::read_image(self.paths, id) {
            Ok(record) => record,
            Err(error) => {
                let stored = reader.object(id).and_then(|(_, json)| refs::parse_image(id, &json).map(|it| (it, json)));
                let state = if stored.is_ok() { DamageState::Mended } else { DamageState::Lost };
                self.found(self.name_of(&file), reason(&error), state);
                self.blame(names);
                let Ok((record, json)) = stored else {
                    return if self.repair == Repair::Mend && file.exists() { self.set_aside(&file) } else { Ok(()) };
                };
                if self.repair == Repair::Mend {
                    if file.exists() {
                        self.keep_aside(&file)?;
                    }
                    refs::write_image(self.paths, id, &json)?;
                }
                record
            }
        };
        let mut wrong: BTreeMap<String, Error> = BTreeMap::new();
        self.walk(reader, &record.tree, &mut wrong);
        let recipes = record.layers.iter().map(|layer| (format!("recipe of layer {}", layer.diff_id), layer.recipe));
        for (what, blob) in [("OCI configuration".to_owned(), record.oci_config)].into_iter().chain(recipes) {
            if let Err(error) = self.blob(reader, &blob) {
                wrong.insert(what, error);
            }
        }
        if names.is_empty() {
            // A collector that died on the way leaves records whose objects are gone. The next one takes them away.
            wrong.retain(|_, error| !matches!(error, Error::Missing(_)));
        }
        if let Some((what, error)) = wrong.first_key_value() {
            let more = match wrong.len() {
                1 => String::new(),
                count => format!(" and {} more", count - 1),
            };
            let title = names.first().map_or_else(|| id.to_string(), Clone::clone);
            self.found(format!("image {title}: {what}{more}"), error.to_string(), DamageState::Lost);
            self.blame(names);
        }
        Ok(())
    }

    fn blame(&mut self, names: &BTreeSet<String>) {
        if let Some(damage) = self.report.damage.last_mut() {
            damage.images.extend(names.iter().cloned());
        }
    }

    /// Follows a tree to every chunk. Damaged chunks are known already, so none is read again.
    fn walk(&self, reader: &Reader, tree: &ObjectId, wrong: &mut BTreeMap<String, Error>) {
        let tree = match reader.tree(tree) {
            Ok(tree) => tree,
            Err(error) => return drop(wrong.insert(format!("tree {tree}"), error)),
        };
        let mut sound: HashSet<ObjectId> = HashSet::new();
        for (path, entry) in tree.walk() {
            let Kind::File(content) = &entry.node.kind else { continue };
            if sound.contains(&content.id) {
                continue;
            }
            match self.content(reader, content) {
                Ok(()) => drop(sound.insert(content.id)),
                Err(error) => drop(wrong.insert(format!("/{}", String::from_utf8_lossy(&path)), error)),
            }
        }
    }

    fn content(&self, reader: &Reader, content: &crate::Content) -> Result<()> {
        self.whole(&content.id)?;
        for extent in reader.extents(content)? {
            if let crate::object::Extent::Chunk { id, size } = extent {
                self.whole(&id)?;
                let location = reader.locate(&id)?.ok_or(Error::Missing(id))?;
                if u64::from(location.length) != size {
                    return Err(Error::damaged(format!("chunk {id}"), "it is not as long as its list says"));
                }
            }
        }
        Ok(())
    }

    fn blob(&self, reader: &Reader, id: &ObjectId) -> Result<()> {
        self.whole(id)?;
        if *id == crate::object::EMPTY_ID {
            return Ok(());
        }
        let (kind, bytes) = reader.object(id)?;
        if kind == ObjectKind::Linked {
            let linked = crate::object::Linked::decode(&bytes).map_err(|why| Error::damaged("a blob", why))?;
            self.content(reader, &linked.payload)?;
            for link in &linked.links {
                self.whole(link)?;
                if *link != crate::object::EMPTY_ID {
                    reader.locate(link)?.ok_or(Error::Missing(*link))?;
                }
            }
        }
        Ok(())
    }

    fn whole(&self, id: &ObjectId) -> Result<()> {
        if self.bad.contains(id) {
            Err(Error::damaged(format!("object {id}"), "it does not have its hash"))
        } else {
            Ok(())
        }
    }
}

/// The bytes with each single bit turned, one after another.
fn bit_flips(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    (0..bytes.len().min(4096)).flat_map(move |place| {
        (0..8).map(move |bit| {
            let mut flipped = bytes.to_vec();
            if let Some(byte) = flipped.get_mut(place) {
                *byte ^= 1 << bit;
            }
            flipped
        })
    })
}
