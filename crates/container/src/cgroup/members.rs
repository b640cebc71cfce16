//! Who is in a cell's groups.

use super::Cgroup;

impl Cgroup {
    /// The processes of the cell by the host's numbers, in the order of the kernel; none when the cell has no groups.
    pub fn processes(&self) -> Vec<u32> {
        let listed = self.groups.iter().find_map(|group| group.read("cgroup.procs").ok());
        listed.unwrap_or_default().lines().filter_map(|line| line.parse().ok()).collect()
    }
}
