//! Which calls are announced to whoever watches a program, and which of their arguments are paths.
//!
//! **What is not announced is in [`BASELINE`]**, so that a profile made of announced calls and the baseline lets through
//! whatever the watched program did.

use model::Watch;
use sys::seccomp::Announced;

/// A path that a call names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// Text at that address, looked up from a directory: the caller's own, or an open one by its number.
    Text {
        /// Where the text is in the caller's memory.
        address: u64,
        /// The directory's number; nothing for the caller's own.
        directory: Option<i32>,
    },
    /// A directory that is open under that number and is being listed.
    Listed(i32),
}

/// `AT_FDCWD`.
const OWN: i32 = -100;

/// Where a call has its paths: argument numbers of `(directory, path)`.
#[derive(Clone, Copy)]
enum Shape {
    At(usize),
    Beside(usize, usize),
    Both(usize, usize),
    BothBeside([(usize, usize); 2]),
    Listing,
}

use Shape::{At, Beside, Both, BothBeside, Listing};

const SHAPES: &[(&str, Shape)] = &[
    ("open", At(0)),
    ("creat", At(0)),
    ("stat", At(0)),
    ("lstat", At(0)),
    ("stat64", At(0)),
    ("lstat64", At(0)),
    ("access", At(0)),
    ("chdir", At(0)),
    ("chroot", At(0)),
    ("mkdir", At(0)),
    ("rmdir", At(0)),
    ("unlink", At(0)),
    ("mknod", At(0)),
    ("readlink", At(0)),
    ("chmod", At(0)),
    ("chown", At(0)),
    ("lchown", At(0)),
    ("chown32", At(0)),
    ("lchown32", At(0)),
    ("utime", At(0)),
    ("utimes", At(0)),
    ("truncate", At(0)),
    ("statfs", At(0)),
    ("statfs64", At(0)),
    ("execve", At(0)),
    ("getxattr", At(0)),
    ("lgetxattr", At(0)),
    ("listxattr", At(0)),
    ("llistxattr", At(0)),
    ("setxattr", At(0)),
    ("lsetxattr", At(0)),
    ("removexattr", At(0)),
    ("inotify_add_watch", At(1)),
    ("symlink", At(1)),
    ("rename", Both(0, 1)),
    ("link", Both(0, 1)),
    ("openat", Beside(0, 1)),
    ("openat2", Beside(0, 1)),
    ("newfstatat", Beside(0, 1)),
    ("fstatat64", Beside(0, 1)),
    ("statx", Beside(0, 1)),
    ("faccessat", Beside(0, 1)),
    ("faccessat2", Beside(0, 1)),
    ("readlinkat", Beside(0, 1)),
    ("execveat", Beside(0, 1)),
    ("mkdirat", Beside(0, 1)),
    ("mknodat", Beside(0, 1)),
    ("unlinkat", Beside(0, 1)),
    ("fchmodat", Beside(0, 1)),
    ("fchmodat2", Beside(0, 1)),
    ("fchownat", Beside(0, 1)),
    ("futimesat", Beside(0, 1)),
    ("utimensat", Beside(0, 1)),
    ("name_to_handle_at", Beside(0, 1)),
    ("symlinkat", Beside(1, 2)),
    ("renameat", BothBeside([(0, 1), (2, 3)])),
    ("renameat2", BothBeside([(0, 1), (2, 3)])),
    ("linkat", BothBeside([(0, 1), (2, 3)])),
    ("getdents", Listing),
    ("getdents64", Listing),
];

/// The paths that an announced call, of that name, is about.
pub fn named_paths(name: &str, call: &Announced) -> Vec<Named> {
    let Some((_, shape)) = SHAPES.iter().find(|it| it.0 == name) else { return Vec::new() };
    let argument = |index: usize| call.arguments.get(index).copied().unwrap_or(0);
    let own = |path| Named::Text { address: argument(path), directory: None };
    let beside = |directory, path| {
        let number = argument(directory) as i32;
        Named::Text { address: argument(path), directory: (number != OWN).then_some(number) }
    };
    match *shape {
        At(path) => vec![own(path)],
        Beside(directory, path) => vec![beside(directory, path)],
        Both(first, second) => vec![own(first), own(second)],
        BothBeside([(a, b), (c, d)]) => vec![beside(a, b), beside(c, d)],
        Listing => vec![Named::Listed(argument(0) as i32)],
    }
}

