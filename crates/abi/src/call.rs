//! What a guest asks of its tender beside Linux's own system calls, which keep their numbers.

/// `(buffer, length)`: writes what the first process of a guest shall be into the buffer, in the form of
/// [`crate::boot`]; gives the length that it has, written or not.
pub const BOOT: u32 = 0x1000;

/// `(descriptor, events, cookie)`: once any of the events (`POLLIN`…) can be had, [`WAIT`] shall give the cookie, once.
pub const WATCH: u32 = 0x1001;

/// `(cookie)`: forgets the [`WATCH`] with that cookie.
pub const UNWATCH: u32 = 0x1002;

/// `(cookies, most, nanoseconds)`: sleeps until a watch has something, a signal is pending or that time is over
/// (`u64::MAX`: never). Gives how many cookies (`u64`) were written.
pub const WAIT: u32 = 0x1003;

/// `(status)`: the process has ended with that wait status. There is no answer.
pub const EXIT: u32 = 0x1004;

/// `(what for)`: makes the process a second time. Gives the child's number to the one, 0 to the other.
pub const FORK: u32 = 0x1005;

/// [`FORK`]: the process becomes a child of the caller.
pub const FORK_AS_CHILD: u64 = 0;

/// [`FORK`]: the process becomes the first of a cell of its own, as [`crate::port::Port::copies`] asked for.
pub const FORK_AS_CELL: u64 = 1;

/// `(descriptor, offset, length, protection | sharing, ahead)`: asks for a part of a file to be mapped; so many bytes behind
/// it, too, if it is [`MAP_CODE`] and there is no copy. A process of
/// the host is sent the file; a guest with page tables of its own is told at which physical address it is, and for a part
/// that is only to be read, how many bytes of the file there are from there on ([`crate::port::Call::limit`]). It gives
/// parts back by [`crate::post::Released`].
pub const MAP: u32 = 0x1006;

/// `(path, length, arguments, length)`: the process has become another program. Descriptors that are closed on exec are
/// closed now.
pub const EXECUTED: u32 = 0x1007;

/// `(text, length)`: a line for whoever debugs the library operating system.
pub const LOG: u32 = 0x1008;

/// `(number)`: the program made a system call that nothing here implements.
pub const UNKNOWN: u32 = 0x1009;

/// In the number given with [`UNKNOWN`]: the call is there, and the family's seal refuses it.
pub const OUTSIDE: u32 = 1 << 31;

/// `(length)`: more memory, right behind what there is. Only for a guest with page tables of its own.
pub const GROW: u32 = 0x100a;

/// `(physical address, length)`: the guest does not need what is in that part of its memory, which shall be zero.
pub const DISCARD: u32 = 0x100c;

/// `(descriptor)`: asks for a socket, pipe or set to be lent, so that the guest can use it without asking; with `u64::MAX`,
/// for what its tender sleeps on in a [`WAIT`]. Gives whether its reader waits. Only for a process of the host, which is sent
/// the file.
pub const LEND: u32 = 0x100d;

/// `(descriptor, nanoseconds)`: sleeps on a pipe's ring ([`crate::ring`]) until there is something for that side, or for
/// [`WAIT`], where it is left. Only for a guest with page tables of its own.
pub const RING_SLEEP: u32 = 0x100e;

/// `(descriptor, side)`: wakes who sleeps on that side of a pipe's ring. Gives the number of the bell that does so from now on
/// ([`crate::layout::kvm::bell`]), or 0. Only for a guest with page tables of its own.
pub const RING_WAKE: u32 = 0x100f;

/// `(memory, offset, bits, cookie)`: a thread is about to sleep on a word of memory that others share: [`WAIT`] shall give
/// the cookie when it is woken. Which memory it is [`MAP`] said in [`crate::port::Call::limit`].
pub const FUTEX_SLEEP: u32 = 0x1010;

