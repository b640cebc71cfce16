//! Images through a real registry, and images for other processors.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use skep_tests::{TestEnv, can_run};

const BUSYBOX: &str = "deb:busybox-static";

/// Debian's registry on a port of the loopback that the kernel chose.
struct Registry {
    child: Child,
    address: String,
}

impl Registry {
    fn start(env: &TestEnv) -> Self {
        let config = env.scratch().join("registry.yml");
        let files = env.scratch().join("registry");
        let text = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: 127.0.0.1:0\n",
            files.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new("docker-registry");
        command.args(["serve".as_ref(), config.as_os_str()]).env_clear().env("OTEL_TRACES_EXPORTER", "none");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let address =
            lines.find_map(|line| Some(line.split_once("listening on ")?.1.split(['"', ' ']).next()?.to_owned()));
        // It would end at the first line that nobody reads.
        std::thread::spawn(move || lines.count());
        Self { child, address: address.expect("the registry ended without listening") }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

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
        return assert_eq!(env.skep(["run", "--rm", foreign, "--", "/bin/sh", "-c", "echo ok"]).ok(), "ok\n");
    }
    for args in [&["--arch", "arm64", BUSYBOX][..], &[foreign]] {
        let error = env.skep(["run", "--rm", "--net", "none"].iter().chain(args)).fails(126);
        assert!(error.contains("Exec format error") && error.contains("the image is for arm64"), "{error}");
    }
}
