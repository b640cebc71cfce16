//! The calls that a tender makes of the host, in groups, each with the reason why it is there. What is in no group does not
//! exist for a tender; what has no innocent use ([`FATAL`]) ends it.

use libc as c;

/// Calls that are let through for one reason.
pub(super) struct Group {
    pub(super) calls: &'static [i64],
    pub(super) whose: Whose,
    pub(super) when: When,
}

/// Who makes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// Every tender.
    Tender,
    /// A tender whose guests are processes.
    Keeper,
    /// The library operating system in such a guest, told by where it is. What of it a *program* reaches is said by the
    /// filter that the guest adds, under which all else traps.
    Guest,
}

/// On what condition: otherwise the call fails with that number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Always,
    /// An argument is one of those.
    OneOf {
        argument: u32,
        values: &'static [u32],
        otherwise: i32,
    },
    /// An argument has none of those bits.
    Without {
        argument: u32,
        bits: u32,
        otherwise: i32,
    },
    /// An argument has that bit, and none outside of those.
    Within {
        argument: u32,
        bit: u32,
        bits: u32,
        otherwise: i32,
    },
    /// An argument is a null pointer.
    Null {
        argument: u32,
        otherwise: i32,
    },
}

use When::{Always, Null, OneOf, Within, Without};
use Whose::{Guest, Keeper, Tender};

const PROT_EXEC: u32 = 4;

/// `KVM_` requests, by what they are of.
const MACHINES: [u32; 20] = [
    0x0000_ae80, // RUN: first, for it is what a tender does most
    0x4004_ae86, // INTERRUPT
    0x8090_ae81, // GET_REGS
    0x4090_ae82, // SET_REGS
    0x8138_ae83, // GET_SREGS
    0x4138_ae84, // SET_SREGS
    0x9000_aea4, // GET_XSAVE
    0x5000_aea5, // SET_XSAVE
    0x8188_aea6, // GET_XCRS
    0x4188_aea7, // SET_XCRS
    0x4008_ae89, // SET_MSRS
    0x4018_aee1, // SET_DEVICE_ATTR: of a virtual processor, its counter
    0x4004_ae8b, // SET_SIGNAL_MASK
    0x4008_ae90, // SET_CPUID2
    0xc008_ae05, // GET_SUPPORTED_CPUID
    0x0000_ae01, // CREATE_VM
    0x0000_ae41, // CREATE_VCPU
    0x0000_ae04, // GET_VCPU_MMAP_SIZE
    0x4020_ae46, // SET_USER_MEMORY_REGION
    0x4040_ae79, // IOEVENTFD
];

/// What programs ask of files, sockets, terminals and network interfaces, as `calls/descriptors.rs` passes it on; and which
/// pages of a snapshot were written to.
const DEVICES: [u32; 19] = [
    c::FIONREAD as u32,
    c::FIONBIO as u32,
    c::FIOCLEX as u32,
    c::TIOCOUTQ as u32,
    c::TCGETS as u32,
    c::TCSETS as u32,
    c::TCSETSW as u32,
    c::TCSETSF as u32,
    c::TIOCGWINSZ as u32,
    c::TIOCSWINSZ as u32,
    c::SIOCGIFNAME as u32,
    c::SIOCGIFFLAGS as u32,
    c::SIOCGIFADDR as u32,
    c::SIOCGIFBRDADDR as u32,
    c::SIOCGIFNETMASK as u32,
    c::SIOCGIFMTU as u32,
    c::SIOCGIFHWADDR as u32,
    c::SIOCGIFINDEX as u32,
    0xc060_6610, // PAGEMAP_SCAN
];

const REQUESTS: [u32; MACHINES.len() + DEVICES.len()] = {
    let mut all = [0; MACHINES.len() + DEVICES.len()];
    let mut at = 0;
    while at < all.len() {
        all[at] = if at < MACHINES.len() { MACHINES[at] } else { DEVICES[at - MACHINES.len()] };
        at += 1;
    }
    all
};

/// `CLONE_VM`, `FS`, `FILES`, `SIGHAND`, `SYSVSEM`, `SETTLS`, `PARENT_SETTID`, `CHILD_CLEARTID` and what musl adds.
const THREAD: u32 = 0x007d_0f00;

