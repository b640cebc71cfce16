//! A root file system that is there at once: its files are unpacked when they are first read.
//!
//! It is an overlay of these layers:
//!
//! ```text
//! metadata   EROFS   every name, owner, mode, attribute; each file says under which name its bytes are below
//! objects    pool    contents that were unpacked with a whole tree
//! ahead      pool    contents that were unpacked since this boot before anybody asked for them
//! ask        FUSE    has nothing; but it is asked, and answers when the bytes are in the next layer
//! asked      pool    contents that were unpacked since this boot because they were asked for
//! fail       FUSE    has nothing either, and says so with an error: whoever gets here has found the bytes nowhere
//! ```
//!
//! So the FUSE server is a **page fault handler for files**: it sees one look-up of a content that is not there, and no read, no
//! `stat`, no directory. Everything after that look-up is the kernel's own: reads and mappings are those of the pool's file, whose
//! page cache all cells and toolboxes share. A FUSE file system that serves the tree itself, with kernel passthrough, was
//! the other way; it costs a request at every `open` for ever (passthrough is granted by an answer to it), a request for
//! each attribute that an overlay above asks for, and one of the two levels of stacking that the kernel allows; and a dead
//! server takes away the files that were there already.
//!
//! What always holds: **no mount of it is seen by anybody** until its user attaches it; **a content is checked against its
//! id before anybody reads it**; **whatever happens to the server, nobody hangs**: what is unpacked can still be read, the
//! rest is an I/O error.

mod ahead;
mod origin;
mod server;
mod wire;

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use image::Remote;
use model::ObjectId;
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, memfd_create};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_string, fsmount, fsopen,
};
use store::{OnDemand, Store};
use sys::mount::{Reach, map_owners, new_file_system};
use sys::{Errno, fork, process};

use crate::error::{Error, Result};
use server::Files;
pub use server::server_main;

/// The first argument that makes the binary `skep` a server: its [`Serving::Process`] begins with `skep` and this.
pub const SERVE: &str = "lazy-serve";

/// As many bytes of a log are read.
const LOG_MOST: u64 = 1 << 20;
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Who unpacks.
#[derive(Clone, Copy, Debug)]
pub enum Serving<'a> {
    /// Our own program, executed again with these words and three more, all of which it gives to [`server_main`]. It is
    /// killed with the [`Lazy`].
    Process(&'a [&'a str]),
    /// A thread, which ends with the last use of the root file system. For who neither forks nor minds threads.
    Thread,
}

/// A tree ready to be mounted, and its server.
#[derive(Debug)]
pub struct Lazy {
    metadata: OwnedFd,
    /// From the first that is asked to the last.
    data: [OwnedFd; 5],
    /// The mount that the two of the server lie in, which ends with its descriptor.
    _faults: OwnedFd,
    server: Server,
    /// Also when the server is gone, no collector takes away what is unpacked.
    _ready: OnDemand,
    /// What went wrong with a registry.
    log: Option<File>,
}

/// The server's process, if it has one of its own. Killed and reaped when dropped.
#[derive(Debug)]
struct Server(Option<fork::Child>);

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(process) = &self.0 {
            // Both fail only when it is gone and reaped already.
            let _ = process::kill(&process.pidfd);
            let _ = process::wait(&process.pidfd);
        }
    }
}

/// Where an overlay keeps what is written to it: two directories of one mount.
#[derive(Clone, Copy, Debug)]
pub struct Scratch<'a> {
    /// What was written.
    pub upper: BorrowedFd<'a>,
    /// The overlay's own.
    pub work: BorrowedFd<'a>,
}

impl Lazy {
    /// Gets a stored tree ready and starts its server. Nothing of it is unpacked. With a `mapping`, owners are those that
    /// this user namespace calls so.
    ///
    /// It needs root, Linux 6.15 and a pool on a file system with a page cache of its own; without, [`Error::NotLazy`],
    /// and the caller unpacks the tree.
    pub fn start(
        store: &Store,
        tree: &ObjectId,
        mapping: Option<BorrowedFd<'_>>,
        serving: Serving<'_>,
    ) -> Result<Self> {
        Self::of(store, Files::Stored(*tree), mapping, serving, None, || Ok(store.on_demand(tree)?))
    }

