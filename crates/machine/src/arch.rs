//! The processors that there are descriptions of.

use std::fs::File;
use std::sync::{Arc, OnceLock};

use dbt::{Mode, Translations};
use isa::Isa;

use crate::error::{Error, Result};

/// A processor that a machine may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// RISC-V, 64 bits.
    Riscv64,
    /// AArch64.
    Arm64,
    /// x86-64: the host's own, which needs no description.
    Amd64,
}

/// A processor's description, as the build has written it.
fn written(arch: Arch) -> Result<&'static [u8]> {
    match arch {
        Arch::Riscv64 => Ok(include_bytes!(concat!(env!("OUT_DIR"), "/riscv64"))),
        Arch::Arm64 => Ok(include_bytes!(concat!(env!("OUT_DIR"), "/aarch64"))),
        Arch::Amd64 => Err(Error::Description { why: "there is none of amd64".into() }),
    }
}

/// Who makes translations for machines of that kind: those of another are of no use.
pub fn translator(arch: Arch) -> Result<u64> {
    written(arch).map(Translations::maker)
}

/// Translations that a file keeps for machines of that kind.
pub fn translations(arch: Arch, file: File) -> Result<Arc<Translations>> {
    written(arch).map(|description| Arc::new(Translations::open(file, description)))
}

/// A processor's description, as the build has compiled it.
pub fn isa(arch: Arch) -> Result<Arc<Isa>> {
    static READ: [OnceLock<Arc<Isa>>; 3] = [const { OnceLock::new() }; 3];
    let cell = &READ[arch as usize];
    if let Some(isa) = cell.get() {
        return Ok(Arc::clone(isa));
    }
    let isa = postcard::from_bytes(written(arch)?).map_err(|error| Error::Description { why: error.to_string() })?;
    Ok(Arc::clone(cell.get_or_init(|| Arc::new(isa))))
}

/// How described processors do instructions: as blocks, and if the environment says so, loops that turn often as a whole.
pub fn tier() -> Mode {
    /// For tests and comparisons.
    const VARIABLE: &str = "SKEP_TIER";
    match std::env::var(VARIABLE).as_deref() {
        Ok("2") => Mode::TranslateLoops,
        _ => Mode::Translate,
    }
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
    fn a_description_is_what_its_sources_say() {
        for (arch, name) in [(Arch::Riscv64, "riscv64"), (Arch::Arm64, "aarch64")] {
            let folder = format!("{}/../../isa/{name}", env!("CARGO_MANIFEST_DIR"));
            let sources = isa::Source::all_in(folder.as_ref()).unwrap();
            let compiled = isa::compile(&sources).unwrap();
            let embedded = isa(arch).unwrap();
            assert_eq!(embedded.name, name);
            assert!(postcard::to_stdvec(&compiled).unwrap() == postcard::to_stdvec(&*embedded).unwrap(), "{name}");
        }
    }
}
