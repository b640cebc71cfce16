//! A disk of a bench's own: ext4, fresh, in a file.
//!
//! Benches that make files are measured on one, ours and the peers alike, because ext4 without a journal (as some virtual
//! machines have it) searches half a millisecond for the inode of each new file when many files were deleted lately, and
//! whoever runs benches and tests deletes many: the same start of a cell took 7 ms and, half an hour later, 17.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::debian::{self, Tool};
use crate::{Result, output_of};

const TOOLS: &[Tool] = &[Tool { program: "mkfs.ext4", package: "e2fsprogs" }];
/// What fits is more than any bench needs; the file has holes.
const SIZE: u64 = 16 << 30;

/// The disk, mounted. Unmounted and deleted when dropped.
pub(crate) struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    pub(crate) fn mount() -> Result<Self> {
        if let Some((tool, why)) = debian::ensure(TOOLS).first() {
            return Err(format!("{} is missing: {why}", tool.program));
        }
        let disk = Self { dir: tempfile::tempdir().map_err(|e| e.to_string())? };
        let file = disk.dir.path().join("disk");
        std::fs::create_dir(disk.path()).map_err(|e| e.to_string())?;
        std::fs::File::create(&file).and_then(|it| it.set_len(SIZE)).map_err(|e| e.to_string())?;
        output_of(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&file))?;
        output_of(Command::new("mount").args(["-o", "loop"]).arg(&file).arg(disk.path()))?;
        Ok(disk)
    }

    pub(crate) fn path(&self) -> PathBuf {
        place(self.dir.path())
    }
}

fn place(dir: &Path) -> PathBuf {
    dir.join("place")
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Something that ended just now may still hold it.
        let _ = output_of(Command::new("umount").arg("--lazy").arg(self.path()));
    }
}
