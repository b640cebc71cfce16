//! Whether a process is the one that an engine's files speak of: asked of the kernel, which cannot be made to lie.

use std::io::Read;
use std::path::Path;

use sys::namespace;

use super::Process;
use super::place::Keeper;

/// What is read of a file of `/proc` at most.
const MAX_FILE: u64 = 256 << 10;

/// What the files of an engine say about the first process of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim<'a> {
    pub(super) pid: u32,
    /// When it began, if they tell.
    pub(super) began: Option<u64>,
    /// The container's identity, which its control group has in its name, or its keeper on its command line.
    pub(super) id: &'a str,
    /// Whose files.
    pub(super) keeper: Keeper,
}

impl Claim<'_> {
    /// The process, if the claim is true.
    pub(super) fn confirm(&self) -> Option<Process> {
        let began = sys::process::start_time(self.pid).ok()?;
        let is_it = match self.began {
            Some(said) => said == began,
            None => self.is_named_by_its_group() || self.is_named_by_its_parent(),
        };
        let may_be_named = match self.keeper {
            Keeper::Trusted => true,
            Keeper::User(uid) => is_in_namespace_of(self.pid, uid),
        };
        let lives = Stat::of(self.pid).is_some_and(|it| !it.has_ended);
        // All that was asked about one process: it has been there all the while.
        let stayed = sys::process::start_time(self.pid) == Ok(began);
        (is_it && may_be_named && lives && stayed).then_some(Process { pid: self.pid, began })
    }

    fn is_named_by_its_group(&self) -> bool {
        read(self.pid, "cgroup").is_some_and(|text| names(&text, self.id))
    }

    fn is_named_by_its_parent(&self) -> bool {
        let parent = Stat::of(self.pid).map(|it| it.parent);
        parent
            .and_then(|it| read(it, "cmdline"))
            .is_some_and(|text| text.split(|it| *it == 0).any(|word| word == self.id.as_bytes()))
    }
}

/// Whether a path in the text of `/proc/PID/cgroup` has a component with the identity in it, as a word of its own:
/// `libpod-ID`, `docker-ID.scope`, `cri-containerd:ID`.
fn names(cgroup: &[u8], id: &str) -> bool {
    let text = String::from_utf8_lossy(cgroup);
    let is_word = |component: &str| {
        component.match_indices(id).any(|(at, _)| {
            let before = component.get(..at).unwrap_or_default();
            let after = component.get(at + id.len()..).unwrap_or_default();
            let starts = before.is_empty() || before.ends_with(['-', ':', '.']);
            starts && (after.is_empty() || after.starts_with(".scope"))
        })
    };
    text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).flat_map(|path| path.split('/')).any(is_word)
}

/// Whether a process is in a user namespace that this user made, and not in the caller's.
pub(super) fn is_in_namespace_of(pid: u32, uid: u32) -> bool {
    namespace::shares(pid, "user") == Ok(false) && namespace::owner(pid) == Ok(uid)
}

/// Whether a process is on this machine as its user sees it: one of a container could only pretend to keep containers.
fn is_of_the_host(pid: u32) -> bool {
    ["user", "pid", "mnt"].iter().all(|kind| namespace::shares(pid, kind) == Ok(true))
}

/// What `/proc/PID/stat` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) pid: u32,
    pub(super) parent: u32,
    pub(super) name: Vec<u8>,
    /// It waits for its parent to learn of its end.
    pub(super) has_ended: bool,
}

impl Stat {
    pub(super) fn of(pid: u32) -> Option<Self> {
        Self::parse(&read(pid, "stat")?)
    }

    /// The name, in parentheses, may hold any bytes.
    fn parse(text: &[u8]) -> Option<Self> {
        let (open, close) = (text.iter().position(|it| *it == b'(')?, text.iter().rposition(|it| *it == b')')?);
        let number = |text: &[u8]| std::str::from_utf8(text).ok()?.trim().parse().ok();
        let rest = std::str::from_utf8(text.get(close + 1..)?).ok()?;
        Some(Self {
            pid: number(text.get(..open)?)?,
            parent: rest.split_ascii_whitespace().nth(1)?.parse().ok()?,
            name: text.get(open + 1..close)?.to_vec(),
            has_ended: rest.trim_start().starts_with(['Z', 'X']),
        })
    }
}

/// A process that keeps a container: an LXC monitor, systemd-nspawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Watcher {
    pub(super) words: Vec<String>,
    pub(super) uid: u32,
    /// Its children that are the first process of a pid namespace.
    pub(super) firsts: Vec<u32>,
}

