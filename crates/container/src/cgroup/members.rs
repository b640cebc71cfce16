//! Who is in a cell's groups, and whether they stand still.

use super::{Cgroup, Group};

impl Cgroup {
    /// The processes of the cell by the host's numbers, in the order of the kernel; none when the cell has no groups.
    pub fn processes(&self) -> Vec<u32> {
        let listed = self.groups.iter().find_map(|group| group.read("cgroup.procs").ok());
        listed.unwrap_or_default().lines().filter_map(|line| line.parse().ok()).collect()
    }
}

/// Whether all threads of programs stand still in a group that was told to freeze and has threads of the kernel in it.
///
/// Before Linux 6.12 each virtual machine of a hardware's has such a thread in the group of whoever made it. That does not freeze,
/// and so the kernel never calls the group frozen, which it is: whoever of the others runs or waits in the kernel stops
/// before its program's next instruction.
pub(super) fn stand_but_for_the_kernels(group: &Group) -> sys::Result<bool> {
    let listed = group.read("cgroup.threads")?;
    let said = |thread: &str| std::fs::read_to_string(format!("/proc/{thread}/stat")).ok();
    let threads: Vec<_> = listed.lines().filter_map(said).filter_map(|it| Thread::of(&it)).collect();
    Ok(stand_but_for_kernels(&threads))
}

fn stand_but_for_kernels(threads: &[Thread]) -> bool {
    let has_kernels = threads.iter().any(|it| it.is_kernels);
    has_kernels && threads.iter().all(|it| it.is_kernels || !it.is_busy)
}

/// A thread, as far as its line in `/proc` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Thread {
    is_kernels: bool,
    /// It runs, or waits for what cannot be interrupted.
    is_busy: bool,
}

impl Thread {
    fn of(stat: &str) -> Option<Thread> {
        const OF_THE_KERNEL: u64 = 0x20_0000;
        // A name may have parentheses in it.
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let is_busy = matches!(fields.next()?, "R" | "D");
        let flags: u64 = fields.nth(5)?.parse().ok()?;
        Some(Thread { is_kernels: flags & OF_THE_KERNEL != 0, is_busy })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_of_the_kernels_needs_not_stand() {
        let thread = |state, flags| Thread::of(&format!("7 (a) (b) {state} 1 1 1 0 -1 {flags} 0 0")).unwrap();
        let (stands, runs) = (thread("S", 0x40_4040), thread("R", 0x40_4040));
        let (kernels, busy) = (thread("S", 0x20_8040), thread("R", 0x20_8040));
        assert_eq!((stands.is_kernels, runs.is_busy, kernels.is_kernels), (false, true, true));
        assert!(stand_but_for_kernels(&[stands, kernels]));
        assert!(stand_but_for_kernels(&[stands, busy]));
        assert!(!stand_but_for_kernels(&[stands, runs, kernels]));
        assert!(!stand_but_for_kernels(&[stands]), "the kernel says by itself when they are frozen");
        let own = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        assert_eq!(Thread::of(&own), Some(Thread { is_kernels: false, is_busy: true }));
    }
}
