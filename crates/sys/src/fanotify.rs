//! Watching which files are opened: fanotify groups whose events hold the opener back until they are answered.

#![expect(unsafe_code, reason = "fanotify(7) takes and gives raw structures")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::{Errno, Result, check};

/// What happened to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It is being opened.
    Open,
    /// It is being opened to be executed.
    Execute,
    /// Events were lost: there were too many at once. Comes without a file.
    Overflow,
}

/// One event.
#[derive(Debug)]
pub struct Event {
    /// What happened.
    pub what: What,
    /// The file, opened for reading.
    pub file: Option<OwnedFd>,
}

/// Whether openers wait for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// They do: each event with a file must get its [`allow`].
    Asking,
    /// They do not.
    Telling,
}

/// A group without marks. Non-blocking. Takes `SYS_ADMIN`.
pub fn group(manner: Manner) -> Result<OwnedFd> {
    let class = match manner {
        Manner::Asking => libc::FAN_CLASS_CONTENT,
        Manner::Telling => libc::FAN_CLASS_NOTIF,
    };
    let flags = class | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK;
    let files = (libc::O_RDONLY | libc::O_LARGEFILE | libc::O_CLOEXEC) as u32;
    // SAFETY: plain numbers.
    let fd = check(unsafe { libc::syscall(libc::SYS_fanotify_init, flags, files) })?;
    // SAFETY: the kernel just made it; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Has the group hear of every opening on the file system that `place` lies in, whichever mount it comes through.
pub fn mark_file_system(group: BorrowedFd<'_>, place: BorrowedFd<'_>, manner: Manner) -> Result<()> {
    let events = match manner {
        Manner::Asking => libc::FAN_OPEN_PERM | libc::FAN_OPEN_EXEC_PERM | libc::FAN_ONDIR,
        Manner::Telling => libc::FAN_OPEN | libc::FAN_ONDIR,
    };
    let path = format!("/proc/self/fd/{}\0", place.as_raw_fd());
    let flags = libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM;
    // SAFETY: the path ends with a zero byte; the rest are plain numbers.
    check(unsafe {
        libc::syscall(libc::SYS_fanotify_mark, group.as_raw_fd(), flags, events, libc::AT_FDCWD, path.as_ptr())
    })
    .map(drop)
}

/// Lets the opening that an event of an asking group told of go on.
pub fn allow(group: BorrowedFd<'_>, file: BorrowedFd<'_>) -> Result<()> {
    let mut answer = [0; 8];
    answer[..4].copy_from_slice(&file.as_raw_fd().to_ne_bytes());
    answer[4..].copy_from_slice(&libc::FAN_ALLOW.to_ne_bytes());
    rustix::io::retry_on_intr(|| rustix::io::write(group, &answer)).map(drop)
}

/// The size of the kernel's `fanotify_event_metadata`, of which the fields here are: length, version, mask, descriptor.
const METADATA: usize = 24;

/// The events that are there; none when there are none.
pub fn next(group: BorrowedFd<'_>) -> Result<Vec<Event>> {
    let mut buffer = [0u8; 128 * METADATA];
    let count = match rustix::io::retry_on_intr(|| rustix::io::read(group.as_fd(), &mut buffer[..])) {
        Err(Errno::AGAIN) => 0,
        other => other?,
    };
    let mut rest = &buffer[..count];
    let mut events = Vec::new();
    while let Some((mask, number, length)) = header(rest) {
        let what = match mask {
            _ if mask & libc::FAN_Q_OVERFLOW != 0 => What::Overflow,
            _ if mask & libc::FAN_OPEN_EXEC_PERM != 0 => What::Execute,
            _ => What::Open,
        };
        // SAFETY: the kernel opened this descriptor for the event, and each event is read once.
        let file = (number >= 0).then(|| unsafe { OwnedFd::from_raw_fd(number) });
        events.push(Event { what, file });
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(events)
}

/// Mask, descriptor and length of the event at the beginning of `bytes`.
fn header(bytes: &[u8]) -> Option<(u64, i32, usize)> {
    let field = |from: usize| bytes.get(from..from + 4)?.try_into().ok();
    let length = u32::from_ne_bytes(field(0)?) as usize;
    let mask = u64::from_ne_bytes(bytes.get(8..16)?.try_into().ok()?);
    let number = i32::from_ne_bytes(field(16)?);
    (bytes.len() >= METADATA && length >= METADATA).then_some((mask, number, length))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    /// A file system of its own, mounted nowhere.
    fn memory() -> OwnedFd {
        use rustix::mount::MountAttrFlags;
        crate::mount::new_file_system::<&std::ffi::CStr>(c"tmpfs", &[], MountAttrFlags::empty()).unwrap()
    }

    #[test]
    fn an_opener_waits_until_it_is_allowed() {
        if !is_root() {
            return;
        }
        let place = memory();
        let path = format!("/proc/self/fd/{}/file", place.as_raw_fd());
        File::create(&path).unwrap();
        let group = group(Manner::Asking).unwrap();
        mark_file_system(group.as_fd(), place.as_fd(), Manner::Asking).unwrap();
        let opener = std::thread::spawn(move || File::open(path).is_ok());
        let events = loop {
            let events = next(group.as_fd()).unwrap();
            if !events.is_empty() {
                break events;
            }
            assert!(!opener.is_finished(), "it was not held back");
            std::thread::yield_now();
        };
        assert_eq!((events.len(), events[0].what), (1, What::Open));
        let file = events[0].file.as_ref().unwrap();
        let seen = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
        assert!(seen.ends_with("file"), "{}", seen.display());
        allow(group.as_fd(), file.as_fd()).unwrap();
        assert!(opener.join().unwrap());
    }

    /// The kernel's own limit is 16384 events that nobody has read.
    #[test]
    fn too_many_events_are_told_as_an_overflow() {
        if !is_root() {
            return;
        }
        let limit = std::fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events").unwrap();
        let limit: usize = limit.trim().parse().unwrap();
        let place = memory();
        let group = group(Manner::Telling).unwrap();
        mark_file_system(group.as_fd(), place.as_fd(), Manner::Telling).unwrap();
        for number in 0..=limit {
            File::create(format!("/proc/self/fd/{}/{number}", place.as_raw_fd())).unwrap();
        }
        let mut seen = Vec::new();
        loop {
            let events = next(group.as_fd()).unwrap();
            if events.is_empty() {
                break;
            }
            seen.extend(events.iter().map(|it| it.what));
        }
        assert_eq!(seen.last(), Some(&What::Overflow));
        assert_eq!(seen.iter().filter(|it| **it == What::Overflow).count(), 1);
    }

    #[test]
    fn half_a_header_is_none() {
        assert_eq!(header(&[]), None);
        assert_eq!(header(&[1; METADATA - 1]), None);
        assert_eq!(header(&[0; METADATA]), None, "a length that would not lead on");
    }
}
