//! The directory of copies, which whoever starts cells keeps.
//!
//! ```text
//! DIR/CONTENT.V           a copy: its code, its trampolines, and a page that says what it is (V: which patcher made it)
//! DIR/known/SCOPE/FILE    what a file's content is, by what the file is known by; and which copy of it was looked at
//! ```
//! Both can be made again from the files themselves, and are: **a copy whose page does not say what its bytes are is none**.
//! Its bytes are looked at when it was not seen before as it is. Everything is written aside and renamed; a copy is on the disk
//! before it has its name, so that none is there whose bytes a power cut took. What cannot be written is done without.

use std::collections::HashSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use abi::patched::Nest;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat2};
use serde::{Deserialize, Serialize};

use super::{Known, Patched, text};

const PAGE: u64 = 4096;
/// No larger file is looked into.
const LARGEST: u64 = 64 << 20;
const HEAD: &[u8; 16] = b"skep patched  1\n";

/// The directory.
#[derive(Clone, Debug)]
pub struct Cache {
    dir: PathBuf,
}

/// What a power cut may leave of a file that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lasting {
    /// All or nothing.
    Whole,
    /// Also what cannot be read.
    Perhaps,
}

/// What is known of a file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    /// The hash of its content.
    content: String,
    /// The copy as it was when its bytes were right; nothing when there is nothing to replace in the file.
    copy: Option<[u64; 5]>,
}

/// How a root is seen by who looks for what to make copies of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// As the cell sees it.
    FromInside,
    /// It is a layer below what the cell sees, in which files have the same numbers on another device.
    FromBelow,
}

/// Where system calls are in nearly all programs.
const USUAL: &[&str] = &[
    "lib64/ld-linux-x86-64.so.2",
    "lib/ld-musl-x86_64.so.1",
    "lib/x86_64-linux-gnu/libc.so.6",
    "usr/lib/x86_64-linux-gnu/libc.so.6",
    "lib64/libc.so.6",
    "usr/lib/libc.so.6",
    "lib/x86_64-linux-gnu/libpthread.so.0",
    "lib64/libpthread.so.0",
    "bin/busybox",
];

impl Cache {
    /// The cache in that directory, which is made when it is needed.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Copies of the code in that root which a program there will execute: the C library's, its loader's, and the program's
    /// own. `scope` names what the root is of: files of another are not taken for those of this. It is a file's name.
    pub fn of_root(&self, root: BorrowedFd<'_>, programs: &[PathBuf], scope: &str, view: View) -> Vec<Patched> {
        let usual = USUAL.iter().map(Path::new);
        let mut all: Vec<Patched> = Vec::new();
        for path in usual.chain(programs.iter().map(PathBuf::as_path)) {
            let Some((file, stat)) = open_within(root, path) else { continue };
            if all.iter().all(|it| it.of != Known::of(&stat)) {
                all.extend(self.of_file(&file, &stat, scope));
            }
        }
        if view == View::FromBelow {
            all.iter_mut().for_each(|it| it.of = it.of.on_any_device());
        }
        all
    }

    /// The copy of that file's code; made, if there is none yet.
    fn of_file(&self, file: &File, stat: &Stat, scope: &str) -> Option<Patched> {
        let known = Known::of(stat);
        let note = self.known().join(scope).join(name_of(&known));
        if let Some(found) = read_note(&note) {
            match found.copy {
                None => return None,
                Some(copy) => {
                    let seen = self.open(&found.content).filter(|(_, stat)| Known::of(stat).0 == copy);
                    if let Some(copy) = seen.and_then(|(file, _)| describe(file, known)) {
                        return Some(copy);
                    }
                }
            }
        }
        let bytes = read(file, stat)?;
        let content = blake3::hash(&bytes).to_hex().to_string();
        let copy = self.whole(&content).or_else(|| self.make(&content, &bytes));
        let seen = copy.as_ref().and_then(|it| fstat(it).ok()).map(|it| Known::of(&it).0);
        let is_nothing = copy.is_none() && text::copy(&bytes).is_none();
        if seen.is_some() || is_nothing {
            let text = serde_json::to_vec(&Note { content, copy: seen }).ok()?;
            // What is not known is looked at again.
            let _ = self.write(&note, &[&text], Lasting::Perhaps);
        }
        describe(copy?, known)
    }

    /// Throws away what is known of scopes that nobody needs, and copies of which nothing is known then. Gives how many bytes
    /// that was. Who starts a cell meanwhile makes anew what he misses.
    pub fn collect(&self, is_needed: impl Fn(&str) -> bool) -> u64 {
        let mut needed = HashSet::new();
        for scope in entries(&self.known()) {
            if !scope.file_name().is_some_and(|it| it.to_str().is_some_and(&is_needed)) {
                let _ = std::fs::remove_dir_all(&scope);
                continue;
            }
            needed.extend(entries(&scope).iter().filter_map(|it| read_note(it)).map(|it| self.path(&it.content)));
        }
        let unneeded = entries(&self.dir).into_iter().filter(|it| it.is_file() && !needed.contains(it));
        let freed = |it: PathBuf| {
            let length = it.metadata().map_or(0, |it| it.len());
            std::fs::remove_file(it).map_or(0, |()| length)
        };
        unneeded.map(freed).sum()
    }

