//! Images whose packages configure themselves: their own scripts run once, in a build cell that the engine starts between
//! [`configure_plan`] and [`finish_configured`].
//!
//! The cell's root has the essential packages unpacked, an empty dpkg database, and every package as a file; its command
//! lets dpkg install them in order, as a bootstrap does. Services are kept from starting by a `policy-rc.d` that says no.
//! What scripts make (keys, identifiers, times) differs from run to run: **such an image is not reproducible**, and its
//! notes say so.

use std::fs::File;
use std::path::Path;

use model::{Arch, DebSource, ImageRecord, ObjectId, Progress, Source};
use store::{Kind, Metadata, Mtime, Node, Store, Tree};

use super::universe::PackageId;
use super::unpack::{Account, Selection, Unpacking};
use super::users::Users;
use super::{Job, with_packages};
use crate::record::{self, Draft};
use crate::{Error, FetchOptions, Fetched, Result};

/// The label of an image whose packages configured themselves: it has the name of one where they did not.
const CONFIGURED_LABEL: &str = "skep.configured";

/// Where the packages lie in the build cell.
const PLACE: &str = "debs";

/// What the build cell runs. dpkg sorts out the order; dependencies are forced only until the essential packages, which
/// depend on each other, are all there. It leaves out a package whose pre-dependencies come with it and are not configured
/// yet; each further pass takes such in. What is thrown away when the machine goes down need not be synced before.
const SCRIPT: &str = "\
dpkg --force-unsafe-io --force-depends --install /debs/essential/*.deb
set -- /debs/wanted/*.deb
passes=0
until [ ! -e \"$1\" ] || dpkg --force-unsafe-io --skip-same-version --install \"$@\"; do
  dpkg --configure --pending || true
  passes=$((passes + 1))
  [ $passes -lt 8 ]
done
dpkg --audit
";

const POLICY: &str = "#!/bin/sh\nexit 101\n";

/// What of the build cell does not belong into the image.
const REMOVED: [&str; 14] = [
    PLACE,
    "usr/sbin/policy-rc.d",
    "etc/passwd-",
    "etc/group-",
    "etc/shadow-",
    "etc/gshadow-",
    "etc/machine-id",
    "var/lib/dbus/machine-id",
    "var/cache/ldconfig/aux-cache",
    "var/cache/debconf/config.dat-old",
    "var/cache/debconf/templates.dat-old",
    "var/log/dpkg.log",
    "var/log/alternatives.log",
    "var/log/bootstrap.log",
];
/// Directories of which only the directory belongs into the image: others are mounted there while a cell runs.
const CLEARED: [&str; 4] = ["dev", "proc", "sys", "tmp"];

/// What the engine has to run in a build cell: as root, with a writable root file system, without network.
#[derive(Clone, Debug)]
pub struct ConfigurePlan {
    /// The cell's root file system.
    pub tree: ObjectId,
    /// Its command; success means that every package is configured.
    pub command: Vec<String>,
    /// Its whole environment.
    pub env: Vec<String>,
    draft: Draft,
}

impl ConfigurePlan {
    /// The processor that the cell's programs are for.
    pub fn arch(&self) -> Arch {
        self.draft.arch
    }
}

/// Whether the scripts of an image's packages have run.
pub fn is_configured(image: &ImageRecord) -> bool {
    image.config.labels.contains_key(CONFIGURED_LABEL)
}

/// Prepares the build cell of an image of packages.
pub fn configure_plan(
    store: &Store,
    source: &DebSource,
    options: &FetchOptions,
    progress: &dyn Progress,
) -> Result<ConfigurePlan> {
    let source = crate::fetch::for_arch(source, options.arch)?;
    let arch = options.arch_or(source.arch);
    if arch != Arch::HOST {
        let why = format!("the scripts of packages for {arch} need a processor that this machine does not have");
        return Err(Error::Unsupported { what: format!("--configure for deb:{source}"), why });
    }
    with_packages(&source, options, progress, |job, arch, notes| {
        let essential = job.universe.base();
        let mut wanted = source.packages.clone();
        wanted.extend(essential.iter().cloned());
        wanted.extend(job.universe.settled());
        let chosen = super::solve::solve(job.universe, &wanted, &|_, _| false)?.packages;
        let files = job.fetch(&chosen)?;
        // Unpacked whole first, only to see the units and programs that tell the image's command.
        let mut seen = Unpacking::new(store.writer()?, options.limits, Account::Descriptions)?;
        job.unpack_all(&mut seen, &chosen, &files, Selection::All)?;
        let (root, mut draft) = job.describe(&Source::Deb(source.clone()), arch, seen, &chosen, options)?;
        draft.config.labels.insert(CONFIGURED_LABEL.to_owned(), "by its packages' scripts".to_owned());
        draft.notes = notes;
        draft.notes.push("its packages' own scripts were run: another build will not have the same digest".to_owned());

        let base = closure_of(job, &essential)?;
        let mut cell = Unpacking::new(root.writer, options.limits, Account::Descriptions)?;
        let (first, later): (Vec<_>, Vec<_>) = chosen.iter().zip(&files).partition(|(id, _)| base.contains(id));
        let (ids, paths): (Vec<PackageId>, Vec<_>) = first.iter().map(|(id, file)| (**id, (*file).clone())).unzip();
        job.unpack_all(&mut cell, &ids, &paths, Selection::All)?;
        prepare(&mut cell)?;
        for (place, packages) in [("essential", &first), ("wanted", &later)] {
            directory(&mut cell.tree, &format!("{PLACE}/{place}"))?;
            for (id, file) in packages {
                let open = File::open(file).map_err(|error| Error::io(file.display(), error))?;
                let content = cell.writer.file(open)?;
                let path = format!("{PLACE}/{place}/{}.deb", job.universe.package(**id).name);
                cell.tree.insert(path, Node::file(Metadata::new(0o644), content))?;
            }
        }
        let tree = cell.writer.tree(&cell.tree)?;
        cell.writer.publish(&[])?;
        Ok(ConfigurePlan {
            tree,
            command: vec!["/bin/sh".to_owned(), "-eu".to_owned(), format!("/{PLACE}/configure")],
            env: [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "DEBIAN_FRONTEND=noninteractive",
                "DEBCONF_NONINTERACTIVE_SEEN=true",
                "LC_ALL=C.UTF-8",
                "HOME=/root",
            ]
            .map(str::to_owned)
            .to_vec(),
            draft,
        })
    })
}

fn closure_of(job: &Job<'_>, names: &[String]) -> Result<Vec<PackageId>> {
    if names.is_empty() {
        return Err(Error::Unsupported {
            what: "--configure".to_owned(),
            why: "the machine's apt sources offer no essential packages to run scripts with".to_owned(),
        });
    }
    Ok(super::solve::solve(job.universe, names, &|_, _| false)?.packages)
}

/// What dpkg needs before the first script has run.
fn prepare(cell: &mut Unpacking) -> Result<()> {
    let users = match cell.text("usr/share/base-passwd/passwd.master") {
        Some(passwd) => Users::read(&passwd, &cell.text("usr/share/base-passwd/group.master").unwrap_or_default()),
        None => Users::minimal(),
    };
    for path in
        ["var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers", "var/lib/dpkg/alternatives", PLACE]
    {
        directory(&mut cell.tree, path)?;
    }
    let files: [(&str, &str, u16); 7] = [
        ("var/lib/dpkg/status", "", 0o644),
        ("var/lib/dpkg/available", "", 0o644),
        ("var/lib/dpkg/info/format", "1\n", 0o644),
        ("etc/passwd", &users.passwd(), 0o644),
        ("etc/group", &users.group(), 0o644),
        ("usr/sbin/policy-rc.d", POLICY, 0o755),
        ("debs/configure", SCRIPT, 0o644),
    ];
    for (path, text, mode) in files {
        let content = cell.writer.file(text.as_bytes())?;
        cell.tree.make_parents(path, &Metadata::new(0o755))?;
        cell.tree.insert(path, Node::file(Metadata::new(mode), content))?;
    }
    if cell.tree.get("usr/bin/awk").is_none() && cell.tree.get("usr/bin/mawk").is_some() {
        cell.tree.insert("usr/bin/awk", Node::symlink(Metadata::new(0o777), *b"mawk"))?;
    }
    Ok(())
}

fn directory(tree: &mut Tree, path: &str) -> Result<()> {
    tree.make_parents(path, &Metadata::new(0o755))?;
    if tree.get(path).is_none() {
        tree.insert(path, Node::directory(Metadata::new(0o755)))?;
    }
    Ok(())
}

/// Makes the image of a build cell's root file system, after its command has succeeded. `root` is the directory where the
/// host sees it, nothing mounted inside.
pub fn finish_configured(
    store: &Store,
    plan: &ConfigurePlan,
    root: &Path,
    options: &FetchOptions,
    progress: &dyn Progress,
) -> Result<Fetched> {
    progress.begin("taking in the configured root file system", None);
    let reader = store.reader()?;
    let mut writer = store.writer()?;
    let mut tree = writer.directory(root)?;
    for path in REMOVED {
        tree.remove(path)?;
    }
    for path in CLEARED {
        let is_directory = tree.get(path).is_some_and(|entry| entry.node.kind == Kind::Directory);
        if is_directory {
            tree.clear(path)?;
        }
    }
    clamp(&mut tree, Mtime { seconds: seconds_of(&plan.draft), nanos: 0 });
    let id = writer.tree(&tree)?;
    writer.publish(&[])?;
    progress.end();
    record::keep(store, &reader, id, plan.draft.clone(), options.name.as_ref())
}

fn seconds_of(draft: &Draft) -> i64 {
    i64::try_from(draft.created.as_nanos() / 1_000_000_000).unwrap_or(i64::MAX)
}

/// No file is newer than the newest package: what the scripts made has no time of its own.
fn clamp(tree: &mut Tree, newest: Mtime) {
    let late = |entry: &store::Entry<'_>| entry.node.meta.mtime > newest;
    let paths: Vec<Vec<u8>> = tree.walk().filter(|(_, entry)| late(entry)).map(|(path, _)| path).collect();
    for path in paths {
        if let Some(meta) = tree.metadata_mut(&path) {
            meta.mtime = newest;
        }
    }
}