/// The processes of the host that go by one of those names, with the containers they keep. Anybody can name a process so: whose it
/// is counts.
pub(super) fn watchers(names: &[&[u8]]) -> Vec<Watcher> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|it| it.file_name().to_str().and_then(model::process_number));
    let all: Vec<Stat> = pids.filter_map(Stat::of).collect();
    let watching = all.iter().filter(|it| names.contains(&it.name.as_slice()) && is_of_the_host(it.pid));
    let watcher = |stat: &Stat| {
        let children = all.iter().filter(|it| it.parent == stat.pid && !it.has_ended).map(|it| it.pid);
        Some(Watcher {
            words: words(&read(stat.pid, "cmdline")?),
            uid: uid(stat.pid)?,
            firsts: children.filter(|it| is_first(*it)).collect(),
        })
    };
    watching.filter_map(watcher).collect()
}

impl Watcher {
    /// What stands before its container's name: whoever runs it, when that is neither root nor the caller.
    pub(super) fn scope(&self) -> Option<String> {
        let is_other = self.uid != 0 && self.uid != rustix::process::geteuid().as_raw();
        is_other.then(|| self.uid.to_string())
    }

    /// The process that it keeps, if whoever runs it may be believed.
    pub(super) fn kept(&self) -> Option<Process> {
        let [pid] = self.firsts.as_slice() else { return None };
        let began = sys::process::start_time(*pid).ok()?;
        let caller = rustix::process::geteuid().as_raw();
        let believed = self.uid == 0 || self.uid == caller || is_in_namespace_of(*pid, self.uid);
        believed.then_some(Process { pid: *pid, began })
    }
}

fn words(cmdline: &[u8]) -> Vec<String> {
    let words = cmdline.split(|it| *it == 0).map(|it| String::from_utf8_lossy(it).into_owned());
    words.filter(|it| !it.is_empty()).collect()
}

/// The user of a process, real, effective and saved alike.
fn uid(pid: u32) -> Option<u32> {
    let status = String::from_utf8_lossy(&read(pid, "status")?).into_owned();
    let line = status.lines().find_map(|it| it.strip_prefix("Uid:"))?;
    let mut ids = line.split_ascii_whitespace().map(str::parse::<u32>);
    let first = ids.next()?.ok()?;
    ids.all(|it| it == Ok(first)).then_some(first)
}

/// Whether a process is number 1 where it lives.
fn is_first(pid: u32) -> bool {
    let status = read(pid, "status").unwrap_or_default();
    let status = String::from_utf8_lossy(&status);
    let numbers = status.lines().find_map(|it| it.strip_prefix("NSpid:"));
    numbers.is_some_and(|it| it.split_ascii_whitespace().count() > 1 && it.ends_with("\t1"))
}

fn read(pid: u32, file: &str) -> Option<Vec<u8>> {
    let file = std::fs::File::open(Path::new("/proc").join(pid.to_string()).join(file)).ok()?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_group_names_a_container_by_a_whole_word() {
        let id = "3d2a18b0d629";
        let check =
            |path: &str, expected| assert_eq!(names(format!("9:pids:{path}\n").as_bytes(), id), expected, "{path}");
        check("/docker/3d2a18b0d629", true);
        check("/machine.slice/libpod-3d2a18b0d629.scope/container", true);
        check("/system.slice/docker-3d2a18b0d629.scope", true);
        check("/kubepods/besteffort/pod1/3d2a18b0d629", true);
        check("/a/cri-containerd:3d2a18b0d629", true);
        check("/docker/3d2a18b0d629f", false);
        check("/docker/x3d2a18b0d629", false);
        check("/", false);
        check("/libpod-conmon-3d2a18b0d6", false);
    }

    #[test]
    fn a_process_is_confirmed_by_its_beginning_alone_when_that_is_known() {
        let pid = std::process::id();
        let began = sys::process::start_time(pid).unwrap();
        let claim = Claim { pid, began: Some(began), id: "0123456789ab", keeper: Keeper::Trusted };
        assert_eq!(claim.confirm(), Some(Process { pid, began }));
        assert_eq!(Claim { began: Some(began + 1), ..claim }.confirm(), None, "another had that number");
        assert_eq!(Claim { began: None, ..claim }.confirm(), None, "nothing names the container");
        // What a user's files say of a process that is in no namespace of that user's is not believed.
        assert_eq!(Claim { keeper: Keeper::User(4711), ..claim }.confirm(), None);
        assert_eq!(Claim { keeper: Keeper::User(rustix::process::geteuid().as_raw()), ..claim }.confirm(), None);
        assert_eq!(Claim { pid: u32::MAX, ..claim }.confirm(), None);
    }

    #[test]
    fn processes_are_read_whatever_their_name() {
        let check = |text: &[u8], expected: Option<(u32, u32, &[u8])>| {
            let found = Stat::parse(text);
            assert_eq!(found.as_ref().map(|it| (it.pid, it.parent, it.name.as_slice())), expected);
        };
        check(b"7 (a) S 3 7 7 0", Some((7, 3, b"a")));
        check(b"7 (a) S 9 (b) S 3 7 7 0", Some((7, 3, b"a) S 9 (b")));
        check(b"7 (\xff) S x", None);
        check(b"", None);
        check(b")(", None);
        assert!(Stat::parse(b"7 (a) Z 3 7 7 0").is_some_and(|it| it.has_ended));
    }
}
