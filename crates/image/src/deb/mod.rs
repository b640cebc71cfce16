//! Images of Debian packages: `deb:nginx-light`.
//!
//! apt fetches and checks (see [`apt`]); everything after that happens here, as data: the closure is solved, packages are
//! unpacked straight into the pool, and what their scripts would have done is done declaratively. **No maintainer script
//! runs, nothing of the machine changes, and the same packages give the same image on every machine.**

mod apt;
mod ar;
mod command;
mod configure;
mod control;
mod database;
mod finish;
mod kernel;
mod known;
mod relation;
mod solve;
mod suite;
mod tmpfiles;
mod unit;
mod universe;
mod unpack;
mod users;
mod version;

pub use self::configure::{ConfigurePlan, configure_plan, finish_configured, is_configured};
pub use self::kernel::{KernelFiles, kernel};
pub(crate) use self::version::compare as compare_versions;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use model::{Arch, DebSource, Progress, Source, Timestamp, counted};
use store::Store;

use self::apt::{Apt, Index, Lists, Need};
use self::known::Known;
use self::solve::solve;
use self::universe::{Package, PackageId, Universe};
use self::unpack::{Account, Selection, Unpacking};
use crate::record::{self, Draft};
use crate::{Error, FetchOptions, Fetched, Result, SecurityUpdates};

/// Packages whose files every image gets: the skeleton of directories and the machine-readable name of the system. Their
/// own dependencies are for their scripts.
const SKELETON: [(&str, Selection); 2] = [
    ("base-files", Selection::All),
    ("base-passwd", Selection::Only(&["usr/share/base-passwd/passwd.master", "usr/share/base-passwd/group.master"])),
];

/// The label of an image that was built without security updates.
const SECURITY_LABEL: &str = "skep.security-updates";

/// Interpreters that packages use without saying so, as they are essential on a machine.
const ESSENTIAL: [(&str, &str); 4] =
    [("usr/bin/sh", "dash"), ("usr/bin/dash", "dash"), ("usr/bin/bash", "bash"), ("usr/bin/perl", "perl-base")];

/// Builds an image of packages.
pub(crate) fn build(
    store: &Store,
    source: &Source,
    wanted: &DebSource,
    options: &FetchOptions,
    progress: &dyn Progress,
) -> Result<Fetched> {
    with_packages(wanted, options, progress, |job, arch, mut notes| {
        // Held from before anything is stored, so that no collector takes it away before it has a name.
        let reader = store.reader()?;
        let (unpacking, chosen, left_out) = job.unpack(store, wanted, options)?;
        if !left_out.is_empty() {
            let list = left_out.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            notes.push(format!("left out, as they are used by configuration scripts or extras only: {list}"));
        }
        let (root, mut draft) = job.describe(source, arch, unpacking, &chosen, options)?;
        draft.notes.splice(0..0, notes);
        let finish::Root { tree, mut writer, .. } = root;
        let tree = writer.tree(&tree)?;
        writer.publish(&[])?;
        record::keep(store, &reader, tree, draft, options.name.as_ref())
    })
}

