//! The machine's own package sources, read through apt in a private directory.
//!
//! apt fetches and checks: signatures of `InRelease`, hashes of the indexes, hashes of the packages, by the machine's
//! sources, keys, proxies and credentials. **Neither apt's nor dpkg's state on the machine is touched:** lists, cache and an
//! empty status file lie in a directory of our own, so no privilege is needed, and any architecture can be asked for.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use model::{Arch, ByteSize, Progress, Sha256, Span, counted};
use rustix::fs::FlockOperation;

use crate::{Error, Result, SecurityUpdates};

/// What the lists of one Debian release take at most while they are fetched and unpacked.
const LISTS_TAKE: u64 = 128 << 20;

/// apt as this crate uses it: one private directory for each architecture and set of sources.
pub(crate) struct Apt {
    root: PathBuf,
    config: PathBuf,
    _lock: fs::File,
}

/// One index of packages, as apt has stored it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Index {
    /// The index, uncompressed.
    pub(crate) file: PathBuf,
    /// What package file names are relative to.
    pub(crate) repository: String,
    release: String,
    codename: String,
    suite: String,
    label: String,
    automatic: bool,
}

/// A package to be fetched.
pub(crate) struct Need {
    pub(crate) uri: String,
    pub(crate) size: u64,
    pub(crate) sha256: Sha256,
}

/// How the lists of packages are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lists {
    /// No older than asked for.
    Fresh,
    /// Older than asked for, as fetching new ones failed.
    Stale,
}

/// Refuses what there is no room for: apt itself waits for ever when the disk is full.
fn require_room(directory: &Path, bytes: u64) -> Result<()> {
    let file_system = rustix::fs::statvfs(directory).map_err(|error| Error::io(directory.display(), error))?;
    if file_system.f_bavail.saturating_mul(file_system.f_frsize) >= bytes {
        return Ok(());
    }
    let what = format!("{} (apt needs {} there)", directory.display(), ByteSize::bytes(bytes));
    Err(Error::io(what, rustix::io::Errno::NOSPC))
}

impl Apt {
    /// Sets up the private directory under `cache`. `etc` stands in for `/etc/apt` when given.
    pub(crate) fn open(cache: &Path, etc: Option<&Path>, arch: Arch) -> Result<Self> {
        Self::open_with(cache, etc, arch, None)
    }

    /// The same with those lines in place of all sources.
    pub(crate) fn open_with(cache: &Path, etc: Option<&Path>, arch: Arch, sources: Option<&str>) -> Result<Self> {
        let name = match (etc, sources) {
            (None, None) => arch.debian().to_owned(),
            _ => {
                let etc = etc.map_or(&b""[..], |it| it.as_os_str().as_encoded_bytes());
                let tag = blake3::hash(&[etc, sources.unwrap_or_default().as_bytes()].concat()).to_hex();
                format!("{}-{}", arch.debian(), &tag[..12])
            }
        };
        let root = cache.join("apt").join(name);
        for directory in ["cache/archives/partial", "debs"] {
            fs::create_dir_all(root.join(directory)).map_err(|error| Error::io(root.display(), error))?;
        }
        let root = fs::canonicalize(&root).map_err(|error| Error::io(root.display(), error))?;
        let lock = fs::File::create(root.join("lock.skep")).map_err(|error| Error::io(root.display(), error))?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(|error| Error::io(root.display(), error))?;
        let config = root.join("apt.conf");
        write(&root.join("status"), "")?;
        let mut text = configuration(&root, etc, arch)?;
        if let Some(sources) = sources {
            let list = root.join("sources.list");
            write(&list, sources)?;
            text.push_str(&format!("Dir::Etc::sourcelist \"{}\";\nDir::Etc::sourceparts \"-\";\n", list.display()));
        }
        write(&config, &text)?;
        Ok(Self { root, config, _lock: lock })
    }

