//! Registries: the real one of Debian, and ones that lie, stall and hang up.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;

use image::{Catalogue, Error, Fetcher, LayerForm, Opened, Receiver};
use model::{ObjectId, Reference};

use crate::env::{Env, has, run, write};
use crate::server::{Manner, Server};
use crate::tar::{Packed, Tar, image, layout, sha256};

/// An image with one layer of some size that does not compress.
fn blobs() -> Vec<Vec<u8>> {
    let mut state = 1u64;
    let noise: Vec<u8> = (0..40_000)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u8
        })
        .collect();
    image(&[Tar::default().file("noise", &noise).end()], Packed::Gzip)
}

#[test]
fn an_honest_registry_and_one_that_hangs_up_give_the_same_image() {
    let env = Env::new();
    let mut seen = Vec::new();
    for manner in [Manner::Honest, Manner::Cuts(15_000), Manner::Recovers(2), Manner::Overfull] {
        let server = Server::start(blobs(), manner);
        let fetched = env.fetch(&format!("docker://{}/a/b:v1", server.address)).unwrap();
        seen.push(fetched.record.oci_id);
        let ranges = server.ranges.lock().unwrap().clone();
        if manner == Manner::Cuts(15_000) {
            assert!(ranges.contains(&"15000-".to_owned()) && ranges.contains(&"30000-".to_owned()), "{ranges:?}");
        }
    }
    seen.dedup();
    assert_eq!(seen.len(), 1);
    assert_eq!(std::fs::read_dir(env.path("cache/blobs")).unwrap().count(), 0, "the pool has it: the cache need not");
}

#[test]
fn registries_that_lie_stall_or_refuse_are_named() {
    let blobs = blobs();
    let digest = sha256(blobs.last().unwrap());
    let check = |manner: Manner, by_digest: bool, expected: &str| {
        let env = Env::new();
        let server = Server::start(blobs.clone(), manner);
        let reference = if by_digest { format!("a/b@{digest}") } else { "a/b".to_owned() };
        let error = env.fetch(&format!("docker://{}/{reference}", server.address)).unwrap_err();
        assert!(error.to_string().contains(expected), "{manner:?}: {error}");
        assert!(matches!(error, Error::Registry { .. } | Error::Mismatch { .. }), "{manner:?}: {error:?}");
        env.assert_empty();
    };
    check(Manner::Lies, false, "not what was promised");
    check(Manner::LiesInManifest, true, "");
    check(Manner::Fails(404), false, "");
    check(Manner::Fails(401), false, "log in");
    check(Manner::Fails(500), false, "tried 4 times");
    check(Manner::CutsWhole(10), false, "");
}

#[test]
fn a_silent_registry_does_not_hold_anybody_up_for_ever() {
    let mut env = Env::new();
    env.options.stall = model::Span::millis(150);
    for manner in [Manner::Stalls, Manner::Silent] {
        let server = Server::start(blobs(), manner);
        let error = env.fetch(&format!("docker://{}/a/b", server.address)).unwrap_err();
        assert!(matches!(error, Error::Registry { .. }), "{manner:?}: {error}");
        env.assert_empty();
    }
}

#[test]
fn a_refusal_is_not_repeated() {
    let env = Env::new();
    let server = Server::start(blobs(), Manner::Fails(403));
    assert!(env.fetch(&format!("docker://{}/a/b", server.address)).is_err());
    assert!(server.requests.load(Ordering::SeqCst) <= 2);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = env.fetch(&format!("docker://{port}/a/b")).unwrap_err();
    assert!(matches!(error, Error::Registry { .. }), "{error}");
}

/// Debian's registry on a free port.
struct Registry {
    child: Child,
    address: String,
}

