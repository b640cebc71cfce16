//! A server as data: what its guest has handles of, by where that is.
//!
//! Another server finds it there again, in a directory that has the same in it. What is not there any more, or is something
//! else, is lost: a guest that uses its handle hears that it is stale. A regular file that was removed and is still open has
//! no place; its content is kept with it.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, chownat, fchmod, fcntl_getfl};
use rustix::io::{Errno, pread, pwrite};
use serde::{Deserialize, Serialize};

use super::content::{MOST_ATTRIBUTE, Opened, Setting};
use super::node::{Node, file_type};
use super::{Done, Handle, MOST_BYTES, MOST_HANDLES, MOST_KEPT, Server};
use crate::error::{Error, Result};
use crate::saved::{State, data, of_data, unfit};

/// Bytes of removed files at most.
const MOST_NAMELESS: u64 = 16 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedServer {
    most: u32,
    handles: Vec<SavedHandle>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedHandle {
    number: u32,
    user: u32,
    /// What its guest knows the file by.
    identity: u64,
    place: Place,
    opened: Option<SavedOpened>,
}

/// Where something is.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
enum Place {
    /// By this path from the directory on.
    At(#[serde(with = "crate::saved::hex")] Vec<u8>),
    /// Nowhere: a regular file with its mode, its owners and its content.
    Nameless(u32, u32, u32, #[serde(with = "crate::saved::hex")] Vec<u8>),
    /// Nowhere.
    Lost,
}

/// What a handle is open for.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
enum SavedOpened {
    /// A file, by its flags.
    File(u32),
    Directory,
    Attribute(#[serde(with = "crate::saved::hex")] Vec<u8>),
    Setting(Setting),
}

impl Server {
    /// What its guest has handles of.
    pub(crate) fn save(&self) -> Result<State> {
        let mut handles = Vec::new();
        let mut room = MOST_NAMELESS;
        for (number, handle) in &self.handles {
            let place = match handle.node.path_below(&self.root) {
                Some(path) => Place::At(path),
                None => nameless(handle, &mut room)?,
            };
            let opened = handle.opened.as_ref().map(|it| match it {
                Opened::File(file) => SavedOpened::File(fcntl_getfl(file).map_or(0, |it| it.bits())),
                Opened::Directory(_) => SavedOpened::Directory,
                Opened::Attribute(value) => SavedOpened::Attribute(value.clone()),
                Opened::Setting(setting) => SavedOpened::Setting(setting.clone()),
            });
            let identity = handle.node.stat().map_or(0, |it| self.identities.number(&it));
            handles.push(SavedHandle { number: *number, user: handle.user, identity, place, opened });
        }
        let lost =
            |number: &u32| SavedHandle { number: *number, user: 0, identity: 0, place: Place::Lost, opened: None };
        handles.extend(self.lost.iter().map(lost));
        data(&SavedServer { most: self.most, handles })
    }

    /// Has it serve the guest of that one.
    pub(crate) fn restore(&mut self, state: State) -> Result<()> {
        let SavedServer { most, handles } = of_data(state)?;
        if !(4096..=MOST_BYTES).contains(&most) || handles.len() > MOST_HANDLES {
            return unfit("its shared directory has more handles than there can be");
        }
        self.reset();
        self.most = most;
        for it in handles {
            let number = it.number;
            if self.handles.contains_key(&number) || self.lost.contains(&number) {
                return unfit("its shared directory has a handle twice");
            }
            match self.again(it) {
                Ok(handle) => drop(self.handles.insert(number, handle)),
                Err(_) => drop(self.lost.insert(number)),
            }
        }
        Ok(())
    }

    fn again(&mut self, it: SavedHandle) -> Done<Handle> {
        let (node, file) = match &it.place {
            Place::At(path) => (self.root.at(path)?, None),
            Place::Nameless(mode, user, group, content) => {
                let (node, file) = refill(&self.root, *mode, (*user, *group), content)?;
                (node, Some(file))
            }
            Place::Lost => return Err(Errno::STALE),
        };
        self.identities.know(&node.stat()?, it.identity);
        let opened = match it.opened {
            None => None,
            Some(SavedOpened::File(flags)) => {
                let kept = OFlags::ACCMODE | OFlags::DSYNC | OFlags::SYNC;
                if file_type(&node.stat()?) != FileType::RegularFile {
                    return Err(Errno::STALE);
                }
                let again = || node.open(OFlags::from_bits_retain(flags) & kept);
                Some(Opened::File(file.map_or_else(again, Ok)?))
            }
            Some(SavedOpened::Directory) => Some(Opened::Directory(node.open(OFlags::RDONLY | OFlags::DIRECTORY)?)),
            Some(SavedOpened::Attribute(value)) => {
                self.keep_again(value.len() as u64)?;
                Some(Opened::Attribute(value))
            }
            Some(SavedOpened::Setting(setting)) => {
                if setting.value.len() as u64 > setting.size {
                    return Err(Errno::INVAL);
                }
                self.keep_again(setting.size)?;
                Some(Opened::Setting(setting))
            }
        };
        Ok(Handle { node, opened, user: it.user })
    }

    fn keep_again(&mut self, size: u64) -> Done {
        if size > MOST_ATTRIBUTE || self.kept + size > MOST_KEPT {
            return Err(Errno::NOSPC);
        }
        self.keep_bytes(size)
    }
}

/// What has no place any more.
fn nameless(handle: &Handle, room: &mut u64) -> Result<Place> {
    let Ok(stat) = handle.node.stat() else { return Ok(Place::Lost) };
    if file_type(&stat) != FileType::RegularFile {
        return Ok(Place::Lost);
    }
    let size = stat.st_size.unsigned_abs();
    let Some(left) = room.checked_sub(size) else {
        let why = format!("a program has a file open that was removed, and it is of {size} bytes");
        return Err(Error::Unkept { why });
    };
    *room = left;
    // By its place rather than by its handle, which may be open for writing alone.
    let Ok(content) = handle.node.open(OFlags::RDONLY).and_then(|file| content(&file, size)) else {
        return Ok(Place::Lost);
    };
    Ok(Place::Nameless(stat.st_mode, stat.st_uid, stat.st_gid, content))
}

fn content(file: &OwnedFd, size: u64) -> Done<Vec<u8>> {
    let mut content = vec![0; size as usize];
    let mut done = 0;
    while done < content.len() {
        match pread(file, &mut content[done..], done as u64)? {
            0 => break,
            count => done += count,
        }
    }
    content.truncate(done);
    Ok(content)
}

/// Makes such a file again.
fn refill(root: &Node, mode: u32, owner: (u32, u32), content: &[u8]) -> Done<(Node, OwnedFd)> {
    let (node, file) = root.nameless(mode)?;
    let mut done = 0;
    while done < content.len() {
        done += pwrite(&file, &content[done..], done as u64)?;
    }
    let (user, group) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
    match chownat(&node, "", Some(user), Some(group), AtFlags::EMPTY_PATH) {
        Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
        Err(errno) => return Err(errno),
    }
    fchmod(&file, Mode::from_raw_mode(mode & 0o7777))?;
    Ok((node, file))
}
