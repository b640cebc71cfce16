//! Processes in the jail try what a tender does not do; none of it may work, and all that a tender does must.

#![expect(unsafe_code, reason = "makes the calls that a tender does not, by number")]

use std::fs;

use sys::fork;
use sys::namespace::Namespaces;
use sys::process::{Ended, wait};

use super::table::{ALLOWED, FATAL, Whose};
use super::*;
use crate::raw::{self, Argument};
use crate::seal::Code;

const KINDS: [Kind; 2] = [Kind::Machines, Kind::Processes];
const SIGSYS: i32 = 31;

/// What becomes of a process that does that in the jail. It ends with 0 if `inside` holds.
fn end(kind: Kind, inside: impl FnOnce() -> bool) -> Ended {
    let child = fork::spawn(Namespaces::empty(), None, || match enter(kind, None, Visibility::Root) {
        Ok(()) => u8::from(!inside()),
        Err(_) => 2,
    });
    wait(child.unwrap().pidfd).unwrap()
}

fn call(number: i64, arguments: [u64; 6]) -> std::result::Result<u64, Errno> {
    // SAFETY: the calls of these tests follow no pointers but null ones, or are refused before.
    unsafe { raw::call(number as u32, &mut arguments.map(Argument::Number)) }
}

#[test]
fn what_has_no_innocent_use_is_the_end_of_who_tries_it() {
    let calls = |it: Whose| ALLOWED.iter().filter(move |group| group.whose == it).flat_map(|it| it.calls);
    for number in FATAL {
        assert!(calls(Whose::Tender).all(|it| it != number), "call {number} is allowed, too");
        let seen = end(Kind::Machines, || call(*number, [0; 6]).is_ok());
        assert_eq!(seen, Ended::Signal(SIGSYS), "call {number}");
        if calls(Whose::Keeper).all(|it| it != number) {
            let seen = end(Kind::Processes, || call(*number, [0; 6]) == Err(Errno::PERM));
            assert_eq!(seen, Ended::Code(0), "call {number}");
        }
    }
}

#[test]
fn arguments_decide_where_a_call_has_both_uses() {
    const EXECUTABLE: u64 = 1 | 4;
    const NOBODY: u64 = u64::MAX;
    let cases = [
        ("executable memory", libc::SYS_mmap, [0, 4096, EXECUTABLE, 0x22, NOBODY, 0], Errno::PERM),
        ("making memory executable", libc::SYS_mprotect, [0x1000, 4096, EXECUTABLE, 0, 0, 0], Errno::PERM),
        ("executable memory of others", libc::SYS_shmat, [0, 0, libc::SHM_EXEC as u64, 0, 0, 0], Errno::PERM),
        ("a process", libc::SYS_clone, [17, 0, 0, 0, 0, 0], Errno::PERM),
        ("a process that shares memory", libc::SYS_clone, [0x111, 0, 0, 0, 0, 0], Errno::PERM),
        ("a thread in a namespace", libc::SYS_clone, [0x4001_0f00, 0, 0, 0, 0, 0], Errno::PERM),
        ("flags in memory", libc::SYS_clone3, [0; 6], Errno::NOSYS),
        ("AF_VSOCK", libc::SYS_socket, [40, 1, 0, 0, 0, 0], Errno::AFNOSUPPORT),
        ("AF_ALG", libc::SYS_socket, [38, 5, 0, 0, 0, 0], Errno::AFNOSUPPORT),
        ("a machine's device", libc::SYS_ioctl, [0, 0x4068_aea0, 0, 0, 0, 0], Errno::NOTTY),
        ("pushing into a terminal", libc::SYS_ioctl, [0, libc::TIOCSTI, 0, 0, 0, 0], Errno::NOTTY),
        ("signals from files", libc::SYS_fcntl, [0, libc::F_SETOWN as u64, 1, 0, 0, 0], Errno::INVAL),
        ("being seen again", libc::SYS_prctl, [libc::PR_SET_DUMPABLE as u64, 1, 0, 0, 0, 0], Errno::INVAL),
        ("a limit", libc::SYS_prlimit64, [0, 7, 1 << 32, 0, 0, 0], Errno::PERM),
        ("a call that nobody knows", 999, [0; 6], Errno::NOSYS),
        ("a call of x32", 0x4000_0000 + libc::SYS_getpid, [0; 6], Errno::NOSYS),
    ];
    for kind in KINDS {
        for (what, number, arguments, errno) in cases {
            assert_eq!(end(kind, || call(number, arguments) == Err(errno)), Ended::Code(0), "{what}, {kind:?}");
        }
    }
    // Where the library operating system's instruction would be, nobody else's is.
    let seccomp = end(Kind::Processes, || call(libc::SYS_seccomp, [1, 0, 0, 0, 0, 0]) == Err(Errno::PERM));
    assert_eq!(seccomp, Ended::Code(0));
}