pub(super) const ALLOWED: &[Group] = &[
    // Running machines, and what programs ask of devices.
    Group {
        calls: &[c::SYS_ioctl],
        whose: Tender,
        when: OneOf { argument: 1, values: &REQUESTS, otherwise: c::ENOTTY },
    },
    // Moving bytes through what is open, waiting for it, sleeping. A guest that is a process does the same by itself.
    Group {
        calls: &[
            c::SYS_futex,
            c::SYS_read,
            c::SYS_write,
            c::SYS_recvfrom,
            c::SYS_sendto,
            c::SYS_epoll_wait,
            c::SYS_ppoll,
            c::SYS_poll,
            c::SYS_pread64,
            c::SYS_pwrite64,
            c::SYS_readv,
            c::SYS_writev,
            c::SYS_preadv,
            c::SYS_pwritev,
            c::SYS_preadv2,
            c::SYS_pwritev2,
            c::SYS_lseek,
            c::SYS_recvmsg,
            c::SYS_sendmsg,
            c::SYS_recvmmsg,
            c::SYS_sendmmsg,
            c::SYS_epoll_pwait,
            c::SYS_epoll_ctl,
            c::SYS_epoll_create1,
            c::SYS_sendfile,
            c::SYS_splice,
            c::SYS_tee,
            c::SYS_vmsplice,
            c::SYS_copy_file_range,
        ],
        whose: Tender,
        when: Always,
    },
    // What is known of an open file, and what is done with it as a whole.
    Group {
        calls: &[
            c::SYS_fstat,
            c::SYS_close,
            c::SYS_close_range,
            c::SYS_dup,
            c::SYS_dup2,
            c::SYS_dup3,
            c::SYS_fsync,
            c::SYS_fdatasync,
            c::SYS_sync_file_range,
            c::SYS_syncfs,
            c::SYS_sync,
            c::SYS_ftruncate,
            c::SYS_fallocate,
            c::SYS_fadvise64,
            c::SYS_readahead,
            c::SYS_flock,
            c::SYS_getdents64,
            c::SYS_getdents,
            c::SYS_fchmod,
            c::SYS_fchown,
            c::SYS_fstatfs,
            c::SYS_fgetxattr,
            c::SYS_flistxattr,
            c::SYS_fsetxattr,
            c::SYS_fremovexattr,
        ],
        whose: Tender,
        when: Always,
    },
    // The cell's files by their paths: its root is the tender's, and there is nothing else.
    Group {
        calls: &[
            c::SYS_openat,
            c::SYS_openat2,
            c::SYS_open,
            c::SYS_newfstatat,
            c::SYS_statx,
            c::SYS_stat,
            c::SYS_lstat,
            c::SYS_statfs,
            c::SYS_access,
            c::SYS_faccessat,
            c::SYS_faccessat2,
            c::SYS_readlink,
            c::SYS_readlinkat,
            c::SYS_fchdir,
            c::SYS_mkdirat,
            c::SYS_mknodat,
            c::SYS_unlink,
            c::SYS_unlinkat,
            c::SYS_renameat2,
            c::SYS_rename,
            c::SYS_linkat,
            c::SYS_symlinkat,
            c::SYS_fchmodat,
            c::SYS_fchownat,
            c::SYS_truncate,
            c::SYS_utimensat,
            c::SYS_utime,
            c::SYS_utimes,
            c::SYS_futimesat,
            c::SYS_getxattr,
            c::SYS_lgetxattr,
            c::SYS_listxattr,
            c::SYS_llistxattr,
            c::SYS_setxattr,
            c::SYS_lsetxattr,
            c::SYS_removexattr,
            c::SYS_lremovexattr,
        ],
        whose: Tender,
        when: Always,
    },
    // As whom files are touched: a thread at a time, and files alone. Who a tender is stays.
    Group { calls: &[c::SYS_setfsuid, c::SYS_setfsgid, c::SYS_setgroups], whose: Tender, when: Always },
    // What is made of nothing: pipes, events, timers, files in memory.
    Group {
        calls: &[
            c::SYS_pipe,
            c::SYS_pipe2,
            c::SYS_eventfd2,
            c::SYS_timerfd_create,
            c::SYS_timerfd_settime,
            c::SYS_timerfd_gettime,
            c::SYS_inotify_init1,
            c::SYS_inotify_add_watch,
            c::SYS_inotify_rm_watch,
            c::SYS_memfd_create,
        ],
        whose: Tender,
        when: Always,
    },
    // Sockets of the cell's network namespace: local, the internet's, netlink, packets. Others are large and rarely used.
    Group {
        calls: &[c::SYS_socket, c::SYS_socketpair],
        whose: Tender,
        when: OneOf { argument: 0, values: &[1, 2, 10, 16, 17], otherwise: c::EAFNOSUPPORT },
    },
    Group {
        calls: &[
            c::SYS_bind,
            c::SYS_connect,
            c::SYS_listen,
            c::SYS_accept,
            c::SYS_accept4,
            c::SYS_getsockname,
            c::SYS_getpeername,
            c::SYS_getsockopt,
            c::SYS_setsockopt,
            c::SYS_shutdown,
        ],
        whose: Tender,
        when: Always,
    },
    // Messages and semaphores of the cell's IPC namespace.
    Group {
        calls: &[
            c::SYS_msgget,
            c::SYS_msgsnd,
            c::SYS_msgrcv,
            c::SYS_msgctl,
            c::SYS_semget,
            c::SYS_semop,
            c::SYS_semtimedop,
            c::SYS_semctl,
            c::SYS_mq_open,
            c::SYS_mq_unlink,
            c::SYS_mq_timedsend,
            c::SYS_mq_timedreceive,
            c::SYS_mq_getsetattr,
            c::SYS_mq_notify,
        ],
        whose: Tender,
        when: Always,
    },
    // Shared memory that other cells share is in the host's account, too. It is never code.
    Group { calls: &[c::SYS_shmget, c::SYS_shmctl, c::SYS_shmdt], whose: Tender, when: Always },
    Group {
        calls: &[c::SYS_shmat],
        whose: Tender,
        when: Without { argument: 2, bits: c::SHM_EXEC as u32, otherwise: c::EPERM },
    },
    // Threads, memory and time of its own, as the C library needs them.
    Group {
        calls: &[
            c::SYS_munmap,
            c::SYS_mremap,
            c::SYS_madvise,
            c::SYS_brk,
            c::SYS_set_robust_list,
            c::SYS_rseq,
            c::SYS_sched_yield,
            c::SYS_sched_getaffinity,
            c::SYS_rt_sigaction,
            c::SYS_rt_sigprocmask,
            c::SYS_rt_sigreturn,
            c::SYS_rt_sigtimedwait,
            c::SYS_sigaltstack,
            c::SYS_restart_syscall,
            c::SYS_getpid,
            c::SYS_gettid,
            c::SYS_tgkill,
            c::SYS_clock_gettime,
            c::SYS_clock_getres,
            c::SYS_gettimeofday,
            c::SYS_time,
            c::SYS_nanosleep,
            c::SYS_clock_nanosleep,
            c::SYS_getrandom,
            c::SYS_exit,
            c::SYS_exit_group,
        ],
        whose: Tender,
        when: Always,
    },
    // Who ended and how: its own children, and itself as its first process did. Landlock keeps the signal in the cell.
    Group { calls: &[c::SYS_wait4, c::SYS_waitid, c::SYS_kill], whose: Tender, when: Always },
    // What programs ask of the system, answered in its words.
    Group { calls: &[c::SYS_uname, c::SYS_sysinfo], whose: Tender, when: Always },
    // The process of the host that a guest is: its memory, which the tender reads and writes as calls say.
    Group { calls: &[c::SYS_process_vm_readv, c::SYS_process_vm_writev], whose: Keeper, when: Always },
    // Making it: it is executed from memory, by descriptor, and holds no capability when it is.
    Group {
        calls: &[c::SYS_execveat],
        whose: Keeper,
        when: OneOf { argument: 4, values: &[c::AT_EMPTY_PATH as u32], otherwise: c::EPERM },
    },
    Group { calls: &[c::SYS_capset], whose: Keeper, when: Always },
    // The library operating system before it adds its filter, and a program's code, which only it has mapped.
    Group { calls: &[c::SYS_mmap, c::SYS_mprotect, c::SYS_seccomp], whose: Guest, when: Always },
    // A process beside it: `CLONE_PARENT | SIGCHLD`.
    Group { calls: &[c::SYS_clone], whose: Guest, when: OneOf { argument: 0, values: &[0x8011], otherwise: c::EPERM } },
    // No new privileges.
    Group {
        calls: &[c::SYS_prctl],
        whose: Guest,
        when: OneOf { argument: 0, values: &[c::PR_SET_NO_NEW_PRIVS as u32], otherwise: c::EINVAL },
    },
    // No code comes up in a tender.
    Group {
        calls: &[c::SYS_mmap, c::SYS_mprotect],
        whose: Tender,
        when: Without { argument: 2, bits: PROT_EXEC, otherwise: c::EPERM },
    },
    // Copies and states of descriptors, locks of open files, sizes of pipes, seals. No owners, no leases, no signals.
    Group {
        calls: &[c::SYS_fcntl],
        whose: Tender,
        when: OneOf {
            argument: 1,
            values: &[
                c::F_GETFD as u32,
                c::F_SETFD as u32,
                c::F_GETFL as u32,
                c::F_SETFL as u32,
                c::F_DUPFD_CLOEXEC as u32,
                c::F_OFD_GETLK as u32,
                c::F_OFD_SETLK as u32,
                c::F_GETPIPE_SZ as u32,
                c::F_SETPIPE_SZ as u32,
                c::F_ADD_SEALS as u32,
                c::F_GET_SEALS as u32,
            ],
            otherwise: c::EINVAL,
        },
    },
    // Further threads; of processes only those that become a guest at once (`CLONE_VM | VFORK | PIDFD | SIGCHLD`).
    Group {
        calls: &[c::SYS_clone],
        whose: Keeper,
        when: OneOf { argument: 0, values: &[0x5111, 0x003d_0f00, THREAD], otherwise: c::EPERM },
    },
    Group {
        calls: &[c::SYS_clone],
        whose: Tender,
        when: Within { argument: 0, bit: c::CLONE_THREAD as u32, bits: THREAD, otherwise: c::EPERM },
    },
    // Names of threads.
    Group {
        calls: &[c::SYS_prctl],
        whose: Tender,
        when: OneOf { argument: 0, values: &[c::PR_SET_NAME as u32, c::PR_GET_NAME as u32], otherwise: c::EINVAL },
    },
    // Limits are read, as the C library does for its stacks.
    Group { calls: &[c::SYS_prlimit64], whose: Tender, when: Null { argument: 2, otherwise: c::EPERM } },
];

