//! A virtual machine of one processor that runs in user mode alone.
//!
//! The state (measured on software KVM, and checked under AMD's hardware virtualization as an emulator has it): long mode,
//! the selectors that Linux gives its own programs, gates that lead from user mode to user mode, pages that are all the
//! user's. A system call instruction goes to the given entry; the way out is a write to a page behind which there is
//! nothing. Kernel mode is entered by two gates only, for what user mode cannot do at all.

#![expect(unsafe_code, reason = "memory of ours becomes a guest's")]

mod counter;
mod detour;

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs, kvm_userspace_memory_region,
    kvm_xcrs,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use rustix::fs::{Mode, OFlags};
use sys::Errno;

pub use self::detour::Detour;
use crate::error::{Error, Result};
use crate::memory::Region;

/// Where things are that the processor must know, by the guest's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The physical address of the top page table.
    pub tables: u64,
    /// The descriptor table, of at least 128 bytes.
    pub descriptors: u64,
    /// The interrupt table, of 256 gates.
    pub interrupts: u64,
    /// The task state.
    pub task: u64,
    /// Where a system call instruction goes.
    pub call_entry: u64,
}

/// Where a guest begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The first instruction.
    pub entry: u64,
    /// The stack pointer.
    pub stack: u64,
    /// The first three arguments.
    pub arguments: [u64; 3],
}

/// All of a processor's state that a copy needs.
pub struct Registers {
    general: kvm_regs,
    special: kvm_sregs,
    extended: Box<kvm_bindings::kvm_xsave>,
}

/// What of [`Registers`] can be kept: the rest is what every guest begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The general registers in the order of `struct kvm_regs`, the flags last.
    pub general: [u64; 18],
    /// The bases of FS and GS.
    pub bases: [u64; 2],
    /// Vector and floating-point registers, as XSAVE writes them.
    pub extended: Vec<u8>,
}

impl Registers {
    /// What can be kept of them.
    pub fn keep(&self) -> Kept {
        let it = &self.general;
        Kept {
            general: [
                it.rax, it.rbx, it.rcx, it.rdx, it.rsi, it.rdi, it.rsp, it.rbp, it.r8, it.r9, it.r10, it.r11, it.r12,
                it.r13, it.r14, it.r15, it.rip, it.rflags,
            ],
            bases: [self.special.fs.base, self.special.gs.base],
            extended: self.extended.region.iter().flat_map(|it| it.to_le_bytes()).collect(),
        }
    }
}

/// The flags that a program sets itself, and interrupts.
const FLAGS: u64 = 0x24_0ed5;

fn general(kept: &Kept) -> kvm_regs {
    let [rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags] = kept.general;
    let rflags = rflags & FLAGS | 0x202;
    kvm_regs { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags }
}

/// Why a guest stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It wrote to the doorbell.
    Doorbell,
    /// Somebody called [`Interrupter::interrupt`].
    Interrupted,
    /// It touched memory behind which there is nothing, as of a file that became shorter.
    NoMemory,
    /// It did what no guest of ours does: that is its end.
    Broken(&'static str),
}

/// A virtual machine and its processor.
pub struct Machine {
    vcpu: VcpuFd,
    vm: VmFd,
    /// What is the guest's memory, by its physical address.
    slots: Vec<(u64, Arc<dyn Region>)>,
}

/// Makes a running guest stop soon, from any thread.
#[derive(Clone, Copy, Debug)]
pub struct Interrupter {
    process: i32,
    thread: i32,
}

/// The signal that makes a guest stop. It is blocked but while a guest runs.
const STOP: i32 = libc::SIGURG;

/// Linux's selectors for user code and data, and of the task state behind them.
const CODE: u16 = 0x33;
const DATA: u16 = 0x2b;
const TASK: u16 = 0x40;

/// What machines are made with.
#[derive(Debug)]
pub struct Host {
    kvm: Kvm,
    /// What its processors can do: asked once, since where the processor is virtual itself each answer costs hundreds of
    /// microseconds.
    features: Mutex<Option<Arc<CpuId>>>,
}

impl Host {
    /// The host's virtual machines.
    pub(crate) fn kvm(&self) -> &Kvm {
        &self.kvm
    }

    /// What its processors can do. Who asks while somebody else does waits for that answer.
    fn features(&self) -> Result<Arc<CpuId>> {
        let mut known = self.features.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(features) = &*known {
            return Ok(features.clone());
        }
        let asked = self.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
        let asked = Arc::new(asked.map_err(Error::kvm("asking for its features"))?);
        *known = Some(asked.clone());
        Ok(asked)
    }

