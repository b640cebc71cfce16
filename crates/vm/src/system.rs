//! A virtual machine that has all of a processor: kernel mode, interrupts, and several of them if need be.
//!
//! It is for hosts whose processor executes a guest's kernel itself (VMX, SVM). The interrupt controllers are those of the
//! host's kernel (an APIC for each processor, and one for 24 lines), so that a processor that waits for an interrupt waits
//! there and is woken there. **Nothing here decides what is at an address**: what is no memory is given to whoever runs a
//! processor.

#![expect(unsafe_code, reason = "memory of ours becomes a guest's")]

mod features;
mod kept;

use std::sync::Arc;

use kvm_bindings::{
    CpuId, KVM_IRQCHIP_IOAPIC, KVM_MAX_CPUID_ENTRIES, KvmIrqRouting, Msrs, kvm_irq_routing_entry, kvm_msr_entry,
    kvm_segment, kvm_userspace_memory_region, kvm_xsave,
};
use kvm_ioctls::{Cap, Kvm, VcpuExit, VcpuFd, VmFd};
use sys::Errno;

pub use self::kept::{KeptProcessor, KeptSystem};
use crate::error::{Error, Result};
use crate::machine::{Host, Interrupter, adopt, forget_stop, own_thread};
use crate::memory::Region;

/// Lines of the interrupt controller that all processors share.
pub const LINES: u32 = 24;
/// Where the registers of that controller are, and those of each processor's own.
pub const LINES_AT: u32 = 0xfec0_0000;
/// See [`LINES_AT`].
pub const OWN_AT: u32 = 0xfee0_0000;
/// Pages that the host's kernel needs for itself on some processors, where nobody has anything.
const OF_THE_KERNEL: u64 = 0xfffb_c000;

/// A virtual machine.
pub struct System {
    vm: VmFd,
    features: CpuId,
    /// The numbers of those registers that have numbers and are of a processor's state.
    registers: Arc<[u32]>,
    /// What is the guest's memory.
    slots: Vec<Arc<dyn Region>>,
}

/// One of its processors.
pub struct Virtual {
    vcpu: VcpuFd,
    registers: Arc<[u32]>,
}

/// What a processor touches that is no memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A physical address.
    Address(u64),
    /// A port.
    Port(u16),
}

/// How it does.
#[derive(Debug)]
pub enum Touch<'t> {
    /// It is given these bytes.
    Load(Place, &'t mut [u8]),
    /// It gives these.
    Store(Place, &'t [u8]),
}

/// Why a processor stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pause {
    /// It touched what is no memory, and has been served.
    Served,
    /// Somebody called [`Interrupter::interrupt`].
    Interrupted,
    /// It can go on no more but from its reset: a fault in the midst of a fault, as a kernel makes that wants to begin anew.
    Reset,
    /// The host cannot execute what it is to do.
    Broken(String),
}

/// Where the first processor begins, in 64-bit mode, by physical addresses that are virtual ones too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its first instruction.
    pub instruction: u64,
    /// What `rsi` points to.
    pub argument: u64,
    /// The top page table.
    pub tables: u64,
    /// A table of four descriptors: nothing twice, code, data.
    pub descriptors: u64,
}

impl System {
    /// Makes one without memory and processors.
    pub fn new(host: &Host) -> Result<System> {
        let kvm = host.kvm();
        let vm = kvm.create_vm().map_err(Error::kvm("making a virtual machine"))?;
        vm.set_tss_address(OF_THE_KERNEL as usize + 0x1000).map_err(Error::kvm("giving the kernel its pages"))?;
        vm.set_identity_map_address(OF_THE_KERNEL).map_err(Error::kvm("giving the kernel its pages"))?;
        let failed = Error::kvm("making interrupt controllers");
        vm.create_irq_chip().map_err(&failed)?;
        let lines: Vec<_> = (0..LINES).map(line).collect();
        let lines = KvmIrqRouting::from_entries(&lines).map_err(|_| Error::host("leading lines")(Errno::INVAL))?;
        vm.set_gsi_routing(&lines).map_err(&failed)?;
        let registers = kvm.get_msr_index_list().map_err(Error::kvm("asking for its registers"))?;
        Ok(System { vm, features: features(kvm)?, registers: registers.as_slice().into(), slots: Vec::new() })
    }

