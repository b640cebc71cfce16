//! The last steps before another program takes the process over: identity, privileges, descriptors, `execve`.
//!
//! Every function here is fork-safe and changes only the calling thread, which after a fork is the whole process.

#![expect(unsafe_code, reason = "raw identity calls (the C library's act on all threads) and execve")]

use std::convert::Infallible;
use std::ffi::{CStr, CString, c_char};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, ResolveFlags, SealFlags, openat2};
use rustix::mount::MountAttrFlags;

use crate::mount::{Reach, new_file_system, set_attributes};
use crate::{Errno, Result, check};

/// A null-terminated array of C strings, as `execve` takes arguments and environment.
pub struct StringArray {
    // The pointers lead into `strings`, whose heap blocks do not move.
    pointers: Vec<*const c_char>,
    strings: Vec<CString>,
}

impl StringArray {
    /// The array of these strings.
    pub fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|it| it.as_ptr()).chain([std::ptr::null()]).collect();
        Self { pointers, strings }
    }

    /// The strings.
    pub fn strings(&self) -> &[CString] {
        &self.strings
    }

    /// The strings, for another array.
    pub fn into_strings(self) -> Vec<CString> {
        self.strings
    }
}

/// Replaces the process by the program at `path`. Returns only when that fails.
pub fn execve(path: &CStr, arguments: &StringArray, environment: &StringArray) -> Result<Infallible> {
    // SAFETY: `path` and both arrays are null-terminated and alive.
    unsafe { libc::execve(path.as_ptr(), arguments.pointers.as_ptr(), environment.pointers.as_ptr()) };
    Err(crate::last_error())
}

/// Replaces the process by the program that `file` is open on. Returns only when that fails.
pub fn execve_file(file: BorrowedFd<'_>, arguments: &StringArray, environment: &StringArray) -> Result<Infallible> {
    let (argv, envp) = (arguments.pointers.as_ptr(), environment.pointers.as_ptr());
    // SAFETY: the empty path and both arrays are null-terminated and alive.
    check(unsafe {
        libc::syscall(libc::SYS_execveat, file.as_raw_fd(), c"".as_ptr(), argv, envp, libc::AT_EMPTY_PATH)
    })?;
    Err(Errno::IO)
}

/// A file in memory that can be executed, such that nobody who gets hold of the file (as `/proc/PID/exe` hands it out) can write to it.
pub fn sealed_file(name: &CStr, bytes: &[u8]) -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = match rustix::fs::memfd_create(name, flags | MemfdFlags::EXEC) {
        // Before Linux 6.3 each can be executed.
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags)?,
        // Where the machine's rules forbid executing memory, a mount that nobody sees serves as well.
        Err(Errno::ACCESS) => return program_in_mount(bytes),
        other => other?,
    };
    write_all(&file, bytes)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

fn program_in_mount(bytes: &[u8]) -> Result<OwnedFd> {
    let mount = new_file_system::<&CStr>(c"tmpfs", &[], MountAttrFlags::empty())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    write_all(rustix::fs::openat(&mount, c"program", flags, Mode::from_raw_mode(0o755))?, bytes)?;
    set_attributes(&mount, MountAttrFlags::MOUNT_ATTR_RDONLY, Reach::One)?;
    rustix::fs::openat(&mount, c"program", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}

fn write_all(file: impl AsFd, bytes: &[u8]) -> Result<()> {
    // Files in memory take all that there is room for at once.
    match rustix::io::retry_on_intr(|| rustix::io::write(&file, bytes))? {
        count if count == bytes.len() => Ok(()),
        _ => Err(Errno::NOSPC),
    }
}

/// Sets all user and group ids and the supplementary groups of the calling thread.
pub fn become_user(uid: u32, gid: u32, groups: &[u32], change_groups: GroupChange) -> Result<()> {
    if change_groups == GroupChange::Set {
        // SAFETY: `groups` is that many group ids.
        check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    }
    // SAFETY: plain numbers.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: plain numbers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// Whether supplementary groups can be set: an ordinary user's own user namespace forbids it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupChange {
    /// Set them.
    Set,
    /// Leave those that are.
    Leave,
}

/// Forbids for good that an executed file raises privileges.
pub fn no_new_privileges() -> Result<()> {
    // SAFETY: prctl with plain numbers.
    check(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }).map(drop)
}

/// Hides the process's memory, links and descriptors in `/proc` from everybody without `SYS_PTRACE`. `execve` undoes it.
pub fn hide() -> Result<()> {
    // SAFETY: prctl with plain numbers.
    check(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }).map(drop)
}

/// Undoes [`hide`] for processes of the same user. A change of user, also of one for files alone, hides it again.
pub fn show() -> Result<()> {
    // SAFETY: prctl with plain numbers.
    check(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_DUMPABLE, 1, 0, 0, 0) }).map(drop)
}

