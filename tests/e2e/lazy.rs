//! Toolboxes of which a registry sends what is read, and no more.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use skep_tests::registry::{Harm, Proxy, Registry};
use skep_tests::{TestEnv, can_run};

use crate::debug::{OrdinaryUser, TOOLBOX};

/// A registry that has the toolbox in a seekable form, and somebody who never saw it.
struct Surrounding {
    proxy: Proxy,
    _registry: Registry,
    /// Whose pool has the toolbox.
    pusher: TestEnv,
    /// Whose pool is empty.
    env: TestEnv,
    image: String,
    target: Child,
}

impl Drop for Surrounding {
    fn drop(&mut self) {
        let _ = self.target.kill();
        let _ = self.target.wait();
    }
}

impl Surrounding {
    fn new() -> Option<Self> {
        if !can_run(&["root", "docker-registry"]) {
            return None;
        }
        let pusher = TestEnv::with(TOOLBOX);
        let registry = Registry::start(&pusher);
        let proxy = Proxy::before(&registry);
        let image = format!("docker://{}/tools/all:v1", proxy.address);
        pusher.skep(["image", "push", "--lazy", TOOLBOX, &image]).ok();
        let target = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        proxy.take_tally();
        Some(Self { proxy, _registry: registry, pusher, env: TestEnv::empty(), image, target })
    }

    fn debug(&self, script: &str) -> skep_tests::Run {
        let target = format!("pid:{}", self.target.id());
        self.env.skep(["debug", &target, "--toolbox", &self.image, "--lazy", "--", "sh", "-c", script])
    }

    /// How many bytes the layers have.
    fn packed(&self) -> u64 {
        let dir = self.pusher.scratch().join("registry/docker/registry/v2/blobs/sha256");
        let found = Command::new("find").arg(dir).args(["-name", "data", "-printf", "%s\n"]).output().unwrap();
        String::from_utf8(found.stdout).unwrap().lines().map(|it| it.parse::<u64>().unwrap()).sum()
    }

    fn trees(&self) -> [serde_json::Value; 2] {
        [(&self.pusher, TOOLBOX), (&self.env, self.image.as_str())].map(|(env, name)| {
            let text = env.skep(["image", "inspect", name]).ok();
            serde_json::from_str::<serde_json::Value>(&text).unwrap()[0]["image"]["tree"].clone()
        })
    }
}

#[test]
fn only_what_is_read_is_fetched_and_nothing_twice() {
    let Some(it) = Surrounding::new() else { return };
    let ran = it.debug("ps -o comm= -p $$; ls -ln /usr/bin/ps | cut -d' ' -f3,4; touch /scratch");
    assert_eq!(ran.ok(), "sh\n0 0\n");
    let (first, packed) = (it.proxy.take_tally(), it.packed());
    eprintln!("first session: {first:?} of {packed} bytes");
    assert!(first.bytes > 0 && first.bytes < packed / 3, "{first:?} of {packed}");
    // Every byte is the one that was pushed.
    let sums = "cd /usr/bin; sha256sum ps sed grep | cut -c1-64; find . | wc -l";
    let expected = it.pusher.skep(["run", "--rm", "--net", "none", TOOLBOX, "--", "sh", "-c", sums]).ok();
    assert_eq!(it.debug(sums).ok(), expected);
    it.proxy.take_tally();
    assert_eq!(it.debug(sums).ok(), expected);
    assert_eq!(it.proxy.take_tally().requests, 0, "the second time all of it is here");
    // Reading everything in order takes far fewer requests than there are files.
    let files: u64 = it
        .debug("cat $(find /usr /etc -xdev -type f) | wc -c; find /usr /etc -xdev -type f | wc -l")
        .ok()
        .lines()
        .last()
        .unwrap()
        .parse()
        .unwrap();
    let all = it.proxy.take_tally();
    eprintln!("all {files} files: {all:?} of {packed} bytes");
    assert!(files > 500 && all.requests < files / 4, "{files} files, {all:?}");
    assert!(all.bytes <= packed, "{all:?} of {packed}: some of it came twice");
    let pool = it.env.skep(["pool", "fsck"]);
    pool.ok();
    it.env.skep(["pool", "gc"]).ok();
    assert_eq!(it.debug("echo again").ok(), "again\n");
    assert!(it.proxy.take_tally().bytes > 0, "a collector takes away what no session needs");
}

