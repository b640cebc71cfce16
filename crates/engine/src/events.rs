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
    let event = Event { at: now(), cell: cell.spec.id, name: cell.spec.name.clone(), kind };
    let Ok(mut line) = serde_json::to_vec(&event) else { return };
    line.push(b'\n');
    let path = home.events();
    if let Ok(mut journal) = File::options().append(true).create(true).open(&path) {
        let _ = journal.write_all(&line);
        if journal.metadata().is_ok_and(|it| it.len() > MAX_BYTES) {
            let _ = std::fs::rename(&path, set_aside(&path));
        }
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
    since: Timestamp,
}

impl EventReader {
    /// Events at or after `since`.
    pub fn open(home: &Home, since: Timestamp) -> Result<Self> {
        let path = home.events();
        let older = File::open(set_aside(&path)).ok().map(BufReader::new);
        Ok(Self { current: open_if_there(&path)?, older, path, since })
    }

    /// The next event, or nothing when there is none yet.
    pub fn next_event(&mut self) -> Result<Option<Event>> {
        loop {
            let reading_older = self.older.is_some();
            let Some(reader) = self.older.as_mut().or(self.current.as_mut()) else {
                self.current = open_if_there(&self.path)?;
                if self.current.is_none() {
                    return Ok(None);
                }
                continue;
            };
            let mut line = String::new();
            let read = reader.read_line(&mut line).map_err(|e| Error::at("reading", &self.path, e))?;
            if read == 0 && reading_older {
                self.older = None;
            } else if read == 0 {
                return Ok(self.reopen_if_rotated()?.then(|| self.next_event()).transpose()?.flatten());
            } else if let Ok(event) = serde_json::from_str::<Event>(&line) {
                // A line that is no event was written by another version; it is not this reader's to judge.
                if event.at >= self.since {
                    return Ok(Some(event));
                }
            }
        }
    }

    fn reopen_if_rotated(&mut self) -> Result<bool> {
        let Some(reader) = &self.current else { return Ok(false) };
        let Some(fresh) = open_if_there(&self.path)? else { return Ok(false) };
        let same = match (reader.get_ref().metadata(), fresh.get_ref().metadata()) {
            (Ok(a), Ok(b)) => a.ino() == b.ino(),
            _ => false,
        };
        if same {
            return Ok(false);
        }
        self.current = Some(fresh);
        Ok(true)
    }
}

fn open_if_there(path: &Path) -> Result<Option<BufReader<File>>> {
    match File::open(path) {
        Ok(file) => Ok(Some(BufReader::new(file))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::at("opening", path, e)),
    }
}