    /// The same for an image whose layers stay in their registry until they are read. What comes stays in the pool until the
    /// machine restarts or a collector runs while no lazy file system is in use.
    pub fn start_remote(
        store: &Store,
        remote: &Remote,
        mapping: Option<BorrowedFd<'_>>,
        serving: Serving<'_>,
    ) -> Result<Self> {
        let wrong = |cause| Error::kernel("making a log", cause);
        let log = File::from(memfd_create(c"log", MemfdFlags::CLOEXEC).map_err(wrong)?);
        // Whoever writes adds to it.
        rustix::fs::fcntl_setfl(&log, OFlags::APPEND).map_err(wrong)?;
        let theirs = log.try_clone().map_err(|error| wrong(errno_of(&error)))?;
        let files = Files::Remote { supply: remote.supply.clone(), log: theirs };
        Self::of(store, files, mapping, serving, Some(log), || {
            Ok(store.on_demand_from_elsewhere(&remote.keep, &remote.tree)?)
        })
    }

    fn of(
        store: &Store,
        files: Files,
        mapping: Option<BorrowedFd<'_>>,
        serving: Serving<'_>,
        log: Option<File>,
        ready: impl FnOnce() -> Result<OnDemand>,
    ) -> Result<Self> {
        // Before everything else: the server gets ready while we do.
        let (faults, device) = faults()?;
        let server = start_server(store, files, device, serving)?;
        let ready = ready()?;
        let metadata = erofs(&ready.metadata)?;
        if let Some(namespace) = mapping {
            map_owners(&metadata, namespace, Reach::One)
                .map_err(|cause| Error::kernel("mapping the owners of a lazy file system", cause))?;
        }
        let wrong = |cause| Error::kernel("reaching the server of a lazy file system", cause);
        let inside = |name| rustix::fs::openat(&faults, name, DIRECTORY, Mode::empty()).map_err(wrong);
        let (ask, fail) = (inside(server::ASK_NAME)?, inside(server::FAIL_NAME)?);
        let [objects, ahead, asked] = [&ready.objects, &ready.ahead, &ready.asked].map(|it| directory(it));
        let data = [objects?, ahead?, ask, asked?, fail];
        Ok(Self { metadata, data, _faults: faults, server, _ready: ready, log })
    }

    /// The root file system, mounted nowhere yet: read-only, or writable with a `scratch`, which serves once: what is
    /// written is never synced. Its `upper` directory becomes the root directory, with its owner, mode and time.
    pub fn mount(&self, scratch: Option<Scratch<'_>>) -> Result<OwnedFd> {
        self.overlay(scratch).map_err(|cause| Error::not_lazy("mounting the layers", cause))
    }

    pub(crate) fn overlay(&self, scratch: Option<Scratch<'_>>) -> sys::Result<OwnedFd> {
        let context = fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let context = context.as_fd();
        let redirect = if scratch.is_some() { c"on" } else { c"follow" };
        for (name, value) in [(c"metacopy", c"on"), (c"redirect_dir", redirect), (c"index", c"off")] {
            fsconfig_set_string(context, name, value)?;
        }
        fsconfig_set_fd(context, c"lowerdir+", &self.metadata)?;
        for data in &self.data {
            fsconfig_set_fd(context, c"datadir+", data)?;
        }
        let mut attributes = MountAttrFlags::MOUNT_ATTR_RDONLY;
        if let Some(Scratch { upper, work }) = scratch {
            fsconfig_set_fd(context, c"upperdir", upper)?;
            fsconfig_set_fd(context, c"workdir", work)?;
            rustix::mount::fsconfig_set_flag(context, c"volatile")?;
            attributes = MountAttrFlags::empty();
        }
        fsconfig_create(context)?;
        fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    }

    /// Where it is written down what goes wrong with the registry that files come from, if they do.
    pub fn troubles(&self) -> Option<Troubles> {
        self.log.as_ref()?.try_clone().ok().map(Troubles)
    }

    /// The server's process, when it is one: it polls readable when it ended.
    pub fn server(&self) -> Option<BorrowedFd<'_>> {
        self.server.0.as_ref().map(|it| it.pidfd.as_fd())
    }
}

/// What went wrong with a registry. It can be read when the session is over.
#[derive(Debug)]
pub struct Troubles(File);

