//! Virtual processors and their controllers as data: what they are made again of, elsewhere or later.
//!
//! Each structure of the kernel's interface is kept as its bytes, which that interface never gives another meaning. **What is
//! kept is judged before anything is made of it**: structures have their lengths, the processor's features are the
//! host's, and a register that cannot have its value is an error. The rest the kernel judges, as it does for any program.
//!
//! The order in which things are read and set is the kernel's: to read what a processor does settles what it was told; its
//! controller has its mode before its deadline is set; lines are taken up when there are processors to tell of them.

use std::collections::BTreeMap;

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, Msrs, kvm_clock_data, kvm_irqchip, kvm_mp_state,
    kvm_msr_entry,
};
use kvm_ioctls::{KvmNestedStateBuffer, VcpuFd};
use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::features::{Leaf, Leaves};
use super::{System, Virtual};
use crate::error::{Error, Result};
use crate::machine::Host;

/// A virtual processor, between two instructions. The names are those of the kernel's structures where there are any.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptProcessor {
    /// Whether it runs, waits, or has not begun.
    mp_state: u32,
    regs: Vec<u8>,
    sregs: Vec<u8>,
    xsave: Vec<u8>,
    xcrs: Vec<u8>,
    debugregs: Vec<u8>,
    lapic: Vec<u8>,
    vcpu_events: Vec<u8>,
    /// How often its counter counts in a millisecond, if the host says so.
    tsc_khz: Option<u32>,
    /// Its registers that have numbers.
    msrs: Vec<(u32, u64)>,
    /// What it is in the midst of as a host of further virtual machines, if it can be one.
    nested_state: Option<Vec<u8>>,
}

/// What a virtual machine has beside its memory and its processors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptSystem {
    /// What its processors can do.
    cpuid: Vec<Leaf>,
    /// Its controllers of interrupts, by their numbers.
    irqchips: Vec<Vec<u8>>,
    /// The clock that the host's kernel tells it, in nanoseconds.
    clock: u64,
}

const CHIPS: [u32; 3] = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];
/// Registers that are asked for at once.
const AT_ONCE: usize = 64;
/// When its controller's timer is due, in ticks of the counter: set when that and the timer's mode are.
const DEADLINE: u32 = 0x6e0;
/// Counters may differ by so much of a million without anybody's being told: the kernel's own limit.
const TOLERANCE: u64 = 250;

fn bytes(of: &(impl IntoBytes + Immutable)) -> Vec<u8> {
    of.as_bytes().to_vec()
}

/// A structure of those bytes, of which there are as many as it has.
fn structure<T: FromBytes>(name: &'static str, bytes: &[u8]) -> Result<T> {
    let wrong = |_| Error::Unfit(format!("{name} has {} bytes and not {}", bytes.len(), size_of::<T>()));
    T::read_from_bytes(bytes).map_err(|it| wrong(it.map_src(drop)))
}

impl System {
    /// What it is. Its processors stand still.
    pub fn keep(&self) -> Result<KeptSystem> {
        let chip = |number: &u32| {
            let mut chip = kvm_irqchip { chip_id: *number, ..Default::default() };
            self.vm.get_irqchip(&mut chip).map_err(Error::kvm("reading interrupt controllers"))?;
            Ok(bytes(&chip))
        };
        let clock = self.vm.get_clock().map_err(Error::kvm("reading a virtual machine's clock"))?.clock;
        let irqchips = CHIPS.iter().map(chip).collect::<Result<_>>()?;
        Ok(KeptSystem { cpuid: Leaves::of(&self.features).0, irqchips, clock })
    }

    /// One whose processors are like those of another, if the host can have such.
    pub fn like(host: &Host, kept: &KeptSystem) -> Result<System> {
        let mut system = System::new(host)?;
        let leaves = Leaves(kept.cpuid.clone());
        if let Some(why) = leaves.obstacle(&Leaves::of(&system.features)) {
            return Err(Error::Unfit(why));
        }
        system.features = leaves.given()?;
        Ok(system)
    }