    /// Asks for what a machine will need, for a thread that has nothing else to do while another makes one.
    pub fn look(&self) {
        let _ = self.features();
    }
}

impl From<OwnedFd> for Host {
    /// Takes up what [`Machine::open`] gave.
    fn from(kvm: OwnedFd) -> Self {
        // SAFETY: the descriptor is given away; what it is of, each call on it tells.
        let kvm = unsafe { Kvm::from_raw_fd(kvm.into_raw_fd()) };
        Self { kvm, features: Mutex::default() }
    }
}

impl Machine {
    /// Opens what machines are made with, if they can be made here at all.
    pub fn open() -> Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        rustix::fs::open("/dev/kvm", flags, Mode::empty()).map_err(Error::Unavailable)
    }

    /// Makes one without memory.
    pub fn new(host: &Host) -> Result<Self> {
        let vm = host.kvm.create_vm().map_err(Error::kvm("making a virtual machine"))?;
        let vcpu = vm.create_vcpu(0).map_err(Error::kvm("making a virtual processor"))?;
        vcpu.set_cpuid2(&*host.features()?).map_err(Error::kvm("setting a virtual processor's features"))?;
        counter::share(&vcpu);
        Ok(Self { vcpu, vm, slots: Vec::new() })
    }

    /// Gives it memory at that physical address.
    pub fn add(&mut self, physical: u64, memory: Arc<dyn Region>) -> Result<()> {
        let region = kvm_userspace_memory_region {
            slot: self.slots.len() as u32,
            flags: 0,
            guest_phys_addr: physical,
            memory_size: memory.length() as u64,
            userspace_addr: memory.address(),
        };
        // SAFETY: the memory is mapped as long as `slots` holds it, and nobody has a reference to it.
        unsafe { self.vm.set_user_memory_region(region) }.map_err(Error::kvm("giving a guest memory"))?;
        self.slots.push((physical, memory));
        Ok(())
    }

    /// Has a write of four bytes to an address without memory ring a bell (an eventfd), without stopping the guest.
    pub fn add_bell(&self, physical: u64, bell: BorrowedFd<'_>) -> Result<()> {
        self.set_bell(physical, bell, 0)
    }

    /// Takes that back.
    pub fn remove_bell(&self, physical: u64, bell: BorrowedFd<'_>) {
        const DEASSIGN: u32 = 4;
        let _ = self.set_bell(physical, bell, DEASSIGN);
    }

    fn set_bell(&self, physical: u64, bell: BorrowedFd<'_>, flags: u32) -> Result<()> {
        const IOEVENTFD: libc::c_ulong = 0x4040_ae79;
        let it =
            kvm_bindings::kvm_ioeventfd { addr: physical, len: 4, fd: bell.as_raw_fd(), flags, ..Default::default() };
        // SAFETY: the kernel reads that structure.
        let done = unsafe { libc::ioctl(self.vm.as_raw_fd(), IOEVENTFD, &raw const it) };
        if done < 0 {
            return Err(Error::Host { what: "giving a guest a bell", errno: Errno::INVAL });
        }
        Ok(())
    }

    /// Makes it ready to run from there.
    pub fn begin(&mut self, layout: &Layout, start: &Start) -> Result<()> {
        let host = Error::kvm("setting a virtual processor's registers");
        let mut special = self.vcpu.get_sregs().map_err(&host)?;
        describe(&mut special, layout);
        self.vcpu.set_sregs(&special).map_err(&host)?;
        self.set_call_entry(layout.call_entry)?;
        self.enable_extended()?;
        let mut general = self.vcpu.get_regs().map_err(&host)?;
        let [rdi, rsi, rdx] = start.arguments;
        (general.rip, general.rsp, general.rflags) = (start.entry, start.stack, 0x202);
        (general.rdi, general.rsi, general.rdx) = (rdi, rsi, rdx);
        self.vcpu.set_regs(&general).map_err(&host)
    }

    fn set_call_entry(&self, entry: u64) -> Result<()> {
        const STAR: u32 = 0xc000_0081;
        const LSTAR: u32 = 0xc000_0082;
        const FMASK: u32 = 0xc000_0084;
        let host = "setting where system calls go";
        let register = |index, data| kvm_msr_entry { index, data, ..Default::default() };
        let registers = [register(STAR, 0x0023_0010_0000_0000), register(LSTAR, entry), register(FMASK, 0)];
        let registers = Msrs::from_entries(&registers).map_err(|_| Error::Host { what: host, errno: Errno::INVAL })?;
        match self.vcpu.set_msrs(&registers).map_err(Error::kvm(host))? {
            3 => Ok(()),
            _ => Err(Error::Host { what: host, errno: Errno::INVAL }),
        }
    }

    /// Vector registers as wide as the processor has them; where that cannot be said, it is so already.
    fn enable_extended(&self) -> Result<()> {
        let Ok(mut extended) = self.vcpu.get_xcrs() else { return Ok(()) };
        for wanted in [0xe7, 0x7, 0x3] {
            extended.nr_xcrs = 1;
            extended.xcrs[0].xcr = 0;
            extended.xcrs[0].value = wanted;
            if self.vcpu.set_xcrs(&kvm_xcrs { ..extended }).is_ok() {
                break;
            }
        }
        Ok(())
    }

    /// All of its processor's state.
    pub fn registers(&self) -> Result<Registers> {
        let host = Error::kvm("reading a virtual processor's registers");
        Ok(Registers {
            general: self.vcpu.get_regs().map_err(&host)?,
            special: self.vcpu.get_sregs().map_err(&host)?,
            extended: Box::new(self.vcpu.get_xsave().map_err(&host)?),
        })
    }

    /// Makes its processor's state what another's was.
    pub fn resume(&mut self, registers: &Registers, layout: &Layout) -> Result<()> {
        let host = Error::kvm("setting a virtual processor's registers");
        self.enable_extended()?;
        self.vcpu.set_sregs(&registers.special).map_err(&host)?;
        self.set_call_entry(layout.call_entry)?;
        // SAFETY: it is what `get_xsave` gave; no dynamically enabled feature makes it longer.
        unsafe { self.vcpu.set_xsave(&registers.extended) }.map_err(&host)?;
        self.vcpu.set_regs(&registers.general).map_err(&host)
    }

    /// Makes its processor's state what was kept of another's. The processor itself refuses what it cannot have.
    pub fn resume_kept(&mut self, kept: &Kept, layout: &Layout) -> Result<()> {
        let host = Error::kvm("setting a virtual processor's registers");
        let mut special = self.vcpu.get_sregs().map_err(&host)?;
        describe(&mut special, layout);
        [special.fs.base, special.gs.base] = kept.bases;
        let mut extended = Box::<kvm_bindings::kvm_xsave>::default();
        for (word, bytes) in extended.region.iter_mut().zip(kept.extended.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        let registers = Registers { general: general(kept), special, extended };
        self.resume(&registers, layout)
    }

    /// The calling thread will run it: who wants to make it stop uses what this gives.
    pub fn adopt(&self) -> Result<Interrupter> {
        adopt(&self.vcpu)
    }

    /// Runs the guest until it stops. The calling thread blocks the signal that stops it.
    pub fn run(&mut self) -> Exit {
        loop {
            match self.vcpu.run() {
                Ok(VcpuExit::MmioWrite(..)) => return Exit::Doorbell,
                // Reads of the doorbell give nothing.
                Ok(VcpuExit::MmioRead(_, bytes)) => bytes.fill(0),
                Ok(VcpuExit::Intr) => {
                    forget_stop();
                    return Exit::Interrupted;
                }
                Ok(VcpuExit::IrqWindowOpen) => return Exit::Interrupted,
                Ok(VcpuExit::Shutdown) => return Exit::Broken("it faulted while it handled a fault"),
                Ok(VcpuExit::InternalError) => return Exit::Broken("the kernel could not emulate what it did"),
                Ok(VcpuExit::FailEntry(..)) => return Exit::Broken("its processor did not accept its state"),
                Ok(_) => return Exit::Broken("it did what no guest does"),
                Err(error) if error.errno() == libc::EINTR => {
                    forget_stop();
                    return Exit::Interrupted;
                }
                Err(error) if error.errno() == libc::EAGAIN => {}
                Err(error) if error.errno() == libc::EFAULT => return Exit::NoMemory,
                Err(_) => return Exit::Broken("the kernel refused to run it"),
            }
        }
    }

    /// Has the guest's interrupt gate entered before its next instruction. Says whether it will be.
    pub fn interrupt(&mut self, vector: u8) -> bool {
        const INTERRUPT: libc::c_ulong = 0x4004_ae86;
        let run = self.vcpu.get_kvm_run();
        if run.ready_for_interrupt_injection == 0 || run.if_flag == 0 {
            run.request_interrupt_window = 1;
            return false;
        }
        run.request_interrupt_window = 0;
        let vector = u32::from(vector);
        // SAFETY: `struct kvm_interrupt` is that number.
        unsafe { libc::ioctl(self.vcpu.as_raw_fd(), INTERRUPT, &raw const vector) >= 0 }
    }

    /// Gives up an interrupt that could not be had yet. As long as one is wanted, the guest stops before its next
    /// instruction as soon as it could be had.
    pub fn give_up_interrupt(&mut self) {
        self.vcpu.get_kvm_run().request_interrupt_window = 0;
    }

    /// Whether the guest's next instruction is not in there.
    pub fn is_outside(&self, addresses: std::ops::Range<u64>) -> bool {
        self.vcpu.get_regs().is_ok_and(|it| !addresses.contains(&it.rip))
    }

    /// Where the guest is, for messages.
    pub fn whereabouts(&self) -> String {
        match self.vcpu.get_regs() {
            Ok(it) => format!("instruction {:#x}, stack {:#x}", it.rip, it.rsp),
            Err(_) => "unknown".to_owned(),
        }
    }
}

