//! Finding control groups: which hierarchies are mounted where, and where in them a process is.
//!
//! Version 1 has one hierarchy for each controller (or for a few), version 2 has one for all, and many machines have
//! both ("hybrid"). The kernel tells it in two files that this module parses as bytes, whole: `mountinfo` has optional
//! fields and octal escapes, and a mount may be hidden by a later one.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::mountinfo::{self, Mount};

/// A version of the cgroup interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy for each controller.
    V1,
    /// One hierarchy for all controllers.
    V2,
}

/// One mounted hierarchy, and where in it the process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its version.
    pub version: Version,
    /// The controllers (version 1), or the name after `name=`. Empty for version 2: its files tell.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// The directory of the process's own cgroup in it.
    pub own: PathBuf,
}

/// Every hierarchy that a process can see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// In the order in which they were mounted.
    pub hierarchies: Vec<Hierarchy>,
}

impl Layout {
    /// The layout that the calling process sees.
    pub fn discover() -> std::io::Result<Self> {
        Ok(Self::parse(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?))
    }

    /// The layout told by the bytes of `/proc/PID/mountinfo` and `/proc/PID/cgroup`. Lines that make no sense are left
    /// out.
    pub fn parse(mountinfo: &[u8], cgroup: &[u8]) -> Self {
        let mounts = mountinfo::parse(mountinfo);
        let members = parse_membership(cgroup);
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for (index, mount) in mounts.iter().enumerate() {
            let later = mounts.get(index + 1..).unwrap_or_default();
            if later.iter().any(|it| it.hides(mount, &mounts)) {
                continue;
            }
            let Some(found) = hierarchy(mount, &members) else { continue };
            // A hierarchy that is mounted twice is one hierarchy; the first mount that shows our own cgroup is best.
            match hierarchies.iter_mut().find(|it| it.same(&found)) {
                None => hierarchies.push(found),
                Some(known) if known.own == known.mount_point && found.own != found.mount_point => *known = found,
                Some(_) => {}
            }
        }
        Self { hierarchies }
    }

    /// The version 1 hierarchy with that controller.
    pub fn v1(&self, controller: &str) -> Option<&Hierarchy> {
        let has = |it: &&Hierarchy| it.version == Version::V1 && it.controllers.iter().any(|name| name == controller);
        self.hierarchies.iter().find(has)
    }

    /// The version 2 hierarchy.
    pub fn v2(&self) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|it| it.version == Version::V2)
    }
}

/// A file of `/proc`, whole. Such files tell no length, and the kernel makes the text anew for every short read.
fn read(path: &str) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(32 << 10);
    std::fs::File::open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl Hierarchy {
    fn same(&self, other: &Self) -> bool {
        self.version == other.version && self.controllers == other.controllers
    }
}

/// The hierarchy that a mount shows, if it shows one.
fn hierarchy(mount: &Mount, members: &[Membership]) -> Option<Hierarchy> {
    let version = version_of(mount)?;
    let member = members.iter().find(|it| it.belongs_to(version, &mount.options))?;
    Some(Hierarchy {
        version,
        controllers: member.controllers.clone(),
        mount_point: mount.mount_point.clone(),
        own: locate(&mount.mount_point, &mount.root, &member.path),
    })
}

fn version_of(mount: &Mount) -> Option<Version> {
    match mount.kind.as_slice() {
        b"cgroup" => Some(Version::V1),
        b"cgroup2" => Some(Version::V2),
        _ => None,
    }
}

/// The directory of cgroup `path` in a hierarchy whose subtree `root` is mounted at `mount_point`. A path that the mount
/// does not show (in a container without a cgroup namespace) becomes the mount point itself.
fn locate(mount_point: &Path, root: &Path, path: &Path) -> PathBuf {
    let climbs = |it: &Path| it.components().any(|part| part.as_os_str() == "..");
    match path.strip_prefix(root) {
        Ok(rest) if !climbs(rest) && !rest.as_os_str().is_empty() => mount_point.join(rest),
        _ => mount_point.to_owned(),
    }
}

