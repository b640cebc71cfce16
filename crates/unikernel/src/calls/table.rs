//! The calls that are passed on as they are: what each argument is. Where the kernel follows a pointer, the row says how far.

/// A system call to pass on.
pub(crate) struct Row {
    number: u32,
    pub(crate) arguments: &'static [Kind],
    /// When the host says EAGAIN and the guest wants to wait: the events to wait for, on the first argument.
    pub(crate) waits: u32,
    pub(crate) gives: Gives,
}

/// What an argument is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Itself.
    Number,
    /// A descriptor of the guest.
    File,
    /// The same, where what is in it does not matter: a pipe between members remains one.
    Node,
    /// A descriptor of a directory, or the working directory.
    Directory,
    /// A zero-terminated string.
    Path,
    /// Bytes that are read; the argument with that index says how many.
    In(usize),
    /// Bytes that are written; the argument with that index says how many fit, and the result how many were.
    Out(usize),
    /// So many bytes that are read, if there are any.
    InFixed(usize),
    /// So many bytes that are written.
    OutFixed(usize),
    /// A file's mode, from which the process's mask is taken.
    Mode,
}

/// What a call gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gives {
    Number,
    /// A new descriptor; the argument with that index holds its flags.
    Descriptor(usize),
}

use Kind::{Directory, File, In, InFixed, Mode, Node, Number, Out, OutFixed, Path};

/// A call that is passed on as it is.
pub(super) const fn row(number: i64, arguments: &'static [Kind]) -> Row {
    Row { number: number as u32, arguments, waits: 0, gives: Gives::Number }
}

/// The same of one that may have to wait.
pub(super) const fn waiting(number: i64, arguments: &'static [Kind], waits: u32) -> Row {
    Row { number: number as u32, arguments, waits, gives: Gives::Number }
}

const fn giving(number: i64, arguments: &'static [Kind], flags: usize) -> Row {
    Row { number: number as u32, arguments, waits: 0, gives: Gives::Descriptor(flags) }
}

const STAT: usize = size_of::<libc::stat>();
const STATX: usize = 256;
const STATFS: usize = size_of::<libc::statfs>();
const ITIMERSPEC: usize = size_of::<libc::itimerspec>();
const UTIMBUF: usize = 16;
/// Two of `struct timespec`, or of `struct timeval`, which is as long.
const TIMES: usize = 2 * size_of::<libc::timespec>();

