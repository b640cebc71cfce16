//! Who a program runs as: a name or number, looked up in the cell's own `passwd` and `group`.

use std::ffi::CStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;

use model::{StartStep, UserSpec};
use rustix::fs::OFlags;

use crate::error::{Error, Result};
use crate::path;

/// A user as the kernel knows one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// The files are the image's: what is larger than this is not read.
const MAX_FILE: u64 = 4 << 20;
/// The most supplementary groups that the kernel takes.
const MAX_GROUPS: usize = 65536;

/// Looks `user` up in the cell whose root directory is `root`.
pub(crate) fn resolve(root: BorrowedFd<'_>, user: &UserSpec) -> Result<Identity> {
    let passwd = read(root, c"etc/passwd");
    let group = if user.user().is_empty() { String::new() } else { read(root, c"etc/group") };
    find(&passwd, &group, user)
}

/// The text of a file of the cell; what is absent, too large or no text counts as empty.
fn read(root: BorrowedFd<'_>, path: &CStr) -> String {
    let mut text = Vec::new();
    // Not blocking: the image may have a pipe there.
    if let Ok(fd) = path::open(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
        let file = File::from(fd);
        if file.metadata().is_ok_and(|it| it.is_file() && it.len() <= MAX_FILE) {
            // A file that cannot be read to its end gives the lines that could be.
            let _ = file.take(MAX_FILE).read_to_end(&mut text);
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn find(passwd: &str, group: &str, user: &UserSpec) -> Result<Identity> {
    let wanted = if user.user().is_empty() { "0" } else { user.user() };
    let entry = users(passwd).find(|it| it.name == wanted).or_else(|| {
        let number: u32 = wanted.parse().ok()?;
        users(passwd).find(|it| it.uid == number)
    });
    let uid = match &entry {
        Some(entry) => entry.uid,
        None => number(wanted).ok_or_else(|| {
            Error::refused(StartStep::Security, format!("user {wanted}"), "no such user in the cell's /etc/passwd")
        })?,
    };
    let (gid, groups) = match user.group() {
        Some(name) => (group_id(group, name)?, Vec::new()),
        None => {
            let name = entry.as_ref().map_or("", |it| it.name);
            (entry.as_ref().map_or(0, |it| it.gid), supplementary(group, name))
        }
    };
    let home = entry.map_or("/", |it| it.home);
    Ok(Identity { uid, gid, groups, home: home.to_owned() })
}

/// An id that can be set: the kernel reserves the largest number.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|it| *it != u32::MAX)
}

struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn users(passwd: &str) -> impl Iterator<Item = User<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _) = (fields.next()?, fields.next()?);
        let (uid, gid) = (number(fields.next()?)?, number(fields.next()?)?);
        let home = fields.nth(1).filter(|it| it.starts_with('/') && !it.contains('\0')).unwrap_or("/");
        (!name.is_empty()).then_some(User { name, uid, gid, home })
    })
}

/// `(name, number, members)` of each group.
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, gid) = (fields.next()?, fields.next()?, number(fields.next()?)?);
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

fn group_id(group: &str, wanted: &str) -> Result<u32> {
    let known = groups(group).find(|(name, ..)| *name == wanted).map(|(_, gid, _)| gid);
    known.or_else(|| number(wanted)).ok_or_else(|| {
        Error::refused(StartStep::Security, format!("group {wanted}"), "no such group in the cell's /etc/group")
    })
}

fn supplementary(group: &str, user: &str) -> Vec<u32> {
    if user.is_empty() {
        return Vec::new();
    }
    let mut found: Vec<u32> = groups(group)
        .filter(|(.., members)| members.split(',').any(|it| it == user))
        .map(|(_, gid, _)| gid)
        .take(MAX_GROUPS)
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nbroken\nwww-data:x:33:33:www:/var/www:/usr/sbin/nologin\n\
                          4242:x:7:8::relative:\nbig:x:4294967295:0::/:\n";
    const GROUP: &str = "root:x:0:\nwww-data:x:33:\nadm:x:4:syslog,www-data\ntty:x:5:www-data\nbad:x:-1:www-data\n";

    fn check(user: &str, expected: Option<(u32, u32, &[u32], &str)>) {
        let found = find(PASSWD, GROUP, &user.parse().unwrap()).ok();
        let found = found.as_ref().map(|it| (it.uid, it.gid, it.groups.as_slice(), it.home.as_str()));
        assert_eq!(found, expected, "{user}");
    }

    #[test]
    fn users_by_name_and_number() {
        check("", Some((0, 0, &[], "/root")));
        check("root", Some((0, 0, &[], "/root")));
        check("www-data", Some((33, 33, &[4, 5], "/var/www")));
        check("33", Some((33, 33, &[4, 5], "/var/www")));
        check("33:4", Some((33, 4, &[], "/var/www")));
        check("www-data:adm", Some((33, 4, &[], "/var/www")));
        check("1000", Some((1000, 0, &[], "/")));
        check("1000:1000", Some((1000, 1000, &[], "/")));
        // A name wins over a number, and a home that is no absolute path is the root.
        check("4242", Some((7, 8, &[], "/")));
    }

    #[test]
    fn unknown_names_and_reserved_numbers_are_refused() {
        for wrong in ["nobody", "big", "4294967295", "4294967296", "-1", "root:nogroup", "root:4294967295"] {
            check(wrong, None);
        }
    }

    proptest::proptest! {
        #[test]
        fn hostile_files_do_no_harm(passwd in "[a-z0-9:,\n]{0,200}", group in "[a-z0-9:,\n]{0,200}", user in "[a-z0-9]{0,4}") {
            let _ = find(&passwd, &group, &user.parse().unwrap());
        }
    }
}
