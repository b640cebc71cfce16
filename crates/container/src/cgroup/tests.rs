//! The files of either version, on trees that only look like control groups.

use model::{ByteSize, Cpus, IoLimit, Weight};
use tempfile::TempDir;

use super::*;

/// A directory with the files that the kernel would put there, empty or with their first content.
struct Fake {
    dir: TempDir,
    id: CellId,
}

impl Fake {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), id: CellId::from_random(0xabc) }
    }

    fn hierarchy(&self, version: Version, controllers: &[&str]) -> Hierarchy {
        let mount_point = self.dir.path().join(if version == Version::V2 { "v2" } else { controllers[0] });
        std::fs::create_dir_all(&mount_point).unwrap();
        let controllers = controllers.iter().map(|it| (*it).to_owned()).collect();
        Hierarchy { version, controllers, own: mount_point.join("own"), mount_point }
    }

    /// Makes the cell's directory before its time, with those files.
    fn files(&self, hierarchy: &Hierarchy, files: &[(&str, &str)]) {
        let dir = group(hierarchy, self.id).path;
        std::fs::create_dir_all(&dir).unwrap();
        files.iter().for_each(|(name, content)| std::fs::write(dir.join(name), content).unwrap());
    }

    fn content(&self, hierarchy: &Hierarchy, file: &str) -> String {
        std::fs::read_to_string(group(hierarchy, self.id).path.join(file)).unwrap()
    }
}

fn limits() -> Limits {
    Limits {
        memory: Some(ByteSize::mib(64)),
        cpus: Some(Cpus::millis(1500)),
        cpu_weight: "200".parse::<Weight>().ok(),
        pids: Some(7),
        io: Vec::new(),
    }
}

#[test]
fn without_groups_nothing_is_said_to_be_paused() {
    for outcome in [Cgroup::none().freeze(), Cgroup::none().thaw()] {
        assert!(matches!(outcome, Err(Error::NoFreezer)), "{outcome:?}");
    }
}

#[test]
fn version_2_alone_is_written_and_read() {
    let fake = Fake::new();
    let root = fake.hierarchy(Version::V2, &[]);
    std::fs::write(root.mount_point.join("cgroup.controllers"), "cpuset cpu memory pids\n").unwrap();
    std::fs::write(root.mount_point.join("cgroup.subtree_control"), "").unwrap();
    fake.files(
        &root,
        &[
            ("memory.max", ""),
            ("memory.swap.max", ""),
            ("cpu.max", ""),
            ("cpu.weight", ""),
            ("pids.max", ""),
            ("cpu.stat", "usage_usec 5\nuser_usec 1\nthrottled_usec 7\n"),
            ("memory.current", "100\n"),
            ("memory.peak", "200\n"),
            ("memory.stat", "anon 1\nfile 42\n"),
            ("memory.events", "low 0\noom 2\noom_kill 3\n"),
            ("pids.current", "4\n"),
            ("io.stat", "254:0 rbytes=10 wbytes=20 rios=1\n254:1 rbytes=1 wbytes=2\n"),
        ],
    );
    std::fs::write(root.mount_point.join("skep/cgroup.subtree_control"), "").unwrap();
    let layout = Layout { hierarchies: vec![root.clone()] };
    let (cgroup, degraded) = Cgroup::create(&layout, fake.id, &limits()).unwrap();
    assert_eq!(degraded, []);
    let written = ["memory.max", "memory.swap.max", "cpu.max", "cpu.weight", "pids.max"];
    let found = written.map(|file| fake.content(&root, file));
    assert_eq!(found, ["67108864", "0", "150000 100000", "200", "7"]);
    for above in ["", "skep"] {
        let enabled = std::fs::read_to_string(root.mount_point.join(above).join("cgroup.subtree_control")).unwrap();
        assert_eq!(enabled, "+cpu +memory +pids");
    }
    let expected = Stats {
        cpu_ns: Some(5000),
        throttled_ns: Some(7000),
        memory: Some(100),
        memory_peak: Some(200),
        memory_limit: Some(67_108_864),
        memory_file: Some(42),
        pids: Some(4),
        io_read: Some(11),
        io_written: Some(22),
    };
    assert_eq!((cgroup.stats(), cgroup.oom_kills()), (expected, 3));
    assert!(cgroup.is_only_v2());
    let text = serde_json::to_string(&cgroup).unwrap();
    assert_eq!(serde_json::from_str::<Cgroup>(&text).unwrap(), cgroup);
    assert_eq!(Cgroup::leftovers(&layout), [fake.id]);
    assert_eq!(Cgroup::find(&layout, fake.id), cgroup);
}

