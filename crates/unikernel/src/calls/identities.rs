//! Who a process is: its users and groups, and what that means for files.

use sys::Errno;

use super::Reply;
use super::table::{Kind, Row, row};
use crate::creds::{Credentials, Privilege, Three};
use crate::identity::{self, Identity};
use crate::member::Member;

pub(crate) fn answer(member: &mut Member, number: u32, arguments: [u64; 6]) -> Option<Reply> {
    let [a, b, c, d, ..] = arguments;
    let it = &member.credentials;
    Some(
        match i64::from(number) {
            libc::SYS_getuid => Ok(u64::from(it.user.real)),
            libc::SYS_geteuid => Ok(u64::from(it.user.effective)),
            libc::SYS_getgid => Ok(u64::from(it.group.real)),
            libc::SYS_getegid => Ok(u64::from(it.group.effective)),
            libc::SYS_getresuid => three(member, [a, b, c], it.user),
            libc::SYS_getresgid => three(member, [a, b, c], it.group),
            libc::SYS_getgroups => groups(member, a, b),
            libc::SYS_setuid => change(member, |it, how| it.set_user(it.user.set(a as u32, how)?)),
            libc::SYS_setgid => change(member, |it, how| it.set_group(it.group.set(a as u32, how)?)),
            libc::SYS_setreuid => {
                change(member, |it, how| it.set_user(it.user.set_two([a, b].map(|it| it as u32), how)?))
            }
            libc::SYS_setregid => {
                change(member, |it, how| it.set_group(it.group.set_two([a, b].map(|it| it as u32), how)?))
            }
            libc::SYS_setresuid => {
                change(member, |it, how| it.set_user(it.user.set_each([a, b, c].map(|it| it as u32), how)?))
            }
            libc::SYS_setresgid => {
                change(member, |it, how| it.set_group(it.group.set_each([a, b, c].map(|it| it as u32), how)?))
            }
            libc::SYS_setgroups => set_groups(member, a, b),
            libc::SYS_setfsuid => Ok(set_for_files(member, a as u32, |it| (it.user, &mut it.file_user))),
            libc::SYS_setfsgid => Ok(set_for_files(member, a as u32, |it| (it.group, &mut it.file_group))),
            libc::SYS_faccessat2 if identity::is_kept() => return Some(access(member, [a, b, c, d])),
            libc::SYS_fchown if identity::is_kept() => return Some(super::pass::on(member, &CHOWN, arguments)),
            libc::SYS_fchownat if identity::is_kept() => return Some(super::pass::on(member, &CHOWN_AT, arguments)),
            _ => return None,
        }
        .into(),
    )
}

const CHOWN: Row = row(libc::SYS_fchown, &[Kind::File, Kind::Number, Kind::Number]);
const CHOWN_AT: Row = row(libc::SYS_fchownat, &[Kind::Directory, Kind::Path, Kind::Number, Kind::Number, Kind::Number]);
const ACCESS: Row = row(libc::SYS_faccessat2, &[Kind::Directory, Kind::Path, Kind::Number, Kind::Number]);

/// access, by the real identity unless the program asks for the effective one. To the host a thread's real user is always
/// the tender's, so that it is the effective one that is asked about in any case.
fn access(member: &mut Member, [at, path, mode, flags]: [u64; 4]) -> Reply {
    const EFFECTIVE: u64 = libc::AT_EACCESS as u64;
    let it = &member.credentials;
    if flags & EFFECTIVE == 0 {
        Identity { user: it.user.real, group: it.group.real, groups: it.groups.clone() }.take_on();
    }
    let reply = super::pass::on(member, &ACCESS, [at, path, mode, flags | EFFECTIVE, 0, 0]);
    member.credentials.for_files().take_on();
    reply
}

fn change(member: &mut Member, how: impl FnOnce(&mut Credentials, Privilege) -> Option<()>) -> Result<u64, Errno> {
    let privilege = member.credentials.privilege();
    how(&mut member.credentials, privilege).ok_or(Errno::PERM)?;
    member.be_who_it_is();
    Ok(0)
}

/// setfsuid, setfsgid: gives what it was, whether it could be changed or not.
fn set_for_files(member: &mut Member, id: u32, part: impl FnOnce(&mut Credentials) -> (Three, &mut u32)) -> u64 {
    let privilege = member.credentials.privilege();
    let (three, file) = part(&mut member.credentials);
    let before = *file;
    if id != u32::MAX && (privilege == Privilege::Root || three.has(id) || id == before) {
        *file = id;
    }
    member.be_who_it_is();
    u64::from(before)
}

fn three(member: &Member, places: [u64; 3], it: Three) -> Result<u64, Errno> {
    for (place, id) in places.into_iter().zip([it.real, it.effective, it.saved]) {
        member.memory.write(place, &id.to_ne_bytes())?;
    }
    Ok(0)
}

fn groups(member: &Member, size: u64, into: u64) -> Result<u64, Errno> {
    let groups = &member.credentials.groups;
    if size == 0 {
        return Ok(groups.len() as u64);
    }
    if (size as usize) < groups.len() {
        return Err(Errno::INVAL);
    }
    let bytes: Vec<u8> = groups.iter().flat_map(|it| it.to_ne_bytes()).collect();
    member.memory.write(into, &bytes)?;
    Ok(groups.len() as u64)
}

fn set_groups(member: &mut Member, count: u64, at: u64) -> Result<u64, Errno> {
    const MOST: u64 = 65536;
    if member.credentials.privilege() == Privilege::None {
        return Err(Errno::PERM);
    }
    if count > MOST {
        return Err(Errno::INVAL);
    }
    let bytes = member.memory.bytes(at, count as usize * 4)?;
    let number = |it: &[u8]| it.try_into().map_or(0, u32::from_ne_bytes);
    let mut groups: Vec<u32> = bytes.chunks_exact(4).map(number).collect();
    groups.sort_unstable();
    member.credentials.groups = groups;
    member.be_who_it_is();
    Ok(0)
}

impl Member {
    /// Its thread touches files as its process does, and others know who may signal it.
    pub(crate) fn be_who_it_is(&self) {
        self.credentials.for_files().take_on();
        let _ = self.family.with(self.number, |it| it.user = self.credentials.user);
    }
}
