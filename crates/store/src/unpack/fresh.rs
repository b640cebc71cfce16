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
use std::io::{ErrorKind, Write};
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
        let boot = Path::new(BOOT_ID);
        let id = fs::read_to_string(boot).context("read", boot)?;
        let dir = paths.fresh.join(id.trim());
        Ok(Self { ahead: dir.join("ahead"), asked: dir.join("asked"), dir })
    }

    fn made(paths: &Paths) -> Result<Self> {
        let fresh = Self::of(paths)?;
        fresh.contents().into_iter().try_for_each(make_directory)?;
        Ok(fresh)
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
    let fresh = Fresh::made(paths)?;
    let metadata = fresh.dir.join(format!("{tree}.erofs"));
    // The name here tells a collector which trees are in use, also when all that it names is unpacked.
    if !metadata.exists() && fs::hard_link(paths.root_image(tree), &metadata).is_err() {
        let reader = Reader::open(paths)?;
        let image = metadata_image(&reader, &reader.tree(tree)?, Inline::Empty)?;
        publish(&fresh.dir, &metadata, |file, path| file.write_all(&image).context("write", path))?;
    }
    let Fresh { ahead, asked, .. } = fresh;
    Ok(OnDemand { metadata, objects: paths.objects.clone(), ahead, asked, _pin: pin })
}

/// Has a file written aside and gives it its name. What has that name already is the same.
fn publish(dir: &Path, name: &Path, write: impl FnOnce(&mut File, &Path) -> Result<()>) -> Result<()> {
    let aside = durable::unique(dir, "aside");
    let renamed = durable::create_new(&aside, 0o444).and_then(|mut file| write(&mut file, &aside)).and_then(|()| {
        fail::point(Point::ObjectRename).context("rename", name)?;
        power::renaming(&aside, name);
        let rename = || rustix::fs::renameat_with(CWD, &aside, CWD, name, RenameFlags::NOREPLACE);
        match (rename(), name.parent()) {
            // The first of its fan.
            (Err(Errno::NOENT), Some(fan)) => make_directory(fan).map(|()| rename()),
            (renamed, _) => Ok(renamed),
        }
    });
    if !matches!(renamed, Ok(Ok(()))) {
        // Either it is of no use, or another process was faster.
        let _ = fs::remove_file(&aside);
    }
    match renamed? {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno).context("rename", name),
    }
}

impl Filler {
    pub(crate) fn open(paths: &Paths) -> Result<Self> {
        Ok(Self { reader: Reader::open(paths)?, objects: paths.objects.clone(), fresh: Fresh::made(paths)? })
    }

    /// Makes a content be where the need for it is met, whole and checked.
    pub fn fill(&self, id: &ObjectId, need: Need) -> Result<()> {
        let asked = Paths::fanned(&self.fresh.asked, id);
        if asked.exists() {
            return Ok(());
        }
        let ahead = Paths::fanned(&self.fresh.ahead, id);
        let elsewhere = [ahead.clone(), Paths::fanned(&self.objects, id)].into_iter().find(|it| it.exists());
        match (need, elsewhere) {
            (Need::Soon, Some(_)) => Ok(()),
            (Need::Soon, None) => self.unpack(id, &ahead),
            // It came while somebody was on the way from there to here.
            (Need::Now, Some(elsewhere)) => link(&elsewhere, &asked),
            (Need::Now, None) => self.unpack(id, &asked),
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