/// A command line for a process that goes on without executing anything, in the place of the one that it was started with:
/// what `ps` and `/proc/PID/cmdline` show.
#[derive(Debug)]
pub struct Title {
    text: &'static CStr,
    /// Where this process's arguments lie; a forked one's are in the same place.
    place: Option<std::ops::Range<usize>>,
}

impl Title {
    /// For copies that are forked from this process. Where it cannot be had, they keep their command line.
    pub fn of_this_process(text: &'static CStr) -> Self {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let place = argument_place(&stat).filter(|it| it.len() > text.to_bytes_with_nul().len());
        Self { text, place }
    }

    /// Takes it, for good. Fork-safe; only for a process that was forked after the title was made.
    pub fn take(&self) {
        let Some(place) = &self.place else { return };
        let start = std::ptr::with_exposed_provenance_mut::<u8>(place.start);
        let text = self.text.to_bytes_with_nul();
        // SAFETY: the kernel put the arguments there, writable and of that length, which is more than the text's. In a
        // forked process that executes no other program nobody reads them any more.
        unsafe {
            std::ptr::write_bytes(start, 0, place.len());
            std::ptr::copy_nonoverlapping(text.as_ptr(), start, text.len());
            // Without a zero at the end, the kernel shows what is before the first one, and nothing more.
            start.add(place.len() - 1).write(b'.');
        }
    }
}

/// Fields 48 and 49 of `/proc/PID/stat`: where the arguments begin and end.
fn argument_place(stat: &str) -> Option<std::ops::Range<usize>> {
    // The second field may hold anything, and is the only one in parentheses.
    let mut numbers = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(45).map(str::parse);
    let (start, end) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    (0 < start && start < end).then_some(start..end)
}

/// Has the process killed when the thread that made it ends. The kernel forgets this when the process gains privileges
/// or changes its user.
pub fn die_with_parent() -> Result<()> {
    // SAFETY: prctl with plain numbers.
    check(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) }).map(drop)
}

/// Has the process sent `signal` when the thread that made it ends, with the same reservations as [`die_with_parent`].
pub fn signal_with_parent(signal: i32) -> Result<()> {
    // SAFETY: prctl with plain numbers.
    check(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, signal, 0, 0, 0) }).map(drop)
}

/// Makes the process the parent of every process below it whose own parent ends.
pub fn adopt_orphans() -> Result<()> {
    // SAFETY: prctl with plain numbers.
    check(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }).map(drop)
}

/// Makes `from` the descriptors 0, 1 and 2.
pub fn set_stdio(from: [BorrowedFd<'_>; 3]) -> Result<()> {
    let mut from = from.map(|it| it.as_raw_fd());
    for (target, source) in (0..3).zip(&mut from) {
        // One that stands where another must go is moved out of the way first.
        if *source < 3 && *source != target {
            // SAFETY: duplicates a live descriptor to a free number.
            *source = check(unsafe { libc::syscall(libc::SYS_fcntl, *source, libc::F_DUPFD_CLOEXEC, 3) })? as i32;
        }
    }
    for (target, source) in (0..3).zip(from) {
        // SAFETY: after a fork descriptors 0 to 2 belong to this process alone; nobody else relies on what they were.
        let done = if source == target {
            // SAFETY: as above; clears close-on-exec.
            unsafe { libc::syscall(libc::SYS_fcntl, source, libc::F_SETFD, 0) }
        } else {
            // SAFETY: as above.
            unsafe { libc::syscall(libc::SYS_dup3, source, target, 0) }
        };
        check(done)?;
    }
    Ok(())
}

/// Closes every descriptor but `kept`, runs `body` with it and the number `argument`, and ends the process with the
/// code that it returns: for a forked process that goes on without executing anything. Fork-safe.
///
/// It never returns and `body` can capture nothing, so nobody is left who could use a closed descriptor.
pub fn go_on_with(kept: BorrowedFd<'_>, argument: u32, body: fn(BorrowedFd<'_>, u32) -> u8) -> ! {
    if kept.as_raw_fd() != 0 {
        // SAFETY: the caller is never returned to, so it does not see descriptor 0 change.
        unsafe { libc::syscall(libc::SYS_dup3, kept.as_raw_fd(), 0, libc::O_CLOEXEC) };
    }
    // SAFETY: as above, for all others.
    unsafe { libc::syscall(libc::SYS_close_range, 1, u32::MAX, 0) };
    // SAFETY: descriptor 0 is open for the rest of the process's life. (Had dup3 failed, calls on it fail; that is all.)
    let kept = unsafe { BorrowedFd::borrow_raw(0) };
    crate::fork::exit_now(body(kept, argument))
}

/// How many descriptors a process can keep when it closes all others.
pub const MOST_KEPT: usize = 16;

