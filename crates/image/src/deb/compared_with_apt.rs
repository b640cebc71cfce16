//! The solver against apt's own, over the lists that this machine happens to have. No network, no state touched.

use std::collections::BTreeSet;
use std::process::Command;

use model::Arch;

use super::solve::solve;
use super::universe::Universe;

/// What apt would install into nothing, without recommended packages.
fn apts_answer(status: &std::path::Path, package: &str) -> Option<BTreeSet<String>> {
    let output = Command::new("apt-get")
        .args(["-s", "--no-install-recommends", "-o"])
        .arg(format!("Dir::State::status={}", status.display()))
        .args(["-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache=", "install", package])
        .env("LC_ALL", "C")
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let names = text.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next());
    output.status.success().then(|| names.map(str::to_owned).collect())
}

/// The machine's lists, whatever they are compressed with.
fn machines_lists() -> Vec<String> {
    let format = ["indextargets", "--format", "$(FILENAME)", "Created-By: Packages"];
    let Ok(output) = Command::new("apt-get").args(format).output() else { return Vec::new() };
    let files = String::from_utf8_lossy(&output.stdout).into_owned();
    files
        .lines()
        .filter_map(|file| Command::new("/usr/lib/apt/apt-helper").args(["cat-file", file]).output().ok())
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .collect()
}

#[test]
fn closures_are_those_of_apt() {
    let texts = machines_lists();
    if texts.iter().all(String::is_empty) {
        eprintln!("SKIPPED: this machine has no lists of packages");
        return;
    }
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let universe = Universe::read(&texts, Arch::HOST);
    let dir = tempfile::tempdir().unwrap();
    let status = dir.path().join("status");
    std::fs::write(&status, "").unwrap();
    let mut compared = 0;
    for package in [
        "nginx-light",
        "redis-server",
        "busybox-static",
        "python3-minimal",
        "sqlite3",
        "mosquitto",
        "lighttpd",
        "git",
        "curl",
    ] {
        let Some(theirs) = apts_answer(&status, package) else { continue };
        let solution = solve(&universe, &[package.to_owned()], &|_, _| false).unwrap();
        let ours: BTreeSet<String> = solution.packages.iter().map(|id| universe.package(*id).name.to_owned()).collect();
        assert_eq!(ours, theirs, "{package}");
        compared += 1;
    }
    assert!(compared > 0, "apt answered nothing");
}
