//! What outlives a session whose steward was killed, by its target or for want of memory: programs that it had adopted.
//! They are known by the mount namespace, which nobody else shares.

use container::Running;
use sys::process;

/// How to find what may be left of a session.
#[derive(Clone, Copy, Debug)]
pub struct Remains {
    namespace: Option<Identity>,
}

type Identity = (u64, u64);

impl Remains {
    /// Those of the session whose program has just been started.
    pub fn of(running: &Running) -> Self {
        let namespace = mount_namespace(&running.pid.to_string());
        // Should it be gone already, its number may be somebody's who shares ours.
        Self { namespace: namespace.filter(|it| mount_namespace("self") != Some(*it)) }
    }

    /// Kills whatever is left.
    pub fn end(&self) {
        let Some(namespace) = self.namespace else { return };
        // What is killed may just have made another one. What the kernel holds is not waited for without end.
        for _ in 0..2000 {
            if kill_all(namespace) == 0 {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

/// Kills the processes in that mount namespace; how many there were.
fn kill_all(namespace: Identity) -> usize {
    let names = std::fs::read_dir("/proc").into_iter().flatten().flatten().map(|it| it.file_name());
    let pids = names.filter_map(|it| it.to_str()?.parse::<u32>().ok());
    let inside = |pid: &u32| mount_namespace(&pid.to_string()) == Some(namespace);
    let kill = |pid: u32| {
        let pidfd = process::open(pid).ok()?;
        // Looked at again: the number may have become another's meanwhile.
        inside(&pid).then(|| process::kill(&pidfd).ok()).flatten()
    };
    pids.filter(inside).filter_map(kill).count()
}

fn mount_namespace(process: &str) -> Option<Identity> {
    rustix::fs::stat(format!("/proc/{process}/ns/mnt")).ok().map(|it| (it.st_dev, it.st_ino))
}
