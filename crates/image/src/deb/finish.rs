//! What configuration scripts would have done, done declaratively to the tree.

use std::collections::BTreeMap;

use model::Arch;
use store::{Kind, Metadata, Mtime, Node, Tree, Writer};

use super::database;
use super::known::{Directory, Known, KnownPackage};
use super::tmpfiles::{self, Wish};
use super::unit::Unit;
use super::universe::Package;
use super::unpack::{Account, Unpacking};
use super::users::{UserWish, Users, read_sysusers};
use crate::Result;
use crate::layer::apply::{Dialect, LayerApplier, components, join};

/// Directories that every root file system has, whatever is in it.
const DIRECTORIES: [(&str, u32); 20] = [
    ("/dev", 0o755),
    ("/proc", 0o755),
    ("/sys", 0o755),
    ("/run", 0o755),
    ("/run/lock", 0o1777),
    ("/tmp", 0o1777),
    ("/var/tmp", 0o1777),
    ("/root", 0o700),
    ("/home", 0o755),
    ("/mnt", 0o755),
    ("/srv", 0o755),
    ("/opt", 0o755),
    ("/var/lib", 0o755),
    ("/var/log", 0o755),
    ("/var/cache", 0o755),
    ("/usr/local/bin", 0o755),
    ("/usr/local/sbin", 0o755),
    ("/usr/local/lib", 0o755),
    ("/usr/local/share", 0o755),
    ("/usr/local/etc", 0o755),
];

const NSSWITCH: &str = "passwd:   files\ngroup:    files\nshadow:   files\ngshadow:  files\nhosts:    files dns\n\
                        networks: files\nprotocols: files\nservices: files\nethers:   files\nrpc:      files\n";

/// A finished root file system, not yet stored as a tree.
pub(crate) struct Root {
    pub(crate) tree: Tree,
    pub(crate) writer: Writer,
    pub(crate) newest: i64,
    /// Service units by file name, with the package they are of.
    pub(crate) units: BTreeMap<String, (String, Unit)>,
    /// Executables by path, with the package they are of.
    pub(crate) executables: BTreeMap<Vec<u8>, String>,
    pub(crate) notes: Vec<String>,
}

