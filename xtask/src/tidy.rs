//! `cargo xtask tidy`: what must hold of the code as text. Each check names what to change.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::{Result, cargo, must, root};

/// The crates by layer, lowest first; inside a layer, a crate may use those named before it. `tests` and `xtask` stand
/// outside: they may use anything, and nothing may use them.
const LAYERS: &[&[&str]] = &[
    &["model", "abi", "sys"],
    &["store", "image", "net", "vm", "isa"],
    &["container", "toolbox", "unikernel", "dbt", "machine"],
    &["engine"],
    &["skep"],
];

/// The only modules that may hold `unsafe`, each of which says why in its first lines.
const UNSAFE_MODULES: &[&str] = &[
    "crates/dbt/src/clock.rs",
    "crates/dbt/src/ram.rs",
    "crates/dbt/src/translate/cache.rs",
    "crates/dbt/src/translate/kept.rs",
    "crates/dbt/src/translate/callbacks.rs",
    "crates/dbt/src/translate/run.rs",
    "crates/sys/src/capability.rs",
    "crates/sys/src/exec.rs",
    "crates/sys/src/fanotify.rs",
    "crates/sys/src/file_control.rs",
    "crates/sys/src/file_identity.rs",
    "crates/sys/src/fork.rs",
    "crates/sys/src/inherit.rs",
    "crates/sys/src/kvm.rs",
    "crates/sys/src/landlock.rs",
    "crates/sys/src/mount.rs",
    "crates/sys/src/namespace.rs",
    "crates/sys/src/network.rs",
    "crates/sys/src/pagemap.rs",
    "crates/sys/src/probe.rs",
    "crates/sys/src/ptrace.rs",
    "crates/sys/src/seccomp.rs",
    "crates/sys/src/signal.rs",
    // A program by itself, all modules of it.
    "crates/toolbox/steward/main.rs",
    "crates/unikernel/src/calls/messages.rs",
    "crates/unikernel/src/calls/pass.rs",
    "crates/unikernel/src/calls/polling.rs",
    "crates/unikernel/src/calls/sockets.rs",
    "crates/unikernel/src/clock.rs",
    // Makes the calls that the jail forbids, by number.
    "crates/unikernel/src/jail/tests.rs",
    "crates/unikernel/src/fixed.rs",
    "crates/unikernel/src/link/mapped.rs",
    "crates/unikernel/src/memory.rs",
    "crates/unikernel/src/raw.rs",
    "crates/vm/src/machine.rs",
    "crates/vm/src/memory.rs",
    "crates/vm/src/system.rs",
    "crates/vm/src/window.rs",
];

/// The library operating system, which is no member of the workspace. It is all privileged code, so its `unsafe` is not
/// listed; what it may be, its shape, is checked as everywhere.
const GUEST: &str = "guest/libos/Cargo.toml";

/// No file of code is longer.
const MAX_LINES: usize = 500;

pub(crate) fn run() -> Result {
    must(&mut cargo(&["fmt", "--all", "--check"])).map_err(|_| "not formatted: run 'cargo fmt --all'".to_owned())?;
    must(&mut cargo(&["fmt", "--check", "--manifest-path", GUEST]))
        .map_err(|_| format!("not formatted: run 'cargo fmt --manifest-path {GUEST}'"))?;
    let sources = sources()?;
    let mut complaints = Vec::new();
    complaints.extend(layer_complaints()?);
    complaints.extend(unsafe_complaints(&sources));
    complaints.extend(sources.iter().filter_map(|(path, text)| shape_complaint(path, text)));
    complaints.extend(readme_complaints()?);
    if !complaints.is_empty() {
        return Err(format!("not tidy:\n  {}", complaints.join("\n  ")));
    }
    must(&mut cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "--deny", "warnings"]))?;
    println!("xtask: tidy");
    Ok(())
}