impl Troubles {
    /// Lines for people, each once.
    pub fn lines(&self) -> Vec<String> {
        let mut text = String::new();
        let mut log = &self.0;
        let read = log.seek(SeekFrom::Start(0)).and_then(|_| log.take(LOG_MOST).read_to_string(&mut text));
        if read.is_ok() { text.lines().map(str::to_owned).collect() } else { Vec::new() }
    }
}

/// The file system that is asked first, and the server's end of it.
fn faults() -> Result<(OwnedFd, OwnedFd)> {
    let wrong = |cause| Error::not_lazy("mounting a FUSE file system", cause);
    let device = rustix::fs::openat(CWD, c"/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(wrong)?;
    let number = CString::new(process::number(device.as_fd()).to_string()).unwrap_or_default();
    let options: [(&CStr, &CStr); 5] = [
        (c"fd", &number),
        (c"rootmode", c"40555"),
        (c"user_id", c"0"),
        (c"group_id", c"0"),
        // Whoever runs on the overlay may make it look here, in the name of who mounted it.
        (c"allow_other", c""),
    ];
    let mount = new_file_system(c"fuse", &options, MountAttrFlags::MOUNT_ATTR_RDONLY).map_err(wrong)?;
    Ok((mount, device))
}

fn start_server(store: &Store, files: Files, device: OwnedFd, serving: Serving<'_>) -> Result<Server> {
    let started = match serving {
        Serving::Thread => {
            let store = store.clone();
            let thread = std::thread::Builder::new().name("lazy".to_owned());
            // It cannot be told of a failure; whoever reads is.
            let started = thread.spawn(move || drop(server::serve(device.as_fd(), &store, files)));
            started.map(|_| Server(None)).map_err(|error| errno_of(&error))
        }
        Serving::Process(words) => start_process(words, store, &files, &device).map(|process| Server(Some(process))),
    };
    started.map_err(|cause| Error::kernel("starting the server of a lazy file system", cause))
}

fn start_process(words: &[&str], store: &Store, files: &Files, device: &OwnedFd) -> sys::Result<fork::Child> {
    match files {
        Files::Stored(tree) => {
            let words = command_line(words, store, &tree.to_string(), device.as_fd())?;
            process::reexec_read_only(&words, &[device.as_fd()])
        }
        Files::Remote { supply, log } => {
            let mut list = File::from(memfd_create(c"supply", MemfdFlags::CLOEXEC)?);
            let bytes = supply.to_bytes().map_err(|_| Errno::INVAL)?;
            list.write_all(&bytes).map_err(|error| errno_of(&error))?;
            let served = format!("{},{}", process::number(list.as_fd()), process::number(log.as_fd()));
            let words = command_line(words, store, &served, device.as_fd())?;
            process::reexec_read_only(&words, &[device.as_fd(), list.as_fd(), log.as_fd()])
        }
    }
}

fn command_line(words: &[&str], store: &Store, served: &str, device: BorrowedFd<'_>) -> sys::Result<Vec<CString>> {
    // The server will be at home somewhere else.
    let pool = std::path::absolute(store.dir()).map_err(|error| errno_of(&error))?;
    let device = process::number(device).to_string();
    let words = words.iter().map(|it| it.as_bytes());
    let words = words.chain([pool.as_os_str().as_bytes(), served.as_bytes(), device.as_bytes()]);
    words.map(|it| CString::new(it).map_err(|_| Errno::INVAL)).collect()
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

fn directory(path: &Path) -> Result<OwnedFd> {
    rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty())
        .map_err(|cause| Error::kernel(format!("opening {}", path.display()), cause))
}

/// Mounts an EROFS image that is a plain file.
fn erofs(image: &Path) -> Result<OwnedFd> {
    let wrong = |cause| Error::not_lazy("mounting metadata", cause);
    let file = rustix::fs::openat(CWD, image, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(wrong)?;
    // By descriptor: the kernel takes no text longer than 255 bytes here, which a path may well be.
    let source = CString::new(format!("/proc/self/fd/{}", process::number(file.as_fd()))).unwrap_or_default();
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV;
    new_file_system(c"erofs", &[(c"source", source.as_c_str())], attributes).map_err(wrong)
}
