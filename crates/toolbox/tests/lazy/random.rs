//! Random operations on a lazy tree with something writable above, and the same on a copy of the tree in memory: every
//! answer must be the same, and in the end every name and byte. A failing run names its seed.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, AtFlags, Gid, Mode, OFlags, Uid, XattrFlags};
use store::{Kind, Node, Tree};

use crate::fixture::{Pool, Root, SERVER, able, descriptor_path, directory, meta, noise, put, tmpfs};

const SEEDS: std::ops::Range<u64> = 1..25;
const STEPS: usize = 1500;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    /// A path of the tree, or one near.
    fn path(&mut self) -> String {
        let parts: Vec<_> = (0..=self.below(3)).map(|_| ["a", "b", "c", "d", "f0", "f1", "f2", "new"]).collect();
        let names: Vec<_> = parts.into_iter().map(|it| it[self.below(8) as usize]).collect();
        names.join("/")
    }
}

/// The files below: each with another content, some large enough to be in many chunks.
fn files() -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for dir in ["", "a/", "b/", "a/b/", "a/c/", "b/a/", "a/b/c/"] {
        for name in 0..3 {
            let seed = files.len() as u64;
            files.push((format!("{dir}f{name}"), noise(1 + (seed as usize * 7919) % 20_000 * (1 + name * name), seed)));
        }
    }
    files.push(("d/f0".to_owned(), noise(3_000_000, 1000)));
    files
}

fn pool() -> Pool {
    Pool::new(|writer| {
        let mut tree = Tree::new(meta(0o755));
        for (path, bytes) in files() {
            let content = writer.file(&*bytes).unwrap();
            put(&mut tree, &path, content);
        }
        tree.insert("a/new", Node { meta: meta(0o777), kind: Kind::Symlink((*b"b/f1").into()) }).unwrap();
        tree
    })
}

/// The same files in memory.
fn copy() -> OwnedFd {
    let memory = tmpfs();
    let root = descriptor_path(&memory);
    for (path, bytes) in files() {
        std::fs::create_dir_all(root.join(&path).parent().unwrap()).unwrap();
        std::fs::write(root.join(&path), bytes).unwrap();
    }
    std::os::unix::fs::symlink("b/f1", root.join("a/new")).unwrap();
    memory
}

/// One operation, with everything that it is about decided.
#[derive(Debug)]
enum Operation {
    Read(String),
    Write(String, u64, Vec<u8>),
    Append(String, Vec<u8>),
    Create(String),
    Truncate(String, u64),
    Remove(String),
    RemoveDirectory(String),
    MakeDirectory(String),
    Rename(String, String),
    Link(String, String),
    Symlink(String, String),
    ReadLink(String),
    Mode(String, u32),
    Owner(String, u32),
    Attribute(String, Vec<u8>),
    List(String),
    Status(String),
}

impl Operation {
    fn any(random: &mut Random) -> Self {
        let path = random.path();
        match random.below(22) {
            0..4 => Self::Read(path),
            4 | 5 => {
                let (at, length, seed) = (random.below(40_000), random.below(5000), random.below(1 << 40));
                Self::Write(path, at, noise(length as usize, seed))
            }
            6 => Self::Append(path, noise(random.below(3000) as usize, random.below(1 << 40))),
            7 | 8 => Self::Create(path),
            9 => Self::Truncate(path, random.below(30_000)),
            10 => Self::Remove(path),
            11 => Self::RemoveDirectory(path),
            12 => Self::MakeDirectory(path),
            13 | 14 => Self::Rename(path, random.path()),
            15 => Self::Link(path, random.path()),
            16 => Self::Symlink(random.path(), path),
            17 => Self::ReadLink(path),
            18 => Self::Mode(path, random.below(0o1000) as u32),
            19 if random.below(2) == 0 => Self::Owner(path, random.below(2000) as u32),
            19 => Self::Attribute(path, noise(random.below(200) as usize, 3)),
            20 => Self::List(path),
            _ => Self::Status(path),
        }
    }

    /// Does it. What it gives is all that can be seen of it.
    fn run(&self, dir: &OwnedFd) -> rustix::io::Result<Vec<u8>> {
        let open = |path: &String, flags| fs::openat(dir, path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o644));
        let done = |result: rustix::io::Result<()>| result.map(|()| Vec::new());
        match self {
            Self::Read(path) => contents(&open(path, OFlags::RDONLY | OFlags::NONBLOCK)?),
            Self::Write(path, at, bytes) => {
                let file = open(path, OFlags::RDWR)?;
                rustix::io::pwrite(&file, bytes, *at).map(|written| written.to_string().into_bytes())
            }
            Self::Append(path, bytes) => {
                rustix::io::write(open(path, OFlags::WRONLY | OFlags::APPEND)?, bytes).map(|_| Vec::new())
            }
            Self::Create(path) => open(path, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL).map(|_| Vec::new()),
            Self::Truncate(path, size) => done(fs::ftruncate(open(path, OFlags::WRONLY)?, *size)),
            Self::Remove(path) => done(fs::unlinkat(dir, path, AtFlags::empty())),
            Self::RemoveDirectory(path) => done(fs::unlinkat(dir, path, AtFlags::REMOVEDIR)),
            Self::MakeDirectory(path) => done(fs::mkdirat(dir, path, Mode::from_raw_mode(0o755))),
            Self::Rename(from, to) => done(fs::renameat(dir, from, dir, to)),
            Self::Link(from, to) => done(fs::linkat(dir, from, dir, to, AtFlags::empty())),
            Self::Symlink(target, path) => done(fs::symlinkat(target, dir, path)),
            Self::ReadLink(path) => fs::readlinkat(dir, path, Vec::new()).map(|it| it.into_bytes()),
            Self::Mode(path, mode) => done(fs::chmodat(dir, path, Mode::from_raw_mode(*mode), AtFlags::empty())),
            Self::Owner(path, id) => {
                let (user, group) = (Uid::from_raw(*id), Gid::from_raw(id + 1));
                done(fs::chownat(dir, path, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW))
            }
            Self::Attribute(path, value) => {
                let file = open(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
                fs::fsetxattr(&file, "user.note", value, XattrFlags::empty())?;
                let mut found = vec![0; 1000];
                let length = fs::fgetxattr(&file, "user.note", &mut found[..])?;
                found.truncate(length);
                Ok(found)
            }
            Self::List(path) => list(&open(path, OFlags::RDONLY | OFlags::DIRECTORY)?),
            Self::Status(path) => status(dir, path).map(String::into_bytes),
        }
    }
}

