//! What a program was seen to use.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::TreePath;

/// What the programs of a cell were seen to use while they ran. **When `lost` says something, the rest is not all.**
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observed {
    /// Files and directories that were opened, by their real paths.
    pub opened: BTreeSet<TreePath>,
    /// Files that were executed, interpreters and loaders included, by their real paths.
    pub executed: BTreeSet<TreePath>,
    /// Paths that were looked up in any way, found or not, as they were written.
    pub looked_up: BTreeSet<TreePath>,
    /// Directories that were listed, by their real paths.
    pub listed: BTreeSet<TreePath>,
    /// The system calls that were made.
    pub calls: BTreeSet<String>,
    /// Why something may be missing here.
    pub lost: Option<String>,
}

impl Observed {
    /// Adds what another run used.
    pub fn merge(&mut self, other: Self) {
        self.opened.extend(other.opened);
        self.executed.extend(other.executed);
        self.looked_up.extend(other.looked_up);
        self.listed.extend(other.listed);
        self.calls.extend(other.calls);
        self.lost = self.lost.take().or(other.lost);
    }

    /// How many paths there are.
    pub fn paths(&self) -> usize {
        self.opened.len() + self.executed.len() + self.looked_up.len() + self.listed.len()
    }
}
