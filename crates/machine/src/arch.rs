//! The processors that there are descriptions of.

use std::sync::{Arc, OnceLock};

use isa::Isa;

use crate::error::{Error, Result};

/// A processor that a machine may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// RISC-V, 64 bits.
    Riscv64,
    /// AArch64.
    Arm64,
}

/// The descriptions, as the build found them.
mod embedded {
    include!(concat!(env!("OUT_DIR"), "/sources.rs"));
}

fn sources(arch: Arch) -> &'static [(&'static str, &'static str)] {
    match arch {
        Arch::Riscv64 => embedded::RISCV64,
        Arch::Arm64 => embedded::AARCH64,
    }
}

/// A processor's description, compiled once.
pub fn isa(arch: Arch) -> Result<Arc<Isa>> {
    static COMPILED: [OnceLock<Arc<Isa>>; 2] = [const { OnceLock::new() }; 2];
    let cell = &COMPILED[arch as usize];
    if let Some(isa) = cell.get() {
        return Ok(Arc::clone(isa));
    }
    let source = |(name, text): &(&str, &str)| isa::Source { name: (*name).into(), text: (*text).into() };
    let sources: Vec<isa::Source> = sources(arch).iter().map(source).collect();
    let compiled = isa::compile(&sources).map_err(|error| Error::Description { why: error.to_string() })?;
    Ok(Arc::clone(cell.get_or_init(|| Arc::new(compiled))))
}

/// Has this process find out what every machine of that kind needs to know, and so whatever is cloned out of it: a copy
/// of a machine would take longer for that than for all else. What fails here fails there again, and is told there.
pub fn know(arch: Arch) {
    let _ = (isa(arch), dbt::Clock::new(1));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_of_a_description_is_in_it() {
        for (arch, folder) in [(Arch::Riscv64, "riscv64"), (Arch::Arm64, "aarch64")] {
            let there = std::fs::read_dir(format!("{}/../../isa/{folder}", env!("CARGO_MANIFEST_DIR"))).unwrap();
            let names: Vec<String> = there.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
            assert_eq!(names.iter().filter(|it| it.ends_with(".isa")).count(), sources(arch).len(), "{names:?}");
            assert_eq!(isa(arch).unwrap().name, folder);
        }
    }
}
