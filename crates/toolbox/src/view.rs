//! What of `/proc` a target may not see or change, found in its table of mounts.
//!
//! A session gets a new `/proc`, because a target can mount what it likes over its own. Engines hide parts of `/proc` by
//! mounting over them, and the session's is covered in the same places, with covers of ours: **nothing of the target's own
//! mounts gets into the session's `/proc`**, and no target can hide a process from it.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use sys::mountinfo::{Access, Mount};

/// What a session does to its new `/proc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    /// Whether it can be written at all.
    pub(crate) access: Access,
    /// What of processes it shows: options of the file system.
    pub(crate) options: Vec<(CString, CString)>,
    /// Paths in it, and what is done to them, in order.
    pub(crate) covers: Vec<(CString, Cover)>,
}

/// What is done to a part of `/proc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cover {
    /// It is empty.
    Hide,
    /// It can be read but not written.
    Protect,
}

/// What engines hide and protect, for a target that has no `/proc` of its own to learn from.
const HIDDEN: [&CStr; 7] = [c"acpi", c"kcore", c"keys", c"latency_stats", c"timer_list", c"sched_debug", c"scsi"];
const PROTECTED: [&CStr; 5] = [c"bus", c"fs", c"irq", c"sys", c"sysrq-trigger"];

impl View {
    /// The view of a target that sees these mounts, the last of which are the newest.
    pub(crate) fn of(mounts: &[Mount]) -> Self {
        let place = Path::new("/proc");
        let Some(proc) = mounts.iter().rev().find(|it| it.mount_point == place).filter(|it| it.kind == b"proc") else {
            return Self::unknown();
        };
        let mut covers: Vec<(CString, Cover)> = Vec::new();
        for mount in mounts.iter().filter(|it| it.mount_point.starts_with(place) && it.mount_point != place) {
            let Some(path) = mount.mount_point.strip_prefix(place).ok().filter(|it| is_of_the_kernel(it)) else {
                continue;
            };
            let cover = match (mount.kind.as_slice(), mount.access) {
                (b"proc", Access::ReadWrite) => continue,
                (b"proc", Access::ReadOnly) => Cover::Protect,
                _ => Cover::Hide,
            };
            if let Ok(path) = CString::new(path.as_os_str().as_bytes()) {
                covers.push((path, cover));
            }
        }
        Self { access: proc.access, options: options(&proc.options), covers }
    }

    fn unknown() -> Self {
        let hidden = HIDDEN.iter().map(|it| ((*it).to_owned(), Cover::Hide));
        let covers = hidden.chain(PROTECTED.iter().map(|it| ((*it).to_owned(), Cover::Protect))).collect();
        Self { access: Access::ReadWrite, options: Vec::new(), covers }
    }
}

/// The options that restrict what is seen, of those that a mounted `/proc` has.
fn options(told: &[String]) -> Vec<(CString, CString)> {
    let restricts = |(name, _): &(&str, &str)| ["hidepid", "gid", "subset"].contains(name);
    let pairs = told.iter().filter_map(|it| it.split_once('=')).filter(restricts);
    pairs.filter_map(|(name, value)| Some((CString::new(name).ok()?, CString::new(value).ok()?))).collect()
}

/// Whether a path in `/proc` is about the machine, and not about a process.
fn is_of_the_kernel(path: &Path) -> bool {
    let first = path.components().next().map(|it| it.as_os_str().as_bytes());
    first.is_some_and(|it| !it.iter().all(u8::is_ascii_digit) && ![b"self".as_slice(), b"thread-self"].contains(&it))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mountinfo: &str, access: Access, expected: &[(&CStr, Cover)]) {
        let view = View::of(&sys::mountinfo::parse(mountinfo.as_bytes()));
        let found: Vec<_> = view.covers.iter().map(|(path, cover)| (path.as_c_str(), *cover)).collect();
        assert_eq!((view.access, found.as_slice()), (access, expected));
    }

    const PROC: &str = "2 1 0:2 / /proc rw,nosuid - proc proc rw\n";

    #[test]
    fn covers_are_taken_over_by_what_they_do() {
        let covers = "3 2 0:3 / /proc/acpi ro - tmpfs tmpfs ro\n4 2 0:4 /null /proc/kcore rw - tmpfs tmpfs rw\n\
            5 2 0:2 /sys /proc/sys ro - proc proc rw\n6 2 0:2 /bus /proc/bus rw - proc proc rw\n";
        let expected = [(c"acpi", Cover::Hide), (c"kcore", Cover::Hide), (c"sys", Cover::Protect)];
        check(&format!("1 0 0:1 / / rw - overlay o rw\n{PROC}{covers}"), Access::ReadWrite, &expected);
        check(&PROC.replace("rw,nosuid", "ro"), Access::ReadOnly, &[]);
    }

    #[test]
    fn what_the_targets_own_does_not_show_the_sessions_does_not_either() {
        let text = "2 1 0:2 / /proc rw - proc proc rw,hidepid=invisible,subset=pid,x=y\n";
        let found = View::of(&sys::mountinfo::parse(text.as_bytes())).options;
        let expected = [(c"hidepid".to_owned(), c"invisible".to_owned()), (c"subset".to_owned(), c"pid".to_owned())];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_target_cannot_hide_processes_or_pass_off_another_file_system() {
        let tricks = "3 2 0:3 / /proc/1 ro - tmpfs t rw\n4 2 0:3 / /proc/self/status ro - tmpfs t rw\n\
            5 2 0:3 / /procx ro - tmpfs t rw\n6 2 0:3 / /proc/thread-self ro - tmpfs t rw\n";
        check(&format!("{PROC}{tricks}"), Access::ReadWrite, &[]);
        let faked = View::of(&sys::mountinfo::parse(format!("{PROC}9 2 0:9 / /proc rw - tmpfs t rw\n").as_bytes()));
        assert_eq!(faked, View::unknown());
        assert_eq!(View::of(&[]), View::unknown());
    }
}
