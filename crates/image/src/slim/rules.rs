//! Rules of a Linux system: what has to be there beside the files that were seen to be used, so that what was not seen
//! works too. A rule never takes anything away.

use std::collections::BTreeSet;

use store::Kind;

use super::keeper::{Keeper, MAX_TEXT};
use super::{Reason, TreePath};
use crate::Result;

/// Directories whose whole skeleton stays, as programs make files below them.
const SKELETON: &[&str] = &[
    "boot",
    "dev",
    "etc",
    "home",
    "media",
    "mnt",
    "opt",
    "proc",
    "root",
    "run",
    "srv",
    "sys",
    "tmp",
    "usr/local",
    "var",
];

/// What libraries and programs look at to know who and where they are.
const IDENTITY: &[&str] = &[
    "etc/passwd",
    "etc/group",
    "etc/shadow",
    "etc/gshadow",
    "etc/nsswitch.conf",
    "etc/hosts",
    "etc/hostname",
    "etc/resolv.conf",
    "etc/host.conf",
    "etc/services",
    "etc/protocols",
    "etc/gai.conf",
    "etc/localtime",
    "etc/timezone",
    "etc/os-release",
    "etc/debian_version",
    "etc/environment",
    "etc/ld.so.conf",
    "etc/ld.so.cache",
    "etc/ld.so.preload",
    "etc/mime.types",
    "etc/shells",
    "etc/login.defs",
    "etc/mtab",
];

/// Where applications keep data of their own. Of these, package managers' and caches' are not.
const DATA: &[&str] = &["srv", "home", "root", "var"];
const NO_DATA: &[&str] = &["var/lib/dpkg", "var/lib/apt", "var/lib/ucf", "var/cache", "var/log", "var/backups"];

/// What every image keeps.
pub(super) fn everywhere(keeper: &mut Keeper<'_>) {
    let tops: Vec<Vec<u8>> = keeper.tree.children("").map(|(name, _)| name.to_vec()).collect();
    for name in tops {
        if matches!(keeper.tree.get(&name).map(|it| &it.node.kind), Some(Kind::Symlink(_) | Kind::Directory)) {
            keeper.want(&name, Reason::Skeleton);
        }
    }
    let tree = keeper.tree;
    for top in SKELETON {
        let is_directory = |path: &[u8]| matches!(tree.get(path).map(|it| &it.node.kind), Some(Kind::Directory));
        keeper.want_below(top.as_bytes(), &Reason::Skeleton, is_directory);
    }
    for path in IDENTITY {
        keeper.want(path.as_bytes(), Reason::Identity);
    }
    keeper.want_below(b"etc/ld.so.conf.d", &Reason::Identity, |_| true);
    let is_data = |path: &[u8]| !NO_DATA.iter().any(|it| is_below(path, it.as_bytes()));
    for top in DATA {
        keeper.want_below(top.as_bytes(), &Reason::Data, is_data);
    }
    let listed: Vec<_> = keeper.observed.listed.iter().filter(|it| is_collection(it)).cloned().collect();
    for directory in listed {
        let of = |path: &[u8]| TreePath::new(path).parent() == directory.as_bytes();
        keeper.want_below(directory.as_bytes(), &Reason::Listed, of);
    }
}

/// Whether a directory, when it is listed, is listed for what is in it: pieces of configuration, or parts to be loaded that
/// nobody else names.
fn is_collection(directory: &TreePath) -> bool {
    let name = directory.name();
    is_below(directory.as_bytes(), b"etc") || name.ends_with(b".d") || COLLECTIONS.contains(&name)
}

/// What directories of such parts are called.
const COLLECTIONS: &[&[u8]] = &[b"plugins", b"modules", b"extensions", b"addons"];

