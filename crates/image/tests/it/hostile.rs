//! Layers and layouts that lie, each refused with the right kind of error and nothing kept; and odd ones that are right.

use image::{Error, Fetched, Limits, Result};
use model::ByteSize;

use crate::env::Env;
use crate::tar::{Entry, Packed, Size, Tar, gzip, image, layout, layout_of, sha256};

fn import(env: &Env, layers: &[Vec<u8>], packed: Packed) -> Result<Fetched> {
    let dir = env.path("layout");
    layout(&dir, &image(layers, packed));
    env.fetch(&format!("oci:{}", dir.display()))
}

/// Layers that must be refused as damaged or hostile.
#[track_caller]
fn refused(layers: &[Tar], why: &str) {
    let env = Env::new();
    let layers: Vec<Vec<u8>> = layers.iter().cloned().map(Tar::end).collect();
    let error = import(&env, &layers, Packed::Gzip).expect_err(why);
    assert!(error.to_string().contains(why), "{error}");
    env.assert_empty();
}

/// Layers that are right, and what they must lead to: paths with what they are.
#[track_caller]
fn gives(layers: &[Tar], expected: &[&str]) {
    let layers: Vec<Vec<u8>> = layers.iter().cloned().map(Tar::end).collect();
    for packed in [Packed::Plain, Packed::Gzip, Packed::Zstd] {
        let env = Env::new();
        let fetched = import(&env, &layers, packed).unwrap();
        let found = env.listing(&fetched);
        let found: Vec<String> =
            found.iter().skip(1).map(|line| line.rsplitn(3, ' ').last().unwrap().to_owned()).collect();
        assert_eq!(found, expected);
        // Whatever came in goes out again, byte for byte.
        let archive = env.path("out.tar");
        env.export(&fetched, &format!("docker-archive:{}", archive.display())).unwrap();
        let bytes = std::fs::read(archive).unwrap();
        for layer in &layers {
            assert!(bytes.windows(layer.len()).any(|window| window == layer), "a layer came out otherwise");
        }
    }
}

#[test]
fn names_that_lead_out_are_refused() {
    refused(&[Tar::default().file("../etc/passwd", b"x")], "leads upward");
    refused(&[Tar::default().file("a/../../b", b"x")], "leads upward");
    refused(&[Tar::default().dir("..")], "leads upward");
    refused(&[Tar::default().hardlink("a", "../../etc/shadow")], "leads upward");
    refused(&[Tar::default().pax(&[("path", "../../x")]).file("a", b"x")], "leads upward");
}

#[test]
fn absolute_names_and_links_stay_inside() {
    gives(
        &[Tar::default().file("/etc/x", b"1").file("//a/./b", b"22")],
        &["a dir", "a/b file 2", "etc dir", "etc/x file 1"],
    );
    gives(
        &[Tar::default().symlink("out", "/etc").file("out/passwd", b"x")],
        &["etc dir", "etc/passwd file 1", "out -> /etc"],
    );
    gives(
        &[Tar::default().dir("d").symlink("d/up", "../../../../tmp").file("d/up/x", b"x")],
        &["d dir", "d/up -> ../../../../tmp", "tmp dir", "tmp/x file 1"],
    );
}

#[test]
fn what_is_no_directory_holds_nothing() {
    refused(&[Tar::default().file("a", b"x").file("a/b", b"x")], "no directory");
    refused(&[Tar::default().symlink("a", "a").file("a/b", b"x")], "no directory");
    refused(&[Tar::default().symlink("a", "b").symlink("b", "a").file("a/x", b"x")], "no directory");
}

#[test]
fn hard_links_lead_to_what_is_there() {
    refused(&[Tar::default().hardlink("a", "later").file("later", b"x")], "not there");
    refused(&[Tar::default().hardlink("a", "/etc/passwd")], "not there");
    refused(&[Tar::default().dir("d").hardlink("a", "d")], "directory");
    gives(&[Tar::default().file("a", b"xy").hardlink("b", "/a")], &["a file 2", "b file 2"]);
    gives(&[Tar::default().file("a", b"xy"), Tar::default().hardlink("b", "a")], &["a file 2", "b file 2"]);
    gives(&[Tar::default().symlink("l", "x").hardlink("m", "l")], &["l -> x", "m -> x"]);
}