/// The state of a processor in user mode, as the module's documentation describes it.
fn describe(it: &mut kvm_sregs, layout: &Layout) {
    let code = kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: CODE,
        type_: 11,
        present: 1,
        dpl: 3,
        db: 0,
        s: 1,
        l: 1,
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    };
    let data = kvm_segment { type_: 3, selector: DATA, l: 0, db: 1, ..code };
    (it.cs, it.ss, it.ds, it.es) = (code, data, data, data);
    it.fs = kvm_segment { selector: 0, ..data };
    it.gs = it.fs;
    it.tr = kvm_segment { base: layout.task, limit: 0x67, selector: TASK, s: 0, dpl: 0, l: 0, g: 0, ..code };
    (it.gdt.base, it.gdt.limit) = (layout.descriptors, 0x7f);
    (it.idt.base, it.idt.limit) = (layout.interrupts, 0xfff);
    // Paging, protection; SSE, extended state, user access to the thread pointer; long mode with system calls.
    const CR0: u64 = 0x8005_0033;
    const CR4: u64 = 0x5_06a0;
    const EFER: u64 = 0xd01;
    (it.cr3, it.cr0, it.cr4, it.efer) = (layout.tables, CR0, CR4, EFER);
}

/// The calling thread will run that processor.
pub(crate) fn adopt(vcpu: &VcpuFd) -> Result<Interrupter> {
    /// `struct kvm_signal_mask` with a set of 64 signals.
    #[repr(C)]
    struct Mask {
        length: u32,
        set: [u8; 8],
    }
    const SET_SIGNAL_MASK: libc::c_ulong = 0x4004_ae8b;
    let set = !(1u64 << (STOP - 1));
    let mask = Mask { length: 8, set: set.to_ne_bytes() };
    // SAFETY: the mask has the kernel's layout and the length that it says.
    let done = unsafe { libc::ioctl(vcpu.as_raw_fd(), SET_SIGNAL_MASK, &raw const mask) };
    if done < 0 {
        return Err(Error::Host { what: "preparing a guest's thread", errno: Errno::INVAL });
    }
    Ok(own_thread())
}

/// What stops a guest that the calling thread runs.
pub(crate) fn own_thread() -> Interrupter {
    // SAFETY: no preconditions.
    let (process, thread) = unsafe { (libc::getpid(), libc::gettid()) };
    Interrupter { process, thread }
}

/// Takes back a signal that has done its work.
pub(crate) fn forget_stop() {
    let set = 1u64 << (STOP - 1);
    let none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the set is eight bytes, as the length says; no description is asked for.
    unsafe { libc::syscall(libc::SYS_rt_sigtimedwait, &raw const set, 0, &raw const none, 8) };
}

impl Interrupter {
    /// The thread that runs the guest, by its number.
    pub fn thread(&self) -> i32 {
        self.thread
    }

    /// Makes the guest stop, now or as soon as it is run.
    pub fn interrupt(&self) {
        // SAFETY: sends a signal that its thread blocks; a thread that is gone is an error, which is as well.
        unsafe { libc::syscall(libc::SYS_tgkill, self.process, self.thread, STOP) };
    }
}
