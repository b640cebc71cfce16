//! Following what was observed through the tree until nothing more is needed.

use std::collections::{BTreeMap, BTreeSet};

use store::{Content, Kind, Tree};

use super::passage::passage;
use super::{Glob, Observed, Reason, TreePath, languages, loader, rules};
use crate::{Result, elf};

/// Where the bytes of a tree's files come from.
pub trait Files {
    /// The first bytes of a content, at most `most` of them.
    fn beginning(&self, content: &Content, most: u64) -> Result<Vec<u8>>;
}

impl Files for store::Reader {
    fn beginning(&self, content: &Content, most: u64) -> Result<Vec<u8>> {
        use std::io::Read;
        let mut bytes = Vec::new();
        let read = self.content(content)?.take(most).read_to_end(&mut bytes);
        read.map_err(|error| crate::Error::io("a file of the image", error))?;
        Ok(bytes)
    }
}

/// What is kept, and for each path why.
pub type Kept = BTreeMap<TreePath, Vec<Reason>>;

/// Further reasons for a path than these are not noted.
const MAX_REASONS: usize = 4;
/// The most of an ELF file that is read.
const MAX_ELF: u64 = 256 << 20;
/// The most of any other file that is read.
pub(super) const MAX_TEXT: u64 = 4 << 20;

/// Gathers what is to be kept.
pub struct Keeper<'a> {
    pub(super) tree: &'a Tree,
    pub(super) files: &'a dyn Files,
    pub(super) observed: &'a Observed,
    kept: Kept,
    /// Files that are new and have not been looked into.
    queue: Vec<TreePath>,
    libraries: loader::Libraries,
}

impl<'a> Keeper<'a> {
    /// A keeper of what was observed, and of what has to be there for any program.
    pub fn new(tree: &'a Tree, files: &'a dyn Files, observed: &'a Observed) -> Result<Self> {
        let libraries = loader::Libraries::of(tree, files)?;
        let mut keeper = Self { tree, files, observed, kept: Kept::new(), queue: Vec::new(), libraries };
        for path in &observed.executed {
            keeper.want(path.as_bytes(), Reason::Executed);
        }
        for path in &observed.opened {
            keeper.want(path.as_bytes(), Reason::Opened);
        }
        for path in &observed.looked_up {
            keeper.want(path.as_bytes(), Reason::LookedUp);
        }
        rules::everywhere(&mut keeper);
        Ok(keeper)
    }

    /// Keeps whatever matches, because it was asked for.
    pub fn ask(&mut self, glob: &Glob) {
        for (path, _) in self.tree.walk().filter(|(path, _)| glob.matches(path)) {
            self.want(&path, Reason::Asked(glob.to_string()));
        }
    }

    /// Keeps what a run on a slim tree missed.
    pub fn missed(&mut self, path: &TreePath, step: &str) {
        self.want(path.as_bytes(), Reason::Missed(step.to_owned()));
    }

    /// Follows everything to its end.
    pub fn finish(mut self) -> Result<Kept> {
        loop {
            while let Some(path) = self.queue.pop() {
                self.look_into(&path)?;
            }
            rules::for_what_is_kept(&mut self)?;
            languages::packages(&mut self)?;
            if self.queue.is_empty() {
                break;
            }
        }
        rules::records(&mut self)?;
        Ok(self.kept)
    }

    /// What is kept so far.
    pub(super) fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Whether a path was kept because it was used, not by a rule.
    pub(super) fn is_used(&self, path: &TreePath) -> bool {
        let used = |it: &Reason| matches!(it, Reason::Executed | Reason::Opened | Reason::Missed(_));
        self.kept.get(path).is_some_and(|reasons| reasons.iter().any(used))
    }

    /// The bytes of a file of the tree, by its real path; none when there is no such file.
    pub(super) fn read(&self, path: &[u8], most: u64) -> Result<Option<Vec<u8>>> {
        match self.tree.get(path).map(|it| &it.node.kind) {
            Some(Kind::File(content)) => self.files.beginning(content, most).map(Some),
            _ => Ok(None),
        }
    }

    /// Keeps what a path leads to, as far as it leads, with all links and directories on the way. Gives the real path of
    /// what it leads to, if that exists.
    pub(super) fn want(&mut self, path: &[u8], reason: Reason) -> Option<TreePath> {
        let way = Reason::Way(TreePath::new(path));
        let (passed, real) = passage(self.tree, path);
        let own = TreePath::new(path);
        for it in passed {
            // What is asked for by its own name is not on the way to itself, were it a link.
            self.keep(it.as_bytes(), if it == own { &reason } else { &way });
        }
        let real = real?;
        self.keep(real.as_bytes(), &reason);
        Some(real)
    }