#[test]
fn whiteouts_hide_lower_layers_only() {
    let lower =
        Tar::default().dir("d").file("d/a", b"1").file("d/b", b"1").dir("d/e").file("d/e/f", b"1").file("x", b"1");
    let check = |upper: Tar, expected: &[&str]| gives(&[lower.clone(), upper], expected);
    check(Tar::default().file("d/.wh.a", b""), &["d dir", "d/b file 1", "d/e dir", "d/e/f file 1", "x file 1"]);
    check(Tar::default().file(".wh.d", b""), &["x file 1"]);
    check(
        Tar::default().file(".wh.missing", b""),
        &["d dir", "d/a file 1", "d/b file 1", "d/e dir", "d/e/f file 1", "x file 1"],
    );
    // Beside files of the same layer, before and after them.
    check(Tar::default().file("d/new", b"22").file("d/.wh..wh..opq", b""), &["d dir", "d/new file 2", "x file 1"]);
    check(Tar::default().file("d/.wh..wh..opq", b"").file("d/new", b"22"), &["d dir", "d/new file 2", "x file 1"]);
    check(
        Tar::default().file("d/e/new", b"22").file("d/.wh..wh..opq", b""),
        &["d dir", "d/e dir", "d/e/new file 2", "x file 1"],
    );
    check(
        Tar::default().file("x", b"22").file(".wh.x", b""),
        &["d dir", "d/a file 1", "d/b file 1", "d/e dir", "d/e/f file 1", "x file 2"],
    );
    check(Tar::default().file(".wh..wh.plnk", b"").file(".wh..wh..opq", b""), &[]);
    for name in [".wh.", ".wh...", ".wh..", "d/.wh."] {
        refused(&[lower.clone(), Tar::default().file(name, b"")], "whiteout of no name");
    }
}

#[test]
fn later_entries_replace_earlier_ones() {
    gives(&[Tar::default().file("a", b"1").file("a", b"22")], &["a file 2"]);
    gives(&[Tar::default().dir("a").file("a/x", b"1"), Tar::default().file("a", b"22")], &["a file 2"]);
    gives(&[Tar::default().symlink("a", "b"), Tar::default().dir("a").file("a/x", b"1")], &["a dir", "a/x file 1"]);
    gives(&[Tar::default().dir("a").file("a/x", b"1"), Tar::default().dir("a")], &["a dir", "a/x file 1"]);
}

#[test]
fn devices_are_data_and_modes_are_kept() {
    let device = |kind, major| Entry { device: (major, 3), mode: 0o6755, owner: (7, 8), ..Entry::new(kind, "dev") };
    let env = Env::new();
    let layer = Tar::default().raw(&device(b'3', 1), b"").end();
    let fetched = import(&env, &[layer], Packed::Gzip).unwrap();
    assert_eq!(env.listing(&fetched)[1], "dev char 1:3 6755 7:8");
    gives(&[Tar::default().raw(&device(b'4', 8), b"")], &["dev block 8:3"]);
    gives(&[Tar::default().raw(&Entry::new(b'6', "p"), b"")], &["p fifo"]);
    refused(&[Tar::default().raw(&device(b'3', 0o777_7777), b"")], "impossible number");
}

#[test]
fn sizes_that_lie_are_refused() {
    let with = |size| Tar::default().raw(&Entry { size, ..Entry::new(b'0', "a") }, b"1234");
    refused(&[with(Size::Number(0o77_777_777_777))], "middle of a file");
    refused(&[with(Size::Raw(&[0xff; 12]))], "negative");
    refused(&[with(Size::Raw(&[0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]))], "limit");
    refused(&[with(Size::Raw(&[0xbf; 12]))], "no number");
    refused(&[with(Size::Raw(b"99999999999\0"))], "no number");
    refused(&[Tar::default().pax(&[("size", "99999999999999999999")]).file("a", b"x")], "too large");
    refused(&[Tar::default().pax(&[("size", "-1")]).file("a", b"x")], "negative");
    refused(&[Tar::default().pax(&[("uid", "99999999999")]).file("a", b"x")], "32 bits");
    gives(
        &[Tar::default().raw(
            &Entry { size: Size::Raw(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4]), ..Entry::new(b'0', "a") },
            b"1234",
        )],
        &["a file 4"],
    );
}