impl Registry {
    fn start(env: &Env) -> Self {
        let config = env.path("registry.yml");
        // Port 0: it tells the one it got.
        let text = format!(
            "version: 0.1\nlog: {{level: info, formatter: json}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:0'}}\n",
            env.path("registry").display()
        );
        write(&config, text);
        let mut child = Command::new("docker-registry")
            .args(["serve", config.to_str().unwrap()])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| Some(line.split_once("listening on ")?.1.split(['"', ' ']).next()?.to_owned()));
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
fn debians_registry_takes_and_gives() {
    if !has("docker-registry") || !has("skopeo") {
        return;
    }
    let env = Env::new();
    let registry = Registry::start(&env);
    let at = |rest: &str| format!("docker://{}/{rest}", registry.address);
    let layers = [Tar::default().file("a", b"lower").end(), Tar::default().file("b", b"upper").end()];
    layout(&env.path("layout"), &image(&layers, Packed::Gzip));
    let layout = format!("oci:{}", env.path("layout").display());
    let policy = env.path("policy.json");
    write(&policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#);
    let skopeo = |arguments: &[&str]| run("skopeo", &[&["--policy", policy.to_str().unwrap()], arguments].concat());
    // Filled by skopeo, with both compressions, pulled by us.
    for (format, name) in [("gzip", "team/gz:v1"), ("zstd", "team/zst:v1")] {
        let target = at(name);
        skopeo(&[
            "copy",
            "-q",
            "--dest-tls-verify=false",
            "--dest-compress-format",
            format,
            "--format",
            "oci",
            &layout,
            &target,
        ]);
        let pulled = env.fetch(&target).unwrap();
        assert_eq!(env.content(&pulled, "a").unwrap(), b"lower");
        let seen = skopeo(&["inspect", "--tls-verify=false", &target]);
        let original = pulled.record.layers[0].original.unwrap().to_string();
        assert!(seen.contains(&original), "{seen}");
    }
    // Pushed by us, inspected by skopeo, pulled again by digest.
    let fetched = env.fetch(&layout).unwrap();
    let to: Reference = format!("{}/mine/web:v2", registry.address).parse().unwrap();
    let pushed = image::push(&env.store, &fetched.id, &to, LayerForm::Stream, &env.options, &()).unwrap();
    assert!(pushed.sent.get() > 0);
    let seen = skopeo(&["inspect", "--tls-verify=false", &at("mine/web:v2")]);
    assert!(seen.contains(&pushed.digest.to_string()), "{seen}");
    let again = image::push(&env.store, &fetched.id, &to, LayerForm::Stream, &env.options, &()).unwrap();
    assert_eq!((again.digest, again.sent.get()), (pushed.digest, 0), "the registry has the blobs");
    let back = env.fetch(&at(&format!("mine/web@{}", pushed.digest))).unwrap();
    assert_eq!(back.record.oci_id, fetched.record.oci_id);
    let error = env.fetch(&at("mine/web:none")).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
}

/// Takes contents in, as a session's server does.
#[derive(Default)]
struct Taken {
    open: Vec<u8>,
    whole: Vec<(ObjectId, Vec<u8>)>,
}

impl Receiver for Taken {
    fn seek(&mut self, _: &ObjectId, offset: u64) -> store::Result<()> {
        self.open.truncate(usize::try_from(offset).unwrap());
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> store::Result<()> {
        self.open.extend_from_slice(bytes);
        Ok(())
    }

    fn complete(&mut self, id: &ObjectId) -> store::Result<()> {
        self.whole.push((*id, std::mem::take(&mut self.open)));
        Ok(())
    }
}

#[test]
fn layers_stay_in_their_registry_but_those_that_cannot() {
    if !has("docker-registry") {
        return;
    }
    let env = Env::new();
    let registry = Registry::start(&env);
    // A table of contents is text, and so cannot tell the second layer's name; and one file takes several chunks.
    let large: Vec<u8> = (0..9u32 << 20).map(|it| (it / 7) as u8).collect();
    let odd = Tar::default().raw(
        &crate::tar::Entry { name: b"odd \xff", size: crate::tar::Size::Number(4), ..crate::tar::Entry::new(b'0', "") },
        b"pool",
    );
    let layers = [
        Tar::default().file("a", b"lower").file("large", &large).end(),
        odd.end(),
        Tar::default().file("b", b"upper").file(".wh.a", b"").end(),
    ];
    layout(&env.path("layout"), &image(&layers, Packed::Gzip));
    let fetched = env.fetch(&format!("oci:{}", env.path("layout").display())).unwrap();
    let to: Reference = format!("{}/mine/mixed:v1", registry.address).parse().unwrap();
    let pushed = image::push(&env.store, &fetched.id, &to, LayerForm::Seekable, &env.options, &()).unwrap();
    assert!(pushed.notes.iter().any(|it| it.contains("1 of 3 layers went as they are")), "{:?}", pushed.notes);

    let other = Env::new();
    let Opened::Seekable(remote) = image::open_remote(&other.store, &to, &other.options, &()).unwrap() else {
        panic!("two of its layers can stay");
    };
    let paths: Vec<_> = remote.tree.walk().map(|it| it.0).collect();
    assert_eq!(paths, [&b""[..], b"b", b"large", b"odd \xff"]);
    other.assert_empty();
    let content = |path: &[u8]| match remote.tree.get(path).unwrap().node.kind {
        store::Kind::File(content) => content,
        _ => panic!("a file"),
    };
    // Chunks of several files come in one go, those of a large one in several, each file whole.
    let catalogue = Catalogue::of(&remote.supply);
    let mut taken = Taken::default();
    let ids = [content(b"b").id, content(b"large").id];
    Fetcher::open(&catalogue).unwrap().fetch(&ids, &mut taken).unwrap();
    assert_eq!(taken.whole, [(ids[0], b"upper".to_vec()), (ids[1], large)]);
    assert!(!catalogue.holds(&content(b"odd \xff").id), "it is in the pool");
    // A collector leaves what a mounted tree needs, though no image has a name.
    let ready = other.store.on_demand_from_elsewhere(&remote.keep, &remote.tree).unwrap();
    other.store.gc(&[], &()).unwrap();
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut other.store.reader().unwrap().content(&content(b"odd \xff")).unwrap(), &mut bytes)
        .unwrap();
    assert_eq!(bytes, b"pool");
    drop(ready);
    // Pulled whole it is the same image.
    let pulled = other.fetch(&format!("docker://{to}")).unwrap();
    assert_eq!(pulled.record.tree, fetched.record.tree);
}
