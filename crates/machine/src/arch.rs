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

/// A processor's description, as the build has compiled it.
pub fn isa(arch: Arch) -> Result<Arc<Isa>> {
    static READ: [OnceLock<Arc<Isa>>; 2] = [const { OnceLock::new() }; 2];
    let cell = &READ[arch as usize];
    if let Some(isa) = cell.get() {
        return Ok(Arc::clone(isa));
    }
    let bytes: &[u8] = match arch {
        Arch::Riscv64 => include_bytes!(concat!(env!("OUT_DIR"), "/riscv64")),
        Arch::Arm64 => include_bytes!(concat!(env!("OUT_DIR"), "/aarch64")),
    };
    let isa = postcard::from_bytes(bytes).map_err(|error| Error::Description { why: error.to_string() })?;
    Ok(Arc::clone(cell.get_or_init(|| Arc::new(isa))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_what_its_sources_say() {
        for (arch, name) in [(Arch::Riscv64, "riscv64"), (Arch::Arm64, "aarch64")] {
            let there = std::fs::read_dir(format!("{}/../../isa/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
            let mut files: Vec<std::path::PathBuf> = there.map(|it| it.unwrap().path()).collect();
            files.sort();
            let source = |file: &std::path::PathBuf| isa::Source {
                name: file.display().to_string(),
                text: std::fs::read_to_string(file).unwrap(),
            };
            let sources: Vec<isa::Source> = files.iter().map(source).collect();
            let compiled = isa::compile(&sources).unwrap();
            let embedded = isa(arch).unwrap();
            assert_eq!(embedded.name, name);
            assert!(postcard::to_stdvec(&compiled).unwrap() == postcard::to_stdvec(&*embedded).unwrap(), "{name}");
        }
    }
}
