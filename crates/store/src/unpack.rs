//! Unpacking: files of the pool as plain files of the host, once for all images that have them.
//!
//! **A name in `objects`, `farm`, `roots` or `plain` means that what it names is whole and durable.** New files are
//! written aside, made durable together (`syncfs`), and only then get their names; the root that needs them comes last.
//! So a power cut never leaves a short file behind an existing root, nor one that a later root would take for whole.

mod composed;
mod fresh;
mod plain;

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use model::{ObjectId, Progress};
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

pub(crate) use composed::{compose, metadata_image};
pub use fresh::{Aside, Filler, Need, OnDemand};
pub(crate) use fresh::{Fresh, on_demand, on_demand_from_elsewhere};
pub(crate) use plain::{farm_key, plain};

use crate::durable;
use crate::error::{Context, Error, Result};
use crate::fail::{self, Point, power};
use crate::layout::Paths;
use crate::object::{Content, Extent};
use crate::reader::Reader;

/// What kind of root file system is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A metadata image and a shared directory of contents, to be put together by overlayfs: Linux 6.5 or later, root.
    Composed,
    /// A directory tree of hard links, for any kernel and any user.
    Plain,
}

/// A root file system that is ready to be mounted. It stays while its tree belongs to a named image or is told to
/// [`crate::Store::gc`] as in use.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rootfs {
    /// Mount `metadata` as EROFS and stack `objects` below it as a data-only layer (`lowerdir+=…,datadir+=…`, `metacopy=on`).
    Composed {
        /// The EROFS image.
        metadata: PathBuf,
        /// The directory with the bytes.
        objects: PathBuf,
    },
    /// Use it as a lower directory, or bind it read-only.
    Plain {
        /// The root directory.
        dir: PathBuf,
        /// What an unprivileged user could not make as the tree has it. Empty for root.
        missing: Vec<Omission>,
    },
}

/// Something of a tree that a plain root file system lacks, because whoever unpacked it may not make it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Omission {
    /// Files belong to the user who unpacked them instead of their owners.
    Owners,
    /// Device files are not there.
    Devices,
    /// Some extended attributes are not there.
    Attributes,
}

/// Files written aside that will get their names together.
struct Staging<'a> {
    paths: &'a Paths,
    dir: PathBuf,
    ready: Vec<(PathBuf, PathBuf)>,
}

impl<'a> Staging<'a> {
    fn begin(paths: &'a Paths) -> Result<Self> {
        let dir = durable::unique(&paths.tmp, "unpack");
        fs::DirBuilder::new().mode(0o700).create(&dir).context("create", &dir)?;
        Ok(Self { paths, dir, ready: Vec::new() })
    }

    /// Writes a content aside, to be called `name`. Runs of zeros become holes. The file is given back for further
    /// changes of its metadata.
    fn write(&mut self, reader: &Reader, content: &Content, name: PathBuf) -> Result<File> {
        let path = self.dir.join(self.ready.len().to_string());
        fail::point(Point::ObjectWrite).context("write", &path)?;
        let mut file = durable::create_new(&path, 0o444)?;
        fill(&mut file, &path, reader, content)?;
        self.ready.push((path, name));
        Ok(file)
    }

    /// Takes in a whole file of the pool, to be called `name` too.
    fn adopt(&mut self, file: &Path, name: PathBuf) -> Result<()> {
        let path = self.dir.join(self.ready.len().to_string());
        fail::point(Point::ObjectWrite).context("write", &path)?;
        power::writing(&path);
        fs::hard_link(file, &path).context("link", &path)?;
        self.ready.push((path, name));
        Ok(())
    }

    /// Makes everything durable and gives it its names.
    fn publish(mut self, taken: Taken) -> Result<()> {
        if self.ready.is_empty() {
            return Ok(());
        }
        sync_file_system(&self.dir)?;
        let mut fans = HashSet::new();
        for (path, name) in std::mem::take(&mut self.ready) {
            if let Some(fan) = name.parent().filter(|fan| !fans.contains(*fan)) {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(fan).context("create", fan)?;
                fans.insert(fan.to_owned());
            }
            fail::point(Point::ObjectRename).context("rename", &name)?;
            power::renaming(&path, &name);
            match rustix::fs::renameat_with(CWD, &path, CWD, &name, taken.flags()) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno).context("rename", &name),
            }
        }
        sync_file_system(&self.paths.dir)
    }
}

/// What to do when a name exists already.
#[derive(Clone, Copy)]
enum Taken {
    /// Keep what has it: it is the same file.
    Keep,
    /// Replace what has it: it is damaged.
    Replace,
}

impl Taken {
    fn flags(self) -> RenameFlags {
        match self {
            Self::Keep => RenameFlags::NOREPLACE,
            Self::Replace => RenameFlags::empty(),
        }
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        // What did not get a name is only in the way; a collector would find it too.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn fill(file: &mut File, path: &Path, reader: &Reader, content: &Content) -> Result<()> {
    let mut at = 0;
    let mut hole = false;
    for extent in reader.extents(content)? {
        at += extent.size();
        match extent {
            Extent::Zeros { size } => {
                let size =
                    i64::try_from(size).map_err(|_| Error::TooLarge { what: "a file", limit: i64::MAX as u64 })?;
                std::io::Seek::seek(file, std::io::SeekFrom::Current(size)).context("write", path)?;
                hole = true;
            }
            Extent::Chunk { id, size } => {
                file.write_all(&reader.chunk(&id, size)?).context("write", path)?;
                hole = false;
            }
        }
    }
    if hole { file.set_len(at).context("write", path) } else { Ok(()) }
}

fn sync_file_system(dir: &Path) -> Result<()> {
    fail::point(Point::ObjectSync).context("sync", dir)?;
    let handle = File::open(dir).context("open", dir)?;
    rustix::fs::syncfs(&handle).context("sync", dir)?;
    power::all_synced();
    Ok(())
}

/// Unpacks one content into `objects`, in place of what may be there.
pub(crate) fn restore(paths: &Paths, reader: &Reader, content: &Content) -> Result<()> {
    let mut staging = Staging::begin(paths)?;
    staging.write(reader, content, Paths::fanned(&paths.objects, &content.id))?;
    staging.publish(Taken::Replace)
}

/// What is to be unpacked, in the order in which the packs have it, so that each frame is decompressed once.
fn in_pack_order<T>(reader: &Reader, wanted: BTreeMap<ObjectId, T>) -> Result<Vec<T>> {
    let mut located = Vec::with_capacity(wanted.len());
    for (id, what) in wanted {
        let place = reader.locate(&id)?.ok_or(Error::Missing(id))?;
        // A list stands among metadata; its chunks follow those of the files stored before it.
        let place = match reader.first_of_list(&id, &place)? {
            Some(first) => reader.locate(&first)?.ok_or(Error::Missing(first))?,
            None => place,
        };
        located.push(((place.pack, place.frame, place.offset), what));
    }
    located.sort_by_key(|(place, _)| *place);
    Ok(located.into_iter().map(|(_, what)| what).collect())
}

/// Tells how far an unpacking is.
fn announce(progress: &dyn Progress, tree: &ObjectId, total: u64) {
    progress.begin(&format!("unpacking {}", tree.short()), Some(total));
}
