//! Which users a cell has: the host's own, a range of its own (`--userns auto`), or nobody but its ordinary user.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use model::{StartStep, UserNamespace, UserSpec};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use store::Rootfs;
use sys::Errno;
use sys::exec::GroupChange;
use sys::namespace::{IdMap, MapWriter};

use crate::child::UserMode;
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::users::{self, Identity};

/// The ids of a cell.
#[derive(Debug)]
pub(crate) enum Ids {
    /// The host's: uid 0 of the cell is uid 0 outside.
    Host,
    /// A range that no other running cell has.
    Mapped(Claim),
    /// An ordinary user made the cell: root of it is that user, and there is nobody else.
    Ordinary(IdMap),
}

/// So many ids a cell gets: as many as programs expect to exist.
const COUNT: u32 = 65536;

/// Where ranges lie when `/etc/subuid` gives root none: above what other tools hand out on their own, below the sign bit.
const FALLBACK: (u32, u32) = (0x7000_0000, 0x0fff_0000);

impl Ids {
    /// What `plan` asks for and who asks.
    pub(crate) fn choose(plan: &Plan) -> Result<Self> {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        match plan.security.user_namespace {
            _ if !uid.is_root() => {
                Ok(Self::Ordinary(IdMap { outside_uid: uid.as_raw(), outside_gid: gid.as_raw(), count: 1 }))
            }
            UserNamespace::Host => Ok(Self::Host),
            UserNamespace::Auto => Claim::make(plan.id.bits()).map(Self::Mapped),
        }
    }

    pub(crate) const fn mode(&self) -> UserMode {
        match self {
            Self::Host => UserMode::Host,
            Self::Mapped(_) | Self::Ordinary(_) => UserMode::Own(self.group_change()),
        }
    }

    pub(crate) const fn group_change(&self) -> GroupChange {
        match self {
            Self::Host | Self::Mapped(_) => GroupChange::Set,
            Self::Ordinary(_) => GroupChange::Leave,
        }
    }

    /// Who a user of the cell is outside.
    pub(crate) const fn outside(&self, uid: u32) -> u32 {
        match self {
            Self::Host => uid,
            Self::Mapped(claim) => claim.map.outside_uid.wrapping_add(uid),
            Self::Ordinary(map) => map.outside_uid,
        }
    }

    /// The map to write, and as whom.
    pub(crate) const fn map(&self) -> Option<(IdMap, MapWriter)> {
        match self {
            Self::Host => None,
            Self::Mapped(claim) => Some((claim.map, MapWriter::Privileged)),
            Self::Ordinary(map) => Some((*map, MapWriter::Ordinary)),
        }
    }
}

/// Who a user of the cell of that process is outside, when somebody.
pub(crate) fn outside_of(pid: u32, uid: u32) -> Option<u32> {
    outside_by(&std::fs::read_to_string(format!("/proc/{pid}/uid_map")).ok()?, uid)
}

/// By lines of "first inside, first outside, count".
fn outside_by(map: &str, uid: u32) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut numbers = line.split_ascii_whitespace().map(str::parse::<u32>);
        let (inside, outside, count) = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
        let offset = uid.checked_sub(inside).filter(|it| *it < count)?;
        outside.checked_add(offset)
    })
}

/// A range of ids, ours as long as this lives.
///
/// The claim is a socket bound to a name that tells the range. The kernel lets only one process have a name and takes it
/// back when the process ends, however it ends, so there is nothing to clean up and no file that could lie.
#[derive(Debug)]
pub(crate) struct Claim {
    map: IdMap,
    _socket: OwnedFd,
}

impl Claim {
    pub(crate) const fn map(&self) -> IdMap {
        self.map
    }

