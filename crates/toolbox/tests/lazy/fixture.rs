//! A pool with a tree in it, and the tree mounted lazily: seen by this process alone, by descriptor.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use model::ObjectId;
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountAttrFlags;
use store::{Content, Kind, Metadata, Mtime, Node, Store, Tree, Writer};
use tempfile::TempDir;
use toolbox::lazy::{Lazy, Scratch, Serving};

/// The words that make this test binary a server: they select the one test that is it.
pub(crate) const SERVER: Serving<'static> = Serving::Process(&["lazy", "--exact", "serving::server", "--nocapture"]);

/// Whether this machine can do what is tested; says why not.
pub(crate) fn able() -> bool {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: mounting needs root");
        return false;
    }
    let pool = Pool::new(|_| Tree::default());
    match pool.start(Serving::Thread).mount(None) {
        Ok(_) => true,
        Err(why) => {
            eprintln!("skipped: {why}");
            false
        }
    }
}

pub(crate) struct Pool {
    dir: TempDir,
    pub(crate) store: Store,
    pub(crate) tree: Tree,
    pub(crate) id: ObjectId,
}

impl Pool {
    pub(crate) fn new(make: impl FnOnce(&mut Writer) -> Tree) -> Self {
        let dir = TempDir::new().unwrap();
        let store = Store::open(dir.path().join("pool")).unwrap();
        let mut writer = store.writer().unwrap();
        let tree = make(&mut writer);
        let id = writer.tree(&tree).unwrap();
        writer.publish(&[]).unwrap();
        Self { dir, store, tree, id }
    }

    pub(crate) fn start(&self, serving: Serving<'_>) -> Lazy {
        Lazy::start(&self.store, &self.id, None, serving).unwrap()
    }

    pub(crate) fn mount(&self) -> Root {
        Root::of(self.start(Serving::Thread))
    }

    /// Where the fresh files of this boot are.
    pub(crate) fn fresh(&self) -> PathBuf {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        self.dir.path().join("pool/fresh").join(boot.trim())
    }

    /// The names of the contents that were unpacked one by one.
    pub(crate) fn unpacked(&self) -> Vec<String> {
        let dirs = |path: &Path| std::fs::read_dir(path).into_iter().flatten().map(|it| it.unwrap().path());
        let fans = ["ahead", "asked"].into_iter().flat_map(|it| dirs(&self.fresh().join(it)));
        let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        let mut found: Vec<_> = fans.flat_map(|fan| dirs(&fan).map(move |it| name(&fan) + &name(&it))).collect();
        found.sort();
        found
    }
}

/// A mounted tree.
pub(crate) struct Root {
    mount: OwnedFd,
    pub(crate) lazy: Lazy,
}

impl Root {
    pub(crate) fn of(lazy: Lazy) -> Self {
        Self { mount: lazy.mount(None).unwrap(), lazy }
    }

    /// With a file system in memory above, as a session has it.
    pub(crate) fn writable(lazy: Lazy) -> Self {
        let memory = tmpfs();
        let open = |name: &str| {
            rustix::fs::mkdirat(&memory, name, Mode::from_raw_mode(0o755)).unwrap();
            rustix::fs::openat(&memory, name, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
        };
        let (upper, work) = (open("upper"), open("work"));
        // An overlay's root directory is the upper one.
        let time = rustix::fs::Timespec { tv_sec: 1_700_000_000, tv_nsec: 123_456_789 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(&memory, "upper", &times, rustix::fs::AtFlags::empty()).unwrap();
        let mount = lazy.mount(Some(Scratch { upper: upper.as_fd(), work: work.as_fd() })).unwrap();
        Self { mount, lazy }
    }

    pub(crate) fn dir(&self) -> PathBuf {
        descriptor_path(&self.mount)
    }

    pub(crate) fn path(&self, path: impl AsRef<[u8]>) -> PathBuf {
        self.dir().join(OsStr::from_bytes(path.as_ref()))
    }

    pub(crate) fn read(&self, path: &str) -> std::io::Result<Vec<u8>> {
        std::fs::read(self.path(path))
    }
}

pub(crate) fn descriptor_path(fd: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

/// A file system in memory, mounted nowhere.
pub(crate) fn tmpfs() -> OwnedFd {
    sys::mount::new_file_system::<&std::ffi::CStr>(c"tmpfs", &[], MountAttrFlags::empty()).unwrap()
}

/// Pseudo-random bytes.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

pub(crate) fn meta(mode: u16) -> Metadata {
    Metadata { mtime: Mtime { seconds: 1_700_000_000, nanos: 123_456_789 }, ..Metadata::new(mode) }
}

/// Puts a file into a tree, and the directories above it.
pub(crate) fn put(tree: &mut Tree, path: &str, content: Content) {
    tree.make_parents(path, &meta(0o755)).unwrap();
    tree.insert(path, Node { meta: meta(0o644), kind: Kind::File(content) }).unwrap();
}

/// Opens a directory of the host.
pub(crate) fn directory(path: &Path) -> OwnedFd {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(rustix::fs::CWD, path, flags, Mode::empty()).unwrap()
}