    /// Makes sure that lists no older than `age` are there, or at least some.
    pub(crate) fn refresh(&self, age: Span, progress: &dyn Progress) -> Result<Lists> {
        let stamp = self.root.join("indexes");
        let known = fs::metadata(&stamp).and_then(|metadata| metadata.modified()).ok();
        let elapsed = known.map(|when| when.elapsed().unwrap_or(Duration::ZERO));
        if elapsed.is_some_and(|elapsed| elapsed < Duration::from(age)) {
            return Ok(Lists::Fresh);
        }
        require_room(&self.root, LISTS_TAKE)?;
        progress.begin("refreshing the lists of packages", None);
        let outcome = self.update();
        progress.end();
        match outcome {
            Ok(()) => Ok(Lists::Fresh),
            Err(_) if known.is_some() => Ok(Lists::Stale),
            Err(error) => Err(error),
        }
    }

    /// Fetches lists into a directory beside the current one, which they replace when all of them are there: apt throws away
    /// what it finds gone at the mirror.
    fn update(&self) -> Result<()> {
        let current = self.indexes().ok().and_then(|all| Some(all.first()?.file.parent()?.to_owned()));
        let [one, other] = ["lists-1", "lists-2"].map(|name| self.root.join(name));
        let (next, old) = if current.as_ref() == Some(&one) { (other, one) } else { (one, other) };
        let _ = fs::remove_dir_all(&next);
        fs::create_dir_all(next.join("partial")).map_err(|error| Error::io(next.display(), error))?;
        for entry in current.iter().flat_map(fs::read_dir).flatten().flatten() {
            // What is as it was at the mirror is not fetched again. A file that cannot be linked is.
            let _ = fs::hard_link(entry.path(), next.join(entry.file_name()));
        }
        const FORMAT: &str = "$(CREATED_BY)\t$(FILENAME)\t$(REPO_URI)\t$(RELEASE)\t$(CODENAME)\t$(SUITE)\t$(LABEL)";
        let place = format!("Dir::State::lists={}", next.display());
        let strict = "APT::Update::Error-Mode=any";
        self.run("apt-get", "refresh the lists of packages", &["-q", "-o", &place, "-o", strict, "update"])?;
        for entry in fs::read_dir(&next).into_iter().flatten().flatten() {
            make_own(&entry.path())?;
        }
        let list = self.run("apt-get", "list its indexes", &["-o", &place, "indextargets", "--format", FORMAT])?;
        write(&self.root.join("indexes"), &list)?;
        let _ = fs::remove_dir_all(old);
        Ok(())
    }

    /// The indexes that apt has.
    pub(crate) fn indexes(&self) -> Result<Vec<Index>> {
        let list = self.root.join("indexes");
        let text = fs::read_to_string(&list).map_err(|error| Error::io(list.display(), error))?;
        let mut found: Vec<Index> = text.lines().filter_map(index_of).collect();
        for index in &mut found {
            index.automatic = release_of(index).is_none_or(|text| !text.contains("\nNotAutomatic: yes"));
        }
        Ok(found)
    }

    /// The files of those packages, fetched where they are not there yet. Whoever reads one checks its digest again.
    pub(crate) fn fetch(&self, needs: &[Need], progress: &dyn Progress) -> Result<Vec<PathBuf>> {
        let path = |need: &Need| self.root.join("debs").join(format!("{}.deb", need.sha256.hex()));
        let missing: Vec<&Need> = needs
            .iter()
            .filter(|need| fs::metadata(path(need)).map_or(true, |metadata| metadata.len() != need.size))
            .collect();
        if !missing.is_empty() {
            let total: u64 = missing.iter().map(|need| need.size).sum();
            require_room(&self.root, total)?;
            progress.begin(&format!("fetching {}", counted(missing.len(), "package", "packages")), Some(total));
            let outcome = self.download(&missing, &path, progress);
            progress.end();
            outcome?;
        }
        Ok(needs.iter().map(path).collect())
    }

    fn download(&self, missing: &[&Need], path: &dyn Fn(&Need) -> PathBuf, progress: &dyn Progress) -> Result<()> {
        // One process for some files each: apt keeps the connection, and the progress still moves.
        for some in missing.chunks(12) {
            let mut arguments: Vec<std::ffi::OsString> = vec!["-q".into(), "download-file".into()];
            for need in some {
                let partial = path(need).with_extension("part");
                arguments.extend([
                    need.uri.clone().into(),
                    partial.into_os_string(),
                    format!("SHA256:{}", need.sha256.hex()).into(),
                ]);
            }
            self.run("/usr/lib/apt/apt-helper", "fetch packages", &arguments)?;
            for need in some {
                let whole = path(need);
                let partial = whole.with_extension("part");
                make_own(&partial)?;
                fs::rename(&partial, &whole).map_err(|error| Error::io(whole.display(), error))?;
                progress.advance(need.size);
            }
        }
        Ok(())
    }

