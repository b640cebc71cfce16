//! Images of this machine's own programs: `host:/bin/ls`.
//!
//! A program comes with its loader, the libraries that its ELF headers name, and further files that the source names, each
//! under its own path, with the symbolic links on the way. **Nothing is run, no network and no privilege is needed, and
//! only the machine's files are read.** Libraries that a program opens by name while it runs are in no header: name them
//! as further files.

mod search;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use model::{Arch, HostSource, ImageConfig, Progress, Source, Timestamp};
use store::{Kind, Metadata, Mtime, Node, Store, Tree, Writer};

use self::search::{Loaded, Search};
use crate::elf;
use crate::layer::unpack::Hashing;
use crate::record::{self, Draft};
use crate::{Error, FetchOptions, Fetched, Result};

/// As many symbolic links as Linux follows on one path.
const MAX_LINKS: usize = 40;
/// The most files that one image may take from the machine.
const MAX_FILES: usize = 1_000_000;
/// An ELF file is read into memory to be parsed: its headers may stand anywhere in it.
const MAX_ELF: u64 = 4 << 30;

const DIRECTORIES: [(&str, u16); 10] = [
    ("dev", 0o755),
    ("proc", 0o755),
    ("sys", 0o755),
    ("run", 0o755),
    ("tmp", 0o1777),
    ("etc", 0o755),
    ("var", 0o755),
    ("var/tmp", 0o1777),
    ("root", 0o700),
    ("home", 0o755),
];

const FILES: [(&str, &str); 3] = [
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("etc/nsswitch.conf", "passwd: files\ngroup:  files\nhosts:  files dns\n"),
];

/// Libraries that the C library opens by name to look up users and hosts.
const NAME_SERVICES: [&str; 2] = ["libnss_files.so.2", "libnss_dns.so.2"];

/// Builds an image of programs of this machine.
pub(crate) fn build(
    store: &Store,
    source: &Source,
    wanted: &HostSource,
    options: &FetchOptions,
    progress: &dyn Progress,
) -> Result<Fetched> {
    build_from(Path::new("/"), store, source, wanted, options, progress)
}

/// The same with another directory as the machine's root.
fn build_from(
    root: &Path,
    store: &Store,
    source: &Source,
    wanted: &HostSource,
    options: &FetchOptions,
    progress: &dyn Progress,
) -> Result<Fetched> {
    let reader = store.reader()?;
    let search = Search::of_machine(root);
    let mut gathering = Gathering {
        root,
        search,
        tree: Tree::default(),
        writer: store.writer()?,
        arch: None,
        inputs: BTreeMap::new(),
        seen: BTreeSet::new(),
        notes: Vec::new(),
        progress,
    };
    progress.begin(&format!("gathering {}", wanted.program.display()), None);
    let outcome = gathering.all(wanted);
    progress.end();
    outcome?;
    let Gathering { tree, mut writer, arch, inputs, notes, .. } = gathering;
    let arch = arch.unwrap_or(Arch::HOST);
    if let Some(asked) = options.arch.filter(|asked| *asked != arch) {
        return Err(Error::Unsupported {
            what: wanted.program.display().to_string(),
            why: format!("it is a program for {arch}, and {asked} was asked for"),
        });
    }
    let tree = writer.tree(&tree)?;
    writer.publish(&[])?;
    let draft = Draft {
        source: source.clone(),
        arch,
        config: ImageConfig {
            entrypoint: vec![wanted.program.display().to_string()],
            env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
            ..ImageConfig::default()
        },
        inputs: inputs.into_values().collect(),
        created: Timestamp::default(),
        notes,
    };
    record::keep(store, &reader, tree, draft, options.name.as_ref())
}

/// The tree being gathered.
struct Gathering<'g> {
    root: &'g Path,
    search: Search<'g>,
    tree: Tree,
    writer: Writer,
    /// Of the first ELF file met: all must agree.
    arch: Option<Arch>,
    /// A line for each file, by its path.
    inputs: BTreeMap<Vec<u8>, String>,
    seen: BTreeSet<PathBuf>,
    notes: Vec<String>,
    progress: &'g dyn Progress,
}

