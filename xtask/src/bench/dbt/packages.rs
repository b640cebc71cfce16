//! Debian's packages for another architecture, by the machine's own apt with lists of their own, unpacked side by side.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::target::Target;
use crate::{Result, must, output_of, target_dir};

/// What is run in a guest; apt adds what these need.
const PROGRAMS: [&str; 6] = ["busybox-static", "gzip", "xz-utils", "sqlite3", "python3-minimal", "cpp"];

/// An unpacked kernel, and unpacked programs with all that they need.
pub(super) struct Packages {
    pub(super) kernel: PathBuf,
    pub(super) programs: PathBuf,
}

impl Packages {
    /// Fetches them, if that was not done before.
    pub(super) fn of(target: &Target) -> Result<Packages> {
        let work = directory(target)?;
        let packages = work.join("packages");
        if !packages.exists() {
            let apt = Apt::new(target, &work.join("apt"))?;
            let fresh = work.join("packages.new");
            apt.programs(&fresh.join("programs"))?;
            apt.kernel(target.kernel, &fresh.join("kernel"))?;
            fs::rename(&fresh, &packages).map_err(|e| format!("renaming {}: {e}", fresh.display()))?;
        }
        let is_kernel = |path: &Path| path.to_string_lossy().contains("/boot/vmlinu");
        let kernel = find(&packages.join("kernel"), &is_kernel)?;
        Ok(Packages { kernel, programs: packages.join("programs") })
    }

    /// The first file of the programs that is meant.
    pub(super) fn find(&self, is_meant: &dyn Fn(&Path) -> bool) -> Result<PathBuf> {
        find(&self.programs, is_meant)
    }
}

/// Where everything for an architecture is kept.
pub(super) fn directory(target: &Target) -> Result<PathBuf> {
    let work = target_dir().join("dbt").join(target.name);
    fs::create_dir_all(&work).map_err(|e| format!("making {}: {e}", work.display()))?;
    Ok(work)
}

/// The machine's apt, for another architecture and nothing installed.
struct Apt {
    directory: PathBuf,
    options: Vec<String>,
}

impl Apt {
    fn new(target: &Target, directory: &Path) -> Result<Apt> {
        let codename = output_of(Command::new("sh").args(["-c", ". /etc/os-release && echo $VERSION_CODENAME"]))?;
        let targets = output_of(Command::new("apt-get").args(["indextargets", "--format", "$(REPO_URI) $(RELEASE)"]))?;
        let repository =
            targets.lines().filter_map(|line| line.split_once(' ')).find(|(_, release)| *release == codename.trim());
        let (repository, _) = repository.ok_or("apt knows no repository of this release")?;
        for dir in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(directory.join(dir)).map_err(|e| e.to_string())?;
        }
        let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
        let list = format!("deb [arch={} signed-by={keys}] {repository} {} main\n", target.debian, target.suite);
        fs::write(directory.join("sources.list"), list).map_err(|e| e.to_string())?;
        fs::write(directory.join("status"), "").map_err(|e| e.to_string())?;
        let at = |name: &str| directory.join(name).display().to_string();
        let options = vec![
            format!("APT::Architecture={}", target.debian),
            format!("APT::Architectures={}", target.debian),
            "APT::Sandbox::User=root".to_owned(),
            format!("Dir::State={}", at("")),
            format!("Dir::State::lists={}", at("lists")),
            format!("Dir::State::status={}", at("status")),
            format!("Dir::Cache={}", at("cache")),
            format!("Dir::Etc::sourcelist={}", at("sources.list")),
            "Dir::Etc::sourceparts=-".to_owned(),
        ];
        let apt = Apt { directory: directory.to_owned(), options };
        must(apt.run("apt-get").arg("update").stdout(Stdio::null()))?;
        Ok(apt)
    }

    fn run(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        self.options.iter().for_each(|option| _ = command.args(["-o", option]));
        command.arg("-qq").current_dir(&self.directory);
        command
    }

    /// Unpacks the programs, and whatever they depend on.
    fn programs(&self, to: &Path) -> Result {
        let options = ["install", "--download-only", "--assume-yes", "--no-install-recommends"];
        must(self.run("apt-get").args(options).args(PROGRAMS).stdout(Stdio::null()))?;
        fs::create_dir_all(to).map_err(|e| e.to_string())?;
        for package in packages_in(&self.directory.join("cache/archives"))? {
            must(Command::new("dpkg-deb").arg("-x").args([package.as_path(), to]))?;
        }
        Ok(())
    }

    /// Unpacks the newest kernel without its modules, which are ten times its size.
    fn kernel(&self, name: &str, to: &Path) -> Result {
        let depends = output_of(self.run("apt-cache").args(["depends", name]))?;
        let image = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
        let image = image.ok_or_else(|| format!("apt knows no kernel that {name} depends on"))?;
        must(self.run("apt-get").args(["download", image]).stdout(Stdio::null()))?;
        fs::create_dir_all(to).map_err(|e| e.to_string())?;
        for package in packages_in(&self.directory)? {
            let mut contents = Command::new("dpkg-deb");
            contents.arg("--fsys-tarfile").arg(&package).stdout(Stdio::piped());
            let mut contents = contents.spawn().map_err(|e| format!("dpkg-deb: {e}"))?;
            let input = contents.stdout.take().ok_or("contents were asked for")?;
            must(Command::new("tar").arg("-xC").arg(to).arg("./boot").stdin(input))?;
            contents.wait().map_err(|e| e.to_string())?;
        }
        Ok(())
    }
}

fn packages_in(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).map_err(|e| format!("reading {}: {e}", directory.display()))?;
    Ok(entries.flatten().map(|it| it.path()).filter(|it| it.extension().is_some_and(|it| it == "deb")).collect())
}

/// The first file below a directory that is meant; links to files are files.
fn find(dir: &Path, is_meant: &dyn Fn(&Path) -> bool) -> Result<PathBuf> {
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).map_err(|e| format!("reading {}: {e}", dir.display()))?.flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => left.push(path),
                Ok(_) if is_meant(&path) && path.is_file() => return Ok(path),
                _ => {}
            }
        }
    }
    Err(format!("{} does not have what was looked for", dir.display()))
}
