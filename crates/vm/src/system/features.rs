//! What processors can do, and whether a host's can do what a guest has seen.
//!
//! A guest looks once and for all: its kernel has written into its own code what its processor has. **What goes on elsewhere
//! goes on with the features that it began with**, so the host must have all of these; that it has more is no harm.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use crate::error::{Error, Result};

/// An answer of the instruction `cpuid`: what was asked (`eax`, `ecx`, and whether that matters), and `eax` to `edx`.
pub(super) type Leaf = [u32; 7];

/// All answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leaves(pub(super) Vec<Leaf>);

/// Registers of an answer.
const EAX: usize = 0;
const EBX: usize = 1;
const ECX: usize = 2;
const EDX: usize = 3;

/// A register of an answer that is a set of features, and which of its bits are something else.
struct Set {
    leaf: u32,
    index: u32,
    register: usize,
    /// What the processor says of the moment.
    momentary: u32,
}

const fn set(leaf: u32, index: u32, register: usize) -> Set {
    Set { leaf, index, register, momentary: 0 }
}

const SETS: &[Set] = &[
    // Whether the kernel has switched on wide registers, and keys of pages.
    Set { momentary: 1 << 27, ..set(1, 0, ECX) },
    set(1, 0, EDX),
    set(6, 0, EAX),
    set(7, 0, EBX),
    Set { momentary: 1 << 4, ..set(7, 0, ECX) },
    set(7, 0, EDX),
    set(7, 1, EAX),
    set(7, 1, EDX),
    set(7, 2, EDX),
    // Which parts of a program's registers can be saved, and how.
    set(EXTENDED, 0, EAX),
    set(EXTENDED, 0, EDX),
    set(EXTENDED, 1, EAX),
    set(EXTENDED, 1, ECX),
    set(0x4000_0001, 0, EAX),
    set(0x8000_0001, 0, ECX),
    set(0x8000_0001, 0, EDX),
    set(0x8000_0007, 0, EDX),
    set(SIZES, 0, EBX),
    set(0x8000_000a, 0, EDX),
    set(0x8000_0021, 0, EAX),
];

const MAKER: u32 = 0;
const EXTENDED: u32 = 0xd;
const SIZES: u32 = 0x8000_0008;

/// What some are called, by the leaf, its index, the register and the bit.
const NAMES: &[(u32, u32, usize, u32, &str)] = &[
    (1, 0, ECX, 0, "sse3"),
    (1, 0, ECX, 9, "ssse3"),
    (1, 0, ECX, 12, "fma"),
    (1, 0, ECX, 13, "cx16"),
    (1, 0, ECX, 17, "pcid"),
    (1, 0, ECX, 19, "sse4_1"),
    (1, 0, ECX, 20, "sse4_2"),
    (1, 0, ECX, 21, "x2apic"),
    (1, 0, ECX, 22, "movbe"),
    (1, 0, ECX, 23, "popcnt"),
    (1, 0, ECX, 24, "tsc_deadline_timer"),
    (1, 0, ECX, 25, "aes"),
    (1, 0, ECX, 26, "xsave"),
    (1, 0, ECX, 28, "avx"),
    (1, 0, ECX, 29, "f16c"),
    (1, 0, ECX, 30, "rdrand"),
    (7, 0, EBX, 0, "fsgsbase"),
    (7, 0, EBX, 3, "bmi1"),
    (7, 0, EBX, 5, "avx2"),
    (7, 0, EBX, 7, "smep"),
    (7, 0, EBX, 8, "bmi2"),
    (7, 0, EBX, 9, "erms"),
    (7, 0, EBX, 10, "invpcid"),
    (7, 0, EBX, 16, "avx512f"),
    (7, 0, EBX, 18, "rdseed"),
    (7, 0, EBX, 19, "adx"),
    (7, 0, EBX, 20, "smap"),
    (7, 0, EBX, 29, "sha_ni"),
    (7, 0, ECX, 2, "umip"),
    (7, 0, ECX, 3, "pku"),
    (7, 0, ECX, 16, "la57"),
    (7, 0, ECX, 22, "rdpid"),
    (7, 0, EDX, 26, "ibrs"),
    (EXTENDED, 1, EAX, 0, "xsaveopt"),
    (EXTENDED, 1, EAX, 1, "xsavec"),
    (EXTENDED, 1, EAX, 3, "xsaves"),
    (0x8000_0001, 0, ECX, 5, "lzcnt"),
    (0x8000_0001, 0, EDX, 20, "nx"),
    (0x8000_0001, 0, EDX, 26, "pdpe1gb"),
    (0x8000_0001, 0, EDX, 27, "rdtscp"),
    (0x8000_0007, 0, EDX, 8, "constant_tsc"),
];