    fn run<A: AsRef<OsStr>>(&self, program: &'static str, doing: &'static str, arguments: &[A]) -> Result<String> {
        let failed = |said: String| Error::Program { program, doing, said };
        let output = Command::new(program)
            .arg("-c")
            .arg(&self.config)
            .args(arguments)
            .env("LC_ALL", "C")
            .env_remove("APT_CONFIG")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => failed("it is not installed; deb: needs apt".to_owned()),
                _ => failed(error.to_string()),
            })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        let line = errors.lines().find(|line| line.starts_with("E:")).or_else(|| errors.lines().last());
        let said =
            line.map_or_else(|| output.status.to_string(), |line| line.trim_start_matches("E:").trim().to_owned());
        Err(failed(said))
    }
}

/// apt's configuration. It is read after the machine's own, which keeps proxies and credentials, and undoes what would act
/// on the machine: hooks after an update, caches, further languages and indexes.
fn configuration(root: &Path, etc: Option<&Path>, arch: Arch) -> Result<String> {
    let quoted = |path: &Path| {
        let text = path.to_str().filter(|text| !text.contains(|c: char| c == '"' || c == '\\' || c.is_control()));
        text.map(str::to_owned).ok_or_else(|| Error::Unsupported {
            what: format!("cache directory {}", path.display()),
            why: "apt's configuration cannot hold such a name".to_owned(),
        })
    };
    let (root, arch) = (quoted(root)?, arch.debian());
    let etc = match etc {
        Some(etc) => format!("Dir::Etc \"{}\";\n", quoted(etc)?),
        None => String::new(),
    };
    Ok(format!(
        "{etc}Dir::State \"{root}\";\nDir::State::status \"{root}/status\";\n\
         Dir::Cache \"{root}/cache\";\nDir::Cache::pkgcache \"\";\nDir::Cache::srcpkgcache \"\";\n\
         #clear APT::Architectures;\nAPT::Architecture \"{arch}\";\nAPT::Architectures {{ \"{arch}\"; }};\n\
         #clear APT::Update;\n#clear DPkg::Post-Invoke;\n#clear DPkg::Pre-Invoke;\n\
         #clear Acquire::Languages;\nAcquire::Languages {{ \"none\"; }};\nAcquire::GzipIndexes \"false\";\n\
         Acquire::Retries \"3\";\nAcquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
         Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled \"false\";\n\
         Acquire::IndexTargets::deb::CNF::DefaultEnabled \"false\";\n"
    ))
}

fn index_of(line: &str) -> Option<Index> {
    let fields: Vec<&str> = line.split('\t').collect();
    let ["Packages", file, repository, release, codename, suite, label] = fields.as_slice() else { return None };
    let own = |text: &&str| (*text).to_owned();
    Some(Index {
        file: file.into(),
        repository: own(repository),
        release: own(release),
        codename: own(codename),
        suite: own(suite),
        label: own(label),
        automatic: true,
    })
}

/// The release file that vouches for an index: apt names both after their address.
fn release_of(index: &Index) -> Option<String> {
    let name = index.file.file_name()?.to_str()?;
    let suite = format!("_dists_{}_", index.release.replace('/', "_"));
    let end = name.find(&suite)? + suite.len();
    let stem = name.get(..end)?;
    ["InRelease", "Release"].iter().find_map(|kind| {
        let file = index.file.with_file_name(format!("{stem}{kind}"));
        fs::read(file).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    })
}

impl Index {
    fn is_called(&self, name: &str) -> bool {
        [&self.release, &self.codename, &self.suite].into_iter().any(|known| known == name)
    }

    fn is_security(&self) -> bool {
        self.label.contains("Security") || self.release.ends_with("-security") || self.release.ends_with("/updates")
    }
}

