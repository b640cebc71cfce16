//! How fast `/dev/kvm` really is. That it opens says little: there are hosts on which every instruction of a guest's
//! kernel is emulated, and only its user mode runs natively.
//!
//! A virtual machine of one processor and eight pages runs nine bytes of code. **It cannot hang its caller**: it lives in
//! a child process that is killed when it takes too long, and each measurement ends after about 100 ms.

#![expect(unsafe_code, reason = "ioctls of /dev/kvm, and memory that a guest writes")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags};

use crate::namespace::Namespaces;
use crate::{Errno, Result, check, fork, process, socket};

/// What a guest gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speed {
    /// Turns of a loop of two instructions in a second, in the guest's kernel mode.
    pub ring0: u64,
    /// The same in its user mode; nothing when the guest could not be run there.
    pub ring3: Option<u64>,
    /// Nanoseconds from the guest to its host and back.
    pub exit_ns: Option<u64>,
}

/// Who executes a guest's kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The processor.
    Hardware,
    /// An emulator: orders of magnitude slower.
    Software,
}

impl Speed {
    /// What the figures mean. A processor runs both rings alike; alone, ring 0 is judged by what no emulator that decodes
    /// each instruction reaches.
    pub fn kind(&self) -> Kind {
        let native = self.ring3.map_or(50_000_000, |it| it / 20);
        if self.ring0 >= native { Kind::Hardware } else { Kind::Software }
    }
}

impl std::fmt::Display for Speed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let millions = |rate: u64| match rate {
            0..10_000_000 => format!("{:.1} M/s", rate as f64 / 1e6),
            _ => format!("{} M/s", rate / 1_000_000),
        };
        let kind = match self.kind() {
            Kind::Hardware => "hardware",
            Kind::Software => "software",
        };
        write!(f, "{kind} (ring 0: {}", millions(self.ring0))?;
        match self.ring3 {
            Some(rate) => write!(f, ", ring 3: {}", millions(rate))?,
            None => write!(f, ", ring 3: none")?,
        }
        if let Some(exit) = self.exit_ns {
            write!(f, ", exit {} us", (exit as f64 / 1e3).round())?;
        }
        f.write_str(")")
    }
}

/// How long a measurement goes on.
const BUDGET: Duration = Duration::from_millis(100);

