//! Layouts and archives, against the tools that everybody has.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::env::{Env, has, run, write};
use crate::tar::{Entry, Packed, Size, Tar, gzip, image, layout};

/// Two layers with all that layers have.
fn layers() -> Vec<Vec<u8>> {
    let lower = Tar::default()
        .dir("etc")
        .file("etc/passwd", b"root:x:0:0::/root:/bin/sh\n")
        .raw(&Entry { mode: 0o4755, owner: (0, 5), size: Size::Number(3), ..Entry::new(b'0', "bin/su") }, b"su\n")
        .dir("gone")
        .file("gone/a", b"a")
        .dir("opaque")
        .file("opaque/low", b"low")
        .file("same", b"same")
        .hardlink("same2", "same")
        .symlink("link", "etc/passwd")
        .symlink("dirlink", "etc")
        .end();
    let upper = Tar::default()
        .file(".wh.gone", b"")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/high", b"high")
        .file("dirlink/through", b"through a link")
        .file("same", b"changed")
        .pax(&[("path", &format!("deep/{}/file", "n".repeat(150)))])
        .file("short", b"long name")
        .end();
    vec![lower, upper]
}

#[test]
fn umoci_unpacks_the_same_tree() {
    if !has("umoci") || !rustix_is_root() {
        return;
    }
    let env = Env::new();
    let dir = env.path("layout");
    layout(&dir, &image(&layers(), Packed::Gzip));
    // umoci wants a tag.
    let index = std::fs::read_to_string(dir.join("index.json")).unwrap();
    let tagged =
        index.replace("\"mediaType\"", "\"annotations\":{\"org.opencontainers.image.ref.name\":\"v1\"},\"mediaType\"");
    write(&dir.join("index.json"), tagged);
    let fetched = env.fetch(&format!("oci:{}:v1", dir.display())).unwrap();
    let bundle = env.path("bundle");
    run("umoci", &["unpack", "--image", &format!("{}:v1", dir.display()), bundle.to_str().unwrap()]);
    let theirs = walk(&bundle.join("rootfs"));
    let ours: BTreeMap<String, String> = env
        .listing(&fetched)
        .iter()
        .filter_map(|line| line.split_once(' ').map(|(path, rest)| (path.to_owned(), rest.to_owned())))
        .filter(|(path, _)| !path.is_empty())
        .collect();
    assert_eq!(ours, theirs);
}

fn rustix_is_root() -> bool {
    let root = std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0);
    if !root {
        eprintln!("SKIPPED: unpacking with owners takes root");
    }
    root
}

fn walk(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let metadata = std::fs::symlink_metadata(&path).unwrap();
            let kind = if metadata.is_dir() {
                todo.push(path.clone());
                "dir".to_owned()
            } else if metadata.is_symlink() {
                format!("-> {}", std::fs::read_link(&path).unwrap().display())
            } else {
                format!("file {}", metadata.len())
            };
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            found.insert(name, format!("{kind} {:o} {}:{}", metadata.mode() & 0o7777, metadata.uid(), metadata.gid()));
        }
    }
    found
}

