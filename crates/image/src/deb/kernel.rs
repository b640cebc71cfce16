//! A distribution's kernel, for machines: its image, and the few modules that a machine's devices need.
//!
//! They come from the package `linux-image-ARCH` and are kept beside the packages, unpacked once. **What is kept is whole:**
//! it is made in a directory of another name. Which modules need which others the modules themselves say, as the
//! package's own list is made by a script when it is installed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use model::{Arch, DebSource, Progress};

use super::Job;
use super::ar::Deb;
use super::universe::PackageId;
use crate::layer::apply::components;
use crate::layer::reader::{EntryKind, Reader};
use crate::layer::unpack::{Hashing, check, decompress};
use crate::{Error, FetchOptions, Result};

/// What a machine's devices and root file system are driven by, where it is no part of the kernel's image.
const MODULES: [&str; 6] = ["virtio_mmio", "virtio_console", "9pnet_virtio", "9p", "virtio_net", "virtio_rng"];
/// What is needed beside for disks with systems of their own: what they are read by (ext4 asks for its sums by name, of which
/// its own needs do not tell), what a seed of cloud-init is, and what asks a system to shut down.
const OF_DISKS: [&str; 9] =
    ["crc32c_generic", "virtio_blk", "ext4", "isofs", "vfat", "nls_cp437", "nls_ascii", "af_packet", "virtio_input"];
/// What is needed beside for sockets between a machine and its host.
const OF_SOCKETS: [&str; 1] = ["vmw_vsock_virtio_transport"];
/// The biggest kernel, and the biggest module.
const MOST: u64 = 256 << 20;
/// The names of the files that list the modules: of every machine, of one with disks, and those for sockets.
const ORDER: &str = "order";
const ORDER_WITH_DISKS: &str = "order-with-disks";
const ORDER_OF_SOCKETS: &str = "order-of-sockets";

/// A kernel, unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFiles {
    /// Its image, as a machine loads it.
    pub image: PathBuf,
    /// Its modules, in the order in which they can be loaded.
    pub modules: Vec<PathBuf>,
    /// The same of a machine with disks, the former among them.
    pub modules_with_disks: Vec<PathBuf>,
    /// What a machine with sockets to its host needs: some of it others need, too.
    pub modules_of_sockets: Vec<PathBuf>,
}

/// The kernel of a suite, or of the machine's own sources: from where it was unpacked, or from its package.
///
/// # Errors
/// [`Error::NoSuchPackage`] if there is none for that processor.
pub fn kernel(suite: Option<&str>, arch: Arch, options: &FetchOptions, progress: &dyn Progress) -> Result<KernelFiles> {
    let place = options.cache().join("kernels").join(format!("{}-{}", arch.debian(), suite.unwrap_or("default")));
    if let Ok(found) = kept(&place) {
        return Ok(found);
    }
    let wanted = DebSource {
        packages: vec![format!("linux-image-{}", arch.debian())],
        suite: suite.map(str::to_owned),
        arch: Some(arch),
    };
    let options = FetchOptions { arch: Some(arch), ..options.clone() };
    super::with_packages(&wanted, &options, progress, |job, _, _| job.unpack_kernel(&wanted.packages[0], &place))?;
    kept(&place)
}

/// What is unpacked there.
fn kept(place: &Path) -> Result<KernelFiles> {
    let list = |name: &str| -> Result<Vec<PathBuf>> {
        let list = place.join(name);
        let order = fs::read_to_string(&list).map_err(|error| Error::io(list.display(), error))?;
        Ok(order.lines().map(|it| place.join(it)).collect())
    };
    let (modules, modules_with_disks, modules_of_sockets) =
        (list(ORDER)?, list(ORDER_WITH_DISKS)?, list(ORDER_OF_SOCKETS)?);
    Ok(KernelFiles { image: place.join("kernel"), modules, modules_with_disks, modules_of_sockets })
}

/// What was found in a package.
#[derive(Default)]
struct Found {
    image: Vec<u8>,
    /// By name, in one spelling.
    modules: BTreeMap<String, Vec<u8>>,
}

