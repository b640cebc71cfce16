//! What POSIX says of file systems, asked of a lazy one: read-only by itself, and with something writable above.
//!
//! Written from the text of POSIX.1-2024 (the pages of the functions in the system interfaces volume, and the chapters on
//! path resolution and file access permissions). Where the text leaves a choice, what Linux chose is expected.

use std::os::fd::OwnedFd;

use rustix::fs::{
    self, Access, AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use store::{Kind, Metadata, Node, Tree};
use sys::Errno;
use sys::exec::{GroupChange, become_user};

use crate::fixture::{Pool, Root, SERVER, able, directory, meta, noise, put};

const MODE: Mode = Mode::from_raw_mode(0o644);
const NOW: Timestamps = Timestamps {
    last_access: Timespec { tv_sec: 5, tv_nsec: 0 },
    last_modification: Timespec { tv_sec: 6, tv_nsec: 7 },
};

fn pool() -> Pool {
    Pool::new(|writer| {
        let mut tree = Tree::new(meta(0o755));
        let content = writer.file(&*noise(9000, 1)).unwrap();
        for path in ["file", "dir/file", "dir/inner/file", "other/file", "open/file"] {
            put(&mut tree, path, content);
        }
        let mut insert = |path: &str, meta: Metadata, kind: Kind| {
            tree.insert(path, Node { meta, kind }).unwrap();
        };
        insert("empty", meta(0o755), Kind::Directory);
        insert("private", meta(0o600), Kind::File(content));
        insert("closed", meta(0o700), Kind::Directory);
        insert("closed/file", meta(0o666), Kind::File(content));
        insert("listed", meta(0o744), Kind::Directory);
        insert("listed/file", meta(0o644), Kind::File(content));
        insert("searched", meta(0o711), Kind::Directory);
        insert("searched/file", meta(0o644), Kind::File(content));
        insert("open", meta(0o777), Kind::Directory);
        insert("sticky", meta(0o1777), Kind::Directory);
        insert("sticky/file", meta(0o666), Kind::File(content));
        insert("owned", Metadata { uid: 1000, gid: 1000, ..meta(0o400) }, Kind::File(content));
        insert("grouped", Metadata { gid: 1000, ..meta(0o640) }, Kind::File(content));
        insert("denied", Metadata { uid: 1000, gid: 1000, ..meta(0o077) }, Kind::File(content));
        insert("setuid", Metadata { uid: 1000, gid: 1000, ..meta(0o6777) }, Kind::File(content));
        insert("link", meta(0o777), Kind::Symlink((*b"file").into()));
        insert("dirlink", meta(0o777), Kind::Symlink((*b"dir").into()));
        insert("nowhere", meta(0o777), Kind::Symlink((*b"missing").into()));
        insert("loop", meta(0o777), Kind::Symlink((*b"loop").into()));
        insert("pipe", meta(0o666), Kind::Fifo);
        insert("socket", meta(0o666), Kind::Socket);
        tree.link("file", "again").unwrap();
        tree
    })
}

/// An access control list as the kernel takes it: what owner, group and others of a file of mode 755 may do.
const MAY: [u8; 28] = [
    2, 0, 0, 0, // version
    1, 0, 7, 0, 255, 255, 255, 255, // owner
    4, 0, 5, 0, 255, 255, 255, 255, // group
    32, 0, 5, 0, 255, 255, 255, 255, // others
];

type Outcome = rustix::io::Result<()>;
type Case = (&'static str, Outcome, fn(&OwnedFd) -> Outcome);

fn run(root: &Root, cases: &[Case]) {
    let dir = directory(&root.dir());
    let wrong: Vec<_> = cases
        .iter()
        .filter_map(|(name, expected, case)| {
            let found = case(&dir);
            (found != *expected).then(|| format!("{name}: {found:?} instead of {expected:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn open(dir: &OwnedFd, path: &str, flags: OFlags) -> Outcome {
    fs::openat(dir, path, flags | OFlags::CLOEXEC, MODE).map(drop)
}

fn make(dir: &OwnedFd, path: &str) -> Outcome {
    open(dir, path, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)
}

fn stat(dir: &OwnedFd, path: &str) -> Outcome {
    fs::statat(dir, path, AtFlags::empty()).map(drop)
}

fn read_all(dir: &OwnedFd, path: &str) -> rustix::io::Result<Vec<u8>> {
    let fd = fs::openat(dir, path, OFlags::RDONLY | OFlags::CLOEXEC, MODE)?;
    let mut bytes = vec![0; 20_000];
    let mut length = 0;
    loop {
        match rustix::io::read(&fd, &mut bytes[length..])? {
            0 => break,
            more => length += more,
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

fn write_all(dir: &OwnedFd, path: &str, flags: OFlags, bytes: &[u8]) -> Outcome {
    let fd = fs::openat(dir, path, OFlags::WRONLY | OFlags::CLOEXEC | flags, MODE)?;
    rustix::io::write(&fd, bytes).map(drop)
}

/// An assertion as an outcome.
fn holds(condition: bool) -> Outcome {
    if condition { Ok(()) } else { Err(Errno::PROTO) }
}

const fn fails(errno: Errno) -> Outcome {
    Err(errno)
}

const LOOKING: &[Case] = &[
    ("a name that is not there", fails(Errno::NOENT), |d| stat(d, "missing")),
    ("a name beneath one that is not there", fails(Errno::NOENT), |d| stat(d, "missing/file")),
    ("a name beneath a file", fails(Errno::NOTDIR), |d| stat(d, "file/x")),
    ("a file with a slash behind it", fails(Errno::NOTDIR), |d| stat(d, "file/")),
    ("a directory with slashes behind it", Ok(()), |d| stat(d, "dir//")),
    ("the empty path", fails(Errno::NOENT), |d| stat(d, "")),
    ("dot and dot-dot", Ok(()), |d| stat(d, "dir/./inner/../../file")),
    ("above a file", fails(Errno::NOTDIR), |d| stat(d, "file/..")),
    ("a name of 255 bytes", fails(Errno::NOENT), |d| stat(d, &"x".repeat(255))),
    ("a name of 256 bytes", fails(Errno::NAMETOOLONG), |d| stat(d, &"x".repeat(256))),
    ("a path of more than 4095 bytes", fails(Errno::NAMETOOLONG), |d| stat(d, &"./".repeat(2100))),
    ("a link to itself", fails(Errno::LOOP), |d| stat(d, "loop")),
    ("a link to nowhere", fails(Errno::NOENT), |d| stat(d, "nowhere")),
    ("through a link to a directory", Ok(()), |d| stat(d, "dirlink/inner/file")),
    ("what a link says", Ok(()), |d| holds(fs::readlinkat(d, "link", Vec::new())?.as_bytes() == b"file")),
    ("what a file says as a link", fails(Errno::INVAL), |d| fs::readlinkat(d, "file", Vec::new()).map(drop)),
    ("what a directory says as a link", fails(Errno::INVAL), |d| fs::readlinkat(d, "dir", Vec::new()).map(drop)),
    ("opening a link itself", fails(Errno::LOOP), |d| open(d, "link", OFlags::RDONLY | OFlags::NOFOLLOW)),
    ("opening a file as a directory", fails(Errno::NOTDIR), |d| open(d, "file", OFlags::RDONLY | OFlags::DIRECTORY)),
    ("making what is there", fails(Errno::EXIST), |d| make(d, "file")),
    ("making what is a link to nowhere", fails(Errno::EXIST), |d| make(d, "nowhere")),
    ("writing to a directory", fails(Errno::ISDIR), |d| open(d, "dir", OFlags::WRONLY)),
    ("opening a pipe that nobody reads", fails(Errno::NXIO), |d| open(d, "pipe", OFlags::WRONLY | OFlags::NONBLOCK)),
    ("opening a socket", fails(Errno::NXIO), |d| open(d, "socket", OFlags::RDONLY)),
    ("reading a directory as a file", fails(Errno::ISDIR), |d| {
        let fd = fs::openat(d, "dir", OFlags::RDONLY, MODE)?;
        rustix::io::read(&fd, &mut [0; 8][..]).map(drop)
    }),
    ("two names, one inode", Ok(()), |d| {
        let (one, two) = (fs::statat(d, "file", AtFlags::empty())?, fs::statat(d, "again", AtFlags::empty())?);
        holds(one.st_ino == two.st_ino && one.st_nlink == 2)
    }),
    ("an inode keeps its number", Ok(()), |d| {
        let before = fs::statat(d, "dir/file", AtFlags::empty())?.st_ino;
        read_all(d, "dir/file")?;
        holds(fs::statat(d, "dir/file", AtFlags::empty())?.st_ino == before)
    }),
    ("reading at and behind the end", Ok(()), |d| {
        let fd = fs::openat(d, "file", OFlags::RDONLY, MODE)?;
        let mut bytes = [0; 100];
        let at = |offset, bytes: &mut [u8]| rustix::io::pread(&fd, bytes, offset);
        holds(at(8950, &mut bytes)? == 50 && at(9000, &mut bytes)? == 0 && at(1 << 40, &mut bytes)? == 0)
    }),
    ("a seek to a negative place", fails(Errno::INVAL), |d| {
        let fd = fs::openat(d, "file", OFlags::RDONLY, MODE)?;
        fs::seek(&fd, fs::SeekFrom::Current(-1)).map(drop)
    }),
    ("holes are told", Ok(()), |d| {
        let fd = fs::openat(d, "file", OFlags::RDONLY, MODE)?;
        holds(fs::seek(&fd, fs::SeekFrom::Data(0))? == 0 && fs::seek(&fd, fs::SeekFrom::Hole(0))? == 9000)
    }),
];

const READ_ONLY: &[Case] = &[
    ("write", fails(Errno::ROFS), |d| open(d, "file", OFlags::WRONLY)),
    ("read and write", fails(Errno::ROFS), |d| open(d, "file", OFlags::RDWR)),
    ("truncate on opening", fails(Errno::ROFS), |d| open(d, "file", OFlags::RDONLY | OFlags::TRUNC)),
    ("create", fails(Errno::ROFS), |d| make(d, "new")),
    ("create where it exists", Ok(()), |d| open(d, "file", OFlags::RDONLY | OFlags::CREATE)),
    ("make a directory", fails(Errno::ROFS), |d| fs::mkdirat(d, "new", MODE)),
    ("make a directory that exists", fails(Errno::EXIST), |d| fs::mkdirat(d, "dir", MODE)),
    ("make a pipe", fails(Errno::ROFS), |d| fs::mknodat(d, "new", FileType::Fifo, MODE, 0)),
    ("make a link", fails(Errno::ROFS), |d| fs::symlinkat("x", d, "new")),
    ("give a further name", fails(Errno::ROFS), |d| fs::linkat(d, "file", d, "new", AtFlags::empty())),
    ("remove", fails(Errno::ROFS), |d| fs::unlinkat(d, "file", AtFlags::empty())),
    ("remove a directory", fails(Errno::ROFS), |d| fs::unlinkat(d, "empty", AtFlags::REMOVEDIR)),
    ("rename", fails(Errno::ROFS), |d| fs::renameat(d, "file", d, "new")),
    ("change the mode", fails(Errno::ROFS), |d| fs::chmodat(d, "file", MODE, AtFlags::empty())),
    ("change the owner", fails(Errno::ROFS), |d| fs::chownat(d, "file", Some(Uid::ROOT), None, AtFlags::empty())),
    ("change the time", fails(Errno::ROFS), |d| fs::utimensat(d, "file", &NOW, AtFlags::empty())),
    ("ask to write", fails(Errno::ROFS), |d| fs::accessat(d, "file", Access::WRITE_OK, AtFlags::empty())),
    ("ask to read", Ok(()), |d| fs::accessat(d, "file", Access::READ_OK, AtFlags::empty())),
    ("set an attribute", fails(Errno::ROFS), |d| {
        let fd = fs::openat(d, "file", OFlags::RDONLY, MODE)?;
        fs::fsetxattr(&fd, "user.x", b"1", XattrFlags::empty())
    }),
    ("read a link to a pipe's name", Ok(()), |d| open(d, "pipe", OFlags::RDONLY | OFlags::NONBLOCK)),
];

/// As a user who owns nothing but `owned` and `denied`, and is in no group but theirs.
const ORDINARY: &[Case] = &[
    ("a private file", fails(Errno::ACCESS), |d| open(d, "private", OFlags::RDONLY)),
    ("one's own", Ok(()), |d| holds(read_all(d, "owned")? == noise(9000, 1))),
    ("one's own, forbidden to the owner", fails(Errno::ACCESS), |d| open(d, "denied", OFlags::RDONLY)),
    ("one's group's", Ok(()), |d| holds(read_all(d, "grouped")? == noise(9000, 1))),
    ("everybody's", Ok(()), |d| holds(read_all(d, "file")? == noise(9000, 1))),
    ("in a directory that may not be searched", fails(Errno::ACCESS), |d| stat(d, "closed/file")),
    ("in a directory that may only be listed", fails(Errno::ACCESS), |d| stat(d, "listed/file")),
    ("listing what may be listed", Ok(()), |d| open(d, "listed", OFlags::RDONLY | OFlags::DIRECTORY)),
    ("in a directory that may only be searched", Ok(()), |d| holds(read_all(d, "searched/file")?.len() == 9000)),
    ("listing what may only be searched", fails(Errno::ACCESS), |d| {
        open(d, "searched", OFlags::RDONLY | OFlags::DIRECTORY)
    }),
];

const WRITABLE: &[Case] = &[
    ("write into what is below", Ok(()), |d| {
        let mut expected = noise(9000, 1);
        expected[..5].copy_from_slice(b"hello");
        write_all(d, "dir/file", OFlags::empty(), b"hello")?;
        holds(read_all(d, "dir/file")? == expected && read_all(d, "other/file")? == noise(9000, 1))
    }),
    ("append to what is below", Ok(()), |d| {
        write_all(d, "other/file", OFlags::APPEND, b"more")?;
        holds(read_all(d, "other/file")? == [&noise(9000, 1)[..], b"more"].concat())
    }),
    ("truncate on opening", Ok(()), |d| {
        open(d, "dir/inner/file", OFlags::WRONLY | OFlags::TRUNC)?;
        holds(read_all(d, "dir/inner/file")?.is_empty())
    }),
    ("lengthen", Ok(()), |d| {
        let fd = fs::openat(d, "dir/inner/file", OFlags::RDWR, MODE)?;
        fs::ftruncate(&fd, 5000)?;
        holds(read_all(d, "dir/inner/file")? == vec![0; 5000])
    }),
    ("change the mode of what is below", Ok(()), |d| {
        fs::chmodat(d, "private", Mode::from_raw_mode(0o4711), AtFlags::empty())?;
        let found = fs::statat(d, "private", AtFlags::empty())?;
        holds(found.st_mode & 0o7777 == 0o4711 && found.st_size == 9000 && read_all(d, "private")? == noise(9000, 1))
    }),
    ("change owner and time of what is below", Ok(()), |d| {
        fs::chownat(d, "grouped", Some(Uid::from_raw(7)), Some(Gid::from_raw(8)), AtFlags::empty())?;
        fs::utimensat(d, "grouped", &NOW, AtFlags::empty())?;
        let found = fs::statat(d, "grouped", AtFlags::empty())?;
        holds((found.st_uid, found.st_gid, found.st_mtime, found.st_mtime_nsec) == (7, 8, 6, 7))
    }),
    ("an attribute of what is below", Ok(()), |d| {
        let fd = fs::openat(d, "searched/file", OFlags::RDONLY, MODE)?;
        fs::fsetxattr(&fd, "user.x", b"1", XattrFlags::empty())?;
        let mut value = [0; 8];
        holds(fs::fgetxattr(&fd, "user.x", &mut value[..])? == 1 && value[0] == b'1')
    }),
    ("set-user-id goes when another writes", Ok(()), |d| {
        let dir = rustix::io::fcntl_dupfd_cloexec(d, 0)?;
        as_user(2000, move || write_all(&dir, "setuid", OFlags::empty(), b"x"))?;
        holds(fs::statat(d, "setuid", AtFlags::empty())?.st_mode & 0o6000 == 0)
    }),
    ("make, remove, make again", Ok(()), |d| {
        fs::unlinkat(d, "listed/file", AtFlags::empty())?;
        holds(stat(d, "listed/file") == Err(Errno::NOENT))?;
        make(d, "listed/file")?;
        holds(read_all(d, "listed/file")?.is_empty())
    }),
    ("an open file outlives its name", Ok(()), |d| {
        let fd = fs::openat(d, "open/file", OFlags::RDONLY, MODE)?;
        fs::unlinkat(d, "open/file", AtFlags::empty())?;
        let mut byte = [0];
        holds(rustix::io::read(&fd, &mut byte[..])? == 1 && byte[0] == noise(9000, 1)[0])
    }),
    ("an open descriptor sees what is written later", Ok(()), |d| {
        let fd = fs::openat(d, "sticky/file", OFlags::RDONLY, MODE)?;
        let mut bytes = [0; 3];
        rustix::io::pread(&fd, &mut bytes[..], 0)?;
        write_all(d, "sticky/file", OFlags::empty(), b"new")?;
        rustix::io::pread(&fd, &mut bytes[..], 0)?;
        holds(bytes == *b"new")
    }),
    ("remove a directory that is not empty", fails(Errno::NOTEMPTY), |d| fs::unlinkat(d, "dir", AtFlags::REMOVEDIR)),
    ("remove a directory as a file", fails(Errno::ISDIR), |d| fs::unlinkat(d, "dir", AtFlags::empty())),
    ("remove a file as a directory", fails(Errno::NOTDIR), |d| fs::unlinkat(d, "file", AtFlags::REMOVEDIR)),
    ("remove dot", fails(Errno::INVAL), |d| fs::unlinkat(d, "empty/.", AtFlags::REMOVEDIR)),
    ("a further name for a directory", fails(Errno::PERM), |d| fs::linkat(d, "dir", d, "x", AtFlags::empty())),
    ("a further name that is there", fails(Errno::EXIST), |d| fs::linkat(d, "file", d, "link", AtFlags::empty())),
    ("a further name for what is below", Ok(()), |d| {
        fs::linkat(d, "owned", d, "owned2", AtFlags::empty())?;
        let (one, two) = (fs::statat(d, "owned", AtFlags::empty())?, fs::statat(d, "owned2", AtFlags::empty())?);
        holds(one.st_ino == two.st_ino && two.st_nlink == 2)
    }),
    ("rename a directory into itself", fails(Errno::INVAL), |d| fs::renameat(d, "dir", d, "dir/inner/x")),
    ("rename a directory over one that is not empty", fails(Errno::NOTEMPTY), |d| fs::renameat(d, "empty", d, "dir")),
    ("rename a file over a directory", fails(Errno::ISDIR), |d| fs::renameat(d, "file", d, "empty")),
    ("rename a directory over a file", fails(Errno::NOTDIR), |d| fs::renameat(d, "empty", d, "file")),
    ("rename without replacing", fails(Errno::EXIST), |d| {
        fs::renameat_with(d, "file", d, "private", RenameFlags::NOREPLACE)
    }),
    ("rename one name over another of the same file", Ok(()), |d| {
        fs::renameat(d, "owned", d, "owned2")?;
        holds(stat(d, "owned").is_ok() && stat(d, "owned2").is_ok())
    }),
    ("rename a directory from below", Ok(()), |d| {
        fs::renameat(d, "searched", d, "moved")?;
        holds(stat(d, "searched").is_err() && read_all(d, "moved/file")? == noise(9000, 1))
    }),
    ("rename a directory over an empty one", Ok(()), |d| {
        fs::renameat(d, "moved", d, "empty")?;
        holds(read_all(d, "empty/file")? == noise(9000, 1))
    }),
    ("only who owns it removes from a sticky directory", fails(Errno::PERM), |d| {
        let dir = rustix::io::fcntl_dupfd_cloexec(d, 0)?;
        as_user(2000, move || fs::unlinkat(&dir, "sticky/file", AtFlags::empty()))
    }),
    ("anybody makes files in an open directory", Ok(()), |d| {
        let dir = rustix::io::fcntl_dupfd_cloexec(d, 0)?;
        as_user(2000, move || make(&dir, "open/theirs"))?;
        holds(fs::statat(d, "open/theirs", AtFlags::empty())?.st_uid == 2000)
    }),
    ("a file without a name", Ok(()), |d| {
        let fd = fs::openat(d, "dir", OFlags::RDWR | OFlags::TMPFILE, MODE)?;
        rustix::io::write(&fd, b"x")?;
        holds(fs::fstat(&fd)?.st_nlink == 0)
    }),
    ("set-group-id goes with a list of who may what, set by somebody outside of the group", Ok(()), |d| {
        fs::chownat(d, "private", Some(Uid::from_raw(2000)), Some(Gid::from_raw(3000)), AtFlags::empty())?;
        fs::chmodat(d, "private", Mode::from_raw_mode(0o2755), AtFlags::empty())?;
        let dir = rustix::io::fcntl_dupfd_cloexec(d, 0)?;
        as_user(2000, move || {
            let fd = fs::openat(&dir, "private", OFlags::RDONLY, MODE)?;
            fs::fsetxattr(&fd, "system.posix_acl_access", &MAY, XattrFlags::empty())
        })?;
        holds(fs::statat(d, "private", AtFlags::empty())?.st_mode & 0o7777 == 0o755)
    }),
    ("writing changes the time", Ok(()), |d| {
        let before = fs::statat(d, "file", AtFlags::empty())?.st_mtime;
        write_all(d, "file", OFlags::empty(), b"x")?;
        holds(fs::statat(d, "file", AtFlags::empty())?.st_mtime > before)
    }),
];

/// Does something as another user, who has the group 1000 too.
fn as_user(uid: u32, work: impl FnOnce() -> Outcome + Send + 'static) -> Outcome {
    // Identities are a thread's.
    let thread = std::thread::spawn(move || {
        become_user(uid, uid, &[1000], GroupChange::Set).unwrap();
        work()
    });
    thread.join().unwrap()
}

#[test]
fn a_lazy_tree_is_looked_at_as_posix_says() {
    if able() {
        run(&Root::of(pool().start(SERVER)), LOOKING);
        run(&Root::writable(pool().start(SERVER)), LOOKING);
    }
}

#[test]
fn a_lazy_tree_by_itself_cannot_be_changed() {
    if able() {
        let pool = pool();
        let root = Root::of(pool.start(SERVER));
        run(&root, READ_ONLY);
        assert_eq!(root.read("file").unwrap(), noise(9000, 1));
    }
}

#[test]
fn permissions_hold_before_and_after_the_first_read() {
    if !able() {
        return;
    }
    let pool = pool();
    for root in [Root::of(pool.start(SERVER)), Root::writable(pool.start(SERVER))] {
        for _ in 0..2 {
            std::thread::scope(|scope| {
                let user = scope.spawn(|| {
                    become_user(1000, 1000, &[], GroupChange::Set).unwrap();
                    run(&root, ORDINARY);
                });
                user.join().unwrap();
            });
            assert_eq!(root.read("private").unwrap(), noise(9000, 1));
        }
    }
}

#[test]
fn what_is_written_above_is_written_as_posix_says() {
    if able() {
        run(&Root::writable(pool().start(SERVER)), WRITABLE);
    }
}

/// What the predecessor's own file system server could not do.
#[test]
fn limits_and_direct_access_hold() {
    if !able() {
        return;
    }
    let pool = pool();
    let root = Root::writable(pool.start(SERVER));
    let shell = |script: &str| {
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", script]).current_dir(root.dir()).output().unwrap()
    };
    assert!(shell("dd if=file iflag=direct bs=4096 2>dd.log | cmp - file").status.success());
    // In units of 512 bytes.
    shell("ulimit -f 20; exec dd if=/dev/zero of=dir/file bs=1k seek=8 count=10 conv=notrunc");
    assert_eq!(std::fs::metadata(root.path("dir/file")).unwrap().len(), 10_240);
    shell("ulimit -f 20; exec dd if=/dev/zero of=limited bs=1k count=100");
    assert_eq!(std::fs::metadata(root.path("limited")).unwrap().len(), 10_240);
}

/// What `docs/concepts/lazy.md` says cannot hold. If one of these fails, the page is wrong.
const DEVIATIONS: &[Case] = &[
    ("hard links of the image come apart when one is written to", Ok(()), |d| {
        write_all(d, "again", OFlags::TRUNC, b"new")?;
        holds(read_all(d, "file")? == noise(9000, 1))
    }),
    ("reading does not change the time of access", Ok(()), |d| {
        let before = fs::statat(d, "other/file", AtFlags::empty())?.st_atime;
        read_all(d, "other/file")?;
        let found = fs::statat(d, "other/file", AtFlags::empty())?;
        holds(found.st_atime == before && found.st_atime == found.st_mtime && found.st_ctime == found.st_mtime)
    }),
];

#[test]
fn what_cannot_hold_is_what_the_documentation_says() {
    if able() {
        let pool = pool();
        run(&Root::writable(pool.start(SERVER)), DEVIATIONS);
    }
}