#[test]
fn headers_that_describe_the_next_entry() {
    let long = "l/".repeat(120) + "name";
    let gnu = |kind, text: &str| {
        (
            Entry { size: Size::Number(text.len() as u64 + 1), ..Entry::new(kind, "././@LongLink") },
            [text.as_bytes(), b"\0"].concat(),
        )
    };
    let (header, text) = gnu(b'L', &long);
    let env = Env::new();
    let fetched = import(&env, &[Tar::default().raw(&header, &text).file("short", b"x").end()], Packed::Gzip).unwrap();
    assert_eq!(env.content(&fetched, &long), Some(b"x".to_vec()));
    let (header, text) = gnu(b'K', &"t".repeat(300));
    let target = format!("link -> {}", "t".repeat(300));
    gives(&[Tar::default().raw(&header, &text).symlink("link", "x")], &[&target]);
    gives(&[Tar::default().pax(&[("path", "p/q"), ("mtime", "1.5")]).file("short", b"x")], &["p dir", "p/q file 1"]);
    let huge = Entry { size: Size::Number(2 << 20), ..Entry::new(b'x', "pax") };
    refused(&[Tar::default().raw(&huge, &vec![b'a'; 2 << 20]).file("a", b"")], "limit");
    let (header, text) = gnu(b'L', &"n".repeat(5000));
    refused(&[Tar::default().raw(&header, &text).file("a", b"")], "bytes of a path");
    refused(&[Tar::default().pax(&[("path", &"n".repeat(300))]).file("a", b"")], "longer than 255");
    refused(
        &[Tar::default().raw(&Entry { size: Size::Number(4), ..Entry::new(b'x', "pax") }, b"junk").file("a", b"")],
        "PAX",
    );
    refused(&[Tar::default().raw(&Entry::new(b'V', "volume"), b"")], "unknown kind");
}

#[test]
fn sparse_files_are_filled_and_come_out_as_they_were() {
    let map = [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", "s"),
        ("GNU.sparse.realsize", "10000"),
    ];
    let mut content = b"2\n0\n4\n9000\n3\n".to_vec();
    content.resize(512, 0);
    content.extend_from_slice(b"headend");
    let tar = Tar::default().pax(&map).file("GNUSparseFile.0/s", &content);
    gives(std::slice::from_ref(&tar), &["s file 10000"]);
    let env = Env::new();
    let fetched = import(&env, &[tar.end()], Packed::Gzip).unwrap();
    let mut expected = vec![0; 10000];
    expected[..4].copy_from_slice(b"head");
    expected[9000..9003].copy_from_slice(b"end");
    assert_eq!(env.content(&fetched, "s"), Some(expected));
    for (text, why) in [
        ("2\n0\n4\n2\n3\n", "overlaps"),
        ("1\n9999\n7\n", "beyond"),
        ("1\n0\n6\n", "does not fit"),
        ("1\n0\n", "middle of a file"),
        ("x\n", "number"),
        ("99999999999\n", "limit"),
    ] {
        let mut content = text.as_bytes().to_vec();
        content.resize(512, 0);
        let body = if text == "1\n0\n" { content.clone() } else { [content, b"headend".to_vec()].concat() };
        let error = {
            let env = Env::new();
            import(&env, &[Tar::default().pax(&map).file("s", &body).end()], Packed::Gzip).unwrap_err()
        };
        assert!(matches!(error, Error::Malformed { .. } | Error::Limit { .. }), "{text:?} {why}: {error}");
    }
}

#[test]
fn bombs_are_stopped_by_their_limits() {
    let check = |limits: Limits, layer: Vec<u8>| {
        let mut env = Env::new();
        env.options.limits = limits;
        let error = import(&env, &[layer], Packed::Gzip).unwrap_err();
        assert!(matches!(error, Error::Limit { .. }), "{error}");
        env.assert_empty();
    };
    let many = (0..50).fold(Tar::default(), |tar, i| tar.dir(&format!("d{i}"))).end();
    check(Limits { entries: 40, ..Limits::default() }, many);
    let zeros = vec![0; 300 << 20];
    check(Limits { ratio: 100, ..Limits::default() }, Tar::default().file("z", &zeros).end());
    check(
        Limits { unpacked: ByteSize::mib(1), ..Limits::default() },
        Tar::default().file("z", &zeros[..2 << 20]).end(),
    );
    let trailing = [Tar::default().file("a", b"x").end(), vec![0; 3 << 20]].concat();
    check(Limits { trailing: ByteSize::mib(2), ..Limits::default() }, trailing);
    let mut env = Env::new();
    env.options.limits.layers = 3;
    let layers: Vec<Vec<u8>> = (0..4).map(|i| Tar::default().file("a", &[i]).end()).collect();
    assert!(matches!(import(&env, &layers, Packed::Gzip), Err(Error::Limit { .. })));
}

