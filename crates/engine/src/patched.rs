//! Copies of code in which system calls are jumps, for a cell that is about to start: of what its root holds, made here, outside
//! of the cell, unless an earlier start has made them.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use model::Process;
use store::{Rootfs, Store};
use unikernel::{Cache, Patched, View};

use crate::boundary::StartRequest;
use crate::error::Result;
use crate::table::Engine;

/// Sends the tender at the other end the copies of what the cell will execute. Where there are none, its guests do without.
pub(crate) fn hand_over(request: &StartRequest<'_>, root: Option<BorrowedFd<'_>>, line: &OwnedFd) {
    let spec = &request.cell.spec;
    let cache = cache(request.store);
    // Files of one tree are told apart by their numbers; those of two may have the same.
    let scope = spec.image.tree.to_string();
    let find = |root: BorrowedFd<'_>, view| cache.of_root(root, &programs(&spec.process), &scope, view);
    let copies = match (root, &request.rootfs) {
        (Some(root), _) => find(root, View::FromInside),
        // What the cell has changed since is not what is found there, and so nothing that a copy is of.
        (None, Rootfs::Plain { dir, .. }) => {
            File::open(dir).map(|dir| find(dir.as_fd(), View::FromBelow)).unwrap_or_default()
        }
        (None, _) => Vec::new(),
    };
    Patched::send_all(&copies, line);
}

impl Engine {
    /// Throws away copies of code that no image and no cell needs any more. Gives how many bytes that was.
    pub fn collect_copies(&self) -> Result<u64> {
        let needed = self.trees_needed()?;
        Ok(cache(self.store()).collect(|scope| needed.contains(scope)))
    }
}

fn cache(store: &Store) -> Cache {
    Cache::at(store.patched())
}

/// Where the program may be.
fn programs(process: &Process) -> Vec<PathBuf> {
    let Some(name) = process.argv.first() else { return Vec::new() };
    if name.contains('/') {
        return vec![process.cwd.join(name)];
    }
    let path = process.env.iter().find_map(|it| it.strip_prefix("PATH=")).unwrap_or(container::DEFAULT_PATH);
    path.split(':').map(|it| process.cwd.join(it).join(name)).collect()
}