#[test]
fn version_1_alone_is_written_and_read() {
    let fake = Fake::new();
    let memory = fake.hierarchy(Version::V1, &["memory"]);
    let cpu = fake.hierarchy(Version::V1, &["cpu", "cpuacct"]);
    let pids = fake.hierarchy(Version::V1, &["pids"]);
    let freezer = fake.hierarchy(Version::V1, &["freezer"]);
    let none = "9223372036854771712\n";
    fake.files(
        &memory,
        &[
            ("memory.limit_in_bytes", ""),
            ("memory.memsw.limit_in_bytes", ""),
            ("memory.usage_in_bytes", "100\n"),
            ("memory.max_usage_in_bytes", "200\n"),
            ("memory.stat", "cache 1\ntotal_cache 42\n"),
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
        ],
    );
    fake.files(
        &cpu,
        &[("cpu.cfs_period_us", ""), ("cpu.cfs_quota_us", ""), ("cpu.shares", ""), ("cpuacct.usage", "9\n")],
    );
    fake.files(&pids, &[("pids.max", ""), ("pids.current", "4\n")]);
    fake.files(&freezer, &[("freezer.state", "")]);
    let layout = Layout { hierarchies: vec![cpu.clone(), memory.clone(), pids.clone(), freezer.clone()] };
    let (cgroup, degraded) = Cgroup::create(&layout, fake.id, &limits()).unwrap();
    assert_eq!(degraded, []);
    let found = [
        fake.content(&memory, "memory.limit_in_bytes"),
        fake.content(&memory, "memory.memsw.limit_in_bytes"),
        fake.content(&cpu, "cpu.cfs_period_us"),
        fake.content(&cpu, "cpu.cfs_quota_us"),
        fake.content(&cpu, "cpu.shares"),
        fake.content(&pids, "pids.max"),
    ];
    assert_eq!(found, ["67108864", "67108864", "100000", "150000", "2048", "7"]);
    assert_eq!(cgroup.stats().memory_limit, Some(64 << 20));
    std::fs::write(group(&memory, fake.id).path.join("memory.limit_in_bytes"), none).unwrap();
    assert_eq!(cgroup.stats().memory_limit, None);
    assert_eq!((cgroup.stats().cpu_ns, cgroup.stats().memory_file, cgroup.oom_kills()), (Some(9), Some(42), 3));
    cgroup.freeze().unwrap();
    assert_eq!(fake.content(&freezer, "freezer.state"), "FROZEN");
    // A hierarchy with two controllers is one group.
    assert_eq!(cgroup.v1_hierarchies().count(), 4);
    assert!(!cgroup.is_only_v2());
}

#[test]
fn what_is_missing_is_told_by_the_flag_that_asked() {
    let fake = Fake::new();
    let root = fake.hierarchy(Version::V2, &[]);
    let layout = Layout { hierarchies: vec![root] };
    let wanted =
        Limits { io: vec![IoLimit { device: "/nonexistent".to_owned(), read: None, write: None }], ..limits() };
    for layout in [layout, Layout::default()] {
        let (_, degraded) = Cgroup::create(&layout, fake.id, &wanted).unwrap();
        let flags: Vec<&str> = degraded.iter().map(|it| it.what.as_str()).collect();
        assert_eq!(flags, ["--memory", "--cpus", "--cpu-weight", "--pids-limit", "--io"]);
        assert!(degraded[0].why.contains("memory controller"), "{degraded:?}");
    }
}

#[test]
fn removing_twice_is_fine() {
    let fake = Fake::new();
    let root = fake.hierarchy(Version::V2, &[]);
    fake.files(&root, &[]);
    let layout = Layout { hierarchies: vec![root.clone()] };
    let cgroup = Cgroup::find(&layout, fake.id);
    cgroup.remove().unwrap();
    cgroup.remove().unwrap();
    assert_eq!(Cgroup::leftovers(&layout), []);
}