/// The directories of the cgroups that a process must join to be where another is: `own` and `theirs` are the bytes of
/// the two processes' `/proc/PID/cgroup`, `mountinfo` those of the former's. Where both are in one cgroup already,
/// there is nothing to join.
///
/// # Errors
/// The first line of `theirs` whose cgroup cannot be reached, because no mount shows it.
pub fn to_join(mountinfo: &[u8], own: &[u8], theirs: &[u8]) -> std::result::Result<Vec<(Version, PathBuf)>, String> {
    let own: Vec<&[u8]> = own.split(|b| *b == b'\n').collect();
    let mounts = mountinfo::parse(mountinfo);
    let mut found = Vec::new();
    for line in theirs.split(|b| *b == b'\n').filter(|line| !line.is_empty() && !own.contains(line)) {
        let unreachable = || String::from_utf8_lossy(line).into_owned();
        let member = Membership::parse(line).ok_or_else(unreachable)?;
        let place = mounts.iter().enumerate().find_map(|(index, mount)| {
            let later = mounts.get(index + 1..).unwrap_or_default();
            let covered = later.iter().any(|it| it.hides(mount, &mounts));
            (!covered).then(|| member.shown_by(mount)).flatten()
        });
        found.push(place.ok_or_else(unreachable)?);
    }
    Ok(found)
}

/// A line of `/proc/PID/cgroup`: `ID:CONTROLLERS:PATH`.
#[derive(Debug)]
struct Membership {
    version: Version,
    controllers: Vec<String>,
    path: PathBuf,
}

impl Membership {
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.splitn(3, |b| *b == b':');
        let id = fields.next()?;
        let controllers = std::str::from_utf8(fields.next()?).ok()?;
        let path = fields.next()?;
        let version = if id == b"0" && controllers.is_empty() { Version::V2 } else { Version::V1 };
        let name = |it: &str| it.strip_prefix("name=").unwrap_or(it).to_owned();
        let controllers = controllers.split(',').filter(|it| !it.is_empty()).map(name).collect();
        // A cgroup that was removed under its last members is marked so.
        let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
        Some(Self { version, controllers, path: OsString::from_vec(path.to_vec()).into() })
    }

    /// The directory at which that mount shows this cgroup, if it does.
    fn shown_by(&self, mount: &Mount) -> Option<(Version, PathBuf)> {
        let version = version_of(mount)?;
        let climbs = self.path.components().any(|part| part.as_os_str() == "..");
        let rest = self.path.strip_prefix(&mount.root).ok()?;
        (!climbs && self.belongs_to(version, &mount.options)).then(|| (version, mount.mount_point.join(rest)))
    }

    fn belongs_to(&self, version: Version, options: &[String]) -> bool {
        let named = |it: &String| options.iter().any(|option| option.strip_prefix("name=").unwrap_or(option) == it);
        self.version == version
            && (version == Version::V2 || !self.controllers.is_empty() && self.controllers.iter().all(named))
    }
}