/// Whether a path is `directory` or lies below it.
pub(super) fn is_below(path: &[u8], directory: &[u8]) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// Rules that something which is kept sets off.
pub(super) fn for_what_is_kept(keeper: &mut Keeper<'_>) -> Result<()> {
    let kept: Vec<TreePath> = keeper.kept().keys().cloned().collect();
    for path in &kept {
        let name = path.name();
        let is = |library: &str| name.starts_with(library.as_bytes());
        if is("libc.so.") || is("libc-2.") {
            name_services(keeper, path)?;
        }
        if is("libssl.so.") || is("libcrypto.so.") || is("libgnutls.so.") || is("libnss3.so") {
            certificates(keeper, path);
        }
        if is("libpam.so.") {
            authentication(keeper, path)?;
        }
    }
    let looked: Vec<TreePath> = keeper.observed.looked_up.iter().chain(&keeper.observed.opened).cloned().collect();
    for path in &looked {
        let bytes = path.as_bytes();
        if contains(bytes, b"/gconv/") {
            converters(keeper, path);
        }
        if is_below(bytes, b"usr/lib/locale") {
            keeper.want_below(b"usr/lib/locale/C.utf8", &Reason::Locale(path.clone()), |_| true);
            keeper.want(b"usr/share/locale/locale.alias", Reason::Locale(path.clone()));
        }
        if contains(bytes, b"/terminfo/") {
            keeper.want_below(b"lib/terminfo", &Reason::Module(path.clone()), |_| true);
        }
    }
    zones(keeper, &looked);
    web_pages(keeper, &kept);
    Ok(())
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|it| it == part)
}

/// The modules that the name service switch loads by name.
fn name_services(keeper: &mut Keeper<'_>, libc: &TreePath) -> Result<()> {
    let text = keeper.read(b"etc/nsswitch.conf", MAX_TEXT)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let configured = text.lines().filter_map(|line| line.split('#').next()?.split_once(':'));
    let mut services: BTreeSet<&str> = configured.flat_map(|(_, rest)| rest.split_whitespace()).collect();
    services.extend(["files", "dns", "compat"]);
    for directory in keeper.library_directories() {
        for service in services.iter().filter(|it| !it.starts_with('[')) {
            let path = [directory.as_slice(), format!("/libnss_{service}.so.2").as_bytes()].concat();
            keeper.want(&path, Reason::NameService(libc.clone()));
        }
    }
    Ok(())
}

/// What a TLS library reads when a connection is made.
fn certificates(keeper: &mut Keeper<'_>, library: &TreePath) {
    let reason = Reason::Certificates(library.clone());
    for path in
        ["etc/ssl/openssl.cnf", "etc/ssl/certs/ca-certificates.crt", "usr/lib/ssl/openssl.cnf", "usr/lib/ssl/certs"]
    {
        keeper.want(path.as_bytes(), reason.clone());
    }
    let directory = [library.parent(), b"/ossl-modules"].concat();
    keeper.want_below(&directory, &reason, |_| true);
}

/// The modules that kept services of PAM name. Their settings are small and stay together.
fn authentication(keeper: &mut Keeper<'_>, library: &TreePath) -> Result<()> {
    let is_used = keeper.observed.opened.iter().any(|it| is_below(it.as_bytes(), b"etc/pam.d"));
    if !is_used {
        return Ok(());
    }
    let reason = Reason::Pam(library.clone());
    let mut modules = BTreeSet::new();
    for directory in ["etc/pam.d", "etc/security"] {
        keeper.want_below(directory.as_bytes(), &reason, |_| true);
    }
    let services: Vec<TreePath> =
        keeper.kept().keys().filter(|it| is_below(it.as_bytes(), b"etc/pam.d")).cloned().collect();
    for service in services {
        let text = keeper.read(service.as_bytes(), MAX_TEXT)?.unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        modules.extend(
            text.split_whitespace().filter(|it| it.starts_with("pam_") && it.ends_with(".so")).map(str::to_owned),
        );
    }
    for directory in keeper.library_directories() {
        for module in &modules {
            let path = [directory.as_slice(), b"/security/", module.as_bytes()].concat();
            keeper.want(&path, reason.clone());
        }
    }
    Ok(())
}

