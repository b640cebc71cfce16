//! File work in a tree that is unpacked as it is read, beside the same files in memory; and how long attaching takes.
//!
//! `lazy DIR ROUNDS` makes a pool in DIR, which must be on a disk, and prints one JSON object with a list of milliseconds
//! for each thing measured. Each round has a pool with nothing unpacked. `lazy serve POOL TREE FD` is a server of its own.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program that measures, and stops at the first surprise"
)]

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use model::ObjectId;
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountAttrFlags;
use store::{Kind, Layout, Metadata, Node, Store, Tree};
use toolbox::lazy::{Lazy, Scratch, Serving};

const SERVER: Serving<'static> = Serving::Process(&["lazy", "serve"]);
/// What the paper's successor was measured with: 1.8 thousand files, 130 MB.
const FILES: usize = 1_800;
const DIRECTORIES: usize = 150;
/// The large tree has so many times as many.
const LARGE: usize = 8;

fn main() {
    let mut args = std::env::args_os().skip(1);
    let first = args.next().unwrap_or_default();
    if first == "serve" {
        return toolbox::lazy::server_main(args).unwrap();
    }
    let rounds = args.next().and_then(|it| it.to_str()?.parse().ok()).unwrap_or(20);
    let bench = Bench::new(Path::new(&first));
    let mut times = Times::default();
    for _ in 0..rounds {
        bench.file_work(&mut times);
        bench.attach(&mut times);
    }
    bench.unpack(&mut times);
    println!("{}", serde_json::to_string(&times.0).unwrap());
}

#[derive(Default)]
struct Times(BTreeMap<&'static str, Vec<f64>>);

impl Times {
    fn of<T>(&mut self, name: &'static str, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let done = work();
        self.0.entry(name).or_default().push(begun.elapsed().as_secs_f64() * 1e3);
        done
    }
}

struct Bench {
    dir: PathBuf,
    store: Store,
    /// The same files as in `small`, in memory.
    native: OwnedFd,
    small: ObjectId,
    large: ObjectId,
}

/// How long file `number` is: many small ones, few that have most of the bytes, as in a directory of programs.
fn size_of(number: usize) -> usize {
    match number % 20 {
        0 => 700_000 + number * 331 % 500_000,
        1..5 => 30_000 + number * 7919 % 60_000,
        _ => 200 + number * 7919 % 16_000,
    }
}

/// Bytes that compress about as well as programs do.
fn bytes_of(number: usize) -> Vec<u8> {
    let mut state = number as u64 + 1;
    let mut out = Vec::with_capacity(size_of(number) + 64);
    while out.len() < size_of(number) {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        out.extend_from_slice(&state.to_be_bytes()[..5]);
        out.extend_from_slice(&b"the quick brown fox"[..(state >> 60) as usize]);
    }
    out.truncate(size_of(number));
    out
}

fn path_of(number: usize) -> String {
    format!("dir-{}/file-{number}", number % DIRECTORIES)
}

fn meta() -> Metadata {
    Metadata::new(0o755)
}

impl Bench {
    fn new(dir: &Path) -> Self {
        let store = Store::open(dir.join("pool")).unwrap();
        let native = memory();
        for number in 0..FILES {
            let path = at(&native).join(path_of(number));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes_of(number)).unwrap();
        }
        let mut writer = store.writer().unwrap();
        let mut tree_of = |files: usize| {
            let mut tree = Tree::new(meta());
            // In the order of names, as archives of images have it.
            let mut numbers: Vec<_> = (0..files).collect();
            numbers.sort_by_key(|number| path_of(*number));
            for number in numbers {
                let content = writer.file(bytes_of(number).as_slice()).unwrap();
                tree.make_parents(path_of(number), &meta()).unwrap();
                tree.insert(path_of(number), Node { meta: meta(), kind: Kind::File(content) }).unwrap();
            }
            writer.tree(&tree).unwrap()
        };
        let (small, large) = (tree_of(FILES), tree_of(FILES * LARGE));
        writer.publish(&[]).unwrap();
        Self { dir: dir.to_owned(), store, native, small, large }
    }

    /// Makes the pool one with nothing unpacked. What was is only put aside: a deletion would cost the next round's files;
    /// and it is written to the disk first: that would take processors from the next round.
    fn forget(&self) {
        let aside = self.dir.join(format!("aside-{:?}", Instant::now()).replace(' ', ""));
        std::fs::create_dir(&aside).unwrap();
        for name in ["fresh", "objects", "roots"] {
            let _ = std::fs::rename(self.dir.join("pool").join(name), aside.join(name));
        }
        for name in ["objects", "roots"] {
            std::fs::create_dir(self.dir.join("pool").join(name)).unwrap();
        }
        rustix::fs::syncfs(File::open(&self.dir).unwrap()).unwrap();
    }

    fn file_work(&self, times: &mut Times) {
        self.forget();
        let root = session(Lazy::start(&self.store, &self.small, None, SERVER).unwrap());
        let (native, lazy) = (at(&self.native), at(&root.1));
        for (ours, theirs) in [("find first", "native find first"), ("find again", "native find again")] {
            times.of(theirs, || find(&native));
            times.of(ours, || find(&lazy));
        }
        for (ours, theirs) in [("tar first", "native tar first"), ("tar again", "native tar again")] {
            times.of(theirs, || tar(&native));
            times.of(ours, || tar(&lazy));
        }
        drop(root);
        // The same when the pool has it all unpacked already, as after another session.
        let root = session(Lazy::start(&self.store, &self.small, None, SERVER).unwrap());
        times.of("tar of unpacked", || tar(&at(&root.1)));
    }

    /// The other way to use the large tree.
    fn unpack(&self, times: &mut Times) {
        self.forget();
        times.of("unpack large", || self.store.rootfs(&self.large, Layout::Composed, &()).unwrap());
    }

    fn attach(&self, times: &mut Times) {
        self.forget();
        for name in ["attach first", "attach again"] {
            let root = times.of(name, || {
                let root = session(Lazy::start(&self.store, &self.large, None, SERVER).unwrap());
                assert!(std::fs::metadata(at(&root.1).join(path_of(FILES))).is_ok());
                root
            });
            times.of(if name == "attach first" { "one file first" } else { "one file again" }, || {
                std::fs::read(at(&root.1).join(path_of(FILES + 7))).unwrap()
            });
        }
    }
}

