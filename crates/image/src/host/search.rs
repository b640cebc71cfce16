//! Where the loader finds libraries: ld.so(8), without its cache.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::elf::Elf;

/// Directories that a loader of some distribution looks into by itself.
const DEFAULTS_64: [&str; 4] = ["/lib64", "/usr/lib64", "/lib", "/usr/lib"];
const DEFAULTS_32: [&str; 4] = ["/lib32", "/usr/lib32", "/lib", "/usr/lib"];
/// How deep configuration files may include each other.
const MAX_INCLUDES: usize = 8;

/// The machine's search path.
pub(super) struct Search<'r> {
    root: &'r Path,
    /// From `/etc/ld.so.conf` and what it includes.
    configured: Vec<PathBuf>,
}

/// Libraries that one program has loaded: each name is looked up once.
pub(super) struct Loaded(BTreeSet<Vec<u8>>);

impl Loaded {
    pub(super) fn of(path: &Path, elf: &Elf) -> Self {
        let own = path.file_name().map(|name| name.as_bytes().to_vec());
        Self(own.into_iter().chain(elf.soname.clone()).collect())
    }

    /// Whether that name is new.
    pub(super) fn note(&mut self, name: &[u8]) -> bool {
        self.0.insert(name.to_vec())
    }
}

impl<'r> Search<'r> {
    pub(super) fn of_machine(root: &'r Path) -> Self {
        let mut search = Self { root, configured: Vec::new() };
        search.include(Path::new("/etc/ld.so.conf"), 0);
        search
    }

    fn real(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn include(&mut self, file: &Path, depth: usize) {
        let Ok(text) = fs::read_to_string(self.real(file)) else { return };
        for line in text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()) {
            match line.strip_prefix("include").filter(|rest| rest.starts_with(char::is_whitespace)) {
                Some(pattern) if depth < MAX_INCLUDES => {
                    for file in self.matching(pattern.trim(), file) {
                        self.include(&file, depth + 1);
                    }
                }
                Some(_) => {}
                None if line.starts_with('/') => self.configured.push(line.into()),
                None => {}
            }
        }
    }

    /// Files that match a pattern with one `*` in its last name.
    fn matching(&self, pattern: &str, from: &Path) -> Vec<PathBuf> {
        let whole = from.parent().unwrap_or(Path::new("/")).join(pattern);
        let (Some(dir), Some(name)) = (whole.parent(), whole.file_name().and_then(OsStr::to_str)) else {
            return Vec::new();
        };
        let Some((start, end)) = name.split_once('*') else { return vec![whole.clone()] };
        let entries = fs::read_dir(self.real(dir)).into_iter().flatten().flatten();
        let mut found: Vec<PathBuf> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end))
            .map(|name| dir.join(name))
            .collect();
        found.sort();
        found
    }

    /// Finds a library for `elf` at `path`: the first that is for the same processor and class. `parse` reads a candidate.
    pub(super) fn library(
        &self,
        name: &[u8],
        path: &Path,
        elf: &Elf,
        inherited: &[Vec<u8>],
        parse: impl Fn(&Path) -> Option<Elf>,
    ) -> Option<(PathBuf, Elf)> {
        let fits = |candidate: PathBuf| {
            let found = parse(&candidate)?;
            (found.arch == elf.arch && found.class == elf.class).then_some((candidate, found))
        };
        if name.contains(&b'/') {
            return fits(PathBuf::from(OsStr::from_bytes(name)));
        }
        self.directories(path, elf, inherited).into_iter().map(|dir| dir.join(OsStr::from_bytes(name))).find_map(fits)
    }

    fn directories(&self, path: &Path, elf: &Elf, inherited: &[Vec<u8>]) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = Vec::new();
        let text = |bytes: Vec<u8>| PathBuf::from(OsStr::from_bytes(&bytes));
        if elf.runpath.is_empty() {
            found.extend(expanded(&elf.rpath, path).into_iter().map(text));
            found.extend(inherited.iter().cloned().map(text));
        }
        found.extend(expanded(&elf.runpath, path).into_iter().map(text));
        found.extend(self.configured.iter().cloned());
        found.extend(self.defaults(elf.class));
        found
    }

    fn defaults(&self, class: u8) -> Vec<PathBuf> {
        let plain = if class == 64 { DEFAULTS_64 } else { DEFAULTS_32 };
        let mut found: Vec<PathBuf> = Vec::new();
        for base in ["/lib", "/usr/lib"] {
            let entries = fs::read_dir(self.real(Path::new(base))).into_iter().flatten().flatten();
            let mut multiarch: Vec<PathBuf> = entries
                .filter_map(|entry| entry.file_name().into_string().ok())
                .filter(|name| name.contains("-linux-gnu"))
                .map(|name| Path::new(base).join(name))
                .collect();
            multiarch.sort();
            found.extend(multiarch);
        }
        found.extend(plain.into_iter().map(PathBuf::from));
        found
    }

    /// Whether only the machine's configuration leads the loader to that directory.
    pub(super) fn is_configured(&self, directory: &Path) -> bool {
        let default = self.defaults(64).iter().chain(&self.defaults(32)).any(|known| known == directory);
        !default && self.configured.iter().any(|known| known == directory)
    }

    /// A directory that the loader looks into by itself: where the C library is.
    pub(super) fn default_directory(&self, class: u8) -> PathBuf {
        let candidates = self.defaults(class);
        let home = candidates.iter().find(|dir| self.real(&dir.join("libc.so.6")).exists());
        home.cloned().unwrap_or_else(|| PathBuf::from("/usr/lib"))
    }

    /// A program that a shell would find.
    pub(super) fn program(&self, name: &str) -> Option<PathBuf> {
        ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"]
            .into_iter()
            .map(|dir| Path::new(dir).join(name))
            .find(|path| self.real(path).is_file())
    }

    /// What to say of a library that is nowhere.
    pub(super) fn missing(&self, name: &[u8], path: &Path, elf: &Elf) -> Error {
        let places: Vec<String> =
            self.directories(path, elf, &[]).into_iter().map(|dir| dir.display().to_string()).collect();
        let name = String::from_utf8_lossy(name).escape_debug().to_string();
        Error::not_found(
            format!("library {name}, which {} needs,", path.display()),
            format!("looked in {}", places.join(", ")),
        )
    }
}

/// Search directories of a file with `$ORIGIN` and the like filled in.
pub(super) fn expanded(directories: &[Vec<u8>], path: &Path) -> Vec<Vec<u8>> {
    let origin = path.parent().unwrap_or(Path::new("/")).as_os_str().as_bytes();
    directories
        .iter()
        .map(|directory| {
            let mut out = directory.clone();
            for (token, value) in [("$ORIGIN", origin), ("${ORIGIN}", origin), ("$LIB", b"lib"), ("${LIB}", b"lib")] {
                out = replace(&out, token.as_bytes(), value);
            }
            out
        })
        .filter(|directory| directory.starts_with(b"/"))
        .collect()
}

fn replace(text: &[u8], token: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.windows(token.len()).position(|window| window == token) {
        let (before, after) = rest.split_at(at);
        out.extend_from_slice(before);
        out.extend_from_slice(value);
        rest = after.get(token.len()..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
    out
}
