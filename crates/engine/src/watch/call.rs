//! The paths of an announced call, read out of the memory of whoever made it.
//!
//! **The caller may be hostile**: what is read is bounded, and used only to note or to look up inside the cell.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;

use container::Named;
use sys::seccomp::Announced;

/// A path that a call is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// It is looked up.
    LookedUp(Vec<u8>),
    /// It is a directory that is listed.
    Listed(Vec<u8>),
}

const PATH_MAX: usize = 4096;

/// What of the cell's own tree a call is about, by paths from the root of the cell. A text that cannot be read is none:
/// the call will fail for the same reason. If the caller does not wait on `listener` any more it may have ended, and what
/// was read be of a later process with its number: then there is nothing.
pub(super) fn subjects(listener: BorrowedFd<'_>, name: &str, call: &Announced) -> Vec<Subject> {
    let found: Vec<_> = container::named_paths(name, call).into_iter().filter_map(|it| subject(call.pid, it)).collect();
    if sys::seccomp::is_waiting(listener, call.id) { found } else { Vec::new() }
}

fn subject(pid: u32, named: Named) -> Option<Subject> {
    match named {
        Named::Listed(number) => link(pid, &format!("fd/{number}")).filter(|it| is_of_image(it)).map(Subject::Listed),
        Named::Text { address, directory } => {
            let text = text_at(pid, address)?;
            let base = match (text.first()?, directory) {
                (b'/', _) => link(pid, "root")?,
                (_, None) => link(pid, "cwd")?,
                (_, Some(number)) => link(pid, &format!("fd/{number}"))?,
            };
            let path = [base.as_slice(), b"/", &text].concat();
            is_of_image(&path).then_some(Subject::LookedUp(path))
        }
    }
}

/// Whether a path may lead to something of the image: not to what is mounted in every cell, or to a pipe.
pub(super) fn is_of_image(path: &[u8]) -> bool {
    let text = OsStr::from_bytes(path).as_encoded_bytes();
    let start = text.iter().position(|it| *it != b'/').unwrap_or(text.len());
    let inner = text.get(start..).unwrap_or_default();
    text.starts_with(b"/") && ![&b"proc/"[..], b"sys/", b"dev/"].iter().any(|it| inner.starts_with(it))
}

/// Where a link of a process leads, seen from the root of its mounts.
fn link(pid: u32, name: &str) -> Option<Vec<u8>> {
    Some(std::fs::read_link(format!("/proc/{pid}/{name}")).ok()?.into_os_string().into_vec())
}

/// The text at an address, when it ends where a path has to.
fn text_at(pid: u32, address: u64) -> Option<Vec<u8>> {
    let memory = File::open(format!("/proc/{pid}/mem")).ok()?;
    let mut bytes = vec![0; PATH_MAX];
    // What lies behind the text may not be readable: then less comes back.
    let count = memory.read_at(&mut bytes, address).ok()?;
    let end = bytes.iter().take(count).position(|it| *it == 0)?;
    bytes.truncate(end);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_out_of_memory() {
        let text = std::ffi::CString::new("/usr/lib/x").unwrap();
        let own = std::process::id();
        assert_eq!(text_at(own, text.as_ptr() as u64).unwrap(), b"/usr/lib/x");
        assert_eq!(text_at(own, 8), None);
        assert_eq!(text_at(u32::MAX, 8), None);
    }

    #[test]
    fn what_is_mounted_in_every_cell_is_not_of_the_image() {
        for (path, expected) in [("/usr", true), ("//proc/self", false), ("/dev/null", false), ("pipe:[3]", false)] {
            assert_eq!(is_of_image(path.as_bytes()), expected, "{path}");
        }
    }
}
