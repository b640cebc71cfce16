//! Where things are in a pool's directory.
//!
//! ```text
//! format        which version of this layout it is
//! writer.lock   held by the one writer
//! pin.lock      held by whoever relies on files not being collected
//! packs/        the objects
//! index.redb    which object is in which pack; derived from the packs
//! images/       image records, one small file each, named by id; derived from the packs
//! refs/         names of images, one small file each
//! objects/      unpacked files, named by content: the data layer of composed root file systems
//! roots/        a metadata image for each unpacked tree
//! fresh/BOOT/   files unpacked one by one, or fetched from elsewhere, since this boot: whole, but perhaps not durable
//! farm/         unpacked files with owner and mode, named by both: what plain root file systems link to
//! plain/        plain root file systems
//! patched/      code in which unikernels' system calls are jumps: the engine's
//! translated/   code of machines, translated: the engine's
//! tmp/          what is not finished; emptied by a collector
//! aside/        what fsck found damaged
//! ```
//! Only `packs` and `refs` hold what cannot be made again from the rest.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use model::ObjectId;

use crate::durable;
use crate::error::{Context, Error, Result};
use crate::fail::{self, Point};
use crate::pack::{self, PackNumber};

const FORMAT: &str = "skep pool 1\n";

/// The paths of a pool.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    pub(crate) dir: PathBuf,
    pub(crate) format: PathBuf,
    pub(crate) writer_lock: PathBuf,
    pub(crate) pin_lock: PathBuf,
    pub(crate) packs: PathBuf,
    pub(crate) index: PathBuf,
    pub(crate) images: PathBuf,
    pub(crate) refs: PathBuf,
    pub(crate) objects: PathBuf,
    pub(crate) roots: PathBuf,
    pub(crate) fresh: PathBuf,
    pub(crate) farm: PathBuf,
    pub(crate) plain: PathBuf,
    pub(crate) patched: PathBuf,
    pub(crate) translated: PathBuf,
    pub(crate) tmp: PathBuf,
    pub(crate) aside: PathBuf,
}

impl Paths {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self {
            format: dir.join("format"),
            writer_lock: dir.join("writer.lock"),
            pin_lock: dir.join("pin.lock"),
            packs: dir.join("packs"),
            index: dir.join("index.redb"),
            images: dir.join("images"),
            refs: dir.join("refs"),
            objects: dir.join("objects"),
            roots: dir.join("roots"),
            fresh: dir.join("fresh"),
            farm: dir.join("farm"),
            plain: dir.join("plain"),
            patched: dir.join("patched"),
            translated: dir.join("translated"),
            tmp: dir.join("tmp"),
            aside: dir.join("aside"),
            dir,
        }
    }

    /// Checks that this is a pool of this version; makes it one when there is nothing yet. Several processes may do so
    /// at once, and any of them may die on the way: the file `format` comes last.
    pub(crate) fn ensure(&self) -> Result<()> {
        match fs::read_to_string(&self.format) {
            Ok(text) if text == FORMAT => Ok(()),
            Ok(text) => Err(Error::Format { path: self.dir.clone(), found: format!("{:?}", text.trim_end()) }),
            Err(error) if error.kind() == ErrorKind::NotFound => self.create(),
            Err(error) => Err(error).context("read", &self.format),
        }
    }

    fn create(&self) -> Result<()> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        let dirs =
            [&self.dir, &self.tmp, &self.packs, &self.images, &self.refs, &self.objects, &self.roots, &self.farm];
        for dir in dirs.into_iter().chain([&self.plain, &self.aside]) {
            fail::point(Point::LayoutCreate).context("create", dir)?;
            builder.create(dir).context("create", dir)?;
        }
        durable::write_file(&self.tmp, &self.format, FORMAT.as_bytes(), durable::SMALL)?;
        match self.dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => durable::sync_dir(parent, Point::SmallDirSync),
            _ => Ok(()),
        }
    }

    /// `DIR/ab/cdef…` for an id.
    pub(crate) fn fanned(dir: &Path, id: &ObjectId) -> PathBuf {
        dir.join(fanned_name(id))
    }

    pub(crate) fn root_image(&self, tree: &ObjectId) -> PathBuf {
        self.roots.join(format!("{tree}.erofs"))
    }

    pub(crate) fn plain_root(&self, tree: &ObjectId) -> PathBuf {
        self.plain.join(tree.to_string())
    }

    pub(crate) fn image_file(&self, id: &ObjectId) -> PathBuf {
        self.images.join(id.to_string())
    }

    /// The packs that are there, in order.
    pub(crate) fn pack_numbers(&self) -> Result<Vec<PackNumber>> {
        let names = names(&self.packs)?;
        let mut numbers: Vec<_> = names.iter().filter_map(|name| pack::parse_file_name(name)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }
}

/// `ab/cdef…` for an id.
pub(crate) fn fanned_name(id: &ObjectId) -> String {
    let hex = id.to_string();
    let (fan, rest) = hex.split_at(2);
    format!("{fan}/{rest}")
}

/// The names in a directory; none when it does not exist. Names that are not text cannot be ours.
pub(crate) fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context("list", dir)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.context("list", dir)?.file_name().into_string());
    }
    Ok(names)
}

/// The ids that a fanned directory has files for.
pub(crate) fn fanned_ids(dir: &Path) -> Result<Vec<ObjectId>> {
    let mut ids = Vec::new();
    for fan in names(dir)?.into_iter().filter(|fan| fan.len() == 2) {
        let rest = names(&dir.join(&fan))?;
        ids.extend(rest.into_iter().filter_map(|rest| format!("{fan}{rest}").parse::<ObjectId>().ok()));
    }
    Ok(ids)
}