#[test]
fn exports_are_read_by_skopeo_and_by_ourselves() {
    let env = Env::new();
    layout(&env.path("layout"), &image(&layers(), Packed::Zstd));
    let fetched = env.fetch(&format!("oci:{}", env.path("layout").display())).unwrap();
    let targets = [
        format!("oci:{}:v1", env.path("out").display()),
        format!("oci-archive:{}", env.path("out.tar").display()),
        format!("docker-archive:{}:web:v1", env.path("docker.tar").display()),
    ];
    for target in targets {
        let exported = env.export(&fetched, &target).unwrap();
        let again = env.export(&fetched, &target).unwrap();
        assert_eq!(exported, again, "the same image, the same bytes");
        assert_eq!(exported.notes.is_empty(), target.starts_with("docker-archive:"), "zstd became gzip: {exported:?}");
        let back = env.fetch(&target).unwrap();
        assert_eq!((back.record.tree, back.record.oci_id), (fetched.record.tree, fetched.record.oci_id), "{target}");
        if has("skopeo") {
            let policy = env.path("policy.json");
            write(&policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#);
            let seen = run("skopeo", &["--policy", policy.to_str().unwrap(), "inspect", &target]);
            assert!(target.starts_with("docker") || seen.contains(&exported.digest.to_string()), "{seen}");
            let config =
                run("skopeo", &["--policy", policy.to_str().unwrap(), "inspect", "--config", "--raw", &target]);
            assert_eq!(crate::tar::sha256(config.as_bytes()), fetched.record.oci_id.to_string());
        }
    }
    assert!(
        std::fs::read_dir(env.path("."))
            .unwrap()
            .all(|entry| { !entry.unwrap().file_name().to_string_lossy().starts_with(".skep") })
    );
}

#[test]
fn a_layout_holds_several_images_by_tag() {
    let env = Env::new();
    let dir = env.path("out").display().to_string();
    for (number, tag) in [("1", "a"), ("2", "b"), ("3", "b")] {
        layout(&env.path(number), &image(&[Tar::default().file("n", number.as_bytes()).end()], Packed::Gzip));
        let fetched = env.fetch(&format!("oci:{}", env.path(number).display())).unwrap();
        env.export(&fetched, &format!("oci:{dir}:{tag}")).unwrap();
    }
    for (tag, content) in [("a", "1"), ("b", "3")] {
        let fetched = env.fetch(&format!("oci:{dir}:{tag}")).unwrap();
        assert_eq!(env.content(&fetched, "n").unwrap(), content.as_bytes());
    }
    let error = env.fetch(&format!("oci:{dir}")).unwrap_err().to_string();
    assert!(error.contains("it has a, b"), "{error}");
}

#[test]
fn a_compressed_docker_archive_with_links_is_read() {
    let env = Env::new();
    let layer = Tar::default().file("n", b"x").end();
    let blobs = image(std::slice::from_ref(&layer), Packed::Plain);
    let manifest = br#"[{"Config":"c.json","RepoTags":["web:latest"],"Layers":["2/layer.tar"]}]"#;
    let archive = Tar::default()
        .file("c.json", &blobs[1])
        .file("1/layer.tar", &layer)
        .symlink("2/layer.tar", "../1/layer.tar")
        .file("manifest.json", manifest)
        .end();
    write(&env.path("d.tgz"), gzip(&archive));
    let fetched = env.fetch(&format!("docker-archive:{}:web", env.path("d.tgz").display())).unwrap();
    assert_eq!(env.content(&fetched, "n").unwrap(), b"x");
    assert!(env.fetch(&format!("docker-archive:{}:other", env.path("d.tgz").display())).is_err());
    let circle = Tar::default().symlink("manifest.json", "manifest.json").end();
    write(&env.path("circle.tar"), circle);
    assert!(env.fetch(&format!("docker-archive:{}", env.path("circle.tar").display())).is_err());
}

#[test]
fn history_and_lookup() {
    let env = Env::new();
    layout(&env.path("layout"), &image(&layers(), Packed::Gzip));
    let fetched = env.fetch(&format!("oci:{}", env.path("layout").display())).unwrap();
    let history = image::history(&env.store, &fetched.record).unwrap();
    assert_eq!(history.len(), 2, "a layer without a line of history still shows");
    let find = |text: &str| image::lookup(&env.store, &text.parse().unwrap()).unwrap().map(|(_, id, _)| id);
    assert_eq!(find(fetched.name.as_str()), Some(fetched.id));
    assert_eq!(find(&fetched.id.short()), Some(fetched.id));
    assert_eq!(find(&fetched.id.to_string()), Some(fetched.id));
    assert_eq!(find("nothing:here"), None);
    assert_eq!(find("abc"), None, "too short to be an id");
}