const ROWS: &[Row] = &[
    waiting(libc::SYS_read, &[File, Out(2), Number], super::IN),
    waiting(libc::SYS_write, &[File, In(2), Number], super::OUT),
    waiting(libc::SYS_pread64, &[File, Out(2), Number, Number], super::IN),
    waiting(libc::SYS_pwrite64, &[File, In(2), Number, Number], super::OUT),
    row(libc::SYS_lseek, &[Node, Number, Number]),
    row(libc::SYS_fstat, &[Node, OutFixed(STAT)]),
    row(libc::SYS_newfstatat, &[Directory, Path, OutFixed(STAT), Number]),
    row(libc::SYS_statx, &[Directory, Path, Number, Number, OutFixed(STATX)]),
    row(libc::SYS_statfs, &[Path, OutFixed(STATFS)]),
    row(libc::SYS_fstatfs, &[Node, OutFixed(STATFS)]),
    row(libc::SYS_faccessat2, &[Directory, Path, Number, Number]),
    row(libc::SYS_mkdirat, &[Directory, Path, Mode]),
    row(libc::SYS_mknodat, &[Directory, Path, Mode, Number]),
    row(libc::SYS_unlinkat, &[Directory, Path, Number]),
    row(libc::SYS_renameat2, &[Directory, Path, Directory, Path, Number]),
    row(libc::SYS_linkat, &[Directory, Path, Directory, Path, Number]),
    row(libc::SYS_symlinkat, &[Path, Directory, Path]),
    row(libc::SYS_readlinkat, &[Directory, Path, Out(3), Number]),
    row(libc::SYS_fchmod, &[File, Number]),
    row(libc::SYS_fchmodat, &[Directory, Path, Number]),
    row(libc::SYS_truncate, &[Path, Number]),
    row(libc::SYS_ftruncate, &[File, Number]),
    row(libc::SYS_fallocate, &[File, Number, Number, Number]),
    row(libc::SYS_fadvise64, &[File, Number, Number, Number]),
    row(libc::SYS_readahead, &[File, Number, Number]),
    row(libc::SYS_fsync, &[File]),
    row(libc::SYS_fdatasync, &[File]),
    row(libc::SYS_sync_file_range, &[File, Number, Number, Number]),
    row(libc::SYS_syncfs, &[File]),
    row(libc::SYS_sync, &[]),
    row(libc::SYS_getdents, &[File, Out(2), Number]),
    row(libc::SYS_getdents64, &[File, Out(2), Number]),
    row(libc::SYS_utimensat, &[Directory, Path, InFixed(TIMES), Number]),
    row(libc::SYS_utime, &[Path, InFixed(UTIMBUF)]),
    row(libc::SYS_utimes, &[Path, InFixed(TIMES)]),
    row(libc::SYS_futimesat, &[Directory, Path, InFixed(TIMES)]),
    row(libc::SYS_getxattr, &[Path, Path, Out(3), Number]),
    row(libc::SYS_lgetxattr, &[Path, Path, Out(3), Number]),
    row(libc::SYS_fgetxattr, &[File, Path, Out(3), Number]),
    row(libc::SYS_listxattr, &[Path, Out(2), Number]),
    row(libc::SYS_llistxattr, &[Path, Out(2), Number]),
    row(libc::SYS_flistxattr, &[File, Out(2), Number]),
    row(libc::SYS_setxattr, &[Path, Path, In(3), Number, Number]),
    row(libc::SYS_lsetxattr, &[Path, Path, In(3), Number, Number]),
    row(libc::SYS_fsetxattr, &[File, Path, In(3), Number, Number]),
    row(libc::SYS_removexattr, &[Path, Path]),
    row(libc::SYS_lremovexattr, &[Path, Path]),
    row(libc::SYS_fremovexattr, &[File, Path]),
    giving(libc::SYS_mq_open, &[Path, Number, Mode, InFixed(64)], 1),
    row(libc::SYS_mq_unlink, &[Path]),
    giving(libc::SYS_memfd_create, &[Path, Number], 1),
    giving(libc::SYS_eventfd2, &[Number, Number], 1),
    giving(libc::SYS_timerfd_create, &[Number, Number], 1),
    row(libc::SYS_timerfd_settime, &[File, Number, InFixed(ITIMERSPEC), OutFixed(ITIMERSPEC)]),
    row(libc::SYS_timerfd_gettime, &[File, OutFixed(ITIMERSPEC)]),
    giving(libc::SYS_inotify_init1, &[Number], 0),
    row(libc::SYS_inotify_add_watch, &[File, Path, Number]),
    row(libc::SYS_inotify_rm_watch, &[File, Number]),
    row(libc::SYS_shutdown, &[File, Number]),
    row(libc::SYS_listen, &[File, Number]),
    row(libc::SYS_bind, &[File, In(2), Number]),
    row(libc::SYS_setsockopt, &[File, Number, Number, In(4), Number]),
    row(libc::SYS_getrandom, &[Out(1), Number, Number]),
];

/// The row of a call, if it is one of those.
pub(crate) fn row_of(number: u32) -> Option<&'static Row> {
    ROWS.iter().find(|it| it.number == number)
}

impl Row {
    /// Whether a path in it begins at the working directory, which no argument says.
    pub(crate) fn is_from_directory(&self) -> bool {
        let without = |at: usize| at == 0 || self.arguments[at - 1] != Directory;
        let paths = self.arguments.iter().enumerate().filter(|(_, it)| **it == Path);
        // A socket of this host has a path for an address.
        paths.map(|it| it.0).any(without) || i64::from(self.number) == libc::SYS_bind
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_a_number_of_the_same_call() {
        for row in ROWS {
            for kind in row.arguments {
                if let In(length) | Out(length) = kind {
                    assert_eq!(row.arguments.get(*length), Some(&Number), "call {}: mend its row", row.number);
                }
            }
            let same = ROWS.iter().filter(|it| it.number == row.number).count();
            assert_eq!(same, 1, "call {} has {same} rows: leave one", row.number);
        }
    }
}
