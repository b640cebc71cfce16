//! Images through a real registry, and images for other processors.

use std::process::Command;

use skep_tests::registry::Registry;
use skep_tests::{TestEnv, can_run};

const BUSYBOX: &str = "deb:busybox-static";

#[test]
fn an_image_goes_through_a_registry_and_runs_elsewhere() {
    if !can_run(&["root", "docker-registry", "skopeo"]) {
        return;
    }
    let env = TestEnv::with(BUSYBOX);
    let registry = Registry::start(&env);
    let target = format!("docker://{}/team/bb:v1", registry.address);
    let digest = env.skep(["image", "push", BUSYBOX, &target]).ok();
    let inspect = Command::new("skopeo").args(["inspect", "--tls-verify=false", &target]).output().unwrap();
    let seen: serde_json::Value = serde_json::from_slice(&inspect.stdout).unwrap();
    assert_eq!((&seen["Digest"], &seen["Architecture"]), (&digest.trim().into(), &"amd64".into()));

    let other = TestEnv::empty();
    let script = "echo from a registry; test -x /bin/busybox";
    let run = other.skep(["run", "--rm", "--net", "none", &target, "--", "/bin/sh", "-c", script]);
    assert_eq!(run.ok(), "from a registry\n");
    let tree = |env: &TestEnv, name: &str| {
        let text = env.skep(["image", "inspect", name]).ok();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()[0]["image"]["tree"].clone()
    };
    assert_eq!(tree(&other, &target), tree(&env, BUSYBOX));

    let error = other.skep(["image", "pull", &format!("docker://{}/team/no:v1", registry.address)]).fails(3);
    assert!(error.contains("team/no"), "{error}");
    let address = registry.address.clone();
    drop(registry);
    assert_eq!(other.skep(["run", "--rm", "--net", "none", &target, "--", "/bin/sh", "-c", "echo ok"]).ok(), "ok\n");
    let error = other.skep(["image", "pull", &format!("docker://{address}/team/bb:v2")]).fails(1);
    assert!(error.contains("is the registry's address right, and does it run?"), "{error}");
}

#[test]
fn an_image_for_another_processor_is_made_here_and_says_why_it_does_not_run() {
    if !can_run(&["root"]) {
        return;
    }
    let foreign = "deb:busybox-static/arm64";
    let env = TestEnv::with(foreign);
    let inspected: serde_json::Value = serde_json::from_str(&env.skep(["image", "inspect", foreign]).ok()).unwrap();
    assert_eq!(inspected[0]["image"]["arch"], "arm64");
    let archive = env.scratch().join("foreign.tar");
    env.skep(["image", "export", foreign, &format!("oci-archive:{}", archive.display())]).ok();
    if std::path::Path::new("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists() {
        let args = ["run", "--rm", "--as", "container", foreign, "--", "/bin/sh", "-c", "echo ok"];
        return assert_eq!(env.skep(args).ok(), "ok\n");
    }
    for args in [&["--arch", "arm64", BUSYBOX][..], &[foreign]] {
        let error = env.skep(["run", "--rm", "--as", "container", "--net", "none"].iter().chain(args)).fails(126);
        assert!(error.contains("Exec format error") && error.contains("the image is for arm64"), "{error}");
    }
}
