//! Unpacking one content at a time, when somebody first wants it: for a root file system that is used before it is there.
//!
//! **A name in `fresh/BOOT` means that what it names is whole for as long as the machine runs.** Such a file is checked and
//! written aside like any other, but nobody waits for a disk: a program stands still while its file comes, and a thousand
//! small files are a thousand waits. After a crash of the machine that promise is worth nothing, so the directory is named
//! after the boot, and one of another boot is only garbage. `objects` keeps its own, stronger promise: what is fresh gets
//! in there when a tree is unpacked as a whole ([`super::compose`]), and then by the common way.
//!
//! There are two directories, because who looks for a content asks for it in between: first it looks where contents are that
//! nobody had to ask for, `objects` and `ahead`; then it asks; then it looks among those that were `asked` for.

use std::fs::{self, File};
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use model::ObjectId;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use super::metadata_image;
use crate::durable;
use crate::erofs::Inline;
use crate::error::{Context, Result};
use crate::fail::{self, Point, power};
use crate::layout::Paths;
use crate::object::Content;
use crate::reader::Reader;
use crate::store::Pin;
use crate::tree::Tree;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A tree that is mounted before its files are unpacked. While it lives, or a [`Filler`] does, a collector removes nothing that
/// the tree needs.
#[derive(Debug)]
pub struct OnDemand {
    /// The EROFS image with all names and metadata. What is in a file is told by an overlay's redirection to `/ab/cdef…`.
    pub metadata: PathBuf,
    /// Contents that a whole unpacking left, by that name.
    pub objects: PathBuf,
    /// Contents that were unpacked for [`Need::Soon`], by that name.
    pub ahead: PathBuf,
    /// Contents that were unpacked for [`Need::Now`], by that name.
    pub asked: PathBuf,
    _pin: Pin,
}

/// Why a content is unpacked, which decides where it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Somebody looked for it everywhere but among those that were asked for, and waits.
    Now,
    /// Somebody may look for it.
    Soon,
}

/// Unpacks contents one by one. Each thread has its own; any number of them work at once, in any number of processes.
pub struct Filler {
    reader: Reader,
    objects: PathBuf,
    fresh: Fresh,
}

/// The directories of this boot. They may not be there.
pub(crate) struct Fresh {
    pub(crate) dir: PathBuf,
    ahead: PathBuf,
    asked: PathBuf,
}

impl Fresh {
    pub(crate) fn of(paths: &Paths) -> Result<Self> {
        Self::beneath(paths, "")
    }

    /// Those of contents from elsewhere. Their ids are not hashes that the pool knows to check, so nobody who unpacks or checks
    /// contents of the pool may come across them.
    fn from_elsewhere(paths: &Paths) -> Result<Self> {
        Self::beneath(paths, "elsewhere")
    }

    fn beneath(paths: &Paths, part: &str) -> Result<Self> {
        let boot = Path::new(BOOT_ID);
        let id = fs::read_to_string(boot).context("read", boot)?;
        let dir = paths.fresh.join(id.trim());
        let contents = dir.join(part);
        Ok(Self { ahead: contents.join("ahead"), asked: contents.join("asked"), dir })
    }

    fn made(self) -> Result<Self> {
        self.contents().into_iter().try_for_each(make_directory)?;
        Ok(self)
    }

    /// Those that hold contents.
    pub(crate) fn contents(&self) -> [&Path; 2] {
        [&self.ahead, &self.asked]
    }

    /// Where a content is.
    pub(crate) fn find(&self, id: &ObjectId) -> Option<PathBuf> {
        self.contents().into_iter().map(|dir| Paths::fanned(dir, id)).find(|path| path.exists())
    }
}

fn make_directory(dir: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).context("create", dir)
}

/// Gets a tree ready. Costs reading its names, once a boot.
pub(crate) fn on_demand(paths: &Paths, pin: Pin, tree: &ObjectId) -> Result<OnDemand> {
    ready(paths, Fresh::of(paths)?, pin, tree, || {
        let reader = Reader::open(paths)?;
        metadata_image(&reader, &reader.tree(tree)?, Inline::Empty)
    })
}

/// The same for a tree that the pool does not have.
pub(crate) fn on_demand_from_elsewhere(paths: &Paths, pin: Pin, keep: &ObjectId, tree: &Tree) -> Result<OnDemand> {
    ready(paths, Fresh::from_elsewhere(paths)?, pin, keep, || {
        metadata_image(&Reader::open(paths)?, tree, Inline::Empty)
    })
}

/// The name of the metadata tells a collector which trees are in use, also when all that it names is unpacked.
fn ready(
    paths: &Paths,
    fresh: Fresh,
    pin: Pin,
    keep: &ObjectId,
    image: impl FnOnce() -> Result<Vec<u8>>,
) -> Result<OnDemand> {
    let fresh = fresh.made()?;
    let metadata = fresh.dir.join(format!("{keep}.erofs"));
    if !metadata.exists() && fs::hard_link(paths.root_image(keep), &metadata).is_err() {
        let image = image()?;
        publish(&fresh.dir, &metadata, |file, path| file.write_all(&image).context("write", path))?;
    }
    let Fresh { ahead, asked, .. } = fresh;
    Ok(OnDemand { metadata, objects: paths.objects.clone(), ahead, asked, _pin: pin })
}