/// Whether a call that the profile allows is announced.
pub(super) fn is_announced(name: &str, watch: Watch) -> bool {
    match watch {
        Watch::Nothing => false,
        Watch::Misses | Watch::MissesNoted => SHAPES.iter().any(|(it, _)| *it == name),
        Watch::Uses => !SILENT.contains(&name),
    }
}

/// Calls that any program makes, so often that announcing them would slow it down, and that name no file.
const SILENT: &[&str] = &[
    "read",
    "write",
    "close",
    "fstat",
    "lseek",
    "mmap",
    "mprotect",
    "munmap",
    "brk",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "pread64",
    "pwrite64",
    "readv",
    "writev",
    "poll",
    "ppoll",
    "select",
    "pselect6",
    "epoll_wait",
    "epoll_pwait",
    "epoll_ctl",
    "sched_yield",
    "madvise",
    "mremap",
    "nanosleep",
    "clock_nanosleep",
    "clock_gettime",
    "gettimeofday",
    "time",
    "getpid",
    "getppid",
    "gettid",
    "getuid",
    "geteuid",
    "getgid",
    "getegid",
    "getrandom",
    "futex",
    "set_robust_list",
    "set_tid_address",
    "rseq",
    "exit",
    "exit_group",
    "arch_prctl",
    "sendmsg",
    "recvmsg",
    "sendto",
    "recvfrom",
    "fcntl",
    "ioctl",
    "restart_syscall",
    "wait4",
    "waitid",
    "kill",
    "tgkill",
    "sigaltstack",
];

/// Calls that a profile made for a program must let through whatever the program was seen to do: those that are not
/// announced, and those that runtimes make between installing the filter and executing the program.
pub const BASELINE: &[&[&str]] = &[SILENT, RUNTIME];

const RUNTIME: &[&str] = &[
    "access",
    "capget",
    "capset",
    "chdir",
    "clone",
    "clone3",
    "close_range",
    "dup2",
    "dup3",
    "epoll_create1",
    "eventfd2",
    "execve",
    "faccessat2",
    "fchdir",
    "fchown",
    "fstatfs",
    "getcwd",
    "getdents64",
    "mkdirat",
    "newfstatat",
    "open",
    "openat",
    "openat2",
    "pipe2",
    "prctl",
    "prlimit64",
    "readlinkat",
    "sched_getaffinity",
    "setgid",
    "setgroups",
    "setresgid",
    "setresuid",
    "setsid",
    "setuid",
    "stat",
    "statfs",
    "statx",
    "umask",
    "uname",
    "unshare",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::table::TABLE;

    #[test]
    fn every_name_here_is_a_call() {
        let known = |name: &str| TABLE.iter().any(|row| row.0 == name);
        let names = BASELINE.iter().copied().flatten().copied().chain(SHAPES.iter().map(|it| it.0));
        let unknown: Vec<_> = names.filter(|it| !known(it)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
        assert!(SHAPES.iter().all(|it| !SILENT.contains(&it.0)), "what names a path is announced");
    }

    #[test]
    fn paths_are_found_by_the_calls_own_conventions() {
        let call = |arguments| Announced { id: 1, pid: 2, number: 3, arch: 4, arguments };
        let check = |name, arguments, expected: &[Named]| {
            assert_eq!(named_paths(name, &call(arguments)), expected, "{name}");
        };
        let text = |address, directory| Named::Text { address, directory };
        check("stat", [7, 0, 0, 0, 0, 0], &[text(7, None)]);
        check("openat", [0xffff_ff9c, 7, 0, 0, 0, 0], &[text(7, None)]);
        check("openat", [5, 7, 0, 0, 0, 0], &[text(7, Some(5))]);
        check("linkat", [5, 7, u64::MAX - 99, 8, 0, 0], &[text(7, Some(5)), text(8, None)]);
        check("getdents64", [9, 0, 0, 0, 0, 0], &[Named::Listed(9)]);
        check("read", [9, 7, 0, 0, 0, 0], &[]);
    }
}
