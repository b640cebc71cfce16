//! The archive that a kernel unpacks as its first root: `cpio` in the form "newc" (see the kernel's
//! `Documentation/driver-api/early-userspace/buffer-format.rst`). Everything in it belongs to root.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::Result;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// An archive in the making.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    inode: u32,
    directories: BTreeSet<String>,
}

impl Archive {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds a directory and those on the way to it, once.
    pub(crate) fn directory(&mut self, path: &str) {
        let path = path.trim_matches('/');
        if path.is_empty() || self.directories.contains(path) {
            return;
        }
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
        self.directories.insert(path.to_owned());
        self.entry(path, DIRECTORY | 0o755, &[]);
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.entry(path, SYMLINK | 0o777, target.as_bytes());
    }

    /// Adds a file of those bytes.
    pub(crate) fn data(&mut self, path: &str, mode: u32, bytes: &[u8]) {
        let path = path.trim_matches('/');
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
        self.entry(path, REGULAR | mode, bytes);
    }

    /// Adds a copy of a file.
    pub(crate) fn file(&mut self, path: &str, source: &Path) -> Result {
        let wrong = |e: std::io::Error| format!("reading {}: {e}", source.display());
        let mode = fs::metadata(source).map_err(wrong)?.permissions().mode() & 0o777;
        self.data(path, mode, &fs::read(source).map_err(wrong)?);
        Ok(())
    }

    /// Adds a copy of a directory with everything in it; what is neither file nor directory is left out.
    pub(crate) fn tree(&mut self, path: &str, source: &Path) -> Result {
        self.directory(path);
        let entries = fs::read_dir(source).map_err(|e| format!("reading {}: {e}", source.display()))?;
        for entry in entries.flatten() {
            let inner = format!("{path}/{}", entry.file_name().to_string_lossy());
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => self.tree(&inner, &entry.path())?,
                Ok(kind) if kind.is_file() => self.file(&inner, &entry.path())?,
                _ => {}
            }
        }
        Ok(())
    }

    /// The whole archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.inode += 1;
        let fields = [self.inode, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, path.len() as u32 + 1, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    /// Busybox unpacks what the kernel unpacks.
    #[test]
    fn an_archive_unpacks_to_what_went_in() {
        if !crate::has_program("busybox") {
            println!("skipped: needs busybox");
            return;
        }
        let source = tempfile::tempdir().unwrap();
        fs::create_dir(source.path().join("inner")).unwrap();
        fs::write(source.path().join("inner/file"), "copied").unwrap();
        let mut archive = Archive::new();
        archive.data("a/b/odd", 0o640, b"12345");
        archive.link("a/link", "b/odd");
        archive.tree("tree", source.path()).unwrap();
        let out = tempfile::tempdir().unwrap();
        let mut command = Command::new("busybox");
        let mut child = command.args(["cpio", "-i"]).current_dir(out.path()).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&archive.finish()).unwrap();
        assert!(child.wait().unwrap().success());
        let read = |path: &str| fs::read_to_string(out.path().join(path)).unwrap();
        assert_eq!((read("a/link").as_str(), read("tree/inner/file").as_str()), ("12345", "copied"));
        assert_eq!(fs::metadata(out.path().join("a/b/odd")).unwrap().permissions().mode() & 0o777, 0o640);
    }
}
