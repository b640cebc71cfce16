//! What a tender gives up before its guest's first instruction. It parses what a guest says; should it ever be taken over
//! by what it parses, it is a process that can do little: **the calls of one table and no others** ([`table`]), no file to
//! execute, no device to make, nobody to signal outside, and those capabilities alone that opening the cell's own files
//! and sockets takes. All of it is inherited by its threads and by the processes that it makes, and never lifted.
//!
//! It comes on top of what confines the cell: namespaces, root, the cell's own filter and limits.

mod filter;
mod table;

use model::Capability;
use sys::Errno;
use sys::capability::{self, CapabilitySet};
use sys::landlock::{self, Rights, Ways};

use crate::error::{Error, Result};
use crate::seal::Seal;
use crate::tender::Visibility;

/// Whose filter it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Of a tender whose guests are virtual machines.
    Machines,
    /// Of one whose guests are processes of its own, which inherit the filter.
    Processes,
}

/// What of the jail there cannot be here. A Landlock that knows of no signals and abstract sockets, as before Linux 6.12,
/// is one: a process namespace and a network keep most of them in anyway.
pub fn lacks() -> Option<&'static str> {
    match landlock::version() {
        Ok(2..) => None,
        _ => Some("this kernel has no Landlock that could be used"),
    }
}

/// Puts the calling thread into the jail for good, and with it all that it makes. The only other thread there may be makes the
/// first machine ([`crate::kvm::Machines`]) and ends before there is a guest.
pub(crate) fn enter(kind: Kind, seal: Option<&Seal>, visibility: Visibility) -> Result<()> {
    give_capabilities_up(seal).map_err(Error::host("giving capabilities up"))?;
    sys::exec::no_new_privileges().map_err(Error::host("giving new privileges up"))?;
    let hidden = match visibility {
        Visibility::Root => sys::exec::hide(),
        Visibility::Owner => sys::exec::show(),
    };
    hidden.map_err(Error::host("hiding the tender"))?;
    match landlock::waive(Rights::EXECUTE.and(Rights::MAKE_DEVICES), Ways::SOCKETS_AND_SIGNALS) {
        // What a kernel lacks whoever starts cells reports.
        Ok(()) | Err(Errno::NOSYS | Errno::OPNOTSUPP) => {}
        Err(errno) => return Err(Error::host("confining the tender")(errno)),
    }
    sys::seccomp::install(&filter::compile(kind)).map_err(Error::host("filtering the tender's calls"))
}

/// The capabilities that a tender can need, and the calls of guests that it needs each for: a family whose seal has none
/// of them does without. Whom a process may signal is kept in the tender's own account and asks the host for nothing, so most of what root of a container has is of no use here.
const NEEDED: &[(Capability, &[i64])] = &[
    (Capability::DacOverride, PATHS),
    (Capability::DacReadSearch, PATHS),
    (Capability::Fowner, PATHS),
    (Capability::Fsetid, PATHS),
    // Files are touched as whom a guest's process became.
    (Capability::Setuid, PATHS),
    (Capability::Setgid, PATHS),
    (Capability::Chown, &[libc::SYS_chown, libc::SYS_lchown, libc::SYS_fchown, libc::SYS_fchownat]),
    (Capability::Setfcap, &[libc::SYS_setxattr, libc::SYS_lsetxattr, libc::SYS_fsetxattr]),
    // A snapshot's listening sockets are bound again: it was seen to bind them.
    (Capability::NetBindService, &[libc::SYS_bind]),
    (Capability::NetRaw, &[libc::SYS_socket]),
    (Capability::NetAdmin, &[libc::SYS_socket]),
    (Capability::IpcOwner, &[libc::SYS_msgget, libc::SYS_semget]),
    // Larger queues and pipes than others get.
    (Capability::SysResource, &[libc::SYS_mq_open, libc::SYS_fcntl, libc::SYS_msgctl]),
];

/// Those that name a file, or change one that is open.
const PATHS: &[i64] = &[
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_creat,
    libc::SYS_execve,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_access,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_chdir,
    libc::SYS_fchdir,
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    libc::SYS_mknod,
    libc::SYS_mknodat,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_rmdir,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_link,
    libc::SYS_linkat,
    libc::SYS_symlink,
    libc::SYS_symlinkat,
    libc::SYS_chmod,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_utimensat,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
    libc::SYS_truncate,
    libc::SYS_getxattr,
    libc::SYS_lgetxattr,
    libc::SYS_listxattr,
    libc::SYS_llistxattr,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    libc::SYS_mq_open,
    libc::SYS_inotify_add_watch,
    // A local socket's address is a path.
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
];

/// What of the cell's capabilities a tender keeps.
fn needed(seal: Option<&Seal>) -> CapabilitySet {
    let may = |call: &i64| seal.is_none_or(|it| it.calls.contains(&(*call as u32)));
    let kept = NEEDED.iter().filter(|(_, calls)| calls.iter().any(may));
    CapabilitySet(kept.fold(0, |set, (capability, _)| set | 1 << capability.number()))
}

fn give_capabilities_up(seal: Option<&Seal>) -> sys::Result<()> {
    let kept = needed(seal).both(capability::effective()?);
    capability::clear_ambient()?;
    match capability::bound(kept) {
        // Who cannot shrink that set cannot use it either: nothing that is executed gains privileges.
        Ok(()) | Err(Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    capability::set(kept)
}

#[cfg(test)]
mod tests;
