//! Processors that an image may be made for. A property of the image: the boundary does not change with it.

use std::fmt;
use std::str::FromStr;

use crate::parse::{ParseError, serde_as_text};

/// An instruction set. Displayed by its OCI name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arch {
    /// x86-64.
    Amd64,
    /// AArch64.
    Arm64,
    /// 32-bit ARM, hard float, version 7.
    Arm,
    /// 64-bit RISC-V.
    Riscv64,
    /// 64-bit little-endian POWER.
    Ppc64le,
    /// IBM Z.
    S390x,
    /// 32-bit x86.
    I386,
}

impl Arch {
    /// Each architecture, with its OCI name, its Debian name and its ELF machine number.
    const TABLE: [(Self, &'static str, &'static str, u16); 7] = [
        (Self::Amd64, "amd64", "amd64", 62),
        (Self::Arm64, "arm64", "arm64", 183),
        (Self::Arm, "arm", "armhf", 40),
        (Self::Riscv64, "riscv64", "riscv64", 243),
        (Self::Ppc64le, "ppc64le", "ppc64el", 21),
        (Self::S390x, "s390x", "s390x", 22),
        (Self::I386, "386", "i386", 3),
    ];

    /// The processor this program was built for, which is the one it runs on.
    pub const HOST: Self = if cfg!(target_arch = "x86_64") {
        Self::Amd64
    } else if cfg!(target_arch = "aarch64") {
        Self::Arm64
    } else {
        Self::Riscv64
    };

    fn row(self) -> &'static (Self, &'static str, &'static str, u16) {
        // The table has a row for each variant; a test walks it.
        Self::TABLE.iter().find(|row| row.0 == self).unwrap_or(&Self::TABLE[0])
    }

    /// The name in an OCI platform: Go's `GOARCH`.
    pub fn oci(self) -> &'static str {
        self.row().1
    }

    /// The name in Debian's archive.
    pub fn debian(self) -> &'static str {
        self.row().2
    }

    /// `e_machine` of its ELF files.
    pub fn elf_machine(self) -> u16 {
        self.row().3
    }

    /// The architecture whose ELF files carry that `e_machine`.
    pub fn from_elf_machine(machine: u16) -> Option<Self> {
        Self::TABLE.iter().find(|row| row.3 == machine).map(|row| row.0)
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.oci())
    }
}

impl FromStr for Arch {
    type Err = ParseError;
    /// Takes OCI, Debian and kernel names alike.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let found = match text {
            "x86_64" | "x86-64" => Some(Self::Amd64),
            "aarch64" => Some(Self::Arm64),
            "armv7" | "armv7l" => Some(Self::Arm),
            "i686" => Some(Self::I386),
            _ => Self::TABLE.iter().find(|row| row.1 == text || row.2 == text).map(|row| row.0),
        };
        found.ok_or_else(|| {
            let names: Vec<_> = Self::TABLE.iter().map(|row| row.1).collect();
            ParseError::new("processor architecture", text, format!("one of {}", names.join(", ")))
        })
    }
}

serde_as_text!(Arch);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_leads_back_to_its_architecture() {
        for (arch, oci, debian, machine) in Arch::TABLE {
            assert_eq!(oci.parse(), Ok(arch));
            assert_eq!(debian.parse(), Ok(arch));
            assert_eq!((arch.oci(), arch.debian()), (oci, debian));
            assert_eq!(Arch::from_elf_machine(machine), Some(arch));
        }
        assert!("vax".parse::<Arch>().is_err());
    }
}