impl Gathering<'_> {
    fn all(&mut self, wanted: &HostSource) -> Result<()> {
        self.skeleton()?;
        self.program(&wanted.program)?;
        for file in &wanted.files {
            self.add(file)?;
        }
        Ok(())
    }

    fn skeleton(&mut self) -> Result<()> {
        for (path, mode) in DIRECTORIES {
            self.tree.insert(path, Node::directory(Metadata::new(mode)))?;
        }
        for (path, text) in FILES {
            let content = self.writer.file(text.as_bytes())?;
            self.tree.insert(path, Node::file(Metadata::new(0o644), content))?;
        }
        Ok(())
    }

    /// The program itself: it must be one.
    fn program(&mut self, path: &Path) -> Result<()> {
        let real = self.add(path)?;
        let metadata = self.metadata(&real)?;
        if !metadata.is_file() || metadata.mode() & 0o111 == 0 {
            return Err(Error::Unsupported {
                what: path.display().to_string(),
                why: "it is not an executable file".to_owned(),
            });
        }
        let beginning = self.beginning(&real)?;
        if !elf::is_elf(&beginning) && !beginning.starts_with(b"#!") {
            return Err(Error::Unsupported {
                what: path.display().to_string(),
                why: "it is neither an ELF program nor a script that names its interpreter".to_owned(),
            });
        }
        Ok(())
    }

    /// Adds a file or a directory with all that is in it, and what its programs need. Gives the path without links.
    fn add(&mut self, path: &Path) -> Result<PathBuf> {
        let real = self.follow(path)?;
        if !self.seen.insert(real.clone()) {
            return Ok(real);
        }
        if self.seen.len() > MAX_FILES {
            return Err(Error::limit("files of this machine in one image", MAX_FILES));
        }
        let metadata = self.metadata(&real)?;
        if metadata.is_dir() {
            self.directory(&real, &metadata)?;
        } else if metadata.is_file() {
            self.file(&real, &metadata)?;
        } else {
            let kind = if metadata.file_type().is_socket() { "a socket" } else { "a device or pipe" };
            self.notes.push(format!("left out {}: it is {kind}", real.display()));
        }
        Ok(real)
    }

    /// Walks a path and puts its directories and symbolic links into the tree, as far as they are not there.
    fn follow(&mut self, path: &Path) -> Result<PathBuf> {
        let mut todo: Vec<Vec<u8>> = split(path.as_os_str().as_bytes());
        let mut done = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name == b".." {
                done.pop();
                continue;
            }
            let next = done.join(std::ffi::OsStr::from_bytes(&name));
            let metadata = self.metadata(&next).map_err(|error| match error {
                Error::NotFound { .. } if next != path => {
                    Error::not_found(path.display().to_string(), format!("{} is not there", next.display()))
                }
                other => other,
            })?;
            if metadata.is_symlink() {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Error::not_found(path.display().to_string(), "its symbolic links go in a circle"));
                }
                let target = fs::read_link(self.real(&next)).map_err(|error| Error::io(next.display(), error))?;
                self.put(&next, Kind::Symlink(target.as_os_str().as_bytes().into()), Metadata::new(0o777))?;
                if target.is_absolute() {
                    done = PathBuf::from("/");
                }
                todo.extend(split(target.as_os_str().as_bytes()));
                continue;
            }
            if !todo.is_empty() && !metadata.is_dir() {
                return Err(Error::not_found(
                    path.display().to_string(),
                    format!("{} is no directory", next.display()),
                ));
            }
            if metadata.is_dir() {
                self.ensure_directory(&next, &metadata)?;
            }
            done = next;
        }
        Ok(done)
    }

    fn directory(&mut self, real: &Path, metadata: &fs::Metadata) -> Result<()> {
        self.ensure_directory(real, metadata)?;
        let listed = fs::read_dir(self.real(real)).map_err(|error| Error::io(real.display(), error))?;
        let mut names: Vec<_> = listed
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<std::io::Result<_>>()
            .map_err(|error| Error::io(real.display(), error))?;
        names.sort();
        for name in names {
            let path = real.join(name);
            // A link inside a named directory may lead anywhere, or nowhere: it comes along, what it leads to does not.
            if self.metadata(&path)?.is_symlink() {
                let target = fs::read_link(self.real(&path)).map_err(|error| Error::io(path.display(), error))?;
                self.put(&path, Kind::Symlink(target.as_os_str().as_bytes().into()), Metadata::new(0o777))?;
            } else {
                self.add(&path)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, real: &Path, metadata: &fs::Metadata) -> Result<()> {
        self.file_alone(real, metadata)?;
        self.needs(real)
    }

    /// What a file needs to run: loader and libraries of an ELF file, the interpreter of a script.
    fn needs(&mut self, real: &Path) -> Result<()> {
        let beginning = self.beginning(real)?;
        if elf::is_elf(&beginning) {
            return self.elf(real);
        }
        let Some(line) = beginning.strip_prefix(b"#!").and_then(|rest| rest.split(|&byte| byte == b'\n').next()) else {
            return Ok(());
        };
        let line = String::from_utf8_lossy(line);
        let mut words = line.split_whitespace();
        let Some(interpreter) = words.next().filter(|word| word.starts_with('/')) else { return Ok(()) };
        self.add(Path::new(interpreter))?;
        if interpreter.ends_with("/env")
            && let Some(name) = words.find(|word| !word.starts_with('-') && !word.contains('='))
        {
            let found = self.search.program(name);
            self.add(&found.ok_or_else(|| Error::not_found(format!("{name}, which {} runs", real.display()), ""))?)?;
        }
        self.notes
            .push(format!("{} is a script: its interpreter came along, modules it loads did not", real.display()));
        Ok(())
    }

    /// Adds the loader of an ELF file, and its libraries with theirs.
    fn elf(&mut self, real: &Path) -> Result<()> {
        let first = self.parse(real)?;
        let Some(arch) = first.arch else {
            // Firmware and the like in a named directory: data.
            return Ok(());
        };
        if *self.arch.get_or_insert(arch) != arch {
            // One image has one processor; a named directory may hold files for others.
            self.notes.push(format!("{} is for {arch}: its libraries were not looked for", real.display()));
            return Ok(());
        }
        if let Some(interpreter) = &first.interpreter {
            let loader = Path::new(std::ffi::OsStr::from_bytes(interpreter));
            self.add(loader).map_err(|error| match error {
                Error::NotFound { hint, .. } => {
                    Error::not_found(format!("loader {}, which {} needs,", loader.display(), real.display()), hint)
                }
                other => other,
            })?;
        }
        let mut loaded = Loaded::of(real, &first);
        let mut queue = vec![(real.to_owned(), first, Vec::new())];
        while let Some((path, elf, inherited)) = queue.pop() {
            for name in &elf.needed {
                if !loaded.note(name) {
                    continue;
                }
                let found = self.search.library(name, &path, &elf, &inherited, |candidate| self.parse(candidate).ok());
                let Some((library, parsed)) = found else {
                    return Err(self.search.missing(name, &path, &elf));
                };
                self.library(name, &library, &parsed)?;
                let mut chain: Vec<Vec<u8>> = inherited.clone();
                if elf.runpath.is_empty() {
                    chain.extend(search::expanded(&elf.rpath, &path));
                }
                queue.push((library, parsed, chain));
            }
        }
        Ok(())
    }

    fn library(&mut self, name: &[u8], path: &Path, elf: &elf::Elf) -> Result<()> {
        let real = self.follow(path)?;
        if self.seen.insert(real.clone()) {
            let metadata = self.metadata(&real)?;
            self.file_alone(&real, &metadata)?;
        }
        let directory = path.parent().unwrap_or(Path::new("/"));
        if name == b"libc.so.6" {
            for service in NAME_SERVICES {
                let path = directory.join(service);
                if self.metadata(&path).is_ok() {
                    self.add(&path)?;
                }
            }
        }
        // Found by the machine's loader cache, which the image has not: a link where the loader looks by itself.
        if !name.contains(&b'/') && self.search.is_configured(directory) {
            let home = self.search.default_directory(elf.class);
            let link = home.join(std::ffi::OsStr::from_bytes(name));
            let directory = self.follow(&home)?;
            if self.metadata(&link).is_err() {
                let link = directory.join(std::ffi::OsStr::from_bytes(name));
                self.put(&link, Kind::Symlink(path.as_os_str().as_bytes().into()), Metadata::new(0o777))?;
            }
        }
        Ok(())
    }

    /// A file without what it needs: of a library, that is in the queue of whoever found it.
    fn file_alone(&mut self, real: &Path, metadata: &fs::Metadata) -> Result<()> {
        let file = File::open(self.real(real)).map_err(|error| Error::io(real.display(), error))?;
        let mut hashing = Hashing::new(file);
        let content = self.writer.file(&mut hashing)?;
        let (digest, size) = hashing.finish().map_err(|error| Error::io(real.display(), error))?;
        self.progress.advance(size);
        self.inputs.insert(real.as_os_str().as_bytes().to_vec(), format!("{} {size} {digest}", real.display()));
        self.put(real, Kind::File(content), file_metadata(metadata))
    }

    fn ensure_directory(&mut self, path: &Path, metadata: &fs::Metadata) -> Result<()> {
        // Its time changes with files that the image does not have.
        let meta = Metadata { mtime: Mtime::default(), ..file_metadata(metadata) };
        self.put(path, Kind::Directory, meta)
    }

    fn put(&mut self, path: &Path, kind: Kind, meta: Metadata) -> Result<()> {
        let bytes = path.as_os_str().as_bytes();
        self.tree.make_parents(bytes, &Metadata::new(0o755))?;
        self.tree.insert(bytes, Node { meta, kind })?;
        Ok(())
    }

    fn real(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn metadata(&self, path: &Path) -> Result<fs::Metadata> {
        fs::symlink_metadata(self.real(path)).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::not_found(path.display().to_string(), ""),
            _ => Error::io(path.display(), error),
        })
    }

    fn beginning(&self, path: &Path) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = File::open(self.real(path)).map_err(|error| Error::io(path.display(), error))?;
        file.take(256).read_to_end(&mut bytes).map_err(|error| Error::io(path.display(), error))?;
        Ok(bytes)
    }

    fn parse(&self, path: &Path) -> Result<elf::Elf> {
        let file = File::open(self.real(path)).map_err(|error| Error::io(path.display(), error))?;
        let mut bytes = Vec::new();
        file.take(MAX_ELF).read_to_end(&mut bytes).map_err(|error| Error::io(path.display(), error))?;
        elf::parse(&bytes).map_err(|error| match error {
            Error::Malformed { what, why } => Error::Malformed { what: format!("{what} {}", path.display()), why },
            other => other,
        })
    }
}

fn file_metadata(metadata: &fs::Metadata) -> Metadata {
    Metadata {
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime: Mtime { seconds: metadata.mtime(), nanos: 0 },
        ..Metadata::new((metadata.mode() & 0o7777) as u16)
    }
}

/// A path's names, the last first.
fn split(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .rev()
        .map(<[u8]>::to_vec)
        .collect()
}

#[cfg(test)]
mod tests;