    /// Goes on from there. All of its processors have.
    pub fn resume(&self, kept: &KeptSystem) -> Result<()> {
        let chips = kept.irqchips.iter().map(|it| structure::<kvm_irqchip>("an interrupt controller", it));
        let chips = chips.collect::<Result<Vec<_>>>()?;
        if !chips.iter().map(|it| it.chip_id).eq(CHIPS) {
            return Err(Error::Unfit("it has other interrupt controllers".into()));
        }
        let clock = kvm_clock_data { clock: kept.clock, ..Default::default() };
        self.vm.set_clock(&clock).map_err(Error::kvm("setting a virtual machine's clock"))?;
        let set = |it: &kvm_irqchip| self.vm.set_irqchip(it).map_err(Error::kvm("setting interrupt controllers"));
        chips.iter().try_for_each(set)
    }
}

impl Virtual {
    /// What it is. It stands still, and has taken what it was served.
    pub fn keep(&self) -> Result<KeptProcessor> {
        let failed = Error::kvm("reading a virtual processor's state");
        let vcpu = &self.vcpu;
        // In this order: see above.
        let mp_state = vcpu.get_mp_state().map_err(&failed)?.mp_state;
        Ok(KeptProcessor {
            mp_state,
            regs: bytes(&vcpu.get_regs().map_err(&failed)?),
            sregs: bytes(&vcpu.get_sregs().map_err(&failed)?),
            xsave: bytes(&vcpu.get_xsave().map_err(&failed)?),
            xcrs: bytes(&vcpu.get_xcrs().map_err(&failed)?),
            debugregs: bytes(&vcpu.get_debug_regs().map_err(&failed)?),
            lapic: bytes(&vcpu.get_lapic().map_err(&failed)?),
            tsc_khz: vcpu.get_tsc_khz().ok(),
            msrs: read_registers(vcpu, &self.registers)?,
            nested_state: nested(vcpu),
            vcpu_events: bytes(&vcpu.get_vcpu_events().map_err(&failed)?),
        })
    }

    /// Goes on from there.
    pub fn resume(&self, kept: &KeptProcessor) -> Result<()> {
        let failed = Error::kvm("setting a virtual processor's state");
        let vcpu = &self.vcpu;
        self.set_counting(kept.tsc_khz)?;
        vcpu.set_mp_state(kvm_mp_state { mp_state: kept.mp_state }).map_err(&failed)?;
        vcpu.set_regs(&structure("regs", &kept.regs)?).map_err(&failed)?;
        vcpu.set_sregs(&structure("sregs", &kept.sregs)?).map_err(&failed)?;
        self.set_extended(&structure("xsave", &kept.xsave)?)?;
        vcpu.set_xcrs(&structure("xcrs", &kept.xcrs)?).map_err(&failed)?;
        vcpu.set_debug_regs(&structure("debugregs", &kept.debugregs)?).map_err(&failed)?;
        vcpu.set_lapic(&structure("lapic", &kept.lapic)?).map_err(&failed)?;
        self.set_registers(&kept.msrs)?;
        self.set_nested(kept.nested_state.as_deref())?;
        vcpu.set_vcpu_events(&structure("vcpu_events", &kept.vcpu_events)?).map_err(&failed)?;
        // Its kernel is told that it stood still, if it asks: else it would believe that it hung.
        let _ = vcpu.kvmclock_ctrl();
        Ok(())
    }

    /// Has its counter count as the other's.
    fn set_counting(&self, wanted: Option<u32>) -> Result<()> {
        let (Some(wanted), Ok(has)) = (wanted, self.vcpu.get_tsc_khz()) else { return Ok(()) };
        if u64::from(wanted.abs_diff(has)) * 1_000_000 <= u64::from(wanted) * TOLERANCE {
            return Ok(());
        }
        self.vcpu.set_tsc_khz(wanted).map_err(|_| {
            let why = format!("its processor counts {wanted} times a millisecond, the host's {has} times");
            Error::Unfit(why)
        })
    }

    /// Has it be in the midst of what it was as a host, if it is not anyway.
    fn set_nested(&self, kept: Option<&[u8]>) -> Result<()> {
        let Some(kept) = kept else { return Ok(()) };
        let buffer = nested_of(kept)?;
        if nested(&self.vcpu).as_deref() == Some(kept) {
            return Ok(());
        }
        let failed = |_| Error::Unfit("its processor had virtual machines, which this host's cannot go on with".into());
        self.vcpu.set_nested_state(&buffer).map_err(failed)
    }

