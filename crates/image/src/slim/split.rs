//! Cutting a tree in two and putting it together again, and what a half would have needed of the whole.

use std::collections::{BTreeMap, BTreeSet};

use store::{InodeId, Kind, Tree};

use super::passage::passage;
use super::{Observed, TreePath};
use crate::{Error, Result};

/// Cuts a tree into what is kept and its complement. Directories on the way to something are in both, with the same
/// metadata; all names of a file are in the same half when one of them is kept.
pub fn split(original: &Tree, kept: &BTreeSet<TreePath>) -> Result<(Tree, Tree)> {
    let kept = closed(original, kept);
    let root = original.get("").map(|it| it.node.meta.clone()).unwrap_or(store::Metadata::new(0o755));
    let (mut slim, mut complement) = (Half::new(Tree::new(root.clone())), Half::new(Tree::new(root)));
    let needed = complementary(original, &kept);
    for (path, entry) in original.walk().skip(1) {
        if kept.contains(&path) {
            slim.add(&path, &entry)?;
        }
        if needed.contains(&path) {
            complement.add(&path, &entry)?;
        }
    }
    Ok((slim.tree, complement.tree))
}

/// The kept paths, their directories, and all names of each kept file.
fn closed(original: &Tree, kept: &BTreeSet<TreePath>) -> BTreeSet<Vec<u8>> {
    let mut inodes = BTreeSet::new();
    let mut closed: BTreeSet<Vec<u8>> = BTreeSet::new();
    for path in kept {
        if let Some(entry) = original.get(path) {
            inodes.insert(entry.inode);
            add_with_ancestors(path.as_bytes(), &mut closed);
        }
    }
    for (path, entry) in original.walk() {
        if entry.names > 1 && entry.node.kind != Kind::Directory && inodes.contains(&entry.inode) {
            add_with_ancestors(&path, &mut closed);
        }
    }
    closed
}

fn add_with_ancestors(path: &[u8], into: &mut BTreeSet<Vec<u8>>) {
    for (at, _) in path.iter().enumerate().filter(|(_, it)| **it == b'/') {
        into.insert(path[..at].to_vec());
    }
    into.insert(path.to_vec());
}

/// What is not kept, and the directories that it lies in.
fn complementary(original: &Tree, kept: &BTreeSet<Vec<u8>>) -> BTreeSet<Vec<u8>> {
    let mut needed = BTreeSet::new();
    for (path, _) in original.walk().filter(|(path, _)| !kept.contains(path)) {
        add_with_ancestors(&path, &mut needed);
    }
    needed
}

/// A tree being filled from another, hard links included.
struct Half {
    tree: Tree,
    names: BTreeMap<InodeId, Vec<u8>>,
}

impl Half {
    fn new(tree: Tree) -> Self {
        Self { tree, names: BTreeMap::new() }
    }

    fn add(&mut self, path: &[u8], entry: &store::Entry<'_>) -> Result<()> {
        match self.names.get(&entry.inode).filter(|_| entry.names > 1) {
            Some(first) => self.tree.link(first, path)?,
            None => self.tree.insert(path, entry.node.clone())?,
        };
        if entry.names > 1 && entry.node.kind != Kind::Directory {
            self.names.entry(entry.inode).or_insert_with(|| path.to_vec());
        }
        Ok(())
    }
}

/// The tree that two halves were cut from.
///
/// # Errors
/// When they are not halves of one tree: something that is no directory is in both.
pub fn recombine(slim: &Tree, complement: &Tree) -> Result<Tree> {
    let mut whole = Half::new(slim.clone());
    for (path, entry) in complement.walk().skip(1) {
        match whole.tree.get(&path) {
            None => whole.add(&path, &entry)?,
            Some(there) if there.node == entry.node && entry.node.kind == Kind::Directory => {}
            Some(_) => {
                let what = format!("complement, which has {} as its slim image has", TreePath::new(&path));
                return Err(Error::malformed(what, "they are not halves of one tree"));
            }
        }
    }
    Ok(whole.tree)
}

/// The paths that were looked up on the slim tree and lead to something on the original alone.
pub fn misses(original: &Tree, slim: &Tree, observed: &Observed) -> BTreeSet<TreePath> {
    let leads = |tree: &Tree, path: &TreePath| passage(tree, path.as_bytes()).1.is_some();
    let missed = |path: &&TreePath| leads(original, path) && !leads(slim, path);
    observed.looked_up.iter().chain(&observed.opened).filter(missed).cloned().collect()
}

/// The directories that were listed on the slim tree and have more entries on the original, each with those.
pub fn short_listings(original: &Tree, slim: &Tree, observed: &Observed) -> BTreeMap<TreePath, Vec<TreePath>> {
    let short = |directory: &TreePath| (directory.clone(), lost_entries(original, slim, directory));
    observed.listed.iter().map(short).filter(|(_, lost)| !lost.is_empty()).collect()
}

