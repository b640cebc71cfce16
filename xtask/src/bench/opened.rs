//! The peer of `bench slim`: the method of slimming tools that keep the files which were opened while a workload ran, and
//! nothing that those need unopened, but for the lists of users and groups, which a runtime opens. The trace is the one that skep's own slimming made, directories and links all stay,
//! and the image is judged by the same two workloads.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::debian::{self, Tool};
use crate::{Result, output_of, target_dir};

const TOOLS: &[Tool] = &[Tool { program: "umoci", package: "umoci" }];

/// What came of keeping what was opened.
pub(super) struct Opened {
    /// Bytes of the files.
    pub(super) after: f64,
    /// Why a workload failed on it, if one did.
    pub(super) failure: Option<String>,
}

/// Keeps of `image` what its report says was opened, and has both workloads done on that.
pub(super) fn keep_opened(skep: fn() -> Command, image: &str, report: &Value, workload: &Path) -> Result<Opened> {
    if let Some((tool, why)) = debian::ensure(TOOLS).first() {
        return Err(format!("needs {}: {why}", tool.program));
    }
    let opened = opened(report).ok_or("the report names no opened files")?;
    let work = target_dir().join("bench-slim-opened");
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(&work).map_err(|e| format!("making {}: {e}", work.display()))?;
    let umoci = |args: &[&str]| output_of(Command::new("umoci").args(args).current_dir(&work));
    output_of(skep().args(["image", "export", image, "oci:layout:whole"]).current_dir(&work))?;
    umoci(&["unpack", "--image", "layout:whole", "bundle"])?;
    let root = work.join("bundle/rootfs");
    let after = cut(&root, Path::new("/"), &opened).map_err(|e| format!("cutting {}: {e}", root.display()))?;
    umoci(&["repack", "--image", "layout:opened", "bundle"])?;
    let name = format!("{image}-opened");
    output_of(skep().args(["image", "import", "oci:layout:opened", &name]).current_dir(&work))?;
    // Slimming it begins with both workloads, and fails when it cannot do one.
    let mut tried = skep();
    tried.args(["image", "slim", "--tag", &format!("{name}-slim"), "--workload"]).arg(workload).arg(&name);
    let said = output_of(&mut tried).err();
    let _ = output_of(skep().args(["image", "rm", &name, &format!("{name}-slim")]));
    let _ = fs::remove_dir_all(&work);
    match said {
        // What keeps skep itself from trying is no judgement.
        Some(said) if !said.contains("the workload fails on") => Err(reason(&said)),
        said => Ok(Opened { after: after as f64, failure: said.map(|it| reason(&it)) }),
    }
}

const OF_RUNTIMES: [&str; 2] = ["/etc/group", "/etc/passwd"];

/// The paths that were opened or executed, of those that were kept.
fn opened(report: &Value) -> Option<BTreeSet<String>> {
    let is_opened = |why: &Value| matches!(why["rule"].as_str(), Some("opened" | "executed"));
    let kept = report["kept"].as_array()?.iter();
    let opened = kept.filter(|it| it["why"].as_array().is_some_and(|why| why.iter().any(is_opened)));
    let paths: Option<BTreeSet<String>> = opened.map(|it| it["path"].as_str().map(str::to_owned)).collect();
    Some(paths?.into_iter().chain(OF_RUNTIMES.map(str::to_owned)).collect())
}

/// Deletes the other files; how many bytes stay.
fn cut(root: &Path, at: &Path, opened: &BTreeSet<String>) -> std::io::Result<u64> {
    let mut kept = 0;
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let (kind, path) = (entry.file_type()?, at.join(entry.file_name()));
        if kind.is_dir() {
            kept += cut(&entry.path(), &path, opened)?;
        } else if kind.is_file() && path.to_str().is_some_and(|it| opened.contains(it)) {
            kept += entry.metadata()?.len();
        } else if kind.is_file() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(kept)
}

fn reason(said: &str) -> String {
    said.lines().find_map(|it| it.split_once("error: ")).map_or(said, |it| it.1).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opened_is_what_was_seen_itself() {
        let report = serde_json::json!({ "kept": [
            { "path": "/a", "why": [{ "rule": "looked-up" }, { "rule": "opened" }] },
            { "path": "/b", "why": [{ "rule": "library", "of": "/a" }] },
            { "path": "/c", "why": [{ "rule": "executed" }] },
            { "path": "/d", "why": [{ "rule": "missed", "of": "the workload" }] },
        ] });
        assert_eq!(opened(&report).unwrap().into_iter().collect::<Vec<_>>(), ["/a", "/c", "/etc/group", "/etc/passwd"]);
        assert_eq!(opened(&Value::Null), None);
    }
}
