//! The kernel modules that cells need, in an order in which they can be loaded: what `modprobe` would do, for a guest
//! that has neither it nor its lists.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::Result;

/// What the guest and its cells use of a kernel that has everything as a module. One that is built in is not there to be
/// found.
const WANTED: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "crc32c_generic",
    "ext4",
    "overlay",
    "bridge",
    "veth",
    "nf_tables",
    "nft_masq",
    "nft_chain_nat",
    "nft_ct",
    "tun",
    "kvm_amd",
];

/// The files of those modules and of all that they depend on, each after what it depends on.
pub(super) fn in_order(modules: &Path) -> Result<Vec<PathBuf>> {
    let mut files = BTreeMap::new();
    find(modules, &mut files)?;
    let mut ordered = Vec::new();
    for name in WANTED {
        visit(name, &files, &mut ordered)?;
    }
    Ok(ordered)
}

fn find(dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result {
    let entries = fs::read_dir(dir).map_err(|e| format!("reading {}: {e}", dir.display()))?;
    for path in entries.flatten().map(|it| it.path()) {
        if path.is_dir() {
            find(&path, files)?;
        } else if path.extension().is_some_and(|it| it == "ko") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().replace('-', "_");
            files.insert(name, path);
        }
    }
    Ok(())
}

fn visit(name: &str, files: &BTreeMap<String, PathBuf>, ordered: &mut Vec<PathBuf>) -> Result {
    let Some(path) = files.get(&name.replace('-', "_")) else { return Ok(()) };
    if ordered.contains(path) {
        return Ok(());
    }
    let bytes = fs::read(path).map_err(|e| format!("reading {}: {e}", path.display()))?;
    for needed in dependencies(&bytes) {
        visit(&needed, files, ordered)?;
    }
    ordered.push(path.clone());
    Ok(())
}

/// The names in a module's own `depends=` note, a zero-terminated text.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|it| it == KEY) else { return Vec::new() };
    let text = module.iter().skip(at + KEY.len()).take_while(|it| **it != 0).copied().collect();
    let text = String::from_utf8(text).unwrap_or_default();
    text.split(',').filter(|it| !it.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_first() {
        let dir = tempfile::tempdir().unwrap();
        let module = |name: &str, note: &str| fs::write(dir.path().join(name), format!("\x7fELF\0{note}\0x")).unwrap();
        module("bridge.ko", "depends=stp,llc");
        module("stp.ko", "depends=llc");
        module("llc.ko", "depends=");
        module("other.ko", "depends=");
        let names: Vec<_> = in_order(dir.path()).unwrap();
        let names: Vec<_> = names.iter().map(|it| it.file_stem().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["llc", "stp", "bridge"]);
    }
}
