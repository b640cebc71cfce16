//! The journal of what happened: one JSON object a line, appended with one write each, so that any number of processes
//! may write and a reader never sees half an event.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use model::{Event, EventKind, Timestamp};

use crate::cell::Cell;
use crate::clock::now;
use crate::error::{Error, Result};
use crate::home::Home;

/// A journal larger than this is set aside as `events.1.jsonl`, in place of the one set aside before.
const MAX_BYTES: u64 = 4 << 20;

/// Notes that something happened to a cell. An event that cannot be written is not worth failing a command for: it tells
/// of what happened, it does not make it happen.
pub(crate) fn record(home: &Home, cell: &Cell, kind: EventKind) {
    append(home, &Event { at: now(), cell: Some(cell.spec.id), name: cell.spec.name.to_string(), kind });
}

/// Notes that something happened to what is no cell of ours.
pub(crate) fn record_foreign(home: &Home, name: &str, kind: EventKind) {
    append(home, &Event { at: now(), cell: None, name: name.to_owned(), kind });
}

fn append(home: &Home, event: &Event) {
    let Ok(mut line) = serde_json::to_vec(event) else { return };
    line.push(b'\n');
    let path = home.events();
    if let Ok(mut journal) = File::options().append(true).create(true).open(&path) {
        let _ = journal.write_all(&line);
        if journal.metadata().is_ok_and(|it| it.len() > MAX_BYTES) {
            rotate(&journal, &path);
        }
    }
}

/// Sets a full journal aside. Of several processes that find it full, one does: the others see that it is not in its
/// place any more, and do not set the fresh one aside over it.
fn rotate(journal: &File, path: &Path) {
    let locked = rustix::fs::flock(journal, rustix::fs::FlockOperation::LockExclusive).is_ok();
    let inode = |it: std::io::Result<std::fs::Metadata>| it.ok().map(|it| it.ino());
    if locked && inode(journal.metadata()) == inode(std::fs::metadata(path)) {
        let _ = std::fs::rename(path, set_aside(path));
    }
}

fn set_aside(path: &Path) -> PathBuf {
    path.with_extension("1.jsonl")
}

/// Reads the journal from the beginning, then what is added to it.
#[derive(Debug)]
pub struct EventReader {
    path: PathBuf,
    current: Option<BufReader<File>>,
    older: Option<BufReader<File>>,
    /// A line that was not complete at the last look.
    partial: Vec<u8>,
    since: Timestamp,
}

impl EventReader {
    /// Events at or after `since`.
    pub fn open(home: &Home, since: Timestamp) -> Result<Self> {
        let path = home.events();
        let older = File::open(set_aside(&path)).ok().map(BufReader::new);
        Ok(Self { current: open_if_there(&path)?, older, path, partial: Vec::new(), since })
    }

    /// The next event, or nothing when there is none yet.
    pub fn next_event(&mut self) -> Result<Option<Event>> {
        loop {
            // Asked before the reading: a journal that was set aside by then is read to its very end.
            let fresh = if self.older.is_some() { None } else { self.fresh_journal()? };
            let Some(reader) = self.older.as_mut().or(self.current.as_mut()) else {
                self.current = fresh;
                if self.current.is_none() {
                    return Ok(None);
                }
                continue;
            };
            let read = reader.read_until(b'\n', &mut self.partial).map_err(|e| Error::at("reading", &self.path, e))?;
            if self.partial.ends_with(b"\n") {
                let line = std::mem::take(&mut self.partial);
                // A line that is no event was written by another version; it is not this reader's to judge.
                match serde_json::from_slice::<Event>(&line) {
                    Ok(event) if event.at >= self.since => return Ok(Some(event)),
                    _ => {}
                }
            } else if read == 0 && self.older.is_some() {
                self.older = None;
                self.partial.clear();
            } else if read == 0 {
                if fresh.is_none() {
                    return Ok(None);
                }
                self.current = fresh;
                self.partial.clear();
            }
        }
    }

    /// The journal that took the place of the one that is being read, if one did.
    fn fresh_journal(&self) -> Result<Option<BufReader<File>>> {
        let inode = |reader: &BufReader<File>| reader.get_ref().metadata().ok().map(|it| it.ino());
        let fresh = open_if_there(&self.path)?;
        Ok(fresh.filter(|fresh| self.current.as_ref().is_none_or(|current| inode(current) != inode(fresh))))
    }
}

fn open_if_there(path: &Path) -> Result<Option<BufReader<File>>> {
    match File::open(path) {
        Ok(file) => Ok(Some(BufReader::new(file))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::at("opening", path, e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(n: u64) -> String {
        format!(r#"{{"at":{n},"cell":"000000000000","name":"web","event":"paused"}}"#)
    }

    fn times(reader: &mut EventReader) -> Vec<u64> {
        std::iter::from_fn(|| reader.next_event().unwrap()).map(|it| it.at.as_nanos()).collect()
    }

    #[test]
    fn a_journal_is_read_across_rotation_and_half_lines() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        let path = home.events();
        std::fs::write(&path, [line(1).as_bytes(), b"\n\xff no event\n", &line(2).as_bytes()[..9]].concat()).unwrap();
        let mut reader = EventReader::open(&home, Timestamp::default()).unwrap();
        assert_eq!(times(&mut reader), [1], "half a line is no event yet");
        let mut journal = File::options().append(true).open(&path).unwrap();
        journal.write_all(format!("{}\n{}\n", &line(2)[9..], line(3)).as_bytes()).unwrap();
        rotate(&journal, &path);
        std::fs::write(&path, line(4) + "\n").unwrap();
        rotate(&journal, &path);
        assert_eq!(times(&mut reader), [2, 3, 4]);
        assert_eq!(times(&mut EventReader::open(&home, Timestamp::default()).unwrap()), [1, 2, 3, 4]);
    }
}
