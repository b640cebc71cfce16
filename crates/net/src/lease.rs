//! Which cell has which address: small files, changed only under a lock.
//!
//! ```text
//! DIR/.lock               held while anything below is changed
//! DIR/NETWORK/network     the subnet and the bridge
//! DIR/NETWORK/leases/ID   one cell's lease
//! ```

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use model::{CellId, CellName};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::Attachment;
use crate::error::{Error, Result};
use crate::netlink::Route;

/// A network's addresses and its bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Subnet {
    pub(crate) bridge: String,
    pub(crate) base: Ipv4Addr,
    pub(crate) prefix: u8,
}

impl Subnet {
    pub(crate) fn mask(&self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)
    }

    fn nth(&self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base) + n)
    }

    pub(crate) fn gateway(&self) -> Ipv4Addr {
        self.nth(1)
    }

    /// How many cells find place: all addresses but the subnet's own, the gateway's and the broadcast address.
    fn capacity(&self) -> u32 {
        !self.mask() - 2
    }

    fn overlaps(&self, base: Ipv4Addr, prefix: u8) -> bool {
        let shared = self.prefix.min(prefix);
        let mask = u32::MAX.checked_shl(32 - u32::from(shared)).unwrap_or(0);
        prefix > 0 && u32::from(self.base) & mask == u32::from(base) & mask
    }
}

/// One cell's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lease {
    pub(crate) network: String,
    pub(crate) id: CellId,
    pub(crate) name: CellName,
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix: u8,
    pub(crate) gateway: Ipv4Addr,
    pub(crate) interface: String,
}

impl Lease {
    pub(crate) fn attachment(&self, degraded: Vec<model::Degraded>) -> Attachment {
        Attachment {
            network: self.network.clone(),
            address: self.address,
            prefix: self.prefix,
            gateway: self.gateway,
            interface: self.interface.clone(),
            degraded,
        }
    }
}

/// The names of the networks that exist.
pub(crate) fn network_names(dir: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::at("reading", dir, e)),
    };
    let names = entries.flatten().filter_map(|it| it.file_name().into_string().ok());
    Ok(names.filter(|name| !name.starts_with('.')).collect())
}

/// Whether the cell has a lease there, asked without the lock.
pub(crate) fn has_lease(dir: &Path, network: &str, id: CellId) -> bool {
    lease_path(&dir.join(network), id).exists()
}

/// The leases of a network, read without the lock: each file is whole, so the list is one that was true.
pub(crate) fn leases_of(dir: &Path, network: &str) -> Result<Vec<Lease>> {
    let leases = dir.join(network).join("leases");
    let entries = match std::fs::read_dir(&leases) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::at("reading", &leases, e)),
    };
    // A lease that vanishes while it is read is none, and so is one that was never renamed into its place.
    let leases = entries.flatten().filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."));
    Ok(leases.filter_map(|entry| read(&entry.path()).ok()).collect())
}

/// The addresses of a network that exists, read without the lock.
pub(crate) fn subnet_of(dir: &Path, network: &str) -> Option<Subnet> {
    read(&dir.join(network).join("network")).ok()
}

fn lease_path(network: &Path, id: CellId) -> PathBuf {
    network.join("leases").join(id.to_string())
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).map_err(|e| Error::at("reading", path, e))?;
    serde_json::from_slice(&bytes).map_err(|e| Error::at("reading", path, std::io::Error::from(e)))
}

/// Replaces a file. These files need not survive a reboot, so nothing is synced.
fn write(path: &Path, value: &impl Serialize) -> Result<()> {
    let failed = |e: std::io::Error| Error::at("writing", path, e);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let staged = path.with_file_name(format!(".{name}"));
    let bytes = serde_json::to_vec(value).map_err(|e| failed(e.into()))?;
    std::fs::write(&staged, bytes).and_then(|()| std::fs::rename(&staged, path)).map_err(failed)
}

/// The right to be the one process that waits for networks to fall idle, if nobody has it.
pub(crate) fn try_linger(home: &Path) -> Result<Option<File>> {
    let path = home.join(".linger");
    let open = File::options().write(true).create(true).truncate(false).open(&path);
    let file = open.map_err(|e| Error::at("opening", &path, e))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(e) => Err(Error::at("locking", &path, e)),
    }
}

/// A network that nobody else changes as long as this lives.
pub(crate) struct NetworkDir {
    dir: PathBuf,
    home: PathBuf,
    name: String,
    _lock: File,
}