/// Reads the machine's package sources, and does some work with them.
fn with_packages<T>(
    wanted: &DebSource,
    options: &FetchOptions,
    progress: &dyn Progress,
    work: impl FnOnce(&Job<'_>, Arch, Vec<String>) -> Result<T>,
) -> Result<T> {
    let arch = options.arch_or(wanted.arch);
    let known = Known::load()?;
    let mut notes = Vec::new();
    let stale = Cell::new(Lists::Fresh);
    let (apt, indexes) = sources_of(wanted, arch, options, (&mut notes, &stale), progress)?;
    if stale.get() == Lists::Stale {
        notes.push("the lists of packages could not be refreshed: older ones were used".to_owned());
    }
    let texts = read_indexes(&indexes)?;
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let universe = Universe::read(&texts, arch);
    work(&Job { universe: &universe, indexes: &indexes, apt: &apt, known: &known, progress }, arch, notes)
}

/// apt with the lists to choose from: by the machine's sources, or, for a suite that those do not name, by the same archive.
fn sources_of(
    wanted: &DebSource,
    arch: Arch,
    options: &FetchOptions,
    (notes, stale): (&mut Vec<String>, &Cell<Lists>),
    progress: &dyn Progress,
) -> Result<(Apt, Vec<Index>)> {
    let read = |apt: Apt| {
        stale.set(apt.refresh(options.refresh, progress)?);
        let indexes = apt::select(apt.indexes()?, wanted.suite.as_deref(), options.security)?;
        Ok((apt, indexes))
    };
    let etc = options.apt.as_deref();
    let refusal = match (read(Apt::open(options.cache(), etc, arch)?), &wanted.suite) {
        (Err(Error::NoSuchSuite { suite, offered }), Some(_)) => Error::NoSuchSuite { suite, offered },
        (outcome, _) => return outcome,
    };
    let suite = wanted.suite.as_deref().unwrap_or_default();
    let Some(text) = suite::sources(etc.unwrap_or(Path::new("/etc/apt")), suite) else { return Err(refusal) };
    let released: String =
        text.lines().filter(|it| suite::is_released(it, suite)).map(|it| format!("{it}\n")).collect();
    match read(Apt::open_with(options.cache(), etc, arch, Some(&text))?) {
        // The archive has none of that name either.
        Err(Error::Program { said, .. }) if said.contains("does not have a Release file") => Err(refusal),
        Err(Error::Program { program, doing, said }) if released != text => {
            // Its updates may be what cannot be had.
            let outcome = read(Apt::open_with(options.cache(), etc, arch, Some(&released))?);
            let outcome = outcome.map_err(|_| Error::Program { program, doing, said: said.clone() })?;
            notes.push(format!("{suite} is taken as it was released, without its updates: {said}"));
            Ok(outcome)
        }
        outcome => outcome,
    }
}

fn read_indexes(indexes: &[Index]) -> Result<Vec<String>> {
    let read = |index: &Index| {
        let bytes = fs::read(&index.file).map_err(|error| Error::io(index.file.display(), error))?;
        Ok(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    };
    indexes.iter().map(read).collect()
}

/// Whether an image of those is one that further packages are installed into.
fn is_system(wanted: &[String]) -> bool {
    wanted.iter().any(|name| name == database::DPKG)
}

/// What building one image works with.
struct Job<'j> {
    universe: &'j Universe<'j>,
    indexes: &'j [Index],
    apt: &'j Apt,
    known: &'j Known,
    progress: &'j dyn Progress,
}

impl<'j> Job<'j> {
    /// Solves, fetches and unpacks, and does so again for what only the unpacked files told: interpreters of commands.
    fn unpack(
        &self,
        store: &Store,
        source: &DebSource,
        options: &FetchOptions,
    ) -> Result<(Unpacking, Vec<PackageId>, BTreeSet<String>)> {
        let outcome = self.unpack_closure(store, source, options);
        self.progress.end();
        outcome
    }

    fn unpack_closure(
        &self,
        store: &Store,
        source: &DebSource,
        options: &FetchOptions,
    ) -> Result<(Unpacking, Vec<PackageId>, BTreeSet<String>)> {
        let mut wanted = source.packages.clone();
        let mut first: Vec<PackageId> =
            SKELETON.iter().filter_map(|(name, _)| self.universe.named(name).first().copied()).collect();
        first.extend(self.solve(&mut wanted)?.packages);
        first.sort_unstable();
        first.dedup();
        // Fetched before the pool's one writer is taken, so that a slow mirror holds nobody up.
        self.fetch(&first)?;
        let account = if is_system(&wanted) { Account::Dpkg } else { Account::Descriptions };
        let mut unpacking = Unpacking::new(store.writer()?, options.limits, account)?;
        self.announce_unpacking(&first);
        for (name, selection) in SKELETON {
            if let Some(id) = self.universe.named(name).first() {
                let files = self.fetch(&[*id])?;
                self.unpack_all(&mut unpacking, &[*id], &files, selection)?;
            }
        }
        let mut done: Vec<PackageId> = Vec::new();
        loop {
            let solution = self.solve(&mut wanted)?;
            let fresh: Vec<PackageId> = solution.packages.iter().copied().filter(|id| !done.contains(id)).collect();
            let files = self.fetch(&fresh)?;
            if !done.is_empty() {
                self.announce_unpacking(&fresh);
            }
            // Dependencies first, so that a package's own file wins over one that it replaces.
            let (fresh, files) =
                (fresh.into_iter().rev().collect::<Vec<_>>(), files.into_iter().rev().collect::<Vec<_>>());
            self.unpack_all(&mut unpacking, &fresh, &files, Selection::All)?;
            done = solution.packages;
            let missing = self.missing_interpreters(&unpacking, source, &done);
            if missing.is_empty() {
                return Ok((unpacking, done, solution.left_out));
            }
            wanted.extend(missing);
        }
    }

    /// The closure of what is wanted and of what those packages are known to need beside what they declare. Of a system
    /// nothing is left out.
    fn solve(&self, wanted: &mut Vec<String>) -> Result<solve::Solution> {
        loop {
            let is_system = is_system(wanted);
            let needless = |owner: &str, name: &str| !is_system && self.known.is_needless(owner, name);
            let solution = solve(self.universe, wanted, &needless)?;
            let names = solution.packages.iter().map(|id| self.universe.package(*id).name);
            let needs = names.flat_map(|name| self.known.about(name)).flat_map(|it| it.needs.iter().cloned());
            let base = is_system.then(|| self.universe.base().into_iter().chain(self.universe.settled()));
            let needs: BTreeSet<String> = needs.chain(base.into_iter().flatten()).collect();
            let further: Vec<String> = needs.into_iter().filter(|need| !wanted.contains(need)).collect();
            if further.is_empty() {
                return Ok(solution);
            }
            wanted.extend(further);
        }
    }

    fn fetch(&self, packages: &[PackageId]) -> Result<Vec<PathBuf>> {
        let need = |id: &PackageId| {
            let package = self.universe.package(*id);
            let index = self.indexes.get(package.index);
            let repository = index.map(|index| index.repository.trim_end_matches('/')).unwrap_or_default();
            let uri = format!("{repository}/{}", package.filename);
            Need { uri, size: package.size, sha256: package.sha256 }
        };
        self.apt.fetch(&packages.iter().map(need).collect::<Vec<_>>(), self.progress)
    }

    fn announce_unpacking(&self, packages: &[PackageId]) {
        let total = packages.iter().map(|id| self.universe.package(*id).size).sum();
        self.progress.begin(&format!("unpacking {}", counted(packages.len(), "package", "packages")), Some(total));
    }

    fn unpack_all(&self, into: &mut Unpacking, ids: &[PackageId], files: &[PathBuf], what: Selection) -> Result<()> {
        ids.iter().map(|id| self.universe.package(*id)).zip(files).try_for_each(|(package, file)| {
            into.package(package, file, what)?;
            self.progress.advance(package.size);
            Ok(())
        })
    }

    /// Essential packages whose interpreter a command of the packages asked for needs, and nothing else brings.
    fn missing_interpreters(&self, unpacked: &Unpacking, source: &DebSource, done: &[PackageId]) -> Vec<String> {
        let names: Vec<&str> = done.iter().map(|id| self.universe.package(*id).name).collect();
        let replaced: Vec<&String> =
            names.iter().flat_map(|name| self.known.about(name)).flat_map(|known| &known.replaces).collect();
        let needed = unpacked.interpreters(&source.packages);
        let wanted = |(path, package): &(&str, &str)| {
            needed.contains(path.as_bytes())
                && !names.contains(package)
                && !replaced.iter().any(|name| name == package)
                && !self.universe.named(package).is_empty()
        };
        let found: BTreeSet<String> =
            ESSENTIAL.into_iter().filter(wanted).map(|(_, package)| package.to_owned()).collect();
        found.into_iter().collect()
    }

    /// Finishes the tree, and says what image it makes.
    fn describe(
        &self,
        source: &Source,
        arch: Arch,
        unpacking: Unpacking,
        chosen: &[PackageId],
        options: &FetchOptions,
    ) -> Result<(finish::Root, Draft)> {
        let packages: Vec<Package<'_>> = chosen.iter().map(|id| *self.universe.package(*id)).collect();
        let mut root = finish::finish(unpacking, self.known, &packages, arch)?;
        let mut decision = command::decide(&root, self.known, &packages);
        if options.security == SecurityUpdates::LeaveOut {
            // The image has the name of one with them: what sets it apart must travel with it.
            decision.config.labels.insert(SECURITY_LABEL.to_owned(), "left out".to_owned());
        }
        let mut notes = std::mem::take(&mut root.notes);
        notes.extend(decision.notes);
        let skeleton = SKELETON.iter().filter_map(|(name, _)| self.universe.named(name).first());
        let mut inputs: Vec<String> = packages
            .iter()
            .chain(skeleton.map(|id| self.universe.package(*id)))
            .map(|package| format!("{} {} {}", package.name, package.version, package.sha256))
            .collect();
        inputs.sort();
        inputs.dedup();
        let seconds = u64::try_from(root.newest).unwrap_or(0);
        let created = Timestamp::from_nanos(seconds.saturating_mul(1_000_000_000));
        let draft = Draft { source: source.clone(), arch, config: decision.config, inputs, created, notes };
        Ok((root, draft))
    }
}

#[cfg(test)]
mod compared_with_apt;