impl Leaves {
    /// What the kernel says.
    pub(super) fn of(features: &CpuId) -> Leaves {
        let leaf = |it: &kvm_cpuid_entry2| [it.function, it.index, it.flags, it.eax, it.ebx, it.ecx, it.edx];
        Leaves(features.as_slice().iter().map(leaf).collect())
    }

    /// The same, to say to the kernel.
    pub(super) fn given(&self) -> Result<CpuId> {
        let entry = |it: &Leaf| {
            let [function, index, flags, eax, ebx, ecx, edx] = *it;
            kvm_cpuid_entry2 { function, index, flags, eax, ebx, ecx, edx, padding: [0; 3] }
        };
        let entries: Vec<_> = self.0.iter().map(entry).collect();
        CpuId::from_entries(&entries).map_err(|_| Error::Unfit("its processor says too much of itself".into()))
    }

    /// An answer's four registers; zeros if there is none.
    fn answer(&self, leaf: u32, index: u32) -> [u32; 4] {
        let is_it = |it: &&Leaf| it[0] == leaf && (it[1] == index || it[2] & KVM_CPUID_FLAG_SIGNIFCANT_INDEX == 0);
        self.0.iter().find(is_it).map_or([0; 4], |&[_, _, _, eax, ebx, ecx, edx]| [eax, ebx, ecx, edx])
    }

    fn maker(&self) -> String {
        let [_, ebx, ecx, edx] = self.answer(MAKER, 0);
        String::from_utf8_lossy(&[ebx, edx, ecx].map(u32::to_le_bytes).concat()).into_owned()
    }

    /// Why what has seen these cannot go on where there are those.
    pub(super) fn obstacle(&self, host: &Leaves) -> Option<String> {
        if self.maker() != host.maker() {
            return Some(format!("its processor is one of {}, and the host's one of {}", self.maker(), host.maker()));
        }
        let lacking: Vec<String> = SETS.iter().flat_map(|it| self.lacking(host, it)).collect();
        if !lacking.is_empty() {
            return Some(format!("the host's processor has not all that its has: it lacks {}", lacking.join(", ")));
        }
        let bits = |it: &Leaves| it.answer(SIZES, 0)[EAX] & 0xff;
        if bits(self) > bits(host) {
            let (its, hosts) = (bits(self), bits(host));
            return Some(format!("its processor has addresses of {its} bits, and the host's of {hosts}"));
        }
        // Where each part of a program's registers is, when they are saved as they are kept.
        let [low, _, _, high] = self.answer(EXTENDED, 0);
        let parts = u64::from(high) << 32 | u64::from(low);
        let place = |it: &Leaves, part| {
            let [size, at, ..] = it.answer(EXTENDED, part);
            (size, at)
        };
        let differs = (2..63).filter(|part| parts >> part & 1 != 0).find(|it| place(self, *it) != place(host, *it));
        differs.map(|part| format!("part {part} of its processor's registers is kept elsewhere by the host's"))
    }