    /// Gives it memory at that physical address, from there on in its region.
    pub fn add(&mut self, physical: u64, memory: Arc<dyn Region>, part: std::ops::Range<u64>) -> Result<()> {
        if part.start > part.end || part.end > memory.length() as u64 {
            return Err(Error::host("giving a guest memory")(Errno::INVAL));
        }
        let region = kvm_userspace_memory_region {
            slot: self.slots.len() as u32,
            flags: 0,
            guest_phys_addr: physical,
            memory_size: part.end - part.start,
            userspace_addr: memory.address() + part.start,
        };
        // SAFETY: inside what is mapped as long as `slots` holds it, and nobody has a reference to it.
        unsafe { self.vm.set_user_memory_region(region) }.map_err(Error::kvm("giving a guest memory"))?;
        self.slots.push(memory);
        Ok(())
    }

    /// Where addresses end that its processors have.
    pub fn addresses_end(&self) -> u64 {
        const SIZES: u32 = 0x8000_0008;
        /// What every processor of 64 bits has at least, as one that does not say has.
        const LEAST: u32 = 36;
        let sizes = self.features.as_slice().iter().find(|it| it.function == SIZES);
        1 << sizes.map_or(LEAST, |it| it.eax & 0xff).clamp(LEAST, 52)
    }

    /// Makes the processor of that number, of so many. The first begins where it is told, others when one tells them.
    pub fn processor(&self, number: usize, count: usize) -> Result<Virtual> {
        let vcpu = self.vm.create_vcpu(number as u64).map_err(Error::kvm("making a virtual processor"))?;
        let mut features = self.features.clone();
        identify(&mut features, number as u32, count as u32);
        vcpu.set_cpuid2(&features).map_err(Error::kvm("setting a virtual processor's features"))?;
        set_firmwares(&vcpu);
        Ok(Virtual { vcpu, registers: Arc::clone(&self.registers) })
    }

    /// Sets a line of the interrupt controller.
    pub fn set_line(&self, line: u32, level: Level) {
        // It fails for lines alone that there are none of.
        let _ = self.vm.set_irq_line(line, level == Level::High);
    }
}

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Nothing is wanted.
    Low,
    /// Something is.
    High,
}

/// A line leads to the controller that all share, and not to the old one beside it, which no kernel of ours sets up.
fn line(number: u32) -> kvm_irq_routing_entry {
    const TO_A_CONTROLLER: u32 = 1;
    let mut entry = kvm_irq_routing_entry { gsi: number, type_: TO_A_CONTROLLER, ..Default::default() };
    entry.u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
    entry.u.irqchip.pin = number;
    entry
}

/// What the host's processors can do for a guest.
fn features(kvm: &Kvm) -> Result<CpuId> {
    const TIMER_BY_COUNTER: u32 = 1 << 24;
    const IS_VIRTUAL: u32 = 1 << 31;
    let asked = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
    let mut features = asked.map_err(Error::kvm("asking for its features"))?;
    let has_timer = kvm.check_extension(Cap::TscDeadlineTimer);
    for entry in features.as_mut_slice().iter_mut().filter(|it| it.function == 1) {
        entry.ecx |= IS_VIRTUAL | if has_timer { TIMER_BY_COUNTER } else { 0 };
    }
    Ok(features)
}

/// Says in its features which processor it is.
fn identify(features: &mut CpuId, number: u32, count: u32) {
    for entry in features.as_mut_slice() {
        match entry.function {
            0x1 => entry.ebx = entry.ebx & 0xffff | count.min(255) << 16 | number << 24,
            0xb | 0x1f => entry.edx = number,
            // A core of its own, all of one node.
            0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (number, number, 0),
            _ => {}
        }
    }
}

