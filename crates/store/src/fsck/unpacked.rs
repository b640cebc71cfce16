//! Unpacked files: each compared with the pool.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::Path;

use model::ObjectId;

use super::{DamageState, Fsck, Repair, reason};
use crate::chunk::{Chunker, HashOnly};
use crate::erofs::{Inline, needs_object};
use crate::error::{Context, Error, Result};
use crate::gc::remove_tree;
use crate::layout::{Paths, fanned_ids, names};
use crate::object::Content;
use crate::reader::Reader;
use crate::tree::{Kind, Tree};
use crate::unpack::{Fresh, farm_key, metadata_image, restore};

impl Fsck<'_> {
    pub(super) fn unpacked(&mut self) -> Result<()> {
        let reader = Reader::open(self.paths)?;
        let objects = fanned_ids(&self.paths.objects)?;
        self.progress.begin("checking unpacked files", Some(objects.len() as u64));
        let mut wrong = BTreeMap::new();
        for id in objects {
            self.report.unpacked += 1;
            let path = Paths::fanned(&self.paths.objects, &id);
            if content_of(&path)?.id != id {
                wrong.insert(id, "its bytes are not those of its name".to_owned());
            }
            self.progress.advance(1);
        }
        self.progress.end();
        self.fresh()?;
        for name in names(&self.paths.roots)? {
            self.root(&reader, &name, &mut wrong)?;
        }
        for (id, why) in wrong {
            self.object(&reader, &id, why)?;
        }
        self.plain(&reader)
    }

    /// Files unpacked one by one since this boot. They come again when they are wanted.
    fn fresh(&mut self) -> Result<()> {
        let fresh = Fresh::of(self.paths)?;
        for dir in fresh.contents() {
            for id in fanned_ids(dir)? {
                self.report.unpacked += 1;
                let path = Paths::fanned(dir, &id);
                if content_of(&path)?.id != id {
                    let why = "its bytes are not those of its name".to_owned();
                    self.found(self.name_of(&path), why, DamageState::Mended);
                    if self.repair == Repair::Mend {
                        self.set_aside(&path)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// A metadata image must be the very bytes that its tree gives, and the contents that it leads to must be there.
    fn root(&mut self, reader: &Reader, name: &str, wrong: &mut BTreeMap<ObjectId, String>) -> Result<()> {
        self.report.unpacked += 1;
        let path = self.paths.roots.join(name);
        let tree = name.strip_suffix(".erofs").and_then(|id| id.parse::<ObjectId>().ok());
        let made =
            tree.map(|id| reader.tree(&id).and_then(|tree| Ok((metadata_image(reader, &tree, Inline::Small)?, tree))));
        let why = match made {
            None => "it is not named as one".to_owned(),
            // Nobody's any more: a collector died before it came to it.
            Some(Err(Error::Missing(_))) => return Ok(()),
            Some(Err(error)) => format!("its tree cannot be read: {}", reason(&error)),
            Some(Ok((image, tree))) => {
                missing_objects(self.paths, &tree, wrong);
                match fs::read(&path).context("read", &path)? == image {
                    true => return Ok(()),
                    false => "it is not what its tree gives".to_owned(),
                }
            }
        };
        // It is made again when it is wanted.
        self.found(self.name_of(&path), why, DamageState::Mended);
        if self.repair == Repair::Mend {
            self.set_aside(&path)?;
        }
        Ok(())
    }

    /// Makes an unpacked file again, in place: cells may be running on it.
    fn object(&mut self, reader: &Reader, id: &ObjectId, why: String) -> Result<()> {
        let path = Paths::fanned(&self.paths.objects, id);
        let mut state = DamageState::Found;
        if self.repair == Repair::Mend {
            if path.exists() {
                self.keep_aside(&path)?;
            }
            let size = reader.content_size(id);
            let restored = size.and_then(|size| restore(self.paths, reader, &Content { id: *id, size }));
            state = if restored.is_ok() { DamageState::Mended } else { DamageState::Lost };
            if restored.is_err() && path.exists() {
                self.set_aside(&path)?;
            }
        }
        self.found(self.name_of(&path), why, state);
        Ok(())
    }

    /// The files of plain root file systems. Their bytes are checked; owners and modes are not.
    fn plain(&mut self, reader: &Reader) -> Result<()> {
        let mut checked: BTreeMap<ObjectId, bool> = BTreeMap::new();
        for name in names(&self.paths.plain)? {
            let path = self.paths.plain.join(&name);
            let mut why = None;
            match name.parse().ok().map(|id: ObjectId| reader.tree(&id)) {
                Some(Err(Error::Missing(_))) => continue,
                None => why = Some("it is not named as a tree".to_owned()),
                Some(Err(error)) => why = Some(format!("its tree cannot be read: {}", reason(&error))),
                Some(Ok(tree)) => {
                    for (inner, entry) in tree.walk() {
                        let Kind::File(content) = &entry.node.kind else { continue };
                        let farm = Paths::fanned(&self.paths.farm, &farm_key(entry.node));
                        let right = *checked.entry(farm_key(entry.node)).or_insert_with(|| {
                            self.report.unpacked += 1;
                            content_of(&farm).is_ok_and(|found| found.id == content.id)
                        });
                        if !right {
                            why = Some(format!("/{} does not have its bytes", String::from_utf8_lossy(&inner)));
                            if self.repair == Repair::Mend && farm.exists() {
                                self.set_aside(&farm)?;
                            }
                        }
                    }
                }
            }
            let Some(why) = why else { continue };
            self.found(self.name_of(&path), why, DamageState::Mended);
            if self.repair == Repair::Mend {
                self.set_aside(&path)?;
            }
        }
        for aside in names(&self.paths.aside)? {
            let path = self.paths.aside.join(aside);
            if self.repair == Repair::Mend && path.is_dir() {
                // A whole root file system: its files are in the farm, nothing of it is worth looking at.
                remove_tree(&path).context("remove", &path)?;
            }
        }
        Ok(())
    }
}

/// Adds the contents of a tree whose files are not there, or not as long as they should be.
fn missing_objects(paths: &Paths, tree: &Tree, wrong: &mut BTreeMap<ObjectId, String>) {
    let mut seen = BTreeSet::new();
    for (_, entry) in tree.walk() {
        let Kind::File(content) = &entry.node.kind else { continue };
        if !needs_object(content) || !seen.insert(content.id) {
            continue;
        }
        let found = fs::symlink_metadata(Paths::fanned(&paths.objects, &content.id));
        match found {
            Ok(found) if found.is_file() && found.len() == content.size => {}
            Ok(_) => drop(wrong.insert(content.id, "it is not as long as its content".to_owned())),
            Err(_) => drop(wrong.insert(content.id, "it is not there, but a root file system needs it".to_owned())),
        }
    }
}

/// Which content a file has.
fn content_of(path: &Path) -> Result<Content> {
    let file = File::open(path).context("open", path)?;
    let size = file.metadata().context("inspect", path)?.len();
    let mut chunker = Chunker::new();
    chunker.read_sparse(&mut HashOnly, &file, size)?;
    chunker.finish(&mut HashOnly)
}
