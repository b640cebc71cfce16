//! What a cell's programs are allowed to do.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::boundary::named_enum;
use crate::parse::{ParseError, serde_as_text};

/// The confinement of a cell's programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Security {
    /// The capabilities that its programs may have.
    pub capabilities: BTreeSet<Capability>,
    /// The system call filter.
    pub seccomp: Seccomp,
    /// Whether a set-user-id file may raise privileges.
    pub new_privileges: NewPrivileges,
    /// Whether the root file system can be written.
    pub root: RootAccess,
    /// The user namespace.
    pub user_namespace: UserNamespace,
}

impl Default for Security {
    fn default() -> Self {
        Self {
            capabilities: Capability::DEFAULT.iter().copied().collect(),
            seccomp: Seccomp::Default,
            new_privileges: NewPrivileges::Never,
            root: RootAccess::Writable,
            user_namespace: UserNamespace::Host,
        }
    }
}

impl Security {
    /// What `--privileged` gives: every capability, no filter, set-user-id honoured. Namespaces stay.
    pub fn privileged() -> Self {
        Self {
            capabilities: Capability::ALL.iter().copied().collect(),
            seccomp: Seccomp::Unconfined,
            new_privileges: NewPrivileges::Allowed,
            ..Self::default()
        }
    }
}

named_enum! {
    /// The system call filter.
    Seccomp, "seccomp profile" {
        /// An allow list of what ordinary programs need; other calls fail with `EPERM`.
        Default = "default",
        /// The default, except that a call outside the list ends the program.
        Strict = "strict",
        /// No filter.
        Unconfined = "unconfined",
    }
}

named_enum! {
    /// Whether executing a set-user-id file or one with file capabilities may raise privileges.
    NewPrivileges, "new-privileges setting" {
        /// Never (`no_new_privs` is set).
        Never = "never",
        /// As the file says.
        Allowed = "allowed",
    }
}

named_enum! {
    /// Whether a cell can write to its root file system.
    RootAccess, "root access" {
        /// Writes go to the cell's own upper layer.
        Writable = "writable",
        /// Writes fail; `/dev/shm`, `/tmp` and mounts stay writable where they are.
        ReadOnly = "read-only",
    }
}

named_enum! {
    /// The user namespace of a cell.
    UserNamespace, "user namespace" {
        /// The one of the process that started it: root in the cell is root outside, less its capabilities.
        Host = "host",
        /// One of its own, its 65536 users mapped to unprivileged ones.
        Auto = "auto",
    }
}

macro_rules! capabilities {
    ($($variant:ident = $text:literal,)+) => {
        /// A Linux capability (`capabilities(7)`), in the kernel's order: its position is its number.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[expect(missing_docs, reason = "capabilities(7) documents each")]
        pub enum Capability { $($variant,)+ }

        impl Capability {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The kernel's name without `CAP_`, in upper case.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

capabilities! {
    Chown = "CHOWN", DacOverride = "DAC_OVERRIDE", DacReadSearch = "DAC_READ_SEARCH", Fowner = "FOWNER",
    Fsetid = "FSETID", Kill = "KILL", Setgid = "SETGID", Setuid = "SETUID", Setpcap = "SETPCAP",
    LinuxImmutable = "LINUX_IMMUTABLE", NetBindService = "NET_BIND_SERVICE", NetBroadcast = "NET_BROADCAST",
    NetAdmin = "NET_ADMIN", NetRaw = "NET_RAW", IpcLock = "IPC_LOCK", IpcOwner = "IPC_OWNER",
    SysModule = "SYS_MODULE", SysRawio = "SYS_RAWIO", SysChroot = "SYS_CHROOT", SysPtrace = "SYS_PTRACE",
    SysPacct = "SYS_PACCT", SysAdmin = "SYS_ADMIN", SysBoot = "SYS_BOOT", SysNice = "SYS_NICE",
    SysResource = "SYS_RESOURCE", SysTime = "SYS_TIME", SysTtyConfig = "SYS_TTY_CONFIG", Mknod = "MKNOD",
    Lease = "LEASE", AuditWrite = "AUDIT_WRITE", AuditControl = "AUDIT_CONTROL", Setfcap = "SETFCAP",
    MacOverride = "MAC_OVERRIDE", MacAdmin = "MAC_ADMIN", Syslog = "SYSLOG", WakeAlarm = "WAKE_ALARM",
    BlockSuspend = "BLOCK_SUSPEND", AuditRead = "AUDIT_READ", Perfmon = "PERFMON", Bpf = "BPF",
    CheckpointRestore = "CHECKPOINT_RESTORE",
}

impl Capability {
    /// What a cell's programs get unless told otherwise: docker's set without `NET_RAW` and `MKNOD`, which servers do
    /// not need and attacks have used.
    pub const DEFAULT: &'static [Self] = &[
        Self::Chown,
        Self::DacOverride,
        Self::Fowner,
        Self::Fsetid,
        Self::Kill,
        Self::Setgid,
        Self::Setuid,
        Self::Setpcap,
        Self::NetBindService,
        Self::SysChroot,
        Self::AuditWrite,
        Self::Setfcap,
    ];

    /// The kernel's number for it.
    pub const fn number(self) -> u8 {
        self as u8
    }
}

impl std::fmt::Display for Capability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for Capability {
    type Err = ParseError;
    /// Takes upper and lower case, with and without `CAP_`.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        Self::ALL
            .iter()
            .copied()
            .find(|it| it.as_str() == name)
            .ok_or_else(|| ParseError::new("capability", text, "a name of capabilities(7), like NET_ADMIN"))
    }
}

serde_as_text!(Capability);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_kernels() {
        assert_eq!(Capability::Chown.number(), 0);
        assert_eq!(Capability::SysAdmin.number(), 21);
        assert_eq!(Capability::Setfcap.number(), 31);
        assert_eq!(Capability::CheckpointRestore.number(), 40);
        assert_eq!("cap_net_admin".parse(), Ok(Capability::NetAdmin));
        assert!("NET_ADMIN ".parse::<Capability>().is_err());
    }
}