#[test]
fn a_seekable_image_is_an_image_like_any_other() {
    let Some(it) = Surrounding::new() else { return };
    it.env.skep(["image", "pull", &it.image]).ok();
    let [theirs, ours] = it.trees();
    assert_eq!(theirs, ours);
    // To tools that know nothing of it, each layer is a tar in gzip.
    let dir = it.pusher.scratch().join("registry/docker/registry/v2/blobs/sha256");
    let found = Command::new("find").arg(&dir).args(["-name", "data", "-size", "+1000k"]).output().unwrap();
    let layers = String::from_utf8(found.stdout).unwrap();
    assert!(layers.lines().count() > 0);
    for layer in layers.lines() {
        let listed = Command::new("tar").args(["-tzf", layer]).output().unwrap();
        assert!(listed.status.success() && listed.stderr.is_empty(), "{listed:?}");
        assert_eq!(String::from_utf8_lossy(&listed.stdout).lines().last(), Some("stargz.index.json"));
    }
    // Once it is here, no registry is asked.
    it.proxy.take_tally();
    assert_eq!(it.debug("echo here").ok(), "here\n");
    assert_eq!(it.proxy.take_tally().requests, 0);
}

#[test]
fn a_registry_that_sends_whole_blobs_only_is_pulled_from() {
    let Some(it) = Surrounding::new() else { return };
    it.proxy.set(Harm::NoParts);
    let ran = it.debug("echo whole");
    assert!(ran.err.contains("serves whole layers only"), "{}", ran.err);
    assert_eq!(ran.ok(), "whole\n");
    let [theirs, ours] = it.trees();
    assert_eq!(theirs, ours);
}

#[test]
fn layers_without_a_table_of_contents_are_pulled() {
    let Some(it) = Surrounding::new() else { return };
    it.pusher.skep(["image", "push", TOOLBOX, &it.image]).ok();
    let ran = it.debug("echo plain");
    assert!(ran.err.contains("have no table of contents"), "{}", ran.err);
    assert_eq!(ran.ok(), "plain\n");
}

#[test]
fn what_cannot_be_fetched_is_an_error_of_its_file_alone() {
    let Some(it) = Surrounding::new() else { return };
    // Names and a shell; then the registry turns bad.
    assert_eq!(it.debug("cat /etc/debian_version > /dev/null; echo ok").ok(), "ok\n");
    let script = "cat /usr/bin/grep > /dev/null || echo failed; cat /etc/debian_version > /dev/null && echo still";
    for (harm, said) in [(Harm::OtherBytes, ""), (Harm::Cut(1000), "tried 3 times"), (Harm::HangUp, "tried 3 times")] {
        it.proxy.set(harm);
        let began = Instant::now();
        let ran = it.debug(script);
        assert_eq!(ran.out, "failed\nstill\n", "{harm:?}: {}", ran.err);
        assert!(ran.err.contains("Input/output error"), "{harm:?}: {}", ran.err);
        assert!(ran.err.contains("usr/bin/grep cannot be had") && ran.err.contains(said), "{harm:?}: {}", ran.err);
        assert!(began.elapsed() < Duration::from_secs(60), "{harm:?}");
    }
    // What passes is not noticed.
    it.proxy.set(Harm::CutOnce(1000));
    let ran = it.debug(script);
    assert_eq!(ran.out, "still\n", "{}", ran.err);
    it.env.skep(["pool", "fsck"]).ok();
}

#[test]
fn a_silent_registry_holds_nobody_up_for_ever() {
    let Some(it) = Surrounding::new() else { return };
    assert_eq!(it.debug("cat /etc/debian_version > /dev/null; echo ok").ok(), "ok\n");
    it.proxy.set(Harm::Silence);
    let began = Instant::now();
    let ran = it.debug("cat /usr/bin/grep > /dev/null || echo failed");
    assert_eq!(ran.out, "failed\n", "{}", ran.err);
    assert!(ran.err.contains("(tried 3 times)"), "{}", ran.err);
    assert!(began.elapsed() < Duration::from_secs(120));
}

/// Files on demand take root. Whoever is not gets the same session, later.
#[test]
fn an_ordinary_user_has_the_toolbox_pulled() {
    if !can_run(&["root", "docker-registry", "busybox"]) {
        return;
    }
    let Some(it) = Surrounding::new() else { return };
    let user = OrdinaryUser::new();
    let run = ["run", "-d", "--net", "none", "--name", "a", "host:/bin/busybox", "--", "/bin/busybox", "sleep", "1000"];
    let started = user.skep(&run);
    assert!(started.status.success(), "{started:?}");
    let ran = user.skep(&["debug", "a", "--toolbox", &it.image, "--lazy", "--", "sh", "-c", "ps -o comm= -p 2"]);
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "busybox\n", "{}", String::from_utf8_lossy(&ran.stderr));
}

/// The process that fetches may not read the files that a password is in, and yet has it.
#[test]
fn a_registry_that_wants_a_password_gets_it() {
    let Some(it) = Surrounding::new() else { return };
    let login = "dXNlcjpwYXNzd29yZA==";
    it.proxy.demand(login);
    assert!(it.debug("true").fails(125).contains("log in"));
    let (dir, host) = (it.env.scratch().join(".docker"), &it.proxy.address);
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("config.json"), format!(r#"{{"auths":{{"{host}":{{"auth":"{login}"}}}}}}"#)).unwrap();
    assert_eq!(it.debug("cat /etc/debian_version > /dev/null; echo in").ok(), "in\n");
}
