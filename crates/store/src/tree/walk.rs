//! Walking a tree in order.

use std::collections::btree_map;

use super::{Entry, InodeId, ROOT, Tree};

/// What is left of a directory.
type Children<'a> = btree_map::Iter<'a, Box<[u8]>, InodeId>;

/// Every name of a tree with its path, parents first, names in byte order.
pub struct Walk<'a> {
    tree: &'a Tree,
    /// The directories that are being walked, each with the length of its path.
    stack: Vec<(Children<'a>, usize)>,
    path: Vec<u8>,
    begun: bool,
}

impl<'a> Walk<'a> {
    pub(super) fn new(tree: &'a Tree) -> Self {
        Self { tree, stack: vec![(tree.inode(ROOT).children.iter(), 0)], path: Vec::new(), begun: false }
    }

    /// The next name without copying its path: the path is valid until the next call.
    pub fn advance(&mut self) -> Option<(&[u8], Entry<'a>)> {
        if !std::mem::replace(&mut self.begun, true) {
            return Some((&[], self.tree.entry(ROOT)));
        }
        while let Some((children, length)) = self.stack.last_mut() {
            self.path.truncate(*length);
            let Some((name, inode)) = children.next() else {
                self.stack.pop();
                continue;
            };
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name);
            let below = &self.tree.inode(*inode).children;
            if !below.is_empty() {
                self.stack.push((below.iter(), self.path.len()));
            }
            return Some((&self.path, self.tree.entry(*inode)));
        }
        None
    }

    /// Whether two walks give equal items, as `same` sees it, and end together.
    pub(super) fn eq_by(
        mut self,
        mut other: Walk<'_>,
        mut same: impl FnMut((&[u8], Entry<'_>), (&[u8], Entry<'_>)) -> bool,
    ) -> bool {
        loop {
            match (self.advance(), other.advance()) {
                (Some(left), Some(right)) if same(left, right) => {}
                (None, None) => return true,
                _ => return false,
            }
        }
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = (Vec<u8>, Entry<'a>);
    fn next(&mut self) -> Option<Self::Item> {
        self.advance().map(|(path, entry)| (path.to_vec(), entry))
    }
}