impl Job<'_> {
    /// Unpacks the kernel that a package without files depends on.
    fn unpack_kernel(&self, name: &str, place: &Path) -> Result<()> {
        let id = self.kernel_package(name)?;
        let file =
            self.fetch(&[id])?.into_iter().next().ok_or_else(|| Error::malformed("package", "it was not fetched"))?;
        let package = self.universe.package(id);
        self.progress.begin(&format!("unpacking {}", package.name), None);
        let outcome = (|| {
            let mut found = Found::default();
            let mut wanted: Vec<String> =
                MODULES.iter().chain(&OF_DISKS).chain(&OF_SOCKETS).map(|it| (*it).to_owned()).collect();
            // What modules need is known when they were read: then the package is read again.
            loop {
                let open = File::open(&file).map_err(|error| Error::io(file.display(), error))?;
                let mut hashing = Hashing::new(BufReader::with_capacity(128 << 10, open));
                read_package(&mut hashing, &wanted, &mut found)?;
                let (digest, size) = hashing.finish().map_err(|error| Error::read(file.display(), error))?;
                check(&format!("package {}", package.name), &package.size, &size)?;
                check(&format!("package {}", package.name), &package.sha256, &digest)?;
                let further = found.modules.values().flat_map(|it| needs(it));
                let further: Vec<String> = further.filter(|it| !wanted.contains(it)).collect();
                if further.is_empty() {
                    break;
                }
                wanted.extend(further);
            }
            keep(&found, place)
        })();
        self.progress.end();
        outcome
    }

    /// The package of the newest kernel: the one that the package of that name depends on.
    fn kernel_package(&self, name: &str) -> Result<PackageId> {
        let none = || Error::NoSuchPackage { name: name.to_owned(), similar: Vec::new() };
        let newest = self.universe.named(name).first().ok_or_else(none)?;
        let mut depends = self.universe.package(*newest).dependencies().flat_map(|it| it.alternatives);
        let image = depends.find(|it| it.name.starts_with("linux-image-")).ok_or_else(none)?;
        self.universe.named(image.name).first().copied().ok_or_else(none)
    }
}

/// Takes the image and those modules out of a package.
fn read_package(source: &mut impl Read, wanted: &[String], found: &mut Found) -> Result<()> {
    let mut deb = Deb::open(source)?;
    while let Some(member) = deb.next()? {
        if !member.name.starts_with("data.tar") {
            continue;
        }
        // A package with all of a distribution's modules is bigger than most images' layers.
        let limits = crate::Limits::default();
        let mut reader = Reader::new(member.content, limits);
        while let Some(entry) = reader.next(&mut ())? {
            if entry.kind != EntryKind::File || entry.size > MOST {
                continue;
            }
            let path = components(&entry.path)?.join(&b'/');
            let path = String::from_utf8_lossy(&path).into_owned();
            let name = path.rsplit('/').next().unwrap_or_default();
            let module = name.split_once(".ko").map(|(stem, _)| stem.replace('-', "_"));
            let is_image = path.starts_with("boot/vmlinu");
            let module = module.filter(|it| wanted.contains(it) && !found.modules.contains_key(it));
            if !is_image && module.is_none() {
                continue;
            }
            let mut bytes = vec![0; entry.size as usize];
            let mut done = 0;
            while done < bytes.len() {
                match reader.read_content(bytes.get_mut(done..).unwrap_or_default())? {
                    0 => return Err(Error::malformed("tar", "a file is shorter than its header says")),
                    count => done += count,
                }
            }
            let bytes = unpacked(&bytes, name)?;
            match module {
                Some(module) => drop(found.modules.insert(module, bytes)),
                None => found.image = without_loader(bytes)?,
            }
        }
    }
    Ok(())
}

/// The kernel that a file for PCs unpacks when it begins (Linux, `Documentation/arch/x86/boot.rst`), which is done here once. Other
/// kernels are what they are, and so is one that is packed in a way that is not known.
fn without_loader(file: Vec<u8>) -> Result<Vec<u8>> {
    const XZ: &[u8] = b"\xfd7zXZ";
    let number = |at: usize| file.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
    let payload = || {
        let parts = usize::from(*file.get(0x1f1)?) + 1;
        let at = (parts * 512).checked_add(number(0x248)? as usize)?;
        file.get(at..)?.get(..number(0x24c)? as usize).filter(|it| it.starts_with(XZ))
    };
    match payload() {
        Some(packed) if file.get(0x202..0x206) == Some(b"HdrS") => unpacked(packed, ".xz"),
        _ => Ok(file),
    }
}