/// The indexes to choose packages from: the machine's own, or a named suite with its updates.
///
/// # Errors
/// [`Error::NoSuchSuite`], naming those there are.
pub(crate) fn select(all: Vec<Index>, suite: Option<&str>, security: SecurityUpdates) -> Result<Vec<Index>> {
    let Some(suite) = suite else {
        let wanted = |index: &Index| index.automatic && (security == SecurityUpdates::Include || !index.is_security());
        return Ok(all.into_iter().filter(wanted).collect());
    };
    if !all.iter().any(|index| index.is_called(suite)) {
        let mut offered: Vec<String> = all.into_iter().map(|index| index.release).collect();
        offered.sort();
        offered.dedup();
        return Err(Error::NoSuchSuite { suite: suite.to_owned(), offered });
    }
    let (updates, secured) = (format!("{suite}-updates"), format!("{suite}-security"));
    let wanted = |index: &Index| {
        index.is_called(suite)
            || index.is_called(&updates) && !index.is_security()
            || index.is_called(&secured) && security == SecurityUpdates::Include
    };
    Ok(all.into_iter().filter(wanted).collect())
}

/// From a mirror on this machine apt makes links; what is to last has to be a file of its own.
fn make_own(path: &Path) -> Result<()> {
    let failed = |error| Error::io(path.display(), error);
    if fs::symlink_metadata(path).map_err(failed)?.is_symlink() {
        let copy = path.with_extension("copy");
        fs::copy(path, &copy).map_err(failed)?;
        fs::rename(&copy, path).map_err(failed)?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    let partial = path.with_extension("new");
    fs::write(&partial, text)
        .and_then(|()| fs::rename(&partial, path))
        .map_err(|error| Error::io(path.display(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_selected() {
        let lines = "Packages\t/l/d_dists_bookworm_main_Packages\thttp://d/\tbookworm\tbookworm\tstable\tDebian\n\
                     Packages\t/l/b\thttp://d/\tbookworm-updates\tbookworm-updates\tstable-updates\tDebian\n\
                     Packages\t/l/c\thttp://s/\tbookworm-security\tbookworm-security\tstable-security\tDebian-Security\n\
                     Packages\t/l/e\thttp://d/\tsid\tsid\tunstable\tDebian\nDEP-11\t/x\t\t\t\t\t\n";
        let mut all: Vec<Index> = lines.lines().filter_map(index_of).collect();
        all[3].automatic = false;
        let check = |suite, security, expected: &[&str]| {
            let found = select(all.clone(), suite, security).unwrap();
            let found: Vec<_> = found.iter().map(|index| index.release.as_str()).collect();
            assert_eq!(found, expected, "{suite:?}");
        };
        use SecurityUpdates::{Include, LeaveOut};
        check(None, Include, &["bookworm", "bookworm-updates", "bookworm-security"]);
        check(None, LeaveOut, &["bookworm", "bookworm-updates"]);
        check(Some("bookworm"), Include, &["bookworm", "bookworm-updates", "bookworm-security"]);
        check(Some("stable"), LeaveOut, &["bookworm", "bookworm-updates"]);
        check(Some("bookworm-security"), LeaveOut, &["bookworm-security"]);
        check(Some("unstable"), Include, &["sid"]);
        let error = select(all.clone(), Some("trixie"), Include).unwrap_err().to_string();
        assert!(error.contains("they offer bookworm, bookworm-security, bookworm-updates, sid"), "{error}");
    }

    #[test]
    fn a_path_that_would_break_the_configuration_is_refused() {
        assert!(configuration(Path::new("/a\"; Evil \"x"), None, Arch::Amd64).is_err());
        let text = configuration(Path::new("/cache"), Some(Path::new("/etc/other")), Arch::Arm64).unwrap();
        assert!(text.contains("APT::Architecture \"arm64\";") && text.starts_with("Dir::Etc \"/etc/other\";"));
    }

    #[test]
    fn what_there_is_no_room_for_is_not_begun() {
        let dir = std::env::temp_dir();
        assert!(require_room(&dir, 0).is_ok());
        let error = require_room(&dir, u64::MAX).unwrap_err().to_string();
        assert!(error.contains("apt needs") && error.contains("No space left on device"), "{error}");
    }
}