/// What a firmware would have set before it began a kernel: memory is cached, and texts are copied fast. A processor that
/// lacks either does without.
fn set_firmwares(vcpu: &VcpuFd) {
    const CACHING: (u32, u64) = (0x2ff, 0x806);
    const FAST_COPIES: (u32, u64) = (0x1a0, 1);
    for (index, data) in [CACHING, FAST_COPIES] {
        let _ = Msrs::from_entries(&[kvm_msr_entry { index, data, ..Default::default() }]).map(|it| vcpu.set_msrs(&it));
    }
}

impl Virtual {
    /// It begins there.
    pub fn begin(&self, entry: &Entry) -> Result<()> {
        let host = Error::kvm("setting a virtual processor's registers");
        let mut special = self.vcpu.get_sregs().map_err(&host)?;
        let code = kvm_segment {
            limit: u32::MAX,
            selector: 0x10,
            type_: 11,
            present: 1,
            s: 1,
            l: 1,
            g: 1,
            ..Default::default()
        };
        let data = kvm_segment { selector: 0x18, type_: 3, l: 0, db: 1, ..code };
        special.cs = code;
        (special.ds, special.es, special.fs, special.gs, special.ss) = (data, data, data, data, data);
        (special.gdt.base, special.gdt.limit) = (entry.descriptors, 4 * 8 - 1);
        // Paging, protection; large entries; long mode, active.
        (special.cr3, special.cr0, special.cr4, special.efer) = (entry.tables, 0x8000_0031, 0x20, 0x500);
        self.vcpu.set_sregs(&special).map_err(&host)?;
        let mut general = self.vcpu.get_regs().map_err(&host)?;
        (general.rip, general.rsi, general.rflags) = (entry.instruction, entry.argument, 2);
        self.vcpu.set_regs(&general).map_err(&host)
    }

    /// The calling thread, which blocks the signal that stops a guest, will run it.
    pub fn adopt(&self) -> Result<Interrupter> {
        adopt(&self.vcpu)
    }

    /// Runs it until there is something to do for others than `serve`.
    pub fn run(&mut self, serve: &mut dyn FnMut(Touch<'_>)) -> Pause {
        match self.vcpu.run() {
            Ok(VcpuExit::MmioRead(at, bytes)) => serve(Touch::Load(Place::Address(at), bytes)),
            Ok(VcpuExit::MmioWrite(at, bytes)) => serve(Touch::Store(Place::Address(at), bytes)),
            Ok(VcpuExit::IoIn(port, bytes)) => serve(Touch::Load(Place::Port(port), bytes)),
            Ok(VcpuExit::IoOut(port, bytes)) => serve(Touch::Store(Place::Port(port), bytes)),
            Ok(VcpuExit::Shutdown) => return Pause::Reset,
            Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen) => return interrupted(),
            Ok(other) => return Pause::Broken(format!("{other:?}")),
            Err(error) => match error.errno() {
                libc::EINTR => return interrupted(),
                libc::EAGAIN => {}
                errno => return Pause::Broken(Errno::from_raw_os_error(errno).to_string()),
            },
        }
        Pause::Served
    }

    /// Has it take what it was served last, and do nothing else: until then that is its own only in part. The calling thread
    /// is the one that runs it.
    pub fn settle(&mut self, serve: &mut dyn FnMut(Touch<'_>)) -> Pause {
        own_thread().interrupt();
        loop {
            match self.run(serve) {
                // One access may be served in parts.
                Pause::Served => {}
                pause => return pause,
            }
        }
    }

    /// Sets what programs save of its registers.
    fn set_extended(&self, extended: &kvm_xsave) -> Result<()> {
        // SAFETY: the structure is whole; no dynamically enabled feature makes it longer.
        unsafe { self.vcpu.set_xsave(extended) }.map_err(Error::kvm("setting a virtual processor's registers"))
    }

    /// Where it is.
    pub fn instruction(&self) -> u64 {
        self.vcpu.get_regs().map_or(0, |it| it.rip)
    }
}

fn interrupted() -> Pause {
    forget_stop();
    Pause::Interrupted
}