impl NetworkDir {
    /// Locks all networks of a home. The lock's file is never removed, so whoever waits for it waits for the right one.
    pub(crate) fn lock(home: &Path, name: &str) -> Result<Self> {
        let path = home.join(".lock");
        let open = File::options().write(true).create(true).truncate(false).open(&path);
        let lock = open.map_err(|e| Error::at("opening", &path, e))?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&lock, FlockOperation::LockExclusive))
            .map_err(|e| Error::at("locking", &path, e))?;
        Ok(Self { dir: home.join(name), home: home.to_owned(), name: name.to_owned(), _lock: lock })
    }

    /// The network's addresses, chosen when it has none yet.
    pub(crate) fn subnet(&self) -> Result<Subnet> {
        let path = self.dir.join("network");
        if path.exists() {
            return read(&path);
        }
        let leases = self.dir.join("leases");
        std::fs::create_dir_all(&leases).map_err(|e| Error::at("making", &leases, e))?;
        let taken = Route::open()?.destinations()?;
        let subnet = choose(&self.home, &self.name, &taken).ok_or_else(|| Error::NoSubnet(self.name.clone()))?;
        write(&path, &subnet)?;
        Ok(subnet)
    }

    /// Gives a cell the lowest free address. A lease that it has already, left by a crash, it keeps.
    pub(crate) fn lease(&self, id: CellId, name: &CellName) -> Result<Lease> {
        if let Some(lease) = self.find(id)? {
            return Ok(lease);
        }
        let subnet = self.subnet()?;
        let taken: std::collections::HashSet<_> = self.leases()?.into_iter().map(|it| it.address).collect();
        let mut free = (0..subnet.capacity()).map(|n| subnet.nth(2 + n)).filter(|it| !taken.contains(it));
        let lease = Lease {
            network: self.name.clone(),
            id,
            name: name.clone(),
            address: free.next().ok_or_else(|| Error::Full(self.name.clone()))?,
            prefix: subnet.prefix,
            gateway: subnet.gateway(),
            interface: format!("sk{id}"),
        };
        write(&lease_path(&self.dir, id), &lease)?;
        Ok(lease)
    }

    pub(crate) fn find(&self, id: CellId) -> Result<Option<Lease>> {
        let path = lease_path(&self.dir, id);
        if path.exists() { read(&path).map(Some) } else { Ok(None) }
    }

    pub(crate) fn leases(&self) -> Result<Vec<Lease>> {
        leases_of(&self.home, &self.name)
    }

    pub(crate) fn rename(&self, id: CellId, name: &CellName) -> Result<()> {
        let Some(mut lease) = self.find(id)? else { return Ok(()) };
        lease.name = name.clone();
        write(&lease_path(&self.dir, id), &lease)
    }

    pub(crate) fn release(&self, id: CellId) -> Result<()> {
        let path = lease_path(&self.dir, id);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::at("removing", &path, e)),
            _ => Ok(()),
        }
    }

    /// Forgets a network without leases.
    pub(crate) fn dissolve(&self) -> Result<()> {
        std::fs::remove_dir_all(&self.dir).map_err(|e| Error::at("removing", &self.dir, e))
    }
}

/// Picks a subnet that no route of the host covers. Different homes begin their search at different places, so that they
/// do not meet; the system's own default network is always the first candidate, so that its addresses are familiar.
fn choose(home: &Path, name: &str, taken: &[(Ipv4Addr, u8)]) -> Option<Subnet> {
    const PREFIX: u8 = 20;
    const FIRST: u32 = u32::from_be_bytes([10, 201, 0, 0]);
    const COUNT: u32 = 54 * 16;
    let well_known = home == Path::new("/run/skep/net") && name == "default";
    let hash = fnv1a(home.as_os_str().as_encoded_bytes(), name.as_bytes());
    let (bridge, start) = match well_known {
        true => ("skep0".to_owned(), 0),
        false => (format!("sk-{hash:08x}"), hash % COUNT),
    };
    let candidates = (0..COUNT).map(|n| Subnet {
        bridge: bridge.clone(),
        base: Ipv4Addr::from(FIRST + (((start + n) % COUNT) << (32 - PREFIX))),
        prefix: PREFIX,
    });
    candidates.into_iter().find(|it| !taken.iter().any(|(base, prefix)| it.overlaps(*base, *prefix)))
}

/// Fowler, Noll and Vo's 32-bit hash, of two strings with a zero between them.
fn fnv1a(a: &[u8], b: &[u8]) -> u32 {
    let bytes = a.iter().chain(&[0]).chain(b);
    bytes.fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_avoid_the_hosts_routes() {
        let home = Path::new("/run/skep/net");
        let first = choose(home, "default", &[]).unwrap();
        assert_eq!((first.bridge.as_str(), first.base), ("skep0", Ipv4Addr::new(10, 201, 0, 0)));
        let next = choose(home, "default", &[(Ipv4Addr::new(10, 201, 0, 0), 16)]).unwrap();
        assert_eq!(next.base, Ipv4Addr::new(10, 202, 0, 0));
        assert!(choose(home, "default", &[(Ipv4Addr::new(10, 0, 0, 0), 8)]).is_none());
        let other = choose(Path::new("/elsewhere"), "default", &[]).unwrap();
        assert!(other.bridge.len() <= 15 && other.bridge != first.bridge);
    }

    #[test]
    fn leases_are_distinct_kept_and_given_back() {
        let home = tempfile::tempdir().unwrap();
        let name: CellName = "web".parse().unwrap();
        let network = NetworkDir::lock(home.path(), "blue").unwrap();
        let leases: Vec<_> = (0..5).map(|n| network.lease(CellId::from_random(n), &name).unwrap()).collect();
        let addresses: std::collections::HashSet<_> = leases.iter().map(|it| it.address).collect();
        assert_eq!(addresses.len(), 5);
        assert_eq!(network.lease(CellId::from_random(3), &name).unwrap(), leases[3], "a lease is kept");
        network.release(leases[1].id).unwrap();
        assert_eq!(network.lease(CellId::from_random(9), &name).unwrap().address, leases[1].address);
        assert_eq!(network_names(home.path()).unwrap(), ["blue"]);
        let staged = home.path().join("blue/leases").join(format!(".{}", CellId::from_random(77)));
        std::fs::copy(lease_path(&home.path().join("blue"), leases[0].id), staged).unwrap();
        assert_eq!(network.leases().unwrap().len(), 5, "what a crash left staged is no lease");
    }
}
