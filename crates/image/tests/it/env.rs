//! A pool of its own for each test, and the tools that tests compare with.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use image::{FetchOptions, Fetched, Result};
use model::{ImageRef, Source};
use store::Store;

/// A temporary pool and a directory to play in.
pub(crate) struct Env {
    dir: tempfile::TempDir,
    pub(crate) store: Store,
    pub(crate) options: FetchOptions,
}

impl Env {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("pool")).unwrap();
        let mut options = FetchOptions::new(dir.path().join("cache"));
        // No credentials of whoever runs the tests.
        options.credentials = Some(dir.path().join("no-credentials.json"));
        options.stall = model::Span::millis(700);
        Self { dir, store, options }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn fetch(&self, source: &str) -> Result<Fetched> {
        image::fetch(&self.store, &parse(source), &self.options, &())
    }

    pub(crate) fn export(&self, fetched: &Fetched, to: &str) -> Result<image::Exported> {
        image::export(&self.store, &fetched.id, &parse(to), &())
    }

    /// Every path of an image with its kind and metadata, one line each, to be compared.
    pub(crate) fn listing(&self, fetched: &Fetched) -> Vec<String> {
        let reader = self.store.reader().unwrap();
        let tree = reader.tree(&fetched.record.tree).unwrap();
        tree.walk()
            .map(|(path, entry)| {
                let meta = &entry.node.meta;
                let kind = match &entry.node.kind {
                    store::Kind::Directory => "dir".to_owned(),
                    store::Kind::File(content) => format!("file {}", content.size),
                    store::Kind::Symlink(target) => format!("-> {}", String::from_utf8_lossy(target)),
                    store::Kind::CharDevice(device) => format!("char {}:{}", device.major, device.minor),
                    store::Kind::BlockDevice(device) => format!("block {}:{}", device.major, device.minor),
                    store::Kind::Fifo => "fifo".to_owned(),
                    store::Kind::Socket => "socket".to_owned(),
                };
                format!("{} {kind} {:o} {}:{}", String::from_utf8_lossy(&path), meta.mode, meta.uid, meta.gid)
            })
            .collect()
    }

    /// A file's bytes.
    pub(crate) fn content(&self, fetched: &Fetched, path: &str) -> Option<Vec<u8>> {
        let reader = self.store.reader().unwrap();
        let tree = reader.tree(&fetched.record.tree).unwrap();
        let entry = tree.get(tree.resolve(path)?)?;
        let store::Kind::File(content) = &entry.node.kind else { return None };
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut reader.content(content).unwrap(), &mut bytes).unwrap();
        Some(bytes)
    }

    /// Nothing has a name in the pool: what failed left no trace that anybody could run.
    pub(crate) fn assert_empty(&self) {
        assert!(self.store.refs().unwrap().is_empty());
    }
}

pub(crate) fn parse(source: &str) -> Source {
    match source.parse().unwrap() {
        ImageRef::Source(source) => source,
        ImageRef::Named(name) => panic!("{name} is no source"),
    }
}

/// Whether a tool is there; says so when not.
pub(crate) fn has(tool: &str) -> bool {
    let found =
        std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(tool).is_file()));
    if !found {
        eprintln!("SKIPPED: {tool} is not installed");
    }
    found
}

/// Runs a tool to its end, and gives what it printed.
pub(crate) fn run<A: AsRef<OsStr>>(tool: &str, arguments: &[A]) -> String {
    let output = Command::new(tool).args(arguments).stdin(Stdio::null()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// A named file with those bytes, its directories made.
pub(crate) fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}
