//! The older system calls in terms of those that replaced them: each differs from a newer one in arguments alone.

const CWD: u64 = libc::AT_FDCWD as u64;

/// The newer call that does the same.
pub(crate) fn modern(number: u32, arguments: [u64; 6]) -> (u32, [u64; 6]) {
    let [a, b, c, d, ..] = arguments;
    let (number, arguments): (i64, [u64; 6]) = match i64::from(number) {
        libc::SYS_open => (libc::SYS_openat, [CWD, a, b, c, 0, 0]),
        libc::SYS_creat => {
            let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
            (libc::SYS_openat, [CWD, a, flags as u64, b, 0, 0])
        }
        libc::SYS_stat => (libc::SYS_newfstatat, [CWD, a, b, 0, 0, 0]),
        libc::SYS_lstat => (libc::SYS_newfstatat, [CWD, a, b, libc::AT_SYMLINK_NOFOLLOW as u64, 0, 0]),
        libc::SYS_access => (libc::SYS_faccessat2, [CWD, a, b, 0, 0, 0]),
        libc::SYS_faccessat => (libc::SYS_faccessat2, [a, b, c, 0, 0, 0]),
        libc::SYS_mkdir => (libc::SYS_mkdirat, [CWD, a, b, 0, 0, 0]),
        libc::SYS_rmdir => (libc::SYS_unlinkat, [CWD, a, libc::AT_REMOVEDIR as u64, 0, 0, 0]),
        libc::SYS_unlink => (libc::SYS_unlinkat, [CWD, a, 0, 0, 0, 0]),
        libc::SYS_rename => (libc::SYS_renameat2, [CWD, a, CWD, b, 0, 0]),
        libc::SYS_renameat => (libc::SYS_renameat2, [a, b, c, d, 0, 0]),
        libc::SYS_link => (libc::SYS_linkat, [CWD, a, CWD, b, 0, 0]),
        libc::SYS_symlink => (libc::SYS_symlinkat, [a, CWD, b, 0, 0, 0]),
        libc::SYS_readlink => (libc::SYS_readlinkat, [CWD, a, b, c, 0, 0]),
        libc::SYS_chmod => (libc::SYS_fchmodat, [CWD, a, b, 0, 0, 0]),
        libc::SYS_chown => (libc::SYS_fchownat, [CWD, a, b, c, 0, 0]),
        libc::SYS_lchown => (libc::SYS_fchownat, [CWD, a, b, c, libc::AT_SYMLINK_NOFOLLOW as u64, 0]),
        libc::SYS_mknod => (libc::SYS_mknodat, [CWD, a, b, c, 0, 0]),
        libc::SYS_pipe => (libc::SYS_pipe2, [a, 0, 0, 0, 0, 0]),
        libc::SYS_eventfd => (libc::SYS_eventfd2, [a, 0, 0, 0, 0, 0]),
        libc::SYS_inotify_init => (libc::SYS_inotify_init1, [0; 6]),
        // How many files it shall be for says nothing, but it must be some.
        libc::SYS_epoll_create if (a as i32) <= 0 => (libc::SYS_epoll_create1, [u64::MAX, 0, 0, 0, 0, 0]),
        libc::SYS_epoll_create => (libc::SYS_epoll_create1, [0; 6]),
        libc::SYS_accept => (libc::SYS_accept4, [a, b, c, 0, 0, 0]),
        other => (other, arguments),
    };
    (number as u32, arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_calls_become_new_ones_and_new_ones_stay() {
        let check = |old: i64, given: [u64; 6], new: i64, expected: [u64; 6]| {
            assert_eq!(modern(old as u32, given), (new as u32, expected), "call {old}");
        };
        check(libc::SYS_open, [1, 2, 3, 0, 0, 0], libc::SYS_openat, [CWD, 1, 2, 3, 0, 0]);
        check(libc::SYS_symlink, [1, 2, 0, 0, 0, 0], libc::SYS_symlinkat, [1, CWD, 2, 0, 0, 0]);
        check(libc::SYS_rmdir, [1, 0, 0, 0, 0, 0], libc::SYS_unlinkat, [CWD, 1, 0x200, 0, 0, 0]);
        check(libc::SYS_read, [1, 2, 3, 4, 5, 6], libc::SYS_read, [1, 2, 3, 4, 5, 6]);
    }
}
