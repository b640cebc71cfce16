//! Packages into a tree: their files stored, their descriptions kept, and the few files read that later steps go by.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use md5::{Digest, Md5};
use store::{Metadata, Node, Tree, Writer};

use super::ar::{Deb, read_small};
use super::universe::Package;
use crate::layer::apply::{Dialect, LayerApplier, Placement, components};
use crate::layer::reader::{EntryKind, Reader};
use crate::layer::unpack::{Hashing, check, store_content};
use crate::limits::Limits;
use crate::{Error, Result};

/// Files of these places are kept in memory as they pass, as later steps read them.
pub(crate) const READ: [&str; 9] = [
    "usr/lib/systemd/system/",
    "usr/lib/sysusers.d/",
    "usr/lib/tmpfiles.d/",
    "usr/share/base-passwd/",
    "usr/share/ca-certificates/",
    "etc/default/",
    "etc/ld.so.conf.d/",
    "etc/mosquitto/mosquitto.conf",
    "etc/lighttpd/lighttpd.conf",
];
/// The most of one such file, and of the beginning of any other.
const MAX_READ: usize = 1 << 20;
const BEGINNING: usize = 256;

/// Where the linker of the usr-merge sends the old directories.
pub(crate) const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// Which of a package's files to take.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Selection {
    /// All of them.
    All,
    /// Those of that name, without a leading slash.
    Only(&'static [&'static str]),
}

/// What is kept of each package beside its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Account {
    /// Its description, and which files it has.
    Descriptions,
    /// All that dpkg keeps of what it has installed.
    Dpkg,
}

/// A package that is in the tree.
#[derive(Clone, Debug, Default)]
pub(crate) struct Installed {
    pub(crate) name: String,
    /// Its own description, as a paragraph of dpkg's.
    pub(crate) control: String,
    pub(crate) md5sums: Vec<u8>,
    /// For [`Account::Dpkg`]: what came with the description, scripts among it, by name.
    pub(crate) about: BTreeMap<String, Vec<u8>>,
    /// For [`Account::Dpkg`]: its files and directories as the package has them, without a leading slash.
    pub(crate) paths: Vec<Vec<u8>>,
    /// For [`Account::Dpkg`]: its configuration files among those, each with the MD5 of its content.
    pub(crate) configuration: Vec<(String, [u8; 16])>,
}

impl Installed {
    /// Whether a file is one of those that dpkg keeps as its user left them.
    fn is_configuration(&self, path: &[u8]) -> bool {
        let listed = self.about.get("conffiles").map(Vec::as_slice).unwrap_or_default();
        listed.split(|&byte| byte == b'\n').any(|line| line.trim_ascii_end().strip_prefix(b"/") == Some(path))
    }
}

/// The tree that packages are being unpacked into.
pub(crate) struct Unpacking {
    pub(crate) tree: Tree,
    pub(crate) writer: Writer,
    limits: Limits,
    pub(crate) account: Account,
    /// Content of the files that later steps read, by path.
    pub(crate) read: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Which package each executable and each file of `read` is of.
    pub(crate) owners: BTreeMap<Vec<u8>, String>,
    /// Executables that begin with `#!`, and what follows.
    scripts: BTreeMap<Vec<u8>, String>,
    /// By name.
    pub(crate) installed: BTreeMap<String, Installed>,
    /// The latest time of any file, in seconds since the epoch.
    pub(crate) newest: i64,
}

impl Unpacking {
    /// An empty tree with Debian's merged `/usr`.
    pub(crate) fn new(writer: Writer, limits: Limits, account: Account) -> Result<Self> {
        let mut tree = Tree::new(Metadata::new(0o755));
        tree.insert("usr", Node::directory(Metadata::new(0o755)))?;
        for name in MERGED {
            tree.insert(format!("usr/{name}"), Node::directory(Metadata::new(0o755)))?;
            tree.insert(name, Node::symlink(Metadata::new(0o777), format!("usr/{name}").into_bytes()))?;
        }
        Ok(Self {
            tree,
            writer,
            limits,
            account,
            read: BTreeMap::new(),
            owners: BTreeMap::new(),
            scripts: BTreeMap::new(),
            installed: BTreeMap::new(),
            newest: 0,
        })
    }

    /// Unpacks one package, and checks that its file is the one the index promised.
    pub(crate) fn package(&mut self, package: &Package<'_>, file: &Path, what: Selection) -> Result<()> {
        let open = File::open(file).map_err(|error| Error::io(file.display(), error))?;
        let mut hashing = Hashing::new(BufReader::with_capacity(128 << 10, open));
        let unpacked = self.members(package, &mut hashing, what);
        let (digest, size) = hashing.finish().map_err(|error| Error::read(file.display(), error))?;
        // A file that is not the promised one explains any other trouble with it.
        check(&format!("package {}", package.name), &package.size, &size)?;
        check(&format!("package {}", package.name), &package.sha256, &digest)?;
        unpacked.map_err(|error| match error {
            Error::Malformed { what, why } => {
                Error::Malformed { what: format!("package {} ({what})", package.name), why }
            }
            other => other,
        })
    }