/// Has a file written aside and gives it its name. What has that name already is the same.
fn publish(dir: &Path, name: &Path, write: impl FnOnce(&mut File, &Path) -> Result<()>) -> Result<()> {
    let mut aside = Aside::begin(dir, name.to_owned())?;
    write(&mut aside.file, &aside.path)?;
    aside.publish()
}

/// A file without its name yet. Dropping it forgets it.
#[derive(Debug)]
pub struct Aside {
    file: File,
    path: PathBuf,
    name: PathBuf,
    /// Whether there is something to remove at `path`.
    stays: bool,
}

impl Aside {
    fn begin(dir: &Path, name: PathBuf) -> Result<Self> {
        let path = durable::unique(dir, "aside");
        let file = durable::create_new(&path, 0o444)?;
        Ok(Self { file, path, name, stays: true })
    }

    /// Adds bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).context("write", &self.path)
    }

    /// Forgets all bytes from `length` on.
    pub fn truncate(&mut self, length: u64) -> Result<()> {
        let cut = self.file.set_len(length).and_then(|()| self.file.seek(SeekFrom::Start(length)));
        cut.map(|_| ()).context("truncate", &self.path)
    }

    /// Gives it its name. What has that name already is the same.
    pub fn publish(mut self) -> Result<()> {
        let Self { path, name, .. } = &self;
        fail::point(Point::ObjectRename).context("rename", name)?;
        power::renaming(path, name);
        let rename = || rustix::fs::renameat_with(CWD, path, CWD, name, RenameFlags::NOREPLACE);
        let renamed = match (rename(), name.parent()) {
            // The first of its fan.
            (Err(Errno::NOENT), Some(fan)) => {
                make_directory(fan)?;
                rename()
            }
            (renamed, _) => renamed,
        };
        match renamed {
            Ok(()) => {
                self.stays = false;
                Ok(())
            }
            // Another process was faster.
            Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(errno).context("rename", &self.name),
        }
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if self.stays {
            // What cannot be removed is only in the way; a collector finds it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Filler {
    pub(crate) fn open(paths: &Paths) -> Result<Self> {
        Self::of(paths, Fresh::of(paths)?)
    }

    pub(crate) fn from_elsewhere(paths: &Paths) -> Result<Self> {
        Self::of(paths, Fresh::from_elsewhere(paths)?)
    }

    fn of(paths: &Paths, fresh: Fresh) -> Result<Self> {
        Ok(Self { reader: Reader::open(paths)?, objects: paths.objects.clone(), fresh: fresh.made()? })
    }

    /// Makes a content of the pool be where the need for it is met, whole and checked.
    pub fn fill(&self, id: &ObjectId, need: Need) -> Result<()> {
        match self.missing(id, need)? {
            Some(name) => self.unpack(id, &name),
            None => Ok(()),
        }
    }

    /// Whether a content is where the need for it is met, or was put there now.
    pub fn has(&self, id: &ObjectId, need: Need) -> Result<bool> {
        Ok(self.missing(id, need)?.is_none())
    }

    /// For a content that the pool does not have: where to write it to, or nothing when it is where the need for it is met.
    /// Whoever writes it has checked it before [`Aside::publish`].
    pub fn begin(&self, id: &ObjectId, need: Need) -> Result<Option<Aside>> {
        self.missing(id, need)?.map(|name| Aside::begin(&self.fresh.dir, name)).transpose()
    }

    /// The name that a content lacks for the need to be met.
    fn missing(&self, id: &ObjectId, need: Need) -> Result<Option<PathBuf>> {
        let asked = Paths::fanned(&self.fresh.asked, id);
        if asked.exists() {
            return Ok(None);
        }
        let ahead = Paths::fanned(&self.fresh.ahead, id);
        let elsewhere = [ahead.clone(), Paths::fanned(&self.objects, id)].into_iter().find(|it| it.exists());
        match (need, elsewhere) {
            (Need::Soon, Some(_)) => Ok(None),
            (Need::Soon, None) => Ok(Some(ahead)),
            // It came while somebody was on the way from there to here.
            (Need::Now, Some(elsewhere)) => link(&elsewhere, &asked).map(|()| None),
            (Need::Now, None) => Ok(Some(asked)),
        }
    }

    fn unpack(&self, id: &ObjectId, name: &Path) -> Result<()> {
        let content = Content { id: *id, size: self.reader.content_size(id)? };
        publish(&self.fresh.dir, name, |file, path| {
            fail::point(Point::ObjectWrite).context("write", path)?;
            super::fill(file, path, &self.reader, &content)
        })
    }
}

fn link(file: &Path, name: &Path) -> Result<()> {
    name.parent().map_or(Ok(()), make_directory)?;
    match fs::hard_link(file, name) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        linked => linked.context("link", name),
    }
}
