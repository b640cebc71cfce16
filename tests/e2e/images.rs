//! Images: got, listed, named, passed on.

use std::process::Command;

use skep_tests::{TestEnv, can_run};

const BUSYBOX: &str = "deb:busybox-static";

#[test]
fn an_image_goes_out_and_comes_back_the_same() {
    let env = TestEnv::with(BUSYBOX);
    let digest = env.skep(["image", "export", BUSYBOX, "oci-archive:b.tar"]).ok();
    if can_run(&["skopeo"]) {
        let inspected =
            Command::new("skopeo").args(["inspect", "oci-archive:b.tar"]).current_dir(env.scratch()).output();
        let seen: serde_json::Value = serde_json::from_slice(&inspected.unwrap().stdout).unwrap();
        assert_eq!(seen["Digest"], digest.trim());
    }
    let layers = |name: &str| {
        let text = env.skep(["image", "inspect", name]).ok();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        (value[0]["image"]["layers"][0]["diff_id"].clone(), value[0]["image"]["tree"].clone())
    };
    let imported = env.skep(["image", "import", "oci-archive:b.tar", "again"]).ok();
    assert!(imported.ends_with(" again\n"), "{imported}");
    let ids = env.skep(["image", "ls", "-q"]).ok();
    let each: std::collections::BTreeSet<&str> = ids.lines().collect();
    assert_eq!(ids.lines().count(), each.len(), "an image with several names is listed once: {ids}");
    assert_eq!(layers("again"), layers(BUSYBOX));
    env.skep(["image", "tag", "again", "web:v2"]).ok();
    let names = env.skep(["image", "ls"]).ok();
    assert!(names.contains("web:v2") && names.contains(BUSYBOX), "{names}");
    env.skep(["image", "rm", "web:v2"]).ok();
    assert!(env.skep(["image", "rm", "web:v2"]).fails(3).contains("no image is called 'web:v2'"));
    assert!(env.skep(["image", "history", BUSYBOX]).ok().contains("busybox"));
    let status = env.skep(["pool", "status", "--json"]).json().remove(0);
    assert!(status["objects"].as_u64().unwrap() > 0, "{status}");
}

#[test]
fn a_program_of_this_machine_runs() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::empty();
    let listed = env.skep(["run", "--rm", "--net", "none", "host:/bin/ls", "--", "/"]).ok();
    assert!(listed.lines().any(|line| line == "proc"), "{listed}");
}

#[test]
fn an_image_that_a_cell_uses_can_lose_its_name_and_is_kept_by_gc() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(BUSYBOX);
    let sleeper = ["run", "-d", "--net", "none", "--name", "a", BUSYBOX, "--", "busybox", "sleep", "1000"];
    env.skep(sleeper).ok();
    env.skep(["image", "rm", BUSYBOX]).ok();
    env.skep(["pool", "gc"]).ok();
    assert_eq!(env.skep(["exec", "a", "busybox", "echo", "still here"]).ok(), "still here\n");
    env.skep(["stop", "-t", "0", "a"]).ok();
    env.skep(["start", "a"]).ok();
    assert_eq!(env.skep(["exec", "a", "busybox", "echo", "again"]).ok(), "again\n");
    env.skep(["pool", "fsck"]).ok();
}

/// A file of a memory file system cannot be mounted as an image, nor one of an overlay: such a pool is laid out plainly.
#[test]
fn a_pool_in_memory_serves_cells() {
    let memory = std::path::Path::new("/dev/shm");
    if !can_run(&["root"]) || !memory.is_dir() {
        return;
    }
    let env = TestEnv::with(BUSYBOX);
    let dir = tempfile::tempdir_in(memory).unwrap();
    let copied = Command::new("cp").arg("-a").arg(env.home().join("pool")).arg(dir.path()).status().unwrap();
    assert!(copied.success());
    let root = dir.path().to_str().unwrap();
    let said = env.skep(["--root", root, "run", "--rm", "--net", "none", BUSYBOX, "--", "busybox", "echo", "hello"]);
    assert_eq!(said.ok(), "hello\n");
}