    fn members(&mut self, package: &Package<'_>, source: &mut impl Read, what: Selection) -> Result<()> {
        let mut deb = Deb::open(source)?;
        let mut installed = Installed::default();
        let mut data = false;
        while let Some(member) = deb.next()? {
            if member.name.starts_with("control.tar") {
                installed = read_control(package.name, member.content, self.limits, self.account)?;
            } else if member.name.starts_with("data.tar") {
                self.files(&mut installed, member.content, what)?;
                data = true;
            }
        }
        self.installed.insert(package.name.to_owned(), installed);
        if data { Ok(()) } else { Err(Error::malformed("Debian package", "it has no files")) }
    }

    fn files(&mut self, package: &mut Installed, tar: impl Read, what: Selection) -> Result<()> {
        let mut reader = Reader::new(tar, self.limits);
        while let Some(entry) = reader.next(&mut ())? {
            let own = components(&entry.path)?.join(&b'/');
            if let Selection::Only(wanted) = what
                && !wanted.iter().any(|name| name.as_bytes() == own)
            {
                continue;
            }
            let mut sum = package.is_configuration(&own).then(Md5::new);
            self.newest = self.newest.max(entry.mtime.0);
            let placement = LayerApplier::new(&mut self.tree, Dialect::Package).apply(&entry)?;
            if self.account == Account::Dpkg {
                package.paths.push(own.clone());
            }
            let Placement::File(path) = placement else { continue };
            let executable = entry.mode & 0o111 != 0;
            let wanted = READ.iter().any(|place| path.starts_with(place.as_bytes()));
            let most = if wanted { MAX_READ } else { BEGINNING };
            let mut head = Vec::new();
            let content = store_content(&mut reader, &entry, &mut self.writer, &mut |bytes| {
                let room = if wanted || executable { most.saturating_sub(head.len()) } else { 0 };
                head.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
                if let Some(sum) = &mut sum {
                    sum.update(bytes);
                }
            })?;
            if let Some(sum) = sum {
                package.configuration.push((String::from_utf8_lossy(&own).into_owned(), sum.finalize().into()));
            }
            LayerApplier::new(&mut self.tree, Dialect::Package).file(path.clone(), &entry, content)?;
            if executable || wanted {
                self.owners.insert(path.clone(), package.name.clone());
            }
            if executable && let Some(interpreter) = shebang(&head) {
                self.scripts.insert(path.clone(), interpreter);
            }
            if wanted {
                self.read.insert(path, head);
            }
        }
        Ok(())
    }

    /// A file that was kept in memory, as text. Links in the path are followed.
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        let path = self.tree.resolve(path)?;
        self.read.get(&path).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// The interpreters that commands of those packages need and that are not there: their paths without links.
    pub(crate) fn interpreters(&self, packages: &[String]) -> BTreeSet<Vec<u8>> {
        let command = |path: &[u8]| path.starts_with(b"usr/bin/") || path.starts_with(b"usr/sbin/");
        self.scripts
            .iter()
            .filter(|(path, _)| command(path) && self.owners.get(*path).is_some_and(|owner| packages.contains(owner)))
            .filter_map(|(_, interpreter)| self.tree.resolve(interpreter))
            .filter(|path| self.tree.get(path).is_none())
            .collect()
    }
}

/// The program that a script names, the one behind `env` if that is how.
fn shebang(beginning: &[u8]) -> Option<String> {
    let line = beginning.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    let text = String::from_utf8_lossy(line);
    let mut words = text.split_whitespace();
    let first = words.next()?;
    match first.strip_suffix("/env") {
        Some(_) => Some(format!("/usr/bin/{}", words.find(|word| !word.starts_with('-') && !word.contains('='))?)),
        None => Some(first.to_owned()),
    }
}

fn read_control(package: &str, tar: impl Read, limits: Limits, account: Account) -> Result<Installed> {
    let mut installed = Installed { name: package.to_owned(), ..Installed::default() };
    let mut reader = Reader::new(tar, limits);
    while let Some(entry) = reader.next(&mut ())? {
        let name = components(&entry.path)?.join(&b'/');
        let is_wanted = account == Account::Dpkg && entry.kind == EntryKind::File && !name.contains(&b'/');
        if !is_wanted && !matches!(name.as_slice(), b"control" | b"md5sums") {
            continue;
        }
        let bytes = read_small(EntryContent { reader: &mut reader }, "a package's control file")?;
        if name == b"control" {
            installed.control = String::from_utf8_lossy(&bytes).trim_end().to_owned() + "\n";
        } else if name == b"md5sums" {
            installed.md5sums = bytes;
        } else {
            installed.about.insert(String::from_utf8_lossy(&name).into_owned(), bytes);
        }
    }
    if installed.control.contains("\n\n") || installed.control.contains('\0') {
        return Err(Error::malformed("Debian package", "its description is more than a paragraph"));
    }
    Ok(installed)
}

/// The current entry's content as a stream.
struct EntryContent<'r, R> {
    reader: &'r mut Reader<R>,
}

impl<R: Read> Read for EntryContent<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.reader.read_content(buffer).map_err(Error::into_io)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreters_are_found() {
        let check = |text: &str, found: Option<&str>| assert_eq!(shebang(text.as_bytes()).as_deref(), found, "{text}");
        check("#!/bin/sh -e\necho", Some("/bin/sh"));
        check("#! /usr/bin/env -S python3 -u\n", Some("/usr/bin/python3"));
        check("#!/usr/bin/env\n", None);
        check("#!\n", None);
        check("\x7fELF", None);
    }
}