fn parse_membership(bytes: &[u8]) -> Vec<Membership> {
    bytes.split(|b| *b == b'\n').filter_map(Membership::parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
23 27 0:22 / /sys rw,relatime - sysfs sysfs rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:9 master:1 - cgroup cgroup rw,cpu
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    fn check(mountinfo: &str, cgroup: &str, expected: &[(Version, &str, &str)]) {
        let layout = Layout::parse(mountinfo.as_bytes(), cgroup.as_bytes());
        let found: Vec<_> = layout
            .hierarchies
            .iter()
            .map(|it| (it.version, it.controllers.join(","), it.own.to_str().unwrap().to_owned()))
            .collect();
        let expected: Vec<_> = expected.iter().map(|it| (it.0, it.1.to_owned(), it.2.to_owned())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn hybrid_with_optional_fields() {
        check(
            HYBRID,
            "9:name=systemd:/\n4:memory:/a/b\n1:cpu:/\n0::/user\n",
            &[
                (Version::V1, "cpu", "/sys/fs/cgroup/cpu"),
                (Version::V1, "memory", "/sys/fs/cgroup/memory/a/b"),
                (Version::V1, "systemd", "/sys/fs/cgroup/systemd"),
                (Version::V2, "", "/sys/fs/cgroup/unified/user"),
            ],
        );
    }

    #[test]
    fn version_2_alone() {
        check(
            "30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
            "0::/user.slice/user-1000.slice/session-1.scope\n",
            &[(Version::V2, "", "/sys/fs/cgroup/user.slice/user-1000.slice/session-1.scope")],
        );
    }

    #[test]
    fn controllers_that_share_a_hierarchy_and_paths_with_escapes() {
        check(
            "33 31 0:30 / /cg/cpu\\040and\\040acct rw - cgroup cgroup rw,cpu,cpuacct\n",
            "3:cpu,cpuacct:/x:y z\n",
            &[(Version::V1, "cpu,cpuacct", "/cg/cpu and acct/x:y z")],
        );
    }

    #[test]
    fn a_mount_of_a_subtree_is_seen_from_its_root() {
        let mountinfo = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        check(mountinfo, "4:memory:/docker/abc/sub\n", &[(Version::V1, "memory", "/sys/fs/cgroup/memory/sub")]);
        check(mountinfo, "4:memory:/docker/abc\n", &[(Version::V1, "memory", "/sys/fs/cgroup/memory")]);
        check(mountinfo, "4:memory:/elsewhere\n", &[(Version::V1, "memory", "/sys/fs/cgroup/memory")]);
        check(mountinfo, "4:memory:/docker/abc/../../x\n", &[(Version::V1, "memory", "/sys/fs/cgroup/memory")]);
    }

    #[test]
    fn a_mount_that_a_later_one_covers_does_not_count() {
        check(
            &format!(
                "{HYBRID}50 27 0:40 / /sys rw - sysfs sysfs rw\n51 50 0:41 / /sys/fs/cgroup rw - cgroup2 none rw\n"
            ),
            "4:memory:/a\n0::/b\n",
            &[(Version::V2, "", "/sys/fs/cgroup/b")],
        );
    }

    #[test]
    fn what_must_be_joined_is_found_or_named() {
        let check = |own: &str, theirs: &str, expected: Result<&[&str], &str>| {
            let found = to_join(HYBRID.as_bytes(), own.as_bytes(), theirs.as_bytes());
            let paths = |it: Vec<(Version, PathBuf)>| -> Vec<String> {
                it.iter().map(|(_, path)| path.to_str().unwrap().to_owned()).collect()
            };
            let expected = expected.map(|it| it.iter().map(|it| (*it).to_owned()).collect()).map_err(str::to_owned);
            assert_eq!(found.map(paths), expected, "{theirs}");
        };
        let own = "9:name=systemd:/\n4:memory:/a\n1:cpu:/\n0::/\n";
        check(own, own, Ok(&[]));
        check(own, "9:name=systemd:/\n4:memory:/b/c d\n1:cpu:/\n0::/\n", Ok(&["/sys/fs/cgroup/memory/b/c d"]));
        check(own, "9:name=systemd:/x\n0::/y\n", Ok(&["/sys/fs/cgroup/systemd/x", "/sys/fs/cgroup/unified/y"]));
        check(own, "4:memory:/b\n7:net_cls:/b\n", Err("7:net_cls:/b"));
        check(own, "4:memory:/../x\n", Err("4:memory:/../x"));
        check(own, "rubbish\n", Err("rubbish"));
        let subtree = b"35 31 0:32 /docker /cg ro - cgroup cgroup rw,memory\n";
        assert_eq!(to_join(subtree, b"", b"4:memory:/docker/abc\n"), Ok(vec![(Version::V1, "/cg/abc".into())]));
        assert_eq!(to_join(subtree, b"", b"4:memory:/other\n").unwrap_err(), "4:memory:/other");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_parsed_without_harm(
            mounts in proptest::collection::vec(proptest::num::u8::ANY, 0..300),
            groups in proptest::collection::vec(proptest::num::u8::ANY, 0..100),
        ) {
            Layout::parse(&mounts, &groups);
        }
    }
}