/// Closes every descriptor from 3 on, but for `keep` (at most [`MOST_KEPT`]; more are an error). For a process that was forked to execute a program:
/// whoever held what is closed here must not use it again in this process.
pub fn close_all_but(keep: &[BorrowedFd<'_>]) -> Result<()> {
    let mut numbers = [u32::MAX; MOST_KEPT];
    if keep.len() > numbers.len() {
        return Err(Errno::INVAL);
    }
    for (slot, fd) in numbers.iter_mut().zip(keep) {
        *slot = fd.as_raw_fd().unsigned_abs();
    }
    numbers.sort_unstable();
    let mut first = 3;
    for number in numbers {
        if first < number {
            // SAFETY: as the documentation demands of callers, nobody uses these any more. The process has a table of
            // descriptors of its own.
            check(unsafe { libc::syscall(libc::SYS_close_range, first, number - 1, 0) })?;
        }
        first = first.max(number.saturating_add(1));
    }
    Ok(())
}

/// Closes a descriptor of a process that was forked and will not return to whoever owns it. Fork-safe.
pub fn close_for_good(fd: BorrowedFd<'_>) {
    // SAFETY: as the documentation demands of callers, nobody uses it any more.
    unsafe { libc::syscall(libc::SYS_close, fd.as_raw_fd()) };
}

/// Changes to a directory, but never through one of the links of `/proc` that lead wherever a process has something open:
/// a hostile root can have such a link in the place of any directory, and would so get hold of what is open here.
pub fn enter_directory(path: &CStr) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS)?;
    rustix::process::fchdir(directory)
}

/// Puts descriptors at those numbers, to stay open over `execve`, and closes 0, 1 and 2 unless they are among them. For a
/// process that was forked to execute a program. Fork-safe.
pub fn place_descriptors<const N: usize>(places: [(BorrowedFd<'_>, i32); N]) -> Result<()> {
    /// Above every place that anybody asks for.
    const ASIDE: i32 = 64;
    let mut aside = [0; N];
    for ((source, _), aside) in places.iter().zip(&mut aside) {
        // SAFETY: duplicates a live descriptor to a free number.
        let moved = unsafe { libc::syscall(libc::SYS_fcntl, source.as_raw_fd(), libc::F_DUPFD_CLOEXEC, ASIDE) };
        *aside = check(moved)? as i32;
    }
    // SAFETY: as the documentation demands of callers, this process uses them no more.
    check(unsafe { libc::syscall(libc::SYS_close_range, 0, 2, 0) })?;
    for ((_, target), source) in places.iter().zip(aside) {
        // SAFETY: as above.
        check(unsafe { libc::syscall(libc::SYS_dup3, source, *target, 0) })?;
    }
    Ok(())
}

/// Marks every descriptor from `first` on to be closed by `execve`.
pub fn close_on_exec_from(first: u32) -> Result<()> {
    let flag = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: only sets a flag; nothing is closed now.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flag) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::argument_place;

    #[test]
    fn a_program_in_memory_is_executed_and_written_by_nobody() {
        use std::os::fd::{AsFd, AsRawFd};
        let bytes = std::fs::read("/bin/true").unwrap();
        let is_root = rustix::process::geteuid().is_root();
        let files = [Some(super::sealed_file(c"x", &bytes)), is_root.then(|| super::program_in_mount(&bytes))];
        for file in files.into_iter().flatten().map(Result::unwrap) {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            let opened = std::fs::OpenOptions::new().write(true).open(&path);
            assert!(opened.and_then(|mut it| std::io::Write::write(&mut it, b"x")).is_err());
            let empty = || super::StringArray::new(vec![c"true".to_owned()]);
            let child = crate::fork::spawn_to_exec(None, || {
                let _ = super::execve_file(file.as_fd(), &empty(), &empty());
                9
            });
            let ended = crate::process::wait(child.unwrap().pidfd);
            assert_eq!(ended, Ok(crate::process::Ended::Code(0)));
        }
    }

    #[test]
    fn the_place_of_the_arguments_is_read_from_any_stat() {
        let fields = |start: u64, end: u64| {
            let between = " 0".repeat(44);
            format!("7 (a) b (c)) S{between} {start} {end} 0 0 0")
        };
        assert_eq!(argument_place(&fields(4096, 5000)), Some(4096..5000));
        assert_eq!(argument_place(&fields(0, 0)), None);
        assert_eq!(argument_place(&fields(9, 8)), None);
        assert_eq!(argument_place(""), None);
        let own = std::fs::read_to_string("/proc/self/stat").unwrap();
        let arguments = std::fs::read("/proc/self/cmdline").unwrap();
        assert_eq!(argument_place(&own).map(|it| it.len()), Some(arguments.len()));
    }
}