fn contents(file: &OwnedFd) -> rustix::io::Result<Vec<u8>> {
    let mut bytes = vec![0; fs::fstat(file)?.st_size as usize + 1];
    let mut length = 0;
    loop {
        match rustix::io::pread(file, &mut bytes[length..], length as u64)? {
            0 => break,
            more => length += more,
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

fn list(dir: &OwnedFd) -> rustix::io::Result<Vec<u8>> {
    let mut names = Vec::new();
    for entry in fs::Dir::read_from(dir)? {
        names.push(entry?.file_name().to_bytes().to_vec());
    }
    names.sort();
    Ok(names.join(&b'\n'))
}

/// What is the same on both sides: not the links and sizes of directories, not times, not numbers of inodes.
fn status(dir: &OwnedFd, path: &str) -> rustix::io::Result<String> {
    let found = fs::statat(dir, path, AtFlags::SYMLINK_NOFOLLOW)?;
    let is_directory = fs::FileType::from_raw_mode(found.st_mode) == fs::FileType::Directory;
    let (links, size) = if is_directory { (0, 0) } else { (found.st_nlink, found.st_size) };
    Ok(format!("{:o} {} {} {links} {size}", found.st_mode, found.st_uid, found.st_gid))
}

/// Everything beneath a directory.
fn all(root: &Path) -> BTreeMap<String, (String, Vec<u8>)> {
    let dir = directory(root);
    let mut todo = vec![String::new()];
    let mut found = BTreeMap::new();
    while let Some(at) = todo.pop() {
        for entry in std::fs::read_dir(root.join(&at)).unwrap() {
            let entry = entry.unwrap();
            let path = Path::new(&at).join(entry.file_name()).to_str().unwrap().to_owned();
            let kind = entry.file_type().unwrap();
            let bytes = match (kind.is_file(), kind.is_symlink()) {
                (true, _) => std::fs::read(root.join(&path)).unwrap(),
                (_, true) => std::fs::read_link(root.join(&path)).unwrap().into_os_string().into_encoded_bytes(),
                _ => Vec::new(),
            };
            if kind.is_dir() {
                todo.push(path.clone());
            }
            found.insert(path.clone(), (status(&dir, &path).unwrap(), bytes));
        }
    }
    found
}

#[test]
fn random_operations_give_what_they_give_in_memory() {
    if !able() {
        return;
    }
    let pool = pool();
    for seed in SEEDS {
        let root = Root::writable(pool.start(SERVER));
        let memory = copy();
        let (ours, theirs) = (directory(&root.dir()), memory.as_fd().try_clone_to_owned().unwrap());
        let mut random = Random(seed);
        for step in 0..STEPS {
            let operation = Operation::any(&mut random);
            let (found, expected) = (operation.run(&ours), operation.run(&theirs));
            let same = found == expected;
            assert!(same, "seed {seed}, step {step}: {operation:?}: {:?} and {:?}", brief(&found), brief(&expected));
        }
        let (found, expected) = (all(&root.dir()), all(&descriptor_path(&memory)));
        let names = |all: &BTreeMap<String, (String, Vec<u8>)>| all.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&found), names(&expected), "seed {seed}");
        for (path, (status, bytes)) in &expected {
            assert_eq!(found[path].0, *status, "seed {seed}: {path}");
            assert!(found[path].1 == *bytes, "seed {seed}: bytes of {path}");
        }
    }
}

/// A program made for it writes all over a file that lies below, and then reads back what it wrote.
#[test]
fn what_is_written_over_a_lazy_file_is_read_again() {
    if !able() {
        return;
    }
    let pool = pool();
    let root = Root::writable(pool.start(SERVER));
    for (name, engine) in [("plain", "psync"), ("mapped", "mmap")] {
        let mut fio = std::process::Command::new("fio");
        fio.args(["--name", name, "--filename=f0", "--size=2900k", "--bs=4k-64k", "--rw=randrw", "--verify=crc32c"]);
        fio.args(["--do_verify=1", "--verify_fatal=1", "--loops=3", "--minimal"]).arg(format!("--ioengine={engine}"));
        let Ok(output) = fio.current_dir(root.path("d")).output() else {
            return eprintln!("fio is not installed: not asked");
        };
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
    // Behind what it wrote, the file is as it was.
    let (found, below) = (root.read("d/f0").unwrap(), noise(3_000_000, 1000));
    assert!(found.len() == below.len() && found[2_970_000..] == below[2_970_000..]);
}

fn brief(result: &rustix::io::Result<Vec<u8>>) -> Result<String, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
    result.as_ref().map(|bytes| text(bytes)).map_err(|errno| errno.to_string())
}