/// What a directory holds on the original alone.
pub fn lost_entries(original: &Tree, slim: &Tree, directory: &TreePath) -> Vec<TreePath> {
    let entries = original.children(directory).map(|(name, _)| directory.entry(name));
    entries.filter(|it| slim.get(it).is_none()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use store::{Content, Metadata, Node};

    use super::*;

    fn id(seed: u64) -> store::Content {
        Content { id: model::ObjectId::from_bytes([seed as u8; 32]), size: seed }
    }

    /// A tree of directories, files, links and further names, by numbers.
    fn grown(steps: &[(u8, u8, u8)]) -> Tree {
        let mut tree = Tree::default();
        let mut paths = vec![Vec::new()];
        let mut files: Vec<Vec<u8>> = Vec::new();
        for (kind, parent, name) in steps {
            let mut path: Vec<u8> = paths[usize::from(*parent) % paths.len()].clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.push(b'a' + name % 12);
            if tree.get(&path).is_some() {
                continue;
            }
            let meta = Metadata { uid: u32::from(*name), ..Metadata::new(0o700) };
            match kind % 4 {
                0 => {
                    tree.insert(&path, Node::directory(meta)).unwrap();
                    paths.push(path);
                }
                1 => drop(tree.insert(&path, Node::symlink(meta, &b"/a/b"[..])).unwrap()),
                2 if !files.is_empty() => {
                    tree.link(&files[usize::from(*name) % files.len()], &path).unwrap();
                }
                _ => {
                    tree.insert(&path, Node::file(meta, id(u64::from(*name)))).unwrap();
                    files.push(path);
                }
            }
        }
        tree
    }

    proptest! {
        #[test]
        fn halves_are_the_whole(
            steps in prop::collection::vec(any::<(u8, u8, u8)>(), 0..60),
            picks in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let tree = grown(&steps);
            let paths: Vec<_> = tree.walk().map(|(path, _)| path).collect();
            let kept: BTreeSet<_> =
                picks.iter().map(|it| TreePath::new(&paths[usize::from(*it) % paths.len()])).collect();
            let (slim, complement) = split(&tree, &kept).unwrap();
            prop_assert!(kept.iter().all(|it| slim.get(it).is_some()));
            prop_assert!(recombine(&slim, &complement).unwrap() == tree);
            for (path, entry) in complement.walk() {
                prop_assert!(entry.node.kind == Kind::Directory || slim.get(&path).is_none());
            }
        }
    }

    #[test]
    fn all_names_of_a_file_stay_together() {
        let mut tree = Tree::default();
        tree.insert("a", Node::file(Metadata::new(0o644), id(1))).unwrap();
        tree.insert("d", Node::directory(Metadata::new(0o755))).unwrap();
        tree.link("a", "d/b").unwrap();
        let (slim, complement) = split(&tree, &BTreeSet::from([TreePath::new(b"a")])).unwrap();
        assert!(slim == tree && complement.is_empty());
    }

    #[test]
    fn halves_of_different_trees_are_refused() {
        let mut tree = Tree::default();
        tree.insert("a", Node::file(Metadata::new(0o644), id(1))).unwrap();
        assert!(recombine(&tree, &tree).is_err());
    }

    #[test]
    fn a_miss_is_what_the_original_alone_has() {
        let mut original = Tree::default();
        original.insert("a", Node::file(Metadata::new(0o644), id(1))).unwrap();
        original.insert("b", Node::file(Metadata::new(0o644), id(2))).unwrap();
        original.insert("l", Node::symlink(Metadata::new(0o777), &b"b"[..])).unwrap();
        let (slim, _) = split(&original, &BTreeSet::from([TreePath::new(b"a")])).unwrap();
        let looked_up = ["a", "b", "c", "l"].map(|it| TreePath::new(it.as_bytes()));
        let observed = Observed { looked_up: looked_up.into(), ..Observed::default() };
        let missed: Vec<_> = misses(&original, &slim, &observed).iter().map(ToString::to_string).collect();
        assert_eq!(missed, ["/b", "/l"]);
    }

    #[test]
    fn a_listing_is_short_of_what_the_original_alone_has() {
        let mut original = Tree::default();
        for dir in ["d", "whole", "d/sub"] {
            original.insert(dir, Node::directory(Metadata::new(0o755))).unwrap();
        }
        for (number, path) in ["d/a", "d/b", "d/sub/c", "whole/e"].iter().enumerate() {
            original.insert(path, Node::file(Metadata::new(0o644), id(number as u64))).unwrap();
        }
        let kept = ["d/a", "whole/e"].map(|it| TreePath::new(it.as_bytes()));
        let (slim, _) = split(&original, &kept.into()).unwrap();
        let check = |directory: &str, expected: &[&str]| {
            let listed = BTreeSet::from([TreePath::new(directory.as_bytes())]);
            let observed = Observed { listed, ..Observed::default() };
            let short = short_listings(&original, &slim, &observed);
            let lost: Vec<_> = short.values().flatten().map(ToString::to_string).collect();
            assert_eq!(lost, expected, "{directory}");
        };
        check("d", &["/d/b", "/d/sub"]);
        check("d/sub", &["/d/sub/c"]);
        for directory in ["whole", "", "none", "d/a"] {
            check(directory, &[]);
        }
    }
}
