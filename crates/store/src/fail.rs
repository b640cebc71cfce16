//! Fail points: named places where a test makes the process die or the disk fill up.
//!
//! Each write, fsync, rename and unlink of the store passes through one. They are always compiled: unarmed, a point is
//! one load and one branch. `SKEP_STORE_FAIL=POINT:N:ACTION` arms the N-th passage (from 1) of `POINT`, or of any
//! point when it is `any`; the action is `kill` (SIGKILL to the process itself, nothing is cleaned up), `power` (the
//! same, after undoing what no fsync has made durable), `enospc` or `eio`.

pub(crate) mod power;

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! points {
    ($($(#[$meta:meta])* $variant:ident = $text:literal,)+) => {
        /// A place where the store can be made to fail.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Point { $($(#[$meta])* $variant,)+ }

        impl Point {
            /// Every one.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Its name in `SKEP_STORE_FAIL`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

points! {
    /// Making the directories of a new pool.
    LayoutCreate = "layout.create",
    /// Creating the file of a new pack.
    PackCreate = "pack.create",
    /// Writing a frame.
    PackWrite = "pack.write",
    /// After the first half of a frame: a torn write.
    PackTear = "pack.tear",
    /// Writing a footer.
    PackFooter = "pack.footer",
    /// Making a finished pack durable.
    PackSync = "pack.sync",
    /// Giving a finished pack its name.
    PackRename = "pack.rename",
    /// Making that name durable.
    PackDirSync = "pack.dirsync",
    /// Before the index learns of new packs.
    IndexBegin = "index.begin",
    /// Half way through filling an index transaction.
    IndexFill = "index.fill",
    /// Before the index commits.
    IndexCommit = "index.commit",
    /// After the index committed.
    IndexDone = "index.done",
    /// Putting a rebuilt index in place.
    IndexReplace = "index.replace",
    /// Writing a small file (image record, ref).
    SmallWrite = "small.write",
    /// Making a small file durable.
    SmallSync = "small.sync",
    /// Giving a small file its name.
    SmallRename = "small.rename",
    /// Making that name durable.
    SmallDirSync = "small.dirsync",
    /// Removing a ref.
    RefRemove = "ref.remove",
    /// Writing an unpacked file.
    ObjectWrite = "object.write",
    /// Making unpacked files durable.
    ObjectSync = "object.sync",
    /// Giving an unpacked file its name.
    ObjectRename = "object.rename",
    /// Writing a metadata image, or an entry of a plain tree.
    RootWrite = "root.write",
    /// Making it durable.
    RootSync = "root.sync",
    /// Giving it its name.
    RootRename = "root.rename",
    /// Making that name durable.
    RootDirSync = "root.dirsync",
    /// Removing a condemned pack.
    GcPack = "gc.pack",
    /// Removing an unused image record.
    GcImage = "gc.image",
    /// Removing an unused unpacked file or tree.
    GcObject = "gc.object",
    /// Setting aside what fsck found damaged.
    FsckSetAside = "fsck.setaside",
}

struct Plan {
    point: Option<Point>,
    left: AtomicU64,
    action: Action,
}

enum Action {
    Kill,
    Power,
    Errno(rustix::io::Errno),
}

static PLAN: OnceLock<Option<Plan>> = OnceLock::new();

/// The variable that arms a point.
pub const VARIABLE: &str = "SKEP_STORE_FAIL";

fn parse(text: &str) -> Option<Plan> {
    let mut parts = text.split(':');
    let (name, nth, action) = (parts.next()?, parts.next()?, parts.next()?);
    let point = match name {
        "any" => None,
        name => Some(*Point::ALL.iter().find(|it| it.name() == name)?),
    };
    let action = match action {
        "kill" => Action::Kill,
        "power" => Action::Power,
        "enospc" => Action::Errno(rustix::io::Errno::NOSPC),
        "eio" => Action::Errno(rustix::io::Errno::IO),
        _ => return None,
    };
    Some(Plan { point, left: AtomicU64::new(nth.parse().ok()?), action })
}

fn plan() -> Option<&'static Plan> {
    PLAN.get_or_init(|| std::env::var(VARIABLE).ok().as_deref().and_then(parse)).as_ref()
}

/// Passes through a point: returns at once unless a test armed it.
pub(crate) fn point(point: Point) -> io::Result<()> {
    match plan() {
        None => Ok(()),
        Some(plan) => plan.pass(point),
    }
}

impl Plan {
    fn pass(&self, point: Point) -> io::Result<()> {
        if self.point.is_some_and(|armed| armed != point) || self.left.fetch_sub(1, Ordering::Relaxed) != 1 {
            return Ok(());
        }
        match self.action {
            Action::Errno(errno) => Err(errno.into()),
            Action::Kill | Action::Power => {
                if matches!(self.action, Action::Power) {
                    power::cut(point as u64);
                }
                let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
                // The signal is on its way; nothing may happen before it arrives.
                loop {
                    std::thread::park();
                }
            }
        }
    }
}