    /// Claims a range: the one that `seed` leads to, or the next free one.
    fn make(seed: u64) -> Result<Self> {
        let wrong = |errno| Error::start(StartStep::Namespaces, "claiming a range of user ids (--userns)", errno);
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let (uids, gids) = (range(&read("/etc/subuid")), range(&read("/etc/subgid")));
        let ((first_uid, uids), (first_gid, gids)) = (uids.unwrap_or(FALLBACK), gids.unwrap_or(FALLBACK));
        let slots = u64::from(uids.min(gids) / COUNT);
        for probe in 0..slots {
            // Less than `slots`, which fits.
            let slot = (seed.wrapping_add(probe) % slots) as u32;
            let offset = slot * COUNT;
            let map = IdMap { outside_uid: first_uid + offset, outside_gid: first_gid + offset, count: COUNT };
            let name = format!("skep/uids/{}", map.outside_uid);
            let address = SocketAddrUnix::new_abstract_name(name.as_bytes()).map_err(wrong)?;
            let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
            let socket = socket.map_err(wrong)?;
            match rustix::net::bind(&socket, &address) {
                Ok(()) => return Ok(Self { map, _socket: socket }),
                Err(Errno::ADDRINUSE) => {}
                Err(errno) => return Err(wrong(errno)),
            }
        }
        Err(wrong(Errno::AGAIN))
    }
}

/// Root's range in a file like `/etc/subuid`, when it has one that is large enough: `(first, count)`.
fn range(text: &str) -> Option<(u32, u32)> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let owner = fields.next()?;
        let (first, count): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.trim().parse().ok()?);
        // The last id is reserved.
        let fits = count >= COUNT && first.checked_add(count).is_some();
        (matches!(owner, "root" | "0") && fits).then_some((first, count))
    })
}

/// Who a program of an ordinary user's cell runs as: root of it, for there is nobody else.
pub(crate) fn ordinary_identity(user: &UserSpec, rootfs: &Rootfs) -> Result<Identity> {
    let nobody = || Identity { uid: 0, gid: 0, groups: Vec::new(), home: "/root".to_owned() };
    let Rootfs::Plain { dir, .. } = rootfs else { return Ok(nobody()) };
    let open =
        |dir: CString| rustix::fs::openat(CWD, dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let root = CString::new(dir.as_os_str().as_encoded_bytes()).ok().and_then(|it| open(it).ok());
    let Some(root) = root else { return Ok(nobody()) };
    only_root(root.as_fd(), user)
}

/// The user of an ordinary user's cell whose root directory is `root`: root or nobody.
pub(crate) fn only_root(root: BorrowedFd<'_>, user: &UserSpec) -> Result<Identity> {
    let found = users::resolve(root, user)?;
    if (found.uid, found.gid) != (0, 0) {
        let what = format!("user {user}");
        return Err(Error::refused(StartStep::Security, what, "a cell of an ordinary user has no user but root"));
    }
    Ok(Identity { groups: Vec::new(), ..found })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_outside_are_found_by_the_map() {
        let check =
            |map: &str, uid: u32, outside: Option<u32>| assert_eq!(outside_by(map, uid), outside, "{map} {uid}");
        check("         0          0 4294967295\n", 33, Some(33));
        check("0 100000 65536\n", 33, Some(100_033));
        check("0 1000 1\n", 33, None);
        check("0 1000 1\n1 100000 65535\n", 33, Some(100_032));
        check("5 4294967295 9\n", 6, None);
        check("nonsense\n", 0, None);
    }

    #[test]
    fn ranges_of_root_are_read() {
        let check = |text: &str, expected| assert_eq!(range(text), expected, "{text}");
        check("", None);
        check("user:100000:65536\n", None);
        check("user:100000:65536\nroot:200000:131072\n", Some((200_000, 131_072)));
        check("0:200000:65536", Some((200_000, 65536)));
        check("root:200000:65535", None);
        check("root:4294967295:65536", None);
        check("root:x:65536", None);
    }

    #[test]
    fn claims_do_not_collide() {
        let claims: Vec<Claim> = (0..5).map(|_| Claim::make(0xfeed).unwrap()).collect();
        let mut firsts: Vec<u32> = claims.iter().map(|it| it.map.outside_uid).collect();
        firsts.sort_unstable();
        firsts.dedup();
        assert_eq!(firsts.len(), 5);
        assert!(claims.iter().all(|it| it.map.count == COUNT));
    }
}