#[test]
fn streams_that_are_cut_joined_or_followed_by_something() {
    let tar = Tar::default().file("a", &b"data ".repeat(1000)).end();
    let packed = gzip(&tar);
    let with = |blob: Vec<u8>| {
        let env = Env::new();
        let mut blobs = image(std::slice::from_ref(&tar), Packed::Gzip);
        let manifest = String::from_utf8(blobs.pop().unwrap()).unwrap();
        let manifest = manifest
            .replace(&sha256(&packed), &sha256(&blob))
            .replace(&format!("\"size\":{}", packed.len()), &format!("\"size\":{}", blob.len()));
        blobs.extend([blob, manifest.into_bytes()]);
        layout(&env.path("layout"), &blobs);
        env.fetch(&format!("oci:{}", env.path("layout").display())).map(|fetched| fetched.record.layers)
    };
    for end in [1, 5, 20, packed.len() / 2, packed.len() - 9, packed.len() - 1] {
        assert!(with(packed[..end].to_vec()).is_err(), "cut at {end}");
    }
    let (first, second) = tar.split_at(700);
    assert!(with([gzip(first), gzip(second)].concat()).is_ok(), "members one after the other are one stream");
    assert!(with([packed.clone(), b"garbage".to_vec()].concat()).is_err(), "garbage after the end");
    let mut flipped = packed.clone();
    let end = flipped.len() - 6;
    flipped[end] ^= 1;
    assert!(with(flipped).is_err(), "a wrong checksum");
    let wide = {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(28).unwrap();
        encoder.include_contentsize(false).unwrap();
        std::io::Write::write_all(&mut encoder, &tar).unwrap();
        encoder.finish().unwrap()
    };
    assert!(with(wide).is_err(), "a window beyond the limit");
    assert!(with(b"\xfd7zXZ\0rest".to_vec()).is_err(), "xz is no layer's form");
}

#[test]
fn digests_and_sizes_are_not_believed() {
    let tar = Tar::default().file("a", b"x").end();
    let blobs = image(std::slice::from_ref(&tar), Packed::Gzip);
    for victim in 0..blobs.len() {
        for append in [false, true] {
            let env = Env::new();
            let dir = env.path("layout");
            layout(&dir, &blobs);
            let path = dir.join("blobs/sha256").join(&sha256(&blobs[victim])[7..]);
            let mut bytes = blobs[victim].clone();
            if append {
                bytes.push(b' ');
            } else {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 4;
            }
            std::fs::write(&path, bytes).unwrap();
            let error = env.fetch(&format!("oci:{}", dir.display())).unwrap_err();
            assert!(matches!(error, Error::Mismatch { .. } | Error::Malformed { .. }), "{victim} {append}: {error}");
            env.assert_empty();
        }
    }
    // The tar is not the one that the configuration tells of.
    let mut blobs = image(std::slice::from_ref(&tar), Packed::Gzip);
    let config = String::from_utf8(blobs[1].clone()).unwrap().replace(&sha256(&tar), &sha256(b"other"));
    let manifest = String::from_utf8(blobs[2].clone()).unwrap().replace(&sha256(&blobs[1]), &sha256(config.as_bytes()));
    blobs.extend([config.into_bytes(), manifest.into_bytes()]);
    let env = Env::new();
    layout(&env.path("layout"), &blobs);
    let error = env.fetch(&format!("oci:{}", env.path("layout").display())).unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
}