    /// Which of a set's features the host has not.
    fn lacking(&self, host: &Leaves, set: &Set) -> Vec<String> {
        let of = |it: &Leaves| it.answer(set.leaf, set.index)[set.register];
        let lacking = of(self) & !of(host) & !set.momentary;
        let name = |bit: u32| {
            let known = NAMES.iter().find(|it| (it.0, it.1, it.2, it.3) == (set.leaf, set.index, set.register, bit));
            known.map_or_else(
                || {
                    let register = ["eax", "ebx", "ecx", "edx"][set.register];
                    format!("bit {bit} of {register} of leaf {:#x}.{}", set.leaf, set.index)
                },
                |it| it.4.to_owned(),
            )
        };
        (0..32).filter(|bit| lacking >> bit & 1 != 0).map(name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processor() -> Leaves {
        const MATTERS: u32 = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
        let text = |it: &[u8; 4]| u32::from_le_bytes(*it);
        Leaves(vec![
            [0, 0, 0, 0xd, text(b"Genu"), text(b"ntel"), text(b"ineI")],
            [1, 0, 0, 0x806f8, 0x0100_0800, 0x9c98_2203, 0x0f8b_fbff],
            [7, 0, MATTERS, 2, 0x0001_0020, 0x10, 0],
            [7, 1, MATTERS, 0x10, 0, 0, 0],
            [EXTENDED, 0, MATTERS, 0xe7, 0x988, 0xa88, 0],
            [EXTENDED, 2, MATTERS, 0x100, 0x240, 0, 0],
            [EXTENDED, 5, MATTERS, 0x40, 0x440, 0, 0],
            [EXTENDED, 6, MATTERS, 0x200, 0x480, 0, 0],
            [EXTENDED, 7, MATTERS, 0x400, 0x680, 0, 0],
            [SIZES, 0, 0, 0x3030, 0x200, 0, 0],
        ])
    }

    /// What the host's answers are with one word changed, and what is said then.
    fn check(leaf: u32, index: u32, register: usize, change: impl Fn(u32) -> u32, wanted: Option<&str>) {
        let mut host = processor();
        let it = host.0.iter_mut().find(|it| it[0] == leaf && it[1] == index).unwrap();
        it[3 + register] = change(it[3 + register]);
        let found = processor().obstacle(&host);
        assert_eq!(found.is_some(), wanted.is_some(), "{leaf:#x}.{index} {register}: {found:?}");
        let found = found.unwrap_or_default();
        assert!(found.contains(wanted.unwrap_or_default()), "{found}");
    }

    #[test]
    fn a_host_has_all_that_a_guest_has_seen() {
        check(1, 0, EBX, |_| 0x0200_1000, None);
        check(1, 0, EAX, |_| 0x806f9, None);
        check(7, 0, EBX, |it| it | 1 << 29, None);
        check(SIZES, 0, EAX, |_| 0x3034, None);
        check(1, 0, ECX, |it| it & !(1 << 27), None);
        check(7, 0, ECX, |_| 0, None);
        check(EXTENDED, 0, EBX, |_| 0x240, None);
        check(
            0,
            0,
            EBX,
            |_| u32::from_le_bytes(*b"Auth"),
            Some("one of GenuineIntel, and the host's one of AuthineIntel"),
        );
        check(7, 0, EBX, |it| it & !(1 << 16), Some("it lacks avx512f"));
        check(7, 0, EBX, |_| 0, Some("it lacks avx2, avx512f"));
        check(7, 1, EAX, |_| 0, Some("it lacks bit 4 of eax of leaf 0x7.1"));
        check(1, 0, EDX, |it| it & !1, Some("it lacks bit 0 of edx of leaf 0x1.0"));
        check(EXTENDED, 0, EAX, |_| 7, Some("bit 5 of eax of leaf 0xd.0"));
        check(EXTENDED, 7, EBX, |_| 0x700, Some("part 7 of its processor's registers"));
        check(SIZES, 0, EAX, |_| 0x302e, Some("addresses of 48 bits, and the host's of 46"));
        assert_eq!(processor().obstacle(&processor()), None);
        assert!(processor().obstacle(&Leaves(Vec::new())).is_some());
    }

    #[test]
    fn what_is_said_to_the_kernel_is_what_it_said() {
        assert_eq!(Leaves::of(&processor().given().unwrap()), processor());
        assert!(Leaves(vec![[0; 7]; 1000]).given().is_err());
    }
}