/// A file system in memory, mounted nowhere.
fn memory() -> OwnedFd {
    sys::mount::new_file_system::<&std::ffi::CStr>(c"tmpfs", &[], MountAttrFlags::empty()).unwrap()
}

/// The root file system as a session has it: writable, with what is written in memory.
fn session(lazy: Lazy) -> (Lazy, OwnedFd) {
    let scratch = memory();
    let open = |name: &str| {
        rustix::fs::mkdirat(&scratch, name, Mode::RWXU).unwrap();
        rustix::fs::openat(&scratch, name, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
    };
    let (upper, work) = (open("upper"), open("work"));
    let mount = lazy.mount(Some(Scratch { upper: upper.as_fd(), work: work.as_fd() })).unwrap();
    (lazy, mount)
}

/// A path by which children too find what the descriptor is open on.
fn at(fd: &OwnedFd) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd()).into()
}

fn find(dir: &Path) {
    let mut find = Command::new("find");
    find.arg(".").args(["-printf", "%p %s %m %U %T@ %n"]).current_dir(dir).stdout(Stdio::null());
    assert!(find.status().unwrap().success());
}

/// Through a pipe: a tar that writes to /dev/null reads nothing.
fn tar(dir: &Path) {
    let mut tar = Command::new("tar").args(["-cf", "-", "."]).current_dir(dir).stdout(Stdio::piped()).spawn().unwrap();
    let mut bytes = tar.stdout.take().unwrap();
    std::io::copy(&mut bytes, &mut File::options().write(true).open("/dev/null").unwrap()).unwrap();
    assert!(tar.wait().unwrap().success());
}