#[test]
fn documents_that_are_wrong_are_refused() {
    let tar = Tar::default().file("a", b"x").end();
    let blobs = image(&[tar], Packed::Gzip);
    let manifest = String::from_utf8(blobs.last().unwrap().clone()).unwrap();
    let check = |manifest: String, expected: &str| {
        let env = Env::new();
        let mut blobs = blobs.clone();
        blobs.push(manifest.into_bytes());
        layout(&env.path("layout"), &blobs);
        let error = env.fetch(&format!("oci:{}", env.path("layout").display())).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        env.assert_empty();
    };
    check(manifest.replace("layer.v1.tar+gzip", "layer.nondistributable.v1.tar+gzip"), "foreign layer");
    check(manifest.replace("\"size\":", "\"urls\":[\"http://elsewhere/\"],\"size\":"), "foreign layer");
    check(manifest.replace("layer.v1.tar+gzip", "layer.v1.tar+gzip+encrypted"), "encrypted");
    check(manifest.replace("layer.v1.tar+gzip", "wasm"), "no file system");
    check(manifest.replace("image.manifest.v1", "artifact.v1"), "no image");
    check(manifest.replace("\"layers\":[", "\"manifests\":[],\"layers\":["), "at once");
    check(manifest.replace("sha256:", "md5:"), "digest");
    check("[".repeat(10_000), "hostile manifest");
    check(format!("{manifest}{}", " ".repeat(5 << 20)), "limit");
}

#[test]
fn indexes_are_followed_to_the_processor_and_not_without_end() {
    let tar = Tar::default().file("a", b"x").end();
    let mut blobs = image(&[tar], Packed::Gzip);
    let manifest = blobs.last().unwrap().clone();
    let index = |entries: Vec<serde_json::Value>| {
        serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries})
            .to_string()
            .into_bytes()
    };
    let entry = |bytes: &[u8], kind: &str, arch: &str| {
        serde_json::json!({"mediaType": format!("application/vnd.oci.image.{kind}.v1+json"), "digest": sha256(bytes),
            "size": bytes.len(), "platform": {"architecture": arch, "os": "linux"}})
    };
    let host = model::Arch::HOST.oci();
    let other = b"not even there".to_vec();
    let good = index(vec![entry(&other, "manifest", "s390x"), entry(&manifest, "manifest", host)]);
    let start = |bytes: &[u8]| serde_json::json!({"mediaType": "application/vnd.oci.image.index.v1+json", "digest": sha256(bytes), "size": bytes.len()});
    blobs.push(good.clone());
    let mut env = Env::new();
    layout_of(&env.path("good"), &blobs, &start(&good));
    let source = format!("oci:{}", env.path("good").display());
    env.fetch(&source).unwrap();
    env.options.arch = Some(model::Arch::Riscv64);
    assert!(matches!(env.fetch(&source), Err(Error::NotFound { .. })));
    env.options.arch = None;
    let mut nested = good;
    for _ in 0..6 {
        nested = index(vec![entry(&nested, "index", host)]);
        blobs.push(nested.clone());
    }
    layout_of(&env.path("deep"), &blobs, &start(&nested));
    let error = env.fetch(&format!("oci:{}", env.path("deep").display())).unwrap_err();
    assert!(matches!(error, Error::Limit { .. }), "{error}");
    // A circle is an index that is not what its digest says.
    let circle = index(vec![entry(b"placeholder", "index", host)]);
    layout_of(&env.path("circle"), std::slice::from_ref(&circle), &start(&circle));
    crate::env::write(&env.path("circle").join("blobs/sha256").join(&sha256(b"placeholder")[7..]), &circle);
    let error = env.fetch(&format!("oci:{}", env.path("circle").display())).unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 48, ..Default::default() })]

    /// A layer with any byte changed is refused or means the same kind of thing: it never panics and never leaves the pool
    /// with a name that leads to something else.
    #[test]
    fn any_flipped_byte_of_a_layer_is_survived(at in 0usize..6000, to: u8, kind in 0u8..3) {
        let mut tar = Tar::default().dir("d").file("d/a", b"hello").symlink("l", "d").hardlink("h", "d/a")
            .pax(&[("path", "long/name"), ("mtime", "5.25")]).file("x", &[7; 700]).file("d/.wh..wh..opq", b"").end();
        let at = at % tar.len();
        tar[at] = to;
        let packed = [Packed::Plain, Packed::Gzip, Packed::Zstd][usize::from(kind)];
        let env = Env::new();
        match import(&env, &[tar.clone()], packed) {
            Ok(fetched) => {
                let out = env.path("out.tar");
                env.export(&fetched, &format!("docker-archive:{}", out.display())).unwrap();
                let bytes = std::fs::read(out).unwrap();
                proptest::prop_assert!(bytes.windows(tar.len()).any(|window| window == tar));
            }
            Err(Error::Malformed { .. } | Error::Limit { .. } | Error::Store(store::Error::Path { .. }) | Error::Unsupported { .. }) => env.assert_empty(),
            Err(other) => panic!("{other}"),
        }
    }
}