/// Character sets that a program which converts at all is likely to be asked for.
fn converters(keeper: &mut Keeper<'_>, used: &TreePath) {
    const COMMON: &[&str] = &[
        "gconv-modules",
        "gconv-modules.cache",
        "gconv-modules.d/gconv-modules-extra.conf",
        "UTF-16.so",
        "UTF-32.so",
        "UTF-7.so",
        "UNICODE.so",
        "ISO8859-1.so",
        "ISO8859-15.so",
        "CP1252.so",
    ];
    let bytes = used.as_bytes();
    let Some(at) = bytes.windows(7).position(|it| it == b"/gconv/") else { return };
    for name in COMMON {
        keeper.want(&[&bytes[..at + 7], name.as_bytes()].concat(), Reason::Converters(used.clone()));
    }
}

/// A program that looked at a time zone other than the machine's own may be asked for any.
fn zones(keeper: &mut Keeper<'_>, looked: &[TreePath]) {
    const ZONES: &[u8] = b"usr/share/zoneinfo";
    let local = keeper.tree.resolve("etc/localtime").unwrap_or_default();
    let is_zone = |it: &&TreePath| is_below(it.as_bytes(), ZONES) && it.as_bytes() != local && it.as_bytes() != ZONES;
    if let Some(used) = looked.iter().find(|it| is_zone(it) && keeper.tree.get(it).is_some()) {
        let doubled =
            |path: &[u8]| is_below(path, b"usr/share/zoneinfo/posix") || is_below(path, b"usr/share/zoneinfo/right");
        keeper.want_below(ZONES, &Reason::Zones(used.clone()), |path| !doubled(path));
    }
}

/// Pages that a package brings are data: where one was read, others will be.
fn web_pages(keeper: &mut Keeper<'_>, kept: &[TreePath]) {
    let may_hold = |it: &&TreePath| is_below(it.as_bytes(), b"usr/share") || is_below(it.as_bytes(), b"etc");
    for path in kept.iter().filter(may_hold) {
        if !keeper.is_used(path) {
            continue;
        }
        let bytes = path.as_bytes();
        for root in [&b"/html/"[..], b"/www/", b"/htdocs/", b"/web/"] {
            if let Some(at) = bytes.windows(root.len()).position(|it| it == root) {
                let root = bytes[..at + root.len() - 1].to_vec();
                keeper.want_below(&root, &Reason::Module(path.clone()), |_| true);
            }
        }
    }
}

/// The descriptions of the packages that something is kept of, so that scanners see what is here.
pub(super) fn records(keeper: &mut Keeper<'_>) -> Result<()> {
    const RECORDS: &[u8] = b"var/lib/dpkg/status.d";
    keeper.want(b"var/lib/dpkg/status", Reason::Record);
    let kept: BTreeSet<Vec<u8>> = keeper
        .kept()
        .keys()
        .filter(|path| !matches!(keeper.tree.get(path).map(|it| &it.node.kind), Some(Kind::Directory) | None))
        .map(|path| path.as_bytes().to_vec())
        .collect();
    let children: Vec<Vec<u8>> = keeper.tree.children(RECORDS).map(|(name, _)| name.to_vec()).collect();
    for name in children.iter().filter(|it| !it.ends_with(b".md5sums")) {
        let sums = [RECORDS, b"/", name, b".md5sums"].concat();
        let sums = keeper.read(&sums, MAX_TEXT)?.unwrap_or_default();
        let files = sums.split(|it| *it == b'\n').filter_map(|line| line.get(34..));
        let here = |path: &[u8]| {
            let real = keeper.tree.resolve(path).unwrap_or_default();
            kept.contains(&real)
        };
        // A package whose files are not listed cannot be told to be gone.
        if sums.is_empty() || files.into_iter().any(here) {
            keeper.want(&[RECORDS, b"/", name].concat(), Reason::Record);
        }
    }
    Ok(())
}
