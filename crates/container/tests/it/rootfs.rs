//! The root file system: what the cell writes, what is mounted in it, and what a hostile image tries.

use std::os::fd::AsFd;
use std::os::unix::fs::symlink;

use container::{Ended, Rootfs, open_in, root_of_running, root_of_stopped};
use model::{Lifetime, Mount, MountAccess, MountKind, StartStep};
use rustix::fs::{Mode, OFlags};

use crate::fixture::{Fixture, can_run, pipes, run, start};

#[test]
fn writes_go_to_the_upper_layer_and_stay_for_the_next_run() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    let mut plan = fixture.plan(&["sh", "-c", "echo 1 > /etc/new; rm /etc/group; mkdir /d; cat /etc/passwd | wc -l"]);
    plan.lifetime = Lifetime::Keep;
    assert_eq!(run(&plan).stdout, "2\n");
    plan.process.argv[2] = "cat /etc/new; ls /etc; ls -d /d".to_owned();
    assert_eq!(run(&plan).stdout, "1\nnew\npasswd\n/d\n");
    assert!(fixture.root().join("etc/group").exists(), "the image is untouched");
    // From outside, stopped:
    let root = root_of_stopped(&plan.rootfs, &plan.upper, plan.lifetime).unwrap();
    let file = open_in(root.as_fd(), "/etc/new".as_ref(), OFlags::RDONLY, Mode::empty()).unwrap();
    assert_eq!(std::io::read_to_string(std::fs::File::from(file)).unwrap(), "1\n");
    assert!(open_in(root.as_fd(), "/etc/group".as_ref(), OFlags::RDONLY, Mode::empty()).is_err());
}

#[test]
fn a_running_cells_files_are_reached_but_not_left() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    let plan = fixture.plan(&["sh", "-c", "ln -s / /tmp/up; ln -s ../../../../../../etc /tmp/etc; echo ok; cat"]);
    let (mut running, cgroup, mut streams) = start(&plan);
    let mut byte = [0; 3];
    std::io::Read::read_exact(&mut streams.stdout, &mut byte).unwrap();
    let root = root_of_running(running.pid).unwrap();
    let inode = |path: &str| {
        let fd = open_in(root.as_fd(), path.as_ref(), OFlags::PATH, Mode::empty()).unwrap();
        rustix::fs::fstat(fd).map(|it| (it.st_dev, it.st_ino)).unwrap()
    };
    assert_eq!(inode("/tmp/up"), inode("/"));
    assert_eq!(inode("/tmp/etc/passwd"), inode("/etc/passwd"));
    let wrong = open_in(root.as_fd(), "/proc/1/root".as_ref(), OFlags::PATH, Mode::empty());
    assert_eq!(wrong.unwrap_err(), sys::Errno::LOOP, "no magic links");
    assert_eq!(streams.finish(&mut running).ended, Ended::Code(0));
    cgroup.remove().unwrap();
}

fn bind(host: impl Into<std::path::PathBuf>, target: &str, access: MountAccess) -> Mount {
    Mount { kind: MountKind::Bind(host.into()), target: target.into(), access }
}

#[test]
fn mounts_of_the_user() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    let shared = fixture.dir.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("file"), "from outside").unwrap();
    let script =
        "cat /a/b/file; echo back > /a/b/made; touch /ro/x; cat /one; df /mem | tail -1; touch /mem/x; cat /etc/hosts";
    let mut plan = fixture.plan(&["sh", "-c", script]);
    plan.mounts = vec![
        bind(&shared, "/a/b", MountAccess::ReadWrite),
        bind(&shared, "/ro", MountAccess::ReadOnly),
        bind(shared.join("file"), "/one", MountAccess::ReadOnly),
        Mount {
            kind: MountKind::Tmpfs(Some(model::ByteSize::mib(1))),
            target: "/mem".into(),
            access: MountAccess::ReadOnly,
        },
    ];
    plan.files = vec![(shared.join("file"), "/etc/hosts".into())];
    let outcome = run(&plan);
    assert!(outcome.stdout.starts_with("from outsidefrom outside"), "{outcome:?}");
    assert!(outcome.stdout.ends_with("from outside"), "{outcome:?}");
    assert_eq!(std::fs::read_to_string(shared.join("made")).unwrap(), "back\n");
    assert_eq!(outcome.stderr.matches("Read-only file system").count(), 2, "{outcome:?}");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(shared.to_str().unwrap()), "nothing is mounted outside the cell");
}