#[test]
fn what_a_tender_does_is_let_through() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for kind in KINDS {
        let seen = end(kind, || {
            let sum = std::thread::spawn(|| 1 + 1).join().unwrap();
            let (from, to) = (one.path().join("x"), other.path().join("x"));
            fs::write(&from, "honey").unwrap();
            let (here, how) = (rustix::fs::CWD, rustix::fs::RenameFlags::empty());
            rustix::fs::renameat_with(here, &from, here, &to, how).unwrap();
            let socket = std::os::unix::net::UnixStream::pair();
            sum == 2 && fs::read(&to).unwrap() == b"honey" && socket.is_ok()
        });
        assert_eq!(seen, Ended::Code(0), "{kind:?}");
    }
}

#[test]
fn landlock_keeps_it_from_files_to_execute_and_from_others() {
    if landlock::version().unwrap_or(0) < landlock::KNOWS_WAYS {
        return;
    }
    let program = fs::File::open("/bin/true").unwrap();
    let parent = rustix::process::getpid();
    let device = tempfile::tempdir().unwrap();
    let seen = end(Kind::Processes, || {
        let empty = || sys::exec::StringArray::new(Vec::new());
        let executed = sys::exec::execve_file(std::os::fd::AsFd::as_fd(&program), &empty(), &empty()).err();
        let signalled = rustix::process::test_kill_process(parent).err();
        let (kind, mode) = (rustix::fs::FileType::CharacterDevice, rustix::fs::Mode::RUSR);
        let node = rustix::fs::mknodat(rustix::fs::CWD, device.path().join("null"), kind, mode, 0x103).err();
        let refused = [Some(Errno::ACCESS), Some(Errno::PERM)];
        executed == Some(Errno::ACCESS) && signalled == Some(Errno::PERM) && refused.contains(&node)
    });
    assert_eq!(seen, Ended::Code(0));
}

#[test]
fn it_holds_what_it_needs_and_nothing_more() {
    let all = needed(None);
    for (capability, kept) in [
        (Capability::DacOverride, true),
        (Capability::NetBindService, true),
        (Capability::Chown, true),
        (Capability::Setuid, true),
        (Capability::Setpcap, false),
        (Capability::Mknod, false),
        (Capability::SysAdmin, false),
        (Capability::SysPtrace, false),
    ] {
        assert_eq!(all.contains(capability.number()), kept, "{capability:?}");
    }
    let sealed = |calls: &[i64]| {
        let calls = calls.iter().map(|it| *it as u32).collect();
        needed(Some(&Seal { calls, code: Code::Fixed }))
    };
    assert_eq!(sealed(&[libc::SYS_read, libc::SYS_write, libc::SYS_accept4]), CapabilitySet(0));
    assert!(sealed(&[libc::SYS_bind]).contains(Capability::NetBindService.number()));
    let opens = sealed(&[libc::SYS_openat]);
    assert!(!opens.contains(Capability::NetRaw.number()) && !opens.contains(Capability::Chown.number()));
}