/// Nothing that a tender does comes near these: whoever makes one has taken it over. Where guests are processes they fail
/// with EPERM instead: a program's own call must reach its library operating system, and ending comes before that.
pub(super) const FATAL: &[i64] = &[
    c::SYS_ptrace,
    c::SYS_process_vm_readv,
    c::SYS_process_vm_writev,
    c::SYS_pidfd_getfd,
    c::SYS_execve,
    c::SYS_execveat,
    c::SYS_fork,
    c::SYS_vfork,
    c::SYS_unshare,
    c::SYS_setns,
    c::SYS_mount,
    c::SYS_umount2,
    c::SYS_pivot_root,
    c::SYS_chroot,
    c::SYS_move_mount,
    c::SYS_open_tree,
    c::SYS_fsopen,
    c::SYS_fsmount,
    c::SYS_fspick,
    c::SYS_fsconfig,
    c::SYS_mount_setattr,
    c::SYS_bpf,
    c::SYS_perf_event_open,
    c::SYS_userfaultfd,
    c::SYS_io_uring_setup,
    c::SYS_io_uring_enter,
    c::SYS_io_uring_register,
    c::SYS_keyctl,
    c::SYS_add_key,
    c::SYS_request_key,
    c::SYS_open_by_handle_at,
    c::SYS_name_to_handle_at,
    c::SYS_kexec_load,
    c::SYS_kexec_file_load,
    c::SYS_init_module,
    c::SYS_finit_module,
    c::SYS_delete_module,
    c::SYS_reboot,
    c::SYS_swapon,
    c::SYS_swapoff,
    c::SYS_acct,
    c::SYS_quotactl,
    c::SYS_iopl,
    c::SYS_ioperm,
    c::SYS_modify_ldt,
    c::SYS_settimeofday,
    c::SYS_clock_settime,
    c::SYS_adjtimex,
    c::SYS_syslog,
    c::SYS_setuid,
    c::SYS_setgid,
    c::SYS_setreuid,
    c::SYS_setregid,
    c::SYS_setresuid,
    c::SYS_setresgid,
    c::SYS_fanotify_init,
    c::SYS_lookup_dcookie,
    c::SYS_personality,
    c::SYS_seccomp,
];