/// `(memory, offset, most, bits)`: wakes so many of those that sleep on that word. Gives how many there were.
pub const FUTEX_WAKE: u32 = 0x1011;

/// `(memory, offset, cookie)`: the thread does not sleep. Gives whether it was still to be woken.
pub const FUTEX_LEAVE: u32 = 0x1012;

/// `()`: has the counters of [`crate::futex`] mapped, as [`MAP`] does.
pub const FUTEX_COUNTERS: u32 = 0x1013;

/// `(descriptor, status, content, length)`: what the file is, as fstat tells it, and what is in it, as far as it has room;
/// it is kept from now on ([`crate::kept`]). Gives how long it is. Only for a regular file that was opened to be read, by a
/// path from the root, which leads to it still.
pub const KEEP: u32 = 0x1014;

/// `()`: looks whether what is kept is still what its path leads to, and forgets what is not; and carries frames
/// ([`crate::link`]).
pub const CHECK: u32 = 0x1015;

/// `(address, length)`, up to three times: what the guest's page tables say of that part of the address space shall be so.
/// Only of a guest whose tables are looked at by its tender alone: [`crate::port::Port::sealed`], with page tables of its own.
pub const FOLLOW: u32 = 0x1019;

/// `()`: hands over the signals for which there was no room in the port ([`crate::signal`]). Gives how many.
pub const SIGNALS: u32 = 0x1016;

/// `(signals)`: those are pending, as a set; for descriptors that tell of signals. Only of a process that has some.
pub const PENDING: u32 = 0x1017;

/// `(signal, taken)`: that signal stops the process, which had taken so many ([`crate::signal::Queue::taken`]). It is
/// answered when the process may go on.
pub const STOP: u32 = 0x1018;

/// `()`: asks for the link to the cell's network ([`crate::link`]), which one process of a family has at a time. A guest with
/// page tables of its own is told at which physical address it is; a process of the host is sent the memory.
pub const LINK: u32 = 0x101a;

/// [`MAP`]: writes go to the file.
pub const MAP_SHARED: u64 = 1 << 32;

/// In the fourth argument of [`MAP`]: it is code of a program, for which a copy with calls that are jumps will do
/// ([`crate::patched`]).
pub const MAP_CODE: u64 = 1 << 33;

/// In [`crate::port::Call::wait`]: which argument is the descriptor to wait for, from this bit on.
pub const WAIT_ARGUMENT: u32 = 16;

/// In [`crate::port::Call::wait`]: it is a change of a message queue or a semaphore that is waited for, and no descriptor.
pub const WAIT_CHANGE: u32 = 1 << 28;

/// [`WATCH`]: in the place of a descriptor, for the end of a child.
pub const CHILDREN: u64 = u64::MAX;

/// [`WATCH`]: in the place of a descriptor, for a change of a message queue or a semaphore since the latest call that had
/// to wait for one.
pub const CHANGES: u64 = u64::MAX - 1;

/// In [`crate::port::Call::wait`]: the descriptor tells of the signals whose set is in [`crate::port::Call::limit`]: they are
/// the guest's to take.
pub const WAIT_SIGNALS: u32 = 1 << 27;

/// With [`WAIT_SIGNALS`]: the program does not want to wait for one.
pub const WITHOUT_WAITING: u32 = 1 << 26;

/// In [`crate::port::Call::wait`]: it is a pipe whose ring ([`crate::ring`]) is to be used instead. A guest with page tables of
/// its own finds it at the physical address in [`crate::port::Call::limit`]; a process of the host is sent the memory, and
/// the bells of both sides.
pub const WAIT_RING: u32 = 1 << 29;

/// In [`crate::port::Call::wait`]: there is nothing that would tell; it is to be tried again in a moment.
pub const WAIT_A_MOMENT: u32 = 1 << 30;

/// In [`crate::port::Call::wait`]: it is a child that is waited for, and no descriptor.
pub const WAIT_CHILD: u32 = 1 << 31;