    fn known(&self) -> PathBuf {
        self.dir.join("known")
    }

    fn path(&self, content: &str) -> PathBuf {
        self.dir.join(format!("{content}.{}.{}", text::VERSION, abi::VERSION))
    }

    fn open(&self, content: &str) -> Option<(File, Stat)> {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(self.path(content)).ok()?;
        let stat = fstat(&file).ok()?;
        Some((file, stat))
    }

    /// The copy, if its bytes are what its last page says.
    fn whole(&self, content: &str) -> Option<File> {
        let (mut file, stat) = self.open(content)?;
        let length = u64::try_from(stat.st_size).ok().filter(|it| *it <= 2 * LARGEST)?;
        let mut bytes = Vec::new();
        (&mut file).take(length).read_to_end(&mut bytes).ok()?;
        let (body, page) = bytes.split_at_checked(usize::try_from(length.checked_sub(PAGE)?).ok()?)?;
        let words = page.get(HEAD.len()..HEAD.len() + 24)?;
        (page.starts_with(HEAD) && page.get(40..72)? == digest(body, words).as_bytes()).then_some(file)
    }

    fn make(&self, content: &str, bytes: &[u8]) -> Option<File> {
        let copy = text::copy(bytes)?;
        let words = [copy.offset, copy.length, copy.nest.word()].map(u64::to_le_bytes).concat();
        let mut page = [&HEAD[..], &words, digest(&copy.bytes, &words).as_bytes()].concat();
        page.resize(PAGE as usize, 0);
        self.write(&self.path(content), &[&copy.bytes, &page], Lasting::Whole).ok()?;
        self.open(content).map(|it| it.0)
    }

    /// Puts that at a path, in the place of what may be there.
    fn write(&self, path: &Path, parts: &[&[u8]], lasting: Lasting) -> std::io::Result<()> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let directory = path.parent().unwrap_or(&self.dir);
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let aside = directory.join(format!(".{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        let written = (|| {
            let _ = std::fs::remove_file(&aside);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(&aside)?;
            parts.iter().try_for_each(|it| file.write_all(it))?;
            if lasting == Lasting::Whole {
                file.sync_all()?;
            }
            std::fs::rename(&aside, path)
        })();
        if written.is_err() {
            let _ = std::fs::remove_file(&aside);
        }
        written
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|it| it.path()).collect()
}

fn digest(body: &[u8], words: &[u8]) -> blake3::Hash {
    blake3::Hasher::new().update(body).update(words).finalize()
}

/// By everything but the device: that of a cell's root is another each time.
fn name_of(known: &Known) -> String {
    let words = known.0.map(u64::to_le_bytes)[1..].concat();
    let mut hasher = blake3::Hasher::new();
    hasher.update(&words).update(&text::VERSION.to_le_bytes()).update(&abi::VERSION.to_le_bytes());
    hasher.finalize().to_hex().to_string()
}

fn read_note(path: &Path) -> Option<Note> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// What a copy's last page says of it.
fn describe(file: File, of: Known) -> Option<Patched> {
    let length = file.metadata().ok()?.len();
    let mut page = [0; 40];
    file.read_exact_at(&mut page, length.checked_sub(PAGE)?).ok()?;
    let mut words = [0; 3];
    for (word, bytes) in words.iter_mut().zip(page[HEAD.len()..].as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    let [offset, text, nest] = words;
    let nest = Nest::of(nest)?;
    let is_right = page.starts_with(HEAD) && text + nest.length() as u64 + PAGE == length;
    is_right.then(|| Patched { of, file: OwnedFd::from(file), offset, length: text, nest })
}

/// A regular file at a path in a root, wherever links lead there.
fn open_within(root: BorrowedFd<'_>, path: &Path) -> Option<(File, Stat)> {
    let path = path.strip_prefix("/").unwrap_or(path);
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = openat2(root, path, flags, Mode::empty(), resolve).ok()?;
    let is_file = |it: &Stat| FileType::from_raw_mode(it.st_mode) == FileType::RegularFile;
    fstat(&found).ok().filter(is_file)?;
    // What it was when it was looked at does not matter: it is opened without waiting, and looked at again.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = openat2(root, path, flags, Mode::empty(), resolve).ok()?;
    let stat = fstat(&file).ok().filter(is_file)?;
    Some((File::from(file), stat))
}

/// All of a file, if it stayed what it was meanwhile.
fn read(file: &File, stat: &Stat) -> Option<Vec<u8>> {
    let length = u64::try_from(stat.st_size).ok().filter(|it| (64..=LARGEST).contains(it))?;
    let mut magic = [0; 4];
    file.read_exact_at(&mut magic, 0).ok()?;
    if magic != *b"\x7fELF" {
        return None;
    }
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, 0).ok()?;
    let after = fstat(file.as_fd()).ok()?;
    (Known::of(&after) == Known::of(stat)).then_some(bytes)
}