/// Links in an image must not make us write or mount outside the cell.
#[test]
fn a_hostile_image_stays_inside() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    let outside = fixture.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(fixture.dir.path().join("hosts"), "hosts").unwrap();
    let root = fixture.root();
    std::fs::remove_dir_all(root.join("etc")).unwrap();
    symlink(&outside, root.join("etc")).unwrap();
    symlink("../../../../../../../../..".to_owned() + outside.to_str().unwrap(), root.join("up")).unwrap();
    symlink("/proc/self/fd/3", root.join("magic")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    let check = |target: &str, step: Option<StartStep>| {
        let mut plan = fixture.plan(&["true"]);
        plan.files = vec![(fixture.dir.path().join("hosts"), target.into())];
        let (stdio, streams) = pipes();
        let started = container::prepare(&plan, stdio).and_then(|prepared| {
            let cgroup = prepared.cgroup().clone();
            Ok((prepared.start()?, cgroup))
        });
        let failed = match started {
            Err(error) => error.step(),
            Ok((mut running, cgroup)) => {
                streams.finish(&mut running);
                cgroup.remove().unwrap();
                None
            }
        };
        assert_eq!(failed, step, "{target}");
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "{target}");
    };
    // A link that dangles inside the cell is an error, whatever it points to outside.
    check("/etc/hosts", Some(StartStep::Mounts));
    check("/up/x", Some(StartStep::Mounts));
    check("/magic", Some(StartStep::Mounts));
    check("/loop", Some(StartStep::Mounts));
    check("/../x", Some(StartStep::Mounts));
    check("/fine", None);
    // The same directory exists in the image: that is where it goes.
    std::fs::create_dir_all(root.join(outside.strip_prefix("/").unwrap())).unwrap();
    check("/etc/hosts", None);
    check("/up/x", None);
}

#[test]
fn kernel_file_systems_are_not_mounted_through_links() {
    if !can_run() {
        return;
    }
    for (name, what) in [("proc", "/proc"), ("dev", "/dev"), ("sys", "/sys")] {
        let fixture = Fixture::new();
        symlink("/tmp", fixture.root().join(name)).unwrap();
        let (stdio, _streams) = pipes();
        let error = container::prepare(&fixture.plan(&["true"]), stdio).and_then(|it| it.start()).unwrap_err();
        assert_eq!(error.step(), Some(StartStep::Mounts));
        assert!(error.to_string().contains(what), "{error}");
    }
}

#[test]
fn commands_that_cannot_run_are_told_apart() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    std::fs::write(fixture.root().join("bin/text"), "no program").unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::write(fixture.root().join("bin/garbage"), "\x7fELF garbage").unwrap();
    std::fs::set_permissions(fixture.root().join("bin/garbage"), executable).unwrap();
    for init in [model::Init::Reaper, model::Init::Program] {
        let check = |command: &str, step: StartStep, words: &str| {
            let mut plan = fixture.plan(&[command]);
            plan.init = init;
            let (stdio, _streams) = pipes();
            let error = container::prepare(&plan, stdio).unwrap().start().unwrap_err();
            assert_eq!((error.step(), error.to_string().as_str()), (Some(step), words));
        };
        check("absent", StartStep::CommandNotFound, "executing the program absent: No such file or directory");
        check(
            "/bin/absent",
            StartStep::CommandNotFound,
            "executing the program /bin/absent: No such file or directory",
        );
        check("text", StartStep::CommandNotExecutable, "executing the program text: Permission denied");
        check("/etc", StartStep::CommandNotExecutable, "executing the program /etc: Permission denied");
        check("garbage", StartStep::CommandNotExecutable, "executing the program garbage: Exec format error");
    }
    let mut plan = fixture.plan(&["true"]);
    plan.process.user = "nobody".parse().unwrap();
    let (stdio, _streams) = pipes();
    let error = container::prepare(&plan, stdio).unwrap_err();
    assert_eq!(error.to_string(), "user nobody: no such user in the cell's /etc/passwd");
    plan.rootfs = Rootfs::Plain { dir: "/nonexistent".into(), missing: Vec::new() };
    let (stdio, _streams) = pipes();
    assert_eq!(container::prepare(&plan, stdio).unwrap_err().step(), Some(StartStep::Image));
}

/// The image as the store unpacks it: metadata in EROFS, content shared by digest.
#[test]
fn a_composed_image_runs_like_a_directory() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    // More than fits beside its inode, so that its bytes are an object.
    std::fs::write(fixture.root().join("etc/large"), "0123456789\n".repeat(20_000)).unwrap();
    let store = store::Store::open(fixture.dir.path().join("pool")).unwrap();
    let mut writer = store.writer().unwrap();
    let tree = writer.directory(&fixture.root()).unwrap();
    let tree = writer.tree(&tree).unwrap();
    writer.publish(&[]).unwrap();
    let rootfs = store.rootfs(&tree, store::Layout::Composed, &()).unwrap();
    assert!(matches!(rootfs, Rootfs::Composed { .. }));
    for user_namespace in [model::UserNamespace::Host, model::UserNamespace::Auto] {
        let script = "wc -c < /etc/large; stat -c %u /etc/large; echo more >> /etc/large; tail -1 /etc/large; \
                      mv /etc /moved && cat /moved/group | head -1; rm -r /moved; ls /";
        let mut plan = fixture.plan(&["sh", "-c", script]);
        plan.rootfs = rootfs.clone();
        plan.security.user_namespace = user_namespace;
        plan.upper = fixture.dir.path().join(user_namespace.as_str());
        std::fs::create_dir(&plan.upper).unwrap();
        let outcome = run(&plan);
        let expected = "220000\n0\nmore\nroot:x:0:\nbin\ndev\nproc\nroot\nsys\ntmp\nvar\n";
        assert_eq!(outcome.stdout, expected, "{user_namespace}: {outcome:?}");
    }
}
