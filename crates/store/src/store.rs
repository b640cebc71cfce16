//! The handle on a pool, through which everything else is reached.

use std::path::{Path, PathBuf};
use std::time::Duration;

use model::{ImageName, ImageRecord, ObjectId, Progress};

use crate::error::{Error, Result};
use crate::layout::{Paths, names};
use crate::lock::{self, Lock};
use crate::reader::Reader;
use crate::refs;
use crate::tree::Tree;
use crate::unpack::{self, Filler, Layout, OnDemand, Rootfs};
use crate::writer::{RefChange, Writer};

/// How long a second writer waits for the first.
const PATIENCE: Duration = Duration::from_secs(30);

/// A pool. Cheap to make and to copy; holds no lock and no open file.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) paths: Paths,
    patience: Duration,
}

/// As long as it lives, a collector removes no file of the pool. Held while a cell starts: from reading the name of its
/// image until its root file system is mounted.
#[derive(Debug)]
pub struct Pin {
    _lock: Lock,
}

impl Store {
    /// A handle on the pool in `dir`, which becomes one if there is nothing. Needs no privilege beyond access to `dir`.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self> {
        let paths = Paths::new(dir.into());
        paths.ensure()?;
        Ok(Self { paths, patience: PATIENCE })
    }

    /// The pool's directory.
    pub fn dir(&self) -> &Path {
        &self.paths.dir
    }

    /// Where copies of code are that whoever starts cells makes of unpacked files.
    pub fn patched(&self) -> &Path {
        &self.paths.patched
    }

    /// Where code is that machines have translated.
    pub fn translated(&self) -> &Path {
        &self.paths.translated
    }

    /// The same pool, with another time to wait for the writer's lock before [`Error::Busy`].
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Keeps collectors away from the pool's files.
    pub fn pin(&self) -> Result<Pin> {
        lock::pin(&self.paths.pin_lock).map(|lock| Pin { _lock: lock })
    }

    /// The image that a name leads to. Reads one small file.
    pub fn resolve(&self, name: &ImageName) -> Result<Option<ObjectId>> {
        refs::resolve(&self.paths, name)
    }

    /// Every name, in order, with its image, or in place of a damaged one what is wrong with it. For lists: one damaged
    /// file must not hide the others.
    pub fn each_ref(&self) -> Result<Vec<Result<(ImageName, ObjectId)>>> {
        let mut refs: Vec<_> = refs::each(&self.paths)?.into_iter().map(|(_, found)| found).collect();
        // Damaged ones, which have no name, come first.
        refs.sort_by(|left, right| left.as_ref().ok().cmp(&right.as_ref().ok()));
        Ok(refs)
    }

    /// Every name, in order, with its image. Fails when one of them is damaged.
    pub fn refs(&self) -> Result<Vec<(ImageName, ObjectId)>> {
        refs::all(&self.paths)
    }

    /// An image's record. Reads one small file.
    pub fn image(&self, id: &ObjectId) -> Result<ImageRecord> {
        refs::read_image(&self.paths, id)
    }

    /// Every image in the pool, with or without a name, in order of ids, with its record or with what is wrong with that.
    pub fn images(&self) -> Result<Vec<(ObjectId, Result<ImageRecord>)>> {
        let mut ids: Vec<ObjectId> = names(&self.paths.images)?.iter().filter_map(|name| name.parse().ok()).collect();
        ids.sort();
        Ok(ids.into_iter().map(|id| (id, self.image(&id))).collect())
    }

    /// The root file system of a tree: unpacked now, or found to be there already, which costs one `stat`.
    pub fn rootfs(&self, tree: &ObjectId, layout: Layout, progress: &dyn Progress) -> Result<Rootfs> {
        match layout {
            Layout::Composed => {
                let metadata = self.paths.root_image(tree);
                if !metadata.exists() {
                    unpack::compose(&self.paths, tree, progress)?;
                }
                Ok(Rootfs::Composed { metadata, objects: self.paths.objects.clone() })
            }
            Layout::Plain => {
                let (dir, missing) = unpack::plain(&self.paths, tree, progress)?;
                Ok(Rootfs::Plain { dir, missing })
            }
        }
    }

    /// A tree to be mounted before it is unpacked: names and metadata now, contents when a [`Filler`] is asked for them.
    pub fn on_demand(&self, tree: &ObjectId) -> Result<OnDemand> {
        unpack::on_demand(&self.paths, self.pin()?, tree)
    }

    /// The same for a tree whose contents come from elsewhere, which writes them with [`Filler::begin`]. `keep` names it: when
    /// that is an object of the pool, a collector keeps it and all that it points at while the tree is mounted.
    pub fn on_demand_from_elsewhere(&self, keep: &ObjectId, tree: &Tree) -> Result<OnDemand> {
        unpack::on_demand_from_elsewhere(&self.paths, self.pin()?, keep, tree)
    }

    /// Who unpacks contents one by one. It pins the pool's files while it lives.
    pub fn filler(&self) -> Result<Filler> {
        Filler::open(&self.paths)
    }

    /// The same for a tree of [`Store::on_demand_from_elsewhere`].
    pub fn filler_from_elsewhere(&self) -> Result<Filler> {
        Filler::from_elsewhere(&self.paths)
    }

    /// A reader. It pins the pool's files while it lives.
    pub fn reader(&self) -> Result<Reader> {
        Reader::open(&self.paths)
    }

    /// The writer. There is one at a time: waits for another to end, half a minute unless told otherwise, then fails with
    /// [`Error::Busy`].
    pub fn writer(&self) -> Result<Writer> {
        Writer::open(self.paths.clone(), self.writer_lock()?)
    }

    pub(crate) fn writer_lock(&self) -> Result<Lock> {
        lock::writer(&self.paths.writer_lock, self.patience)
    }

    /// Gives an image of the pool a further name, or a name another image.
    pub fn tag(&self, name: &ImageName, id: &ObjectId) -> Result<()> {
        self.writer()?.publish(&[RefChange::Set(name.clone(), *id)])
    }

    /// Takes a name away. The image stays until a collector finds it without a name. Tells whether there was such a name.
    pub fn untag(&self, name: &ImageName) -> Result<bool> {
        let _lock = self.writer_lock()?;
        refs::remove(&self.paths, name)
    }

    /// The image that a name, an id or a unique beginning of an id (of at least four digits) leads to.
    pub fn find(&self, text: &str) -> Result<Option<ObjectId>> {
        if let Ok(name) = text.parse()
            && let Some(id) = self.resolve(&name)?
        {
            return Ok(Some(id));
        }
        if text.len() < 4 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(None);
        }
        let files = names(&self.paths.images)?;
        let mut matching = files.iter().filter(|file| file.starts_with(text)).filter_map(|file| file.parse().ok());
        match (matching.next(), matching.next()) {
            (Some(_), Some(_)) => Err(Error::path(text.as_bytes(), "several images begin with that id")),
            (found, _) => Ok(found),
        }
    }
}