/// Finishes what was unpacked.
pub(crate) fn finish(unpacked: Unpacking, known: &Known, packages: &[Package<'_>], arch: Arch) -> Result<Root> {
    let units = read_units(&unpacked);
    let mut finisher = Finisher { users: users(&unpacked, known, packages)?, unpacked, notes: Vec::new() };
    finisher.skeleton()?;
    finisher.declared(&units)?;
    for package in packages {
        for about in known.about(package.name) {
            finisher.known(about)?;
        }
    }
    finisher.identity()?;
    finisher.certificates()?;
    finisher.library_directories(arch)?;
    finisher.package_records()?;
    finisher.date();
    let Finisher { unpacked, notes, .. } = finisher;
    let executables = unpacked.owners.into_iter().filter(|(path, _)| !unpacked.read.contains_key(path)).collect();
    Ok(Root { tree: unpacked.tree, writer: unpacked.writer, newest: unpacked.newest, units, executables, notes })
}

fn read_units(unpacked: &Unpacking) -> BTreeMap<String, (String, Unit)> {
    let mut units = BTreeMap::new();
    for (path, bytes) in &unpacked.read {
        let Some(name) = path.strip_prefix(b"usr/lib/systemd/system/") else { continue };
        let Ok(name) = std::str::from_utf8(name) else { continue };
        // A template needs an instance, which a cell has no name for.
        if !name.ends_with(".service") || name.contains(['@', '/']) {
            continue;
        }
        let unit = Unit::read(&String::from_utf8_lossy(bytes), &|file| unpacked.text(file));
        let owner = unpacked.owners.get(path).cloned().unwrap_or_default();
        units.insert(name.to_owned(), (owner, unit));
    }
    units
}

fn users(unpacked: &Unpacking, known: &Known, packages: &[Package<'_>]) -> Result<Users> {
    let mut users = match unpacked.text("usr/share/base-passwd/passwd.master") {
        // The master files mark the password field with a star, as no password fits it.
        Some(passwd) => Users::read(&passwd, &unpacked.text("usr/share/base-passwd/group.master").unwrap_or_default()),
        None => Users::minimal(),
    };
    let (mut wishes, mut groups): (Vec<UserWish>, Vec<_>) = (Vec::new(), Vec::new());
    for (path, bytes) in &unpacked.read {
        if path.starts_with(b"usr/lib/sysusers.d/") {
            read_sysusers(&String::from_utf8_lossy(bytes), &mut wishes, &mut groups);
        }
    }
    let about = packages.iter().flat_map(|package| known.about(package.name));
    wishes.extend(about.flat_map(|known| known.users.iter().cloned()));
    users.add(&wishes, &groups)?;
    Ok(users)
}

struct Finisher {
    users: Users,
    unpacked: Unpacking,
    notes: Vec<String>,
}

impl Finisher {
    /// Where a path leads when its directories are followed, missing ones made.
    fn place(&mut self, path: &str) -> Result<Vec<u8>> {
        let names = components(path.as_bytes())?;
        let Some((last, parents)) = names.split_last() else { return Ok(Vec::new()) };
        let parent = LayerApplier::new(&mut self.unpacked.tree, Dialect::Package).enter(parents, path.as_bytes())?;
        Ok(join(&parent, last))
    }

    fn put(&mut self, path: &str, kind: Kind, mode: u32, owner: (u32, u32)) -> Result<()> {
        let place = self.place(path)?;
        let meta = Metadata { uid: owner.0, gid: owner.1, ..Metadata::new((mode & 0o7777) as u16) };
        self.unpacked.tree.insert(place, Node { meta, kind })?;
        Ok(())
    }

    fn directory(&mut self, path: &str, mode: u32, owner: (u32, u32)) -> Result<()> {
        let resolved = self.unpacked.tree.resolve(path);
        let path = match resolved.filter(|it| self.unpacked.tree.get(it).is_some()) {
            Some(resolved) => String::from_utf8_lossy(&resolved).into_owned(),
            None => path.to_owned(),
        };
        self.put(&path, Kind::Directory, mode, owner)
    }

    fn file(&mut self, path: &str, bytes: &[u8], mode: u32, owner: (u32, u32)) -> Result<()> {
        let content = self.unpacked.writer.file(bytes)?;
        self.put(path, Kind::File(content), mode, owner)
    }

    fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.put(path, Kind::Symlink(target.as_bytes().into()), 0o777, (0, 0))
    }

    fn exists(&self, path: &str) -> bool {
        self.unpacked.tree.resolve(path).is_some_and(|path| self.unpacked.tree.get(path).is_some())
    }

    /// Whether something has that very name, were it a link that leads nowhere.
    fn is_taken(&mut self, path: &str) -> Result<bool> {
        let place = self.place(path)?;
        Ok(self.unpacked.tree.get(place).is_some())
    }

    fn owner(&mut self, user: &str, group: &str) -> (u32, u32) {
        let uid = if user.is_empty() { Some(0) } else { self.users.user_id(user) };
        let gid = if group.is_empty() { Some(0) } else { self.users.group_id(group) };
        if uid.is_none() || gid.is_none() {
            self.notes.push(format!("no package declares the owner {user}:{group}: root owns its files"));
        }
        (uid.unwrap_or(0), gid.unwrap_or(0))
    }

    fn skeleton(&mut self) -> Result<()> {
        // Packages ship them as directories; base-files' script turns them into these.
        for (path, target) in [("/var/run", "/run"), ("/var/lock", "/run/lock")] {
            self.link(path, target)?;
        }
        for (path, mode) in DIRECTORIES {
            self.directory(path, mode, (0, 0))?;
        }
        if !self.exists("/etc/nsswitch.conf") {
            self.file("/etc/nsswitch.conf", NSSWITCH.as_bytes(), 0o644, (0, 0))?;
        }
        Ok(())
    }

    /// What tmpfiles.d and units declare.
    fn declared(&mut self, units: &BTreeMap<String, (String, Unit)>) -> Result<()> {
        let wishes: Vec<Wish> = self
            .unpacked
            .read
            .iter()
            .filter(|(path, _)| path.starts_with(b"usr/lib/tmpfiles.d/"))
            .flat_map(|(_, bytes)| tmpfiles::read(&String::from_utf8_lossy(bytes)))
            .collect();
        for wish in wishes {
            match wish {
                Wish::Directory { path, mode, user, group } => {
                    let owner = self.owner(&user, &group);
                    self.directory(&path, mode, owner)?;
                }
                Wish::Link { path, target } if !self.is_taken(&path)? => self.link(&path, &target)?,
                Wish::File { path, mode, user, group, text } if !self.is_taken(&path)? => {
                    let owner = self.owner(&user, &group);
                    self.file(&path, text.as_bytes(), mode, owner)?;
                }
                Wish::Link { .. } | Wish::File { .. } => {}
            }
        }
        for (_, unit) in units.values() {
            let uid = self.users.user_id(&unit.user).unwrap_or(0);
            let of_user = self.users.group_of(&unit.user).unwrap_or(0);
            let gid = if unit.group.is_empty() { of_user } else { self.users.group_id(&unit.group).unwrap_or(of_user) };
            for (path, mode) in &unit.directories {
                self.directory(path, *mode, (uid, gid))?;
            }
        }
        Ok(())
    }

    fn known(&mut self, about: &KnownPackage) -> Result<()> {
        for Directory { path, mode, owner, group } in &about.dirs {
            let owner = self.owner(owner, group);
            self.directory(path, mode.unwrap_or(0o755), owner)?;
        }
        for copy in &about.copies {
            let from = self.unpacked.tree.resolve(&copy.from).and_then(|path| self.unpacked.tree.get(path));
            if let Some(node) = from.map(|entry| entry.node.clone())
                && !self.is_taken(&copy.to)?
            {
                let place = self.place(&copy.to)?;
                self.unpacked.tree.insert(place, node)?;
            }
        }
        for file in &about.files {
            self.file(&file.path, file.text.as_bytes(), 0o644, (0, 0))?;
        }
        for edit in &about.edits {
            self.edit(&edit.path, &edit.line, &edit.to)?;
        }
        for link in &about.links {
            let target = match link.target.strip_prefix('/') {
                Some(_) => link.target.clone(),
                None => format!("{}/{}", link.path.rsplit_once('/').map_or("", |(parent, _)| parent), link.target),
            };
            let leads_out = link.target.starts_with("/dev/");
            if (leads_out || self.exists(&target)) && !self.is_taken(&link.path)? {
                self.link(&link.path, &link.target)?;
            }
        }
        for each in &about.link_each {
            let dir = self.unpacked.tree.resolve(&each.dir).unwrap_or_default();
            let children = self.unpacked.tree.children(&dir);
            let names: Vec<String> = children.map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect();
            for name in names.iter().filter(|name| name.ends_with(&each.ending)) {
                self.link(&format!("{}{name}", each.to), &format!("{}/{name}", each.dir))?;
            }
        }
        if !about.note.is_empty() {
            self.notes.push(about.note.clone());
        }
        Ok(())
    }

    /// Replaces a line of a configuration file that was read while it was unpacked.
    fn edit(&mut self, path: &str, line: &str, to: &str) -> Result<()> {
        let Some(text) = self.unpacked.text(path) else { return Ok(()) };
        let edited: String =
            text.lines().map(|it| if it.trim() == line { to } else { it }).flat_map(|it| [it, "\n"]).collect();
        let content = self.unpacked.writer.file(edited.as_bytes())?;
        let place = self.unpacked.tree.resolve(path).unwrap_or_default();
        let Some(meta) = self.unpacked.tree.get(&place).map(|entry| entry.node.meta.clone()) else { return Ok(()) };
        self.unpacked.tree.insert(&place, Node::file(meta, content))?;
        self.unpacked.read.insert(place, edited.into_bytes());
        Ok(())
    }

    /// `/etc/passwd` and `/etc/group`, and homes that do not exist yet stay so, as with `adduser --no-create-home`.
    fn identity(&mut self) -> Result<()> {
        let (passwd, group) = (self.users.passwd(), self.users.group());
        self.file("/etc/passwd", passwd.as_bytes(), 0o644, (0, 0))?;
        self.file("/etc/group", group.as_bytes(), 0o644, (0, 0))
    }

    /// The bundle that `update-ca-certificates` makes of everything under `/usr/share/ca-certificates`.
    fn certificates(&mut self) -> Result<()> {
        let of_place = |(path, _): &(&Vec<u8>, &Vec<u8>)| {
            path.starts_with(b"usr/share/ca-certificates/") && path.ends_with(b".crt")
        };
        let mut bundle = Vec::new();
        for (_, bytes) in self.unpacked.read.iter().filter(of_place) {
            bundle.extend_from_slice(bytes.trim_ascii_end());
            bundle.push(b'\n');
        }
        if bundle.is_empty() {
            return Ok(());
        }
        self.file("/etc/ssl/certs/ca-certificates.crt", &bundle, 0o644, (0, 0))
    }

    /// Debian's loader looks into the directories of its architecture by itself. Libraries in others, which a cache would
    /// list, get a link there.
    fn library_directories(&mut self, arch: Arch) -> Result<()> {
        let home = format!("/usr/lib/{}", multiarch(arch));
        let lists: Vec<String> = self
            .unpacked
            .read
            .iter()
            .filter(|(path, _)| path.starts_with(b"etc/ld.so.conf.d/") && path.ends_with(b".conf"))
            .map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned())
            .collect();
        let default = [home.as_str(), "/usr/lib", "/lib", &format!("/lib/{}", multiarch(arch)), "/usr/local/lib"];
        for dir in lists.iter().flat_map(|text| text.lines()).map(str::trim).filter(|line| line.starts_with('/')) {
            if default.contains(&dir) {
                continue;
            }
            let Some(found) = self.unpacked.tree.resolve(dir) else { continue };
            let names: Vec<String> = self
                .unpacked
                .tree
                .children(&found)
                .map(|(name, _)| String::from_utf8_lossy(name).into_owned())
                .collect();
            for name in names.iter().filter(|name| name.starts_with("lib") && name.contains(".so.")) {
                let path = format!("{home}/{name}");
                if !self.is_taken(&path)? {
                    self.link(&path, &format!("{dir}/{name}"))?;
                }
            }
        }
        Ok(())
    }

    /// What is in the image, where scanners look for it: a paragraph a package in images without dpkg, and else its own
    /// account.
    fn package_records(&mut self) -> Result<()> {
        let installed = std::mem::take(&mut self.unpacked.installed);
        if self.unpacked.account == Account::Dpkg {
            for path in database::DIRECTORIES {
                self.directory(path, 0o755, (0, 0))?;
            }
            let files = database::files(installed.values());
            return files.iter().try_for_each(|(path, mode, bytes)| self.file(path, bytes, *mode, (0, 0)));
        }
        for package in installed.into_values() {
            let path = format!("/var/lib/dpkg/status.d/{}", package.name);
            self.file(&path, package.control.as_bytes(), 0o644, (0, 0))?;
            if !package.md5sums.is_empty() {
                self.file(&format!("{path}.md5sums"), &package.md5sums, 0o644, (0, 0))?;
            }
        }
        Ok(())
    }

    /// Everything made here gets the time of the newest packaged file, so that time of day leaves no trace.
    fn date(&mut self) {
        let newest = Mtime { seconds: self.unpacked.newest, nanos: 0 };
        let mut undated = Vec::new();
        let mut walk = self.unpacked.tree.walk();
        while let Some((path, entry)) = walk.advance() {
            if entry.node.meta.mtime == Mtime::default() {
                undated.push(path.to_vec());
            }
        }
        for path in undated {
            if let Some(meta) = self.unpacked.tree.metadata_mut(&path) {
                meta.mtime = newest;
            }
        }
    }
}

/// The name of an architecture's own library directory.
pub(crate) fn multiarch(arch: Arch) -> &'static str {
    match arch {
        Arch::Amd64 => "x86_64-linux-gnu",
        Arch::Arm64 => "aarch64-linux-gnu",
        Arch::Arm => "arm-linux-gnueabihf",
        Arch::Riscv64 => "riscv64-linux-gnu",
        Arch::Ppc64le => "powerpc64le-linux-gnu",
        Arch::S390x => "s390x-linux-gnu",
        Arch::I386 => "i386-linux-gnu",
    }
}
