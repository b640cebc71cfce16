//! What was kept and why, and what was proved: stored with the slim image, and asked later.

use std::collections::{BTreeMap, BTreeSet};

use model::ObjectId;
use serde::{Deserialize, Serialize};
use store::{Kind, Tree};

use super::{Kept, Reason, TreePath};

/// The account of a slimming.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The original image's name.
    pub original: String,
    /// Its id.
    pub original_id: ObjectId,
    /// What was done, step by step.
    pub steps: Vec<String>,
    /// What was done to prove the result, beside the same again.
    pub unseen: Vec<String>,
    /// The original.
    pub before: Sizes,
    /// The slim image.
    pub after: Sizes,
    /// The runs on slim trees, the last of which went well.
    pub rounds: Vec<Round>,
    /// The system calls that the programs made.
    pub calls: BTreeSet<String>,
    /// Whatever is kept but directories on the way.
    pub kept: Vec<KeptPath>,
}

/// How much there is of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// Bytes of all files.
    pub bytes: u64,
    /// How many files.
    pub files: u64,
}

/// One attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// What the run missed.
    pub missed: Vec<Miss>,
    /// Directories that the run listed and that hold less than in the original.
    #[serde(default)]
    pub listed: BTreeSet<TreePath>,
    /// Which step failed, if one did.
    pub failed: Option<String>,
}

/// Something that a run on a slim tree looked for in vain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Miss {
    /// What.
    pub path: TreePath,
    /// In which workload.
    pub during: String,
}

/// A path with the reasons for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptPath {
    /// The path.
    pub path: TreePath,
    /// Bytes, when it is a file.
    pub size: u64,
    /// Why.
    pub why: Vec<Reason>,
}

/// What there is to say about a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It is kept: the chain of paths from it to what was used, each with its first reason.
    Kept(Vec<(TreePath, Reason)>),
    /// It is a directory on the way to something.
    Way,
    /// It was taken away, and is in the complement.
    Removed,
    /// The original has no such path.
    Unknown,
}

impl Sizes {
    /// Those of a tree.
    pub fn of(tree: &Tree) -> Self {
        let files = tree.walk().filter(|(_, it)| matches!(it.node.kind, Kind::File(_))).count();
        Self { bytes: tree.content_size(), files: files as u64 }
    }

    /// Which share of the bytes is gone, of what there was before.
    pub fn removed_of(&self, before: &Self) -> f64 {
        if before.bytes == 0 { 0.0 } else { 1.0 - self.bytes as f64 / before.bytes as f64 }
    }
}

/// The kept paths as a report has them.
pub fn kept_paths(original: &Tree, kept: &Kept) -> Vec<KeptPath> {
    let is_said = |why: &[Reason]| !why.iter().all(|it| matches!(it, Reason::Way(_) | Reason::Skeleton));
    let size = |path: &TreePath| match original.get(path).map(|it| &it.node.kind) {
        Some(Kind::File(content)) => content.size,
        _ => 0,
    };
    let is_link = |path: &TreePath| matches!(original.get(path).map(|it| &it.node.kind), Some(Kind::Symlink(_)));
    kept.iter()
        .filter(|(path, why)| is_said(why) || is_link(path))
        .map(|(path, why)| KeptPath { path: path.clone(), size: size(path), why: why.clone() })
        .collect()
}

impl Report {
    /// Directories that the proof listed and that hold less than in the original: it can do without the rest.
    pub fn listed(&self) -> impl Iterator<Item = &TreePath> {
        self.rounds.last().into_iter().flat_map(|it| &it.listed)
    }

    /// Whether the unseen workload went well at once, without anything added for it.
    pub fn held_at_once(&self) -> bool {
        self.rounds.len() == 1
    }

    /// What there is to say about a path, given the trees that came of the slimming.
    pub fn explain(&self, path: &TreePath, slim: &Tree, complement: &Tree) -> Answer {
        // Asked for by a name that is a link on the way, it is the same.
        let real = slim.resolve(path).filter(|it| slim.get(it).is_some()).map(|it| TreePath::new(&it));
        let by_path: BTreeMap<&TreePath, &KeptPath> = self.kept.iter().map(|it| (&it.path, it)).collect();
        let known = [Some(path.clone()), real].into_iter().flatten().find(|it| by_path.contains_key(it));
        if let Some(start) = known {
            return Answer::Kept(chain(&by_path, start, slim));
        }
        if slim.get(path).is_some() {
            return Answer::Way;
        }
        let gone = |path: &TreePath| complement.get(path).is_some();
        if gone(path) || complement.resolve(path).is_some_and(|it| gone(&TreePath::new(&it))) {
            return Answer::Removed;
        }
        Answer::Unknown
    }
}

fn chain(kept: &BTreeMap<&TreePath, &KeptPath>, start: TreePath, slim: &Tree) -> Vec<(TreePath, Reason)> {
    let mut chain: Vec<(TreePath, Reason)> = Vec::new();
    let mut at = Some(start);
    while let Some(path) = at.take() {
        let Some(reason) = kept.get(&path).and_then(|it| best(&it.why)) else { break };
        if chain.iter().any(|(it, _)| *it == path) {
            break;
        }
        // The name that somebody used may be a link to what is kept.
        let real = |it: &TreePath| slim.resolve(it).map_or_else(|| it.clone(), |real| TreePath::new(&real));
        at = reason.origin().map(|it| if kept.contains_key(it) { it.clone() } else { real(it) });
        chain.push((path, reason.clone()));
    }
    chain
}

/// What was seen says more than what was concluded.
fn best(why: &[Reason]) -> Option<&Reason> {
    why.iter().find(|it| it.origin().is_none()).or(why.first())
}

#[cfg(test)]
mod tests {
    use store::{Content, Metadata, Node};

    use super::*;

    #[test]
    fn a_path_is_explained_back_to_what_was_used() {
        let mut tree = Tree::default();
        for path in ["a", "b", "c"] {
            let content = Content { id: ObjectId::from_bytes([1; 32]), size: 1 };
            tree.insert(path, Node::file(Metadata::new(0o644), content)).unwrap();
        }
        let path = |text: &str| TreePath::new(text.as_bytes());
        let kept = Kept::from([(path("a"), vec![Reason::Executed]), (path("b"), vec![Reason::Library(path("a"))])]);
        let (slim, complement) = super::super::split(&tree, &kept.keys().cloned().collect()).unwrap();
        let report = Report {
            original: "x".to_owned(),
            original_id: ObjectId::from_bytes([2; 32]),
            steps: Vec::new(),
            unseen: Vec::new(),
            before: Sizes::of(&tree),
            after: Sizes::of(&slim),
            rounds: vec![Round::default()],
            calls: BTreeSet::new(),
            kept: kept_paths(&tree, &kept),
        };
        let check = |text: &str, expected| assert_eq!(report.explain(&path(text), &slim, &complement), expected);
        let chain = vec![(path("b"), Reason::Library(path("a"))), (path("a"), Reason::Executed)];
        check("b", Answer::Kept(chain));
        check("/c", Answer::Removed);
        check("d", Answer::Unknown);
        assert!((report.after.removed_of(&report.before) - 1.0 / 3.0).abs() < 1e-9);
    }
}