/// When the child is given up.
const PATIENCE: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// Measures, in a child process.
///
/// # Errors
///
/// Those of opening `/dev/kvm` and of making a virtual machine; `TIMEDOUT` when it came to nothing in two seconds.
pub fn measure() -> Result<Speed> {
    let kvm = rustix::fs::openat(CWD, c"/dev/kvm", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let (ours, theirs) = socket::pair()?;
    let child = fork::spawn(Namespaces::empty(), None, || {
        let _ = crate::exec::die_with_parent();
        let answer = match speed(kvm.as_fd()) {
            Ok(speed) => [0, speed.ring0, speed.ring3.unwrap_or(0), speed.exit_ns.unwrap_or(0)],
            Err(errno) => [u64::from(errno.raw_os_error().unsigned_abs()), 0, 0, 0],
        };
        let mut record = [0; 32];
        for (slot, number) in record.chunks_exact_mut(8).zip(answer) {
            slot.copy_from_slice(&number.to_ne_bytes());
        }
        u8::from(socket::send(&theirs, &record, &[]).is_err())
    })?;
    drop(theirs);
    let mut answered = [PollFd::new(&ours, PollFlags::IN)];
    let ready = poll(&mut answered, Some(&PATIENCE));
    let mut record = [0; 32];
    let received = match ready {
        Ok(1..) => socket::receive(&ours, &mut record).map(|(length, _)| length),
        Ok(0) => Err(Errno::TIMEDOUT),
        Err(errno) => Err(errno),
    };
    process::kill(&child.pidfd)?;
    process::wait(&child.pidfd)?;
    if received? != record.len() {
        return Err(Errno::IO);
    }
    let [error, ring0, ring3, exit_ns] = [0, 1, 2, 3].map(|index| {
        let bytes = record.chunks_exact(8).nth(index).and_then(|it| it.try_into().ok());
        u64::from_ne_bytes(bytes.unwrap_or_default())
    });
    match i32::try_from(error) {
        Ok(0) => {
            let known = |it: u64| Some(it).filter(|it| *it > 0);
            Ok(Speed { ring0, ring3: known(ring3), exit_ns: known(exit_ns) })
        }
        Ok(errno) => Err(Errno::from_raw_os_error(errno)),
        Err(_) => Err(Errno::IO),
    }
}

fn speed(kvm: BorrowedFd<'_>) -> Result<Speed> {
    let ring0 = Guest::new(kvm, Ring::Kernel)?.loop_rate()?;
    let user = Guest::new(kvm, Ring::User);
    let ring3 = user.and_then(|mut it| it.loop_rate()).ok();
    // From the ring that guests had better be in.
    let ring = if ring3.is_some() { Ring::User } else { Ring::Kernel };
    let exit_ns = Guest::new(kvm, ring).and_then(|mut it| it.exit_time()).ok();
    Ok(Speed { ring0, ring3, exit_ns })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ring {
    Kernel,
    User,
}

// The kernel's `include/uapi/linux/kvm.h` and `arch/x86/include/uapi/asm/kvm.h`.
const CREATE_VM: u64 = 0xae01;
const GET_VCPU_MMAP_SIZE: u64 = 0xae04;
const CREATE_VCPU: u64 = 0xae41;
const SET_USER_MEMORY_REGION: u64 = 0x4020_ae46;
const RUN: u64 = 0xae80;
const SET_REGS: u64 = 0x4090_ae82;
const GET_SREGS: u64 = 0x8138_ae83;
const SET_SREGS: u64 = 0x4138_ae84;
const EXIT_MMIO: u32 = 6;
/// Where the reason of an exit lies in the page shared with the kernel.
const EXIT_REASON: usize = 8;

#[repr(C)]
struct MemoryRegion {
    slot: u32,
    flags: u32,
    guest_physical: u64,
    size: u64,
    address: u64,
}

#[repr(C)]
#[derive(Default)]
struct Registers {
    rax: u64,
    rbx: u64,
    rcx: u64,
    others: [u64; 13],
    rip: u64,
    rflags: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Segment {
    base: u64,
    limit: u32,
    selector: u16,
    kind: u8,
    present: u8,
    dpl: u8,
    db: u8,
    s: u8,
    l: u8,
    g: u8,
    avl: u8,
    unusable: u8,
    padding: u8,
}

#[repr(C)]
#[derive(Default)]
struct SystemRegisters {
    cs: Segment,
    /// `ds`, `es`, `fs`, `gs`, `ss`.
    data: [Segment; 5],
    tr: Segment,
    ldt: Segment,
    /// `gdt`, `idt`.
    tables: [[u64; 2]; 2],
    cr0: u64,
    cr2: u64,
    cr3: u64,
    cr4: u64,
    cr8: u64,
    efer: u64,
    apic_base: u64,
    interrupts: [u64; 4],
}

const _: () = assert!(size_of::<Registers>() == 0x90 && size_of::<SystemRegisters>() == 0x138);

/// The guest's memory: three levels of page tables and a page of code, at these addresses.
const MEMORY: usize = 0x8000;
const PAGE_TABLES: [usize; 3] = [0x1000, 0x2000, 0x3000];
const CODE: usize = 0x4000;
const EXITS: usize = 0x4100;
/// An address where no memory is: writing there leads to the host, whatever ring the guest is in.
const NOWHERE: u64 = 0x20_0000;

/// `1: dec rcx; jnz 1b; mov [rbx], eax; jmp 1b`
const LOOP: [u8; 9] = [0x48, 0xff, 0xc9, 0x75, 0xfb, 0x89, 0x03, 0xeb, 0xf7];
/// `1: mov [rbx], eax; jmp 1b`
const EXIT_LOOP: [u8; 4] = [0x89, 0x03, 0xeb, 0xfc];

/// Memory of our own that the kernel or a guest writes, too: only ever read and written through raw pointers.
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

impl Mapping {
    fn new(length: usize, file: Option<BorrowedFd<'_>>) -> Result<Self> {
        let (flags, fd) = match file {
            Some(fd) => (libc::MAP_SHARED, fd.as_raw_fd()),
            None => (libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1),
        };
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: asks for new memory at an address of the kernel's choice.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, access, flags, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(crate::last_error());
        }
        Ok(Self { start: NonNull::new(start.cast()).ok_or(Errno::NOMEM)?, length })
    }

    fn write(&self, at: usize, bytes: &[u8]) -> Result<()> {
        if at.checked_add(bytes.len()).is_none_or(|end| end > self.length) {
            return Err(Errno::FAULT);
        }
        // SAFETY: in bounds as just checked; no reference into the mapping exists, and no guest runs meanwhile.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.as_ptr().add(at), bytes.len()) };
        Ok(())
    }

    fn read_u32(&self, at: usize) -> Result<u32> {
        if at.checked_add(4).is_none_or(|end| end > self.length) {
            return Err(Errno::FAULT);
        }
        // SAFETY: in bounds as just checked; no reference into the mapping exists.
        Ok(unsafe { self.start.as_ptr().add(at).cast::<u32>().read_unaligned() })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this very mapping, which nobody refers to any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

fn ioctl(fd: BorrowedFd<'_>, request: u64, argument: usize) -> Result<libc::c_long> {
    // SAFETY: every caller passes a number, or the address of the structure that `request` names, alive and writable.
    check(unsafe { libc::syscall(libc::SYS_ioctl, fd.as_raw_fd(), request, argument) })
}

fn made(fd: libc::c_long) -> OwnedFd {
    // SAFETY: an ioctl just made this descriptor; nothing else owns it.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

/// A virtual machine in 64-bit mode. Its fields are dropped in this order: the memory last.
struct Guest {
    vcpu: OwnedFd,
    _vm: OwnedFd,
    shared: Mapping,
    _memory: Mapping,
}

impl Guest {
    fn new(kvm: BorrowedFd<'_>, ring: Ring) -> Result<Self> {
        let vm = made(ioctl(kvm, CREATE_VM, 0)?);
        let memory = Mapping::new(MEMORY, None)?;
        // Present, writable, for ring 3, too; the last level's two entries are pages of 2 MiB: memory, and none.
        let [top, middle, bottom] = PAGE_TABLES;
        let entries =
            [(top, middle as u64 | 7), (middle, bottom as u64 | 7), (bottom, 0x87), (bottom + 8, NOWHERE | 0x87)];
        for (at, entry) in entries {
            memory.write(at, &entry.to_le_bytes())?;
        }
        memory.write(CODE, &LOOP)?;
        memory.write(EXITS, &EXIT_LOOP)?;
        let region = MemoryRegion {
            slot: 0,
            flags: 0,
            guest_physical: 0,
            size: MEMORY as u64,
            address: memory.start.as_ptr() as u64,
        };
        ioctl(vm.as_fd(), SET_USER_MEMORY_REGION, &raw const region as usize)?;
        let vcpu = made(ioctl(vm.as_fd(), CREATE_VCPU, 0)?);
        let size = ioctl(kvm, GET_VCPU_MMAP_SIZE, 0)?;
        let shared = Mapping::new(usize::try_from(size).map_err(|_| Errno::IO)?, Some(vcpu.as_fd()))?;
        let guest = Self { vcpu, _vm: vm, shared, _memory: memory };
        guest.enter_long_mode(ring)?;
        Ok(guest)
    }

    fn enter_long_mode(&self, ring: Ring) -> Result<()> {
        let mut state = SystemRegisters::default();
        ioctl(self.vcpu.as_fd(), GET_SREGS, &raw mut state as usize)?;
        let (dpl, code, data) = if ring == Ring::Kernel { (0, 0x08, 0x10) } else { (3, 0x1b, 0x23) };
        let flat = Segment { limit: u32::MAX, present: 1, dpl, s: 1, g: 1, ..Segment::default() };
        state.cs = Segment { selector: code, kind: 11, l: 1, ..flat };
        state.data = [Segment { selector: data, kind: 3, db: 1, ..flat }; 5];
        state.cr3 = PAGE_TABLES[0] as u64;
        // Protected mode, extensions, native errors, write protection, paging; large entries; long mode, active.
        state.cr0 = 0x8001_0033;
        state.cr4 = 0x20;
        state.efer = 0x500;
        ioctl(self.vcpu.as_fd(), SET_SREGS, &raw const state as usize).map(drop)
    }

    fn set(&mut self, rip: usize, turns: u64) -> Result<()> {
        let registers = Registers { rbx: NOWHERE, rcx: turns, rip: rip as u64, rflags: 2, ..Registers::default() };
        ioctl(self.vcpu.as_fd(), SET_REGS, &raw const registers as usize).map(drop)
    }

    /// Runs until the guest writes where no memory is.
    fn run(&mut self) -> Result<()> {
        loop {
            match ioctl(self.vcpu.as_fd(), RUN, 0) {
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => return Err(errno),
                Ok(_) => break,
            }
        }
        if self.shared.read_u32(EXIT_REASON)? == EXIT_MMIO { Ok(()) } else { Err(Errno::IO) }
    }

    /// Turns in a second.
    fn loop_rate(&mut self) -> Result<u64> {
        // Faults in the pages.
        self.set(CODE, 1)?;
        self.run()?;
        let (begin, mut turns) = (Instant::now(), 1000u64);
        loop {
            self.set(CODE, turns)?;
            let start = Instant::now();
            self.run()?;
            let took = start.elapsed();
            if took >= BUDGET / 5 || begin.elapsed() >= BUDGET {
                return Ok(rate(turns, took));
            }
            turns *= 4;
        }
    }

    /// Nanoseconds of one exit.
    fn exit_time(&mut self) -> Result<u64> {
        self.set(EXITS, 0)?;
        self.run()?;
        let (begin, mut exits) = (Instant::now(), 0u64);
        while begin.elapsed() < BUDGET / 5 {
            self.run()?;
            exits += 1;
        }
        let nanoseconds = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Ok(nanoseconds / exits.max(1))
    }
}

fn rate(turns: u64, took: Duration) -> u64 {
    (turns as f64 / took.as_secs_f64().max(1e-9)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_told_apart() {
        let check = |ring0, ring3, kind, words: &str| {
            let speed = Speed { ring0, ring3, exit_ns: Some(22_100) };
            assert_eq!((speed.kind(), speed.to_string().as_str()), (kind, words));
        };
        check(270_000, Some(1_190_000_000), Kind::Software, "software (ring 0: 0.3 M/s, ring 3: 1190 M/s, exit 22 us)");
        let words = "hardware (ring 0: 1200 M/s, ring 3: 1190 M/s, exit 22 us)";
        check(1_200_000_000, Some(1_190_000_000), Kind::Hardware, words);
        check(900_000, None, Kind::Software, "software (ring 0: 0.9 M/s, ring 3: none, exit 22 us)");
        check(1_200_000_000, None, Kind::Hardware, "hardware (ring 0: 1200 M/s, ring 3: none, exit 22 us)");
    }

    #[test]
    fn a_guest_runs_where_there_is_kvm() {
        match measure() {
            Ok(speed) => {
                println!("{speed} {speed:?}");
                assert!(speed.ring0 > 0);
            }
            Err(errno) => println!("skipped: no KVM here: {errno}"),
        }
    }
}