    fn keep(&mut self, path: &[u8], reason: &Reason) {
        if path.is_empty() {
            return;
        }
        let path = TreePath::new(path);
        let Some(entry) = self.tree.get(&path) else { return };
        let reasons = self.kept.entry(path.clone()).or_default();
        let is_new = reasons.is_empty();
        // That something lies on the way is worth saying only of what is kept for nothing else.
        let is_way = |it: &Reason| matches!(it, Reason::Way(_));
        if is_way(reason) && !is_new || reasons.contains(reason) {
            return;
        }
        if !is_way(reason) {
            reasons.retain(|it| !is_way(it));
        }
        if reasons.len() < MAX_REASONS {
            reasons.push(reason.clone());
        }
        if is_new && matches!(entry.node.kind, Kind::File(_)) {
            self.queue.push(path);
        }
    }

    /// Keeps everything below a directory that `wanted` says yes to, by its path.
    pub(super) fn want_below(&mut self, directory: &[u8], reason: &Reason, wanted: impl Fn(&[u8]) -> bool) {
        let Some(real) = self.tree.resolve(directory) else { return };
        let mut dirs = vec![real];
        while let Some(dir) = dirs.pop() {
            let names: Vec<Vec<u8>> = self.tree.children(&dir).map(|(name, _)| name.to_vec()).collect();
            for name in names {
                let path = [dir.as_slice(), b"/", &name].concat();
                if !wanted(&path) {
                    continue;
                }
                if matches!(self.tree.get(&path).map(|it| &it.node.kind), Some(Kind::Directory)) {
                    dirs.push(path.clone());
                }
                self.want(&path, reason.clone());
            }
        }
    }

    /// Keeps what a file needs to be of use.
    fn look_into(&mut self, path: &TreePath) -> Result<()> {
        let Some(beginning) = self.read(path.as_bytes(), 256)? else { return Ok(()) };
        if elf::is_elf(&beginning) {
            return self.look_into_elf(path);
        }
        if let Some(line) = beginning.strip_prefix(b"#!") {
            self.look_into_script(path, line);
        }
        Ok(())
    }

    fn look_into_script(&mut self, path: &TreePath, line: &[u8]) {
        let line = line.split(|it| *it == b'\n').next().unwrap_or_default();
        let mut words = line.split(|it| it.is_ascii_whitespace()).filter(|it| !it.is_empty());
        let Some(interpreter) = words.next() else { return };
        self.want(interpreter, Reason::Interpreter(path.clone()));
        if interpreter.ends_with(b"/env")
            && let Some(name) = words.find(|it| !it.starts_with(b"-") && !it.contains(&b'='))
        {
            for dir in ["usr/local/bin", "usr/bin", "bin", "usr/sbin"] {
                self.want(&[dir.as_bytes(), b"/", name].concat(), Reason::Interpreter(path.clone()));
            }
        }
    }

    fn look_into_elf(&mut self, path: &TreePath) -> Result<()> {
        let bytes = self.read(path.as_bytes(), MAX_ELF)?.unwrap_or_default();
        // What no loader can read needs no library: firmware, fragments.
        let Ok(elf) = elf::parse(&bytes) else { return Ok(()) };
        if let Some(interpreter) = &elf.interpreter {
            self.want(interpreter, Reason::Interpreter(path.clone()));
        }
        for name in &elf.needed {
            if let Some(found) = self.libraries.find(self.tree, name, path, &elf) {
                self.want(&found, Reason::Library(path.clone()));
            }
        }
        for name in loader::library_names(&bytes) {
            let is_own = name == path.name() || elf.soname.as_ref() == Some(&name);
            if is_own || elf.needed.contains(&name) {
                continue;
            }
            if let Some(found) = self.libraries.find(self.tree, &name, path, &elf) {
                self.want(&found, Reason::Named(path.clone()));
            }
        }
        Ok(())
    }

    /// The directories that libraries are looked for in.
    pub(super) fn library_directories(&self) -> BTreeSet<Vec<u8>> {
        self.libraries.directories().map(<[u8]>::to_vec).collect()
    }
}

#[cfg(test)]
mod tests;
