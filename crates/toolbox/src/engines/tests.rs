//! Lookups in a fabricated tree of state, where the container's process is this test's own.

use std::os::unix::fs::PermissionsExt;

use super::*;

/// State below a directory, with files in it.
struct Fabricated(tempfile::TempDir);

impl Fabricated {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, path: &str, text: impl AsRef<[u8]>) -> &Self {
        let path = self.0.path().join(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    fn roots(&self) -> Roots {
        Roots { top: self.0.path().to_owned(), caller: 0 }
    }
}

const ID: &str = "dea6bdddc1579fa2a0697f733e1c9568e27b75c9a2437b8860f87f349b8003dd";
const OTHER: &str = "dea6ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";

fn own() -> Process {
    let pid = std::process::id();
    Process { pid, began: sys::process::start_time(pid).unwrap() }
}

fn runc_state(process: Process) -> String {
    format!(r#"{{"init_process_pid":{},"init_process_start":{}}}"#, process.pid, process.began)
}

#[test]
fn podmans_containers_are_found_by_name_and_by_the_beginning_of_an_id() {
    let state = Fabricated::new();
    let list = format!(
        r#"[{{"id":"{ID}","names":["web"],"metadata":"{{\"image-name\":\"bb\"}}"}},{{"id":"{OTHER}","names":["{}"]}}]"#,
        &ID[..6]
    );
    state.write("/var/lib/containers/storage/overlay-containers/containers.json", list);
    state.write(&format!("/run/runc/{ID}/state.json"), runc_state(own()));
    let find = |wanted: &str| containers_of(&state.roots(), Foreign::Podman, Query::Named(wanted));
    let web = find("web");
    assert_eq!(web.len(), 1);
    assert_eq!(
        (web[0].process, web[0].image.as_deref(), web[0].to_string().as_str()),
        (Some(own()), Some("bb"), "podman:web")
    );
    assert_eq!(find(ID), web);
    assert_eq!(find(&ID[..12]), web);
    assert_eq!(find("dea6").len(), 2, "the beginning of two ids");
    assert_eq!(find(&ID[..6])[0].id, OTHER, "a whole name goes first");
    assert!(find("we").is_empty() && find("").is_empty());
    assert_eq!(containers(&state.roots(), Query::Running), web, "the other does not run");
    assert_eq!(containers(&state.roots(), Query::Any).iter().filter(|it| it.engine == Foreign::Podman).count(), 2);
}

#[test]
fn a_number_that_another_process_got_is_not_believed() {
    let state = Fabricated::new();
    state.write("/var/lib/containers/storage/overlay-containers/containers.json", format!(r#"[{{"id":"{ID}"}}]"#));
    state.write(&format!("/run/runc/{ID}/state.json"), runc_state(Process { began: own().began + 1, ..own() }));
    let process = || containers_of(&state.roots(), Foreign::Podman, Query::Named(ID))[0].process;
    assert_eq!(process(), None);
    state.write(&format!("/run/runc/{ID}/state.json"), "{");
    assert_eq!(process(), None);
    // Without the runtime's note, the control group would have to name it.
    let pidfile = format!("/run/containers/storage/overlay-containers/{ID}/userdata/pidfile");
    state.write(&pidfile, own().pid.to_string());
    assert_eq!(process(), None);
    // Nor is one that the runtime has not started.
    state.write(&format!("/run/runc/{ID}/state.json"), runc_state(own()));
    assert_eq!(process(), Some(own()));
    let pipe = state.0.path().join(format!("run/runc/{ID}/exec.fifo"));
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert_eq!(process(), None);
    state.write(&format!("/run/runc/{ID}/state.json"), "");
    for text in ["", "-1", "0", "99999999999999", "x\n", "\u{0}"] {
        state.write(&pidfile, text);
        assert_eq!(process(), None);
    }
}

#[test]
fn dockers_containers_are_found_once_although_containerd_has_them_too() {
    let state = Fabricated::new();
    let config = |name: &str, id: &str| {
        let pid = own().pid;
        format!(r#"{{"ID":"{id}","Name":"/{name}","State":{{"Running":true,"Pid":{pid}}},"Config":{{"Image":"bb"}}}}"#)
    };
    state.write(&format!("/var/lib/docker/containers/{ID}/config.v2.json"), config("web", ID));
    state.write(&format!("/var/lib/docker/containers/{OTHER}/config.v2.json"), "{broken");
    state.write(&format!("/run/docker/runtime-runc/moby/{ID}/state.json"), runc_state(own()));
    let bundle = format!("/run/containerd/io.containerd.runtime.v2.task/moby/{ID}");
    state.write(&format!("{bundle}/init.pid"), own().pid.to_string()).write(&format!("{bundle}/config.json"), "{}");
    state.write(&format!("/run/containerd/runc/moby/{ID}/state.json"), runc_state(own()));
    let found = containers(&state.roots(), Query::Named("web"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].to_string().as_str(), found[0].process), ("docker:web", Some(own())));
    assert_eq!(containers(&state.roots(), Query::Named(&ID[..8])).len(), 1);
    let below = containers_of(&state.roots(), Foreign::Containerd, Query::Named(ID));
    assert_eq!(below[0].to_string(), format!("containerd:moby/{ID}"));
}

#[test]
fn containerds_namespaces_and_pods_are_told_apart() {
    let state = Fabricated::new();
    let bundle = |space: &str, id: &str, config: &str| {
        let path = format!("/run/containerd/io.containerd.runtime.v2.task/{space}/{id}");
        state.write(&format!("{path}/init.pid"), own().pid.to_string()).write(&format!("{path}/config.json"), config);
        state.write(&format!("/run/containerd/runc/{space}/{id}/state.json"), runc_state(own()));
    };
    bundle("default", "web", "{}");
    bundle("other", "web", "{}");
    bundle("other", "db", "{");
    let pod = |name: &str| {
        let notes = [("container-type", "container"), ("sandbox-name", "web-0"), ("sandbox-namespace", "shop")];
        let notes: Vec<String> = notes
            .iter()
            .chain(&[("container-name", name)])
            .map(|(key, value)| format!(r#""io.kubernetes.cri.{key}":"{value}""#))
            .collect();
        format!(r#"{{"annotations":{{{}}}}}"#, notes.join(","))
    };
    bundle("k8s.io", ID, &pod("nginx"));
    bundle("k8s.io", OTHER, &pod("log"));
    let find = |engine, wanted: &str| -> Vec<String> {
        containers_of(&state.roots(), engine, Query::Named(wanted)).iter().map(ToString::to_string).collect()
    };
    assert_eq!(find(Foreign::Containerd, "web"), ["containerd:default/web"], "as ctr does");
    assert_eq!(find(Foreign::Containerd, "other/web"), ["containerd:other/web"]);
    assert_eq!(find(Foreign::Containerd, "db"), ["containerd:other/db"]);
    assert_eq!(find(Foreign::Kubernetes, "web-0"), ["k8s:shop/web-0/log", "k8s:shop/web-0/nginx"]);
    assert_eq!(find(Foreign::Kubernetes, "shop/web-0/nginx"), ["k8s:shop/web-0/nginx"]);
    let all: Vec<String> = containers(&state.roots(), Query::Running).iter().map(ToString::to_string).collect();
    assert!(!all.iter().any(|it| it.contains("k8s.io")), "shown once: {all:?}");
}

#[test]
fn what_a_user_keeps_is_read_without_following_links_and_believed_only_of_that_user() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let state = Fabricated::new();
    let uid = 4711;
    state.write("/etc/passwd", format!("root:x:0:0::/root:/bin/sh\nalice:x:{uid}:{uid}::/home/alice:/bin/sh\n"));
    let list = "/home/alice/.local/share/containers/storage/overlay-containers/containers.json";
    state.write(list, format!(r#"[{{"id":"{ID}","names":["web"]}}]"#));
    state.write(&format!("/run/user/{uid}/runc/{ID}/state.json"), runc_state(own()));
    let top = state.0.path().to_owned();
    std::fs::set_permissions(&top, std::fs::Permissions::from_mode(0o755)).unwrap();
    let give = || {
        for path in ["home/alice", &format!("run/user/{uid}")] {
            let status =
                std::process::Command::new("chown").args(["-RhP", &uid.to_string()]).arg(top.join(path)).status();
            assert!(status.unwrap().success());
        }
    };
    let find = || containers_of(&state.roots(), Foreign::Podman, Query::Named("alice/web"));
    assert!(find().is_empty(), "the directory is somebody else's");
    give();
    assert_eq!(find().len(), 1);
    assert_eq!(find()[0].to_string(), "podman:alice/web");
    assert_eq!(find()[0].process, None, "a process of root's is none of alice's containers");
    // Links, pipes and files of others in the place of the list.
    let path = top.join(list.trim_start_matches('/'));
    let elsewhere = top.join("elsewhere");
    std::fs::rename(&path, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    assert!(find().is_empty(), "a link");
    std::fs::remove_file(&path).unwrap();
    std::fs::hard_link("/etc/passwd", &path).or_else(|_| std::fs::write(&path, "[]")).unwrap();
    assert!(find().is_empty(), "a file of root's");
    std::fs::remove_file(&path).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600), 0)
        .unwrap();
    give();
    assert!(find().is_empty(), "a pipe, which nobody waits for");
    std::fs::remove_file(&path).unwrap();
    std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    give();
    assert!(find().is_empty(), "a file without end");
}

proptest::proptest! {
    #[test]
    fn any_state_is_read_without_harm(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let state = Fabricated::new();
        state.write("/etc/passwd", &bytes).write("/etc/docker/daemon.json", &bytes);
        state.write("/var/lib/containers/storage/overlay-containers/containers.json", &bytes);
        state.write("/var/lib/docker/containers/a/config.v2.json", &bytes);
        state.write("/run/containerd/io.containerd.runtime.v2.task/k8s.io/a/config.json", &bytes);
        proptest::prop_assert!(containers_of(&state.roots(), Foreign::Podman, Query::Any).is_empty());
        proptest::prop_assert!(containers_of(&state.roots(), Foreign::Docker, Query::Any).is_empty());
        proptest::prop_assert!(containers_of(&state.roots(), Foreign::Kubernetes, Query::Any).is_empty());
    }
}
