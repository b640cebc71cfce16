//! Debian's own programs at work in a guest, as they are: what compresses, asks a data base, interprets and compiles.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::packages::Packages;
use super::target::Target;
use crate::vm::archive::Archive;
use crate::{Result, must, output_of};

/// Rows, in the script's order.
pub(super) const NAMES: [&str; 5] = ["gzip", "xz", "sqlite", "python", "cc1"];

const SCRIPT: &str = include_str!("programs/run.sh");
const SQL: &str = include_str!("programs/work.sql");
const PYTHON: &str = include_str!("programs/work.py");
/// Bytes of text and of a program that are compressed.
const DATA: (usize, usize) = (1 << 20, 1 << 20);

/// Adds the programs, what they need, and what they work on; `source` is compiled.
pub(super) fn add(archive: &mut Archive, packages: &Packages, target: &Target, source: &Path) -> Result {
    let named = |name: &'static str| packages.find(&move |path: &Path| path.ends_with(name));
    let is_python = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        path.parent().is_some_and(|it| it.ends_with("usr/bin")) && name.starts_with("python3.")
    };
    let python = packages.find(&is_python)?;
    let programs = [named("bin/gzip")?, named("bin/xz")?, named("bin/sqlite3")?, python.clone(), named("cc1")?];
    let mut libraries = BTreeSet::new();
    for program in &programs {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("usr/bin/{name}"), program)?;
        needed(packages, target, program, &mut libraries)?;
    }
    for (name, path) in &libraries {
        archive.file(&format!("lib/{name}"), path)?;
    }
    let name = python.file_name().unwrap_or_default().to_string_lossy();
    let modules = packages.programs.join("usr/lib").join(&*name);
    archive.tree(&format!("usr/lib/{name}"), &modules)?;
    archive.link("usr/bin/python3", &name);

    archive.data("bin/programs", 0o755, SCRIPT.as_bytes());
    archive.data("work/work.sql", 0o644, SQL.as_bytes());
    archive.data("work/work.py", 0o644, PYTHON.as_bytes());
    archive.data("work/data", 0o644, &data(&modules, &programs[4])?);
    let preprocessed = source.with_extension("i");
    let mut compiler = Command::new(format!("{}-linux-gnu-gcc", target.name));
    must(compiler.args(["-E", "-P", "-o"]).args([&preprocessed, source]))?;
    archive.file("work/work.i", &preprocessed)
}

/// Adds the libraries that a program needs, and those that these need.
fn needed(packages: &Packages, target: &Target, file: &Path, found: &mut BTreeSet<(String, PathBuf)>) -> Result {
    let text = output_of(Command::new(format!("{}-linux-gnu-readelf", target.name)).arg("-d").arg(file))?;
    let names = text.lines().filter(|line| line.contains("(NEEDED)"));
    for name in names.filter_map(|line| line.split_once('[')?.1.strip_suffix(']')) {
        let path = packages.find(&|path: &Path| path.file_name().is_some_and(|it| it == name))?;
        if found.insert((name.to_owned(), path.clone())) {
            needed(packages, target, &path, found)?;
        }
    }
    Ok(())
}

/// Text and code: modules of Python in the order of their names, and a part of a compiler.
fn data(modules: &Path, compiler: &Path) -> Result<Vec<u8>> {
    let entries = fs::read_dir(modules).map_err(|e| format!("reading {}: {e}", modules.display()))?;
    let mut names: Vec<PathBuf> = entries.flatten().map(|it| it.path()).filter(|it| it.is_file()).collect();
    names.sort();
    let read = |path: &Path| fs::read(path).map_err(|e| format!("reading {}: {e}", path.display()));
    let mut data = Vec::new();
    for name in names {
        data.extend(read(&name)?);
    }
    data.truncate(DATA.0);
    data.extend(read(compiler)?.into_iter().skip(DATA.1).take(DATA.1));
    Ok(data)
}