/// A file without its compression, which its own beginning or its name tells.
fn unpacked(bytes: &[u8], name: &str) -> Result<Vec<u8>> {
    let mut plain = Vec::new();
    let read = |source: &mut dyn Read, plain: &mut Vec<u8>| {
        let read = source.take(MOST + 1).read_to_end(plain).map_err(|error| Error::read("kernel", error))?;
        if read as u64 > MOST { Err(Error::limit("bytes of a kernel's file", MOST)) } else { Ok(()) }
    };
    if name.ends_with(".xz") {
        read(&mut liblzma::read::XzDecoder::new(bytes), &mut plain)?;
    } else {
        let mut source = bytes;
        read(&mut decompress(&mut source)?, &mut plain)?;
    }
    Ok(plain)
}

/// The modules that a module says it needs.
fn needs(module: &[u8]) -> Vec<String> {
    const FIELD: &[u8] = b"\0depends=";
    let at = module.windows(FIELD.len()).position(|it| it == FIELD);
    let rest = at.and_then(|at| module.get(at + FIELD.len()..)).unwrap_or(&[]);
    let list = rest.split(|it| *it == 0).next().unwrap_or(&[]);
    let names = String::from_utf8_lossy(list).into_owned();
    names.split(',').filter(|it| !it.is_empty()).map(|it| it.replace('-', "_")).collect()
}

/// Those modules and what they need, each behind what it needs.
fn order<'m>(modules: &'m BTreeMap<String, Vec<u8>>, wanted: &[&str]) -> Vec<&'m str> {
    fn visit<'m>(
        name: &str,
        modules: &'m BTreeMap<String, Vec<u8>>,
        seen: &mut BTreeSet<&'m str>,
        into: &mut Vec<&'m str>,
    ) {
        let Some((name, module)) = modules.get_key_value(name) else { return };
        if seen.insert(name) {
            needs(module).iter().for_each(|it| visit(it, modules, seen, into));
            into.push(name);
        }
    }
    let (mut seen, mut ordered) = (BTreeSet::new(), Vec::new());
    wanted.iter().for_each(|it| visit(it, modules, &mut seen, &mut ordered));
    ordered
}

/// Writes all of it where it is kept.
fn keep(found: &Found, place: &Path) -> Result<()> {
    if found.image.is_empty() {
        return Err(Error::malformed("kernel package", "there is no kernel in it"));
    }
    let nascent = place.with_extension(format!("new-{}", std::process::id()));
    let failed = |error| Error::io(nascent.display(), error);
    let _ = fs::remove_dir_all(&nascent);
    fs::create_dir_all(&nascent).map_err(failed)?;
    fs::write(nascent.join("kernel"), &found.image).map_err(failed)?;
    let with_disks = [&MODULES[..], &OF_DISKS].concat();
    let lists = [(ORDER, &MODULES[..]), (ORDER_WITH_DISKS, &with_disks), (ORDER_OF_SOCKETS, &OF_SOCKETS[..])];
    for (file, wanted) in lists {
        let mut list = String::new();
        for name in order(&found.modules, wanted) {
            fs::write(nascent.join(name), &found.modules[name]).map_err(failed)?;
            list.push_str(name);
            list.push('\n');
        }
        fs::write(nascent.join(file), list).map_err(failed)?;
    }
    if !place.join(ORDER_OF_SOCKETS).exists() {
        // What an older build has kept lacks modules.
        let _ = fs::remove_dir_all(place);
    }
    match fs::rename(&nascent, place) {
        // Somebody else has unpacked it meanwhile.
        Err(_) if place.join(ORDER_OF_SOCKETS).exists() => {
            let _ = fs::remove_dir_all(&nascent);
            Ok(())
        }
        outcome => outcome.map_err(failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(depends: &str) -> Vec<u8> {
        format!("\x7fELF…\0license=GPL\0depends={depends}\0name=x\0").into_bytes()
    }

    #[test]
    fn modules_come_behind_what_they_need() {
        let mut modules = BTreeMap::new();
        for (name, depends) in
            [("9p", "9pnet,netfs"), ("9pnet", ""), ("9pnet_virtio", "9pnet"), ("netfs", "fscache"), ("fscache", "")]
        {
            modules.insert(name.to_owned(), module(depends));
        }
        assert_eq!(order(&modules, &MODULES), ["9pnet", "9pnet_virtio", "fscache", "netfs", "9p"]);
        modules.insert("fscache".to_owned(), module("9p"));
        assert_eq!(order(&modules, &MODULES).len(), 5, "a circle ends");
        assert_eq!(needs(b"nothing"), [""; 0]);
        assert_eq!(needs(&module("a-b,c")), ["a_b", "c"]);
    }
}