/// Every Rust file of the repository, by its path from the root.
fn sources() -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut dirs: Vec<PathBuf> = ["crates", "guest", "tests", "xtask"].iter().map(|it| root().join(it)).collect();
    while let Some(dir) = dirs.pop() {
        let entries = fs::read_dir(&dir).map_err(|e| format!("reading {}: {e}", dir.display()))?;
        for path in entries.flatten().map(|it| it.path()) {
            if path.is_dir() && !path.ends_with("target") {
                dirs.push(path);
            } else if path.extension().is_some_and(|it| it == "rs") {
                let text = fs::read_to_string(&path).map_err(|e| format!("reading {}: {e}", path.display()))?;
                found.insert(relative(&path), text);
            }
        }
    }
    Ok(found)
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// A crate uses lower layers and the crates named before it in its own.
fn layer_complaints() -> Result<Vec<String>> {
    let order: Vec<&str> = LAYERS.iter().flat_map(|layer| layer.iter().copied()).collect();
    let mut complaints = Vec::new();
    let crates = fs::read_dir(root().join("crates")).map_err(|e| e.to_string())?;
    for dir in crates.flatten().map(|it| it.path()) {
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(rank) = order.iter().position(|it| *it == name) else {
            complaints.push(format!("crates/{name} is in no layer: give it a place in xtask/src/tidy.rs and design"));
            continue;
        };
        for used in dependencies(&dir.join("Cargo.toml"))? {
            if order.iter().position(|it| *it == used).is_some_and(|it| it >= rank) {
                complaints.push(format!("crates/{name} uses {used}, which is not below it"));
            }
        }
    }
    Ok(complaints)
}

/// The names of what a manifest depends on outside its tests.
fn dependencies(manifest: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(manifest).map_err(|e| format!("reading {}: {e}", manifest.display()))?;
    let table: toml::Table = text.parse().map_err(|e| format!("{}: {e}", relative(manifest)))?;
    let names = table.get("dependencies").and_then(|it| it.as_table());
    Ok(names.into_iter().flat_map(|it| it.keys().cloned()).collect())
}

fn unsafe_complaints(sources: &BTreeMap<String, String>) -> Vec<String> {
    let opts_in = |text: &str| text.contains("#![expect(unsafe_code") || text.contains("#![allow(unsafe_code");
    let mut complaints = Vec::new();
    for (path, text) in sources {
        let listed = UNSAFE_MODULES.contains(&path.as_str());
        if path != "xtask/src/tidy.rs" && opts_in(text) && !listed {
            complaints.push(format!("{path} holds unsafe code and is not in the list of xtask/src/tidy.rs"));
        }
        if listed && opts_in(text) && !text.contains("reason = ") {
            complaints.push(format!("{path} does not say why it holds unsafe code"));
        }
    }
    let stale = UNSAFE_MODULES.iter().filter(|it| sources.get(**it).is_none_or(|text| !opts_in(text)));
    complaints.extend(stale.map(|it| format!("{it} holds no unsafe code: take it off the list of xtask/src/tidy.rs")));
    complaints
}

fn shape_complaint(path: &str, text: &str) -> Option<String> {
    let name = Path::new(path).file_stem()?.to_string_lossy();
    if ["util", "utils", "common", "helpers", "misc"].contains(&name.as_ref()) {
        return Some(format!("{path}: name the module for what it provides"));
    }
    if !text.starts_with("//!") {
        return Some(format!("{path} does not open with '//!': say what it is for and what always holds"));
    }
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text).lines().count();
    (code > MAX_LINES).then(|| format!("{path} has {code} lines of code: split what is more than {MAX_LINES}"))
}

/// Every `skep` command that the README shows is one that an end-to-end test runs.
fn readme_complaints() -> Result<Vec<String>> {
    let readme = fs::read_to_string(root().join("README.md")).map_err(|e| format!("reading README.md: {e}"))?;
    let shown = shell_lines(&readme);
    let tested =
        fs::read_to_string(root().join("tests/e2e/readme.rs")).map_err(|e| format!("tests/e2e/readme.rs: {e}"))?;
    let untested = shown.iter().filter(|line| !tested.contains(line.as_str()));
    Ok(untested.map(|line| format!("README.md shows '{line}', which tests/e2e/readme.rs does not run")).collect())
}

/// The `skep …` commands in fenced `sh` blocks, comments taken off.
fn shell_lines(markdown: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut inside = false;
    for line in markdown.lines() {
        match line.trim() {
            "```sh" => inside = true,
            "```" => inside = false,
            text if inside => {
                let command = text.split(" # ").next().unwrap_or(text).trim();
                if command.starts_with("skep ") {
                    lines.push(command.to_owned());
                }
            }
            _ => {}
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_in_fenced_blocks_only() {
        let text = "skep no\n```sh\nskep run a  # why\ncurl x\n```\n```text\nskep no\n```\n";
        assert_eq!(shell_lines(text), ["skep run a"]);
    }
}