    /// Sets those registers that do not have their value anyway.
    fn set_registers(&self, kept: &[(u32, u64)]) -> Result<()> {
        let numbers: Vec<u32> = kept.iter().map(|it| it.0).collect();
        let has: BTreeMap<u32, u64> = read_registers(&self.vcpu, &numbers)?.into_iter().collect();
        let (late, early): (Vec<&(u32, u64)>, Vec<_>) = kept.iter().partition(|it| it.0 == DEADLINE);
        for (index, data) in early.into_iter().chain(late) {
            if has.get(index) == Some(data) {
                continue;
            }
            let one = Msrs::from_entries(&[kvm_msr_entry { index: *index, data: *data, ..Default::default() }]);
            if !one.is_ok_and(|it| self.vcpu.set_msrs(&it).is_ok_and(|count| count == 1)) {
                let why = format!("register {index:#x} of its processor cannot be {data:#x} on this host");
                return Err(Error::Unfit(why));
            }
        }
        Ok(())
    }
}

/// Of the buffer that the kernel fills, what it says that is.
fn nested(vcpu: &VcpuFd) -> Option<Vec<u8>> {
    let mut buffer = KvmNestedStateBuffer::empty();
    vcpu.nested_state(&mut buffer).ok()?;
    buffer.as_bytes().get(..buffer.size as usize).map(<[u8]>::to_vec)
}

/// The same buffer. The kernel believes its length.
fn nested_of(kept: &[u8]) -> Result<KvmNestedStateBuffer> {
    let mut all = kept.to_vec();
    all.resize(size_of::<KvmNestedStateBuffer>().max(kept.len()), 0);
    let buffer: KvmNestedStateBuffer = structure("nested_state", &all)?;
    if buffer.size as usize != kept.len() {
        return Err(Error::Unfit(format!("nested_state has {} bytes and says {}", kept.len(), buffer.size)));
    }
    Ok(buffer)
}

/// Those of the registers that there are.
fn read_registers(vcpu: &VcpuFd, numbers: &[u32]) -> Result<Vec<(u32, u64)>> {
    let mut all = Vec::with_capacity(numbers.len());
    let mut rest = numbers;
    while !rest.is_empty() {
        let asked = &rest[..rest.len().min(AT_ONCE)];
        let entries: Vec<_> = asked.iter().map(|index| kvm_msr_entry { index: *index, ..Default::default() }).collect();
        let failed = Error::kvm("reading a virtual processor's registers");
        let mut entries = Msrs::from_entries(&entries).map_err(|_| Error::Unfit("it has too many registers".into()))?;
        let count = vcpu.get_msrs(&mut entries).map_err(failed)?.min(asked.len());
        all.extend(entries.as_slice()[..count].iter().map(|it| (it.index, it.data)));
        // The kernel stops at the first that this processor does not have.
        rest = &rest[if count < asked.len() { count + 1 } else { count }..];
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvm_bindings::{kvm_regs, kvm_sregs};

    #[test]
    fn a_structure_has_its_length() {
        let regs = kvm_regs { rip: 0x1234, rsp: 7, ..Default::default() };
        let kept = bytes(&regs);
        assert_eq!(structure::<kvm_regs>("regs", &kept).unwrap(), regs);
        for wrong in [&kept[1..], &[], &[&kept[..], &[0]].concat()] {
            let error = structure::<kvm_regs>("regs", wrong).unwrap_err().to_string();
            assert!(error.contains(&format!("regs has {} bytes and not 144", wrong.len())), "{error}");
            assert!(structure::<kvm_sregs>("sregs", wrong).is_err());
        }
    }

    #[test]
    fn the_kernel_is_told_no_length_that_is_not_there() {
        const SIZE_AT: usize = 4;
        let of = |length: usize, says: u32| {
            let mut kept = vec![0; length];
            kept[SIZE_AT..SIZE_AT + 4].copy_from_slice(&says.to_le_bytes());
            nested_of(&kept)
        };
        let most = size_of::<KvmNestedStateBuffer>();
        for (length, says, is_sound) in [
            (128, 128, true),
            (most, most as u32, true),
            (128, 129, false),
            (128, u32::MAX, false),
            (most + 1, most as u32 + 1, false),
        ] {
            assert_eq!(of(length, says).is_ok(), is_sound, "{length} {says}");
        }
    }
}
