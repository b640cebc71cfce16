//! Small files that are either there and whole or not there: written aside, made durable, renamed, name made durable.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Context, Result};
use crate::fail::{self, Point, power};

/// A name under `tmp` that no other process or thread uses.
pub(crate) fn unique(tmp: &Path, prefix: &str) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let nanos = std::time::UNIX_EPOCH.elapsed().map_or(0, |age| age.as_nanos());
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    tmp.join(format!("{prefix}-{}-{count}-{nanos:x}", std::process::id()))
}

/// Creates a file that must not exist yet.
pub(crate) fn create_new(path: &Path, mode: u32) -> Result<File> {
    power::writing(path);
    OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(path).context("create", path)
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path, point: Point) -> Result<()> {
    fail::point(point).context("sync", dir)?;
    File::open(dir).and_then(|it| it.sync_all()).context("sync", dir)?;
    power::dir_synced(dir);
    Ok(())
}

/// Makes a file's bytes durable.
pub(crate) fn sync_file(file: &File, path: &Path, point: Point) -> Result<()> {
    fail::point(point).context("sync", path)?;
    file.sync_all().context("sync", path)?;
    power::synced(path);
    Ok(())
}

/// Gives a file another name. The name is durable when its directory is.
pub(crate) fn rename(from: &Path, to: &Path, point: Point) -> Result<()> {
    fail::point(point).context("rename", to)?;
    power::renaming(from, to);
    std::fs::rename(from, to).context("rename", to)
}

/// The fail points that one kind of file passes on its way.
#[derive(Clone, Copy)]
pub(crate) struct Points {
    pub(crate) write: Point,
    pub(crate) sync: Point,
    pub(crate) rename: Point,
    pub(crate) dir: Point,
}

/// Refs and image records.
pub(crate) const SMALL: Points =
    Points { write: Point::SmallWrite, sync: Point::SmallSync, rename: Point::SmallRename, dir: Point::SmallDirSync };

/// Metadata images.
pub(crate) const ROOT: Points =
    Points { write: Point::RootWrite, sync: Point::RootSync, rename: Point::RootRename, dir: Point::RootDirSync };

/// Puts `bytes` at `path`, replacing what was there. When it returns, the file survives a power cut.
pub(crate) fn write_file(tmp: &Path, path: &Path, bytes: &[u8], points: Points) -> Result<()> {
    let aside = unique(tmp, "file");
    let written = write_aside(&aside, path, bytes, points);
    if written.is_err() {
        // It did not get its name; what remains of it is only in the way.
        let _ = std::fs::remove_file(&aside);
    }
    written
}

fn write_aside(aside: &Path, path: &Path, bytes: &[u8], points: Points) -> Result<()> {
    let mut file = create_new(aside, 0o444)?;
    fail::point(points.write).context("write", aside)?;
    file.write_all(bytes).context("write", aside)?;
    sync_file(&file, aside, points.sync)?;
    rename(aside, path, points.rename)?;
    match path.parent() {
        Some(dir) => sync_dir(dir, points.dir),
        None => Ok(()),
    }
}
