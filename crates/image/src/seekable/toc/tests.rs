//! Tables that are right, and tables that nobody honest writes.

use proptest::prelude::*;
use serde_json::{Value, json};
use store::{Kind, Store};

use super::*;
use crate::layer::canonical;
use crate::layer::unpack::{Expected, Unpacker};
use crate::oci::export::LayerForm;
use crate::seekable::decode::Decoder;
use crate::seekable::remote::unpack_table;
use crate::seekable::{pack, toc_offset};

/// Where the tables here stand in their layers.
const PLACE: Place = Place { layer: 0, toc: 1000 };

fn merge(layers: &[Value], limits: Limits) -> Result<Merger> {
    let mut merger = Merger::new(limits);
    for entries in layers {
        merger.layer(json!({ "version": 1, "entries": entries }).to_string().as_bytes(), PLACE)?;
    }
    Ok(merger)
}

fn digest() -> String {
    format!("sha256:{}", "ab".repeat(32))
}

fn file(name: &str, offset: u64, size: u64) -> Value {
    json!({ "name": name, "type": "reg", "mode": 0o644, "size": size, "offset": offset, "chunkDigest": digest() })
}

/// Every path of the merged tree.
fn names(layers: &[Value]) -> Vec<String> {
    let merger = merge(layers, Limits::default()).unwrap();
    merger.tree.walk().map(|(path, _)| String::from_utf8(path).unwrap()).skip(1).collect()
}

#[test]
fn tables_are_merged_as_layers_are() {
    let lower = json!([
        { "name": "bin/", "type": "dir", "mode": 0o40755 },
        file("bin/a", 10, 5),
        file("bin/b", 20, 5),
        file("gone", 30, 5),
        { "name": "hard", "type": "hardlink", "linkName": "bin/a", "mode": 0 },
        { "name": "soft", "type": "symlink", "linkName": "bin", "mode": 0o777 },
        { "name": "null", "type": "char", "devMajor": 1, "devMinor": 3, "mode": 0o666, "xattrs": { "user.x": "eQ==" } },
        { "name": "empty", "type": "reg", "mode": 0o600, "modtime": "2024-02-03T04:05:06.5Z", "xattrs": null },
        file(".no.prefetch.landmark", 40, 1),
    ]);
    let upper = json!([file("bin/.wh..wh..opq", 0, 0), file(".wh.gone", 0, 0), file("soft/c", 10, 5)]);
    assert_eq!(names(std::slice::from_ref(&lower)).len(), 8);
    assert_eq!(names(&[lower.clone(), upper]), ["bin", "bin/c", "empty", "hard", "null", "soft"]);
    let merger = merge(&[lower], Limits::default()).unwrap();
    let (hard, empty) = (merger.tree.get("hard").unwrap(), merger.tree.get("empty").unwrap());
    assert_eq!(
        (hard.names, &merger.tree.get("null").unwrap().node.meta.xattrs[b"user.x".as_slice()][..]),
        (2, &b"y"[..])
    );
    assert_eq!((empty.node.meta.mtime.seconds, empty.node.meta.mtime.nanos), (1_706_933_106, 500_000_000));
    let Kind::File(content) = hard.node.kind else { panic!("a link to a file") };
    let [chunk] = merger.contents[&content.id][..] else { panic!("one chunk") };
    assert_eq!((chunk.begin, chunk.end, chunk.size), (10, 20, 5), "it ends where the next begins");
}

#[test]
fn chunks_of_a_file_are_all_of_it() {
    let part = |offset: u64, at: u64, size: u64| json!({ "name": "f", "type": "chunk", "offset": offset, "chunkOffset": at, "chunkSize": size, "chunkDigest": digest() });
    let first = |size: u64| {
        let mut first = file("f", 10, 100);
        first["chunkSize"] = size.into();
        first
    };
    let merger = merge(&[json!([first(60), part(50, 60, 0)])], Limits::default()).unwrap();
    let Kind::File(content) = merger.tree.get("f").unwrap().node.kind else { panic!("a file") };
    let found: Vec<_> = merger.contents[&content.id].iter().map(|it| (it.begin, it.end, it.size)).collect();
    assert_eq!(found, [(10, 50, 60), (50, 1000, 40)]);
    let check = |entries: Value, why: &str| {
        let error = merge(&[entries], Limits::default()).err().expect(why).to_string();
        assert!(error.contains(why), "{error}");
    };
    check(json!([first(60)]), "not all of it");
    check(json!([first(60), part(50, 61, 0)]), "is not where the one before it ends");
    check(json!([first(60), part(50, 60, 41)]), "beyond the end of the file");
    check(json!([first(0), part(50, 100, 0)]), "beyond the end of the file");
    check(json!([part(50, 0, 5)]), "does not follow its file");
    check(json!([first(60), file("g", 70, 5), part(50, 60, 0)]), "not all of it");
}

#[test]
fn hostile_tables_are_refused() {
    let check = |entries: Value, why: &str| {
        let error =
            merge(std::slice::from_ref(&entries), Limits::default()).err().unwrap_or_else(|| panic!("{entries}"));
        assert!(error.to_string().contains(why), "{error}");
    };
    check(json!([file("../etc/passwd", 10, 5)]), "leads upward");
    check(json!([file("a/../../b", 10, 5)]), "leads upward");
    check(json!([file("a", 10, 5), file("a/b", 20, 5)]), "no directory");
    check(
        json!([{ "name": "a", "type": "hardlink", "linkName": "b" }, { "name": "b", "type": "hardlink", "linkName": "a" }]),
        "not there",
    );
    check(json!([{ "name": "a", "type": "hardlink", "linkName": "a" }]), "not there");
    check(json!([{ "name": "d", "type": "dir" }, { "name": "a", "type": "hardlink", "linkName": "d" }]), "two names");
    check(json!([{ "name": "x".repeat(5000), "type": "dir" }]), "limit");
    check(json!([{ "name": "a", "type": "symlink", "linkName": "y".repeat(5000) }]), "limit");
    check(json!([{ "name": "a", "type": "symlink" }]), "impossible target");
    check(json!([{ "name": "a", "type": "socket" }]), "no known kind");
    check(json!([{ "name": "a", "type": "char", "devMajor": 5000 }]), "impossible number");
    check(json!([{ "name": "a", "type": "dir", "modtime": "yesterday" }]), "damaged time");
    check(json!([{ "name": "a", "type": "dir", "xattrs": { "user.x": "%" } }]), "damaged attribute");
    check(json!([file("a", 1000, 5)]), "beyond the layer");
    check(json!([file("a", u64::MAX, 5)]), "beyond the layer");
    check(json!([file("a", 10, u64::MAX)]), "limit");
    check(json!([file("a", 10, 100 << 30)]), "larger than its bytes can be");
    check(json!([file("a", 10, 200 << 30), file("b", 20, 200 << 30)]), "");
    check(json!([{ "name": "a", "type": "reg", "size": 5, "offset": 10 }]), "no digest");
    check(json!([{ "name": "a", "type": "reg", "size": -5, "offset": 10 }]), "damaged");
    check(json!({ "name": "a" }), "damaged");
    for text in [
        "",
        "[]",
        "{}",
        r#"{"version":2,"entries":[]}"#,
        r#"{"version":1}"#,
        r#"{"version":1,"entries":[],"entries":[]}"#,
        r#"{"version":1,"entries":[]} x"#,
    ] {
        assert!(Merger::new(Limits::default()).layer(text.as_bytes(), PLACE).is_err(), "{text}");
    }
    // The last one of a name counts, and no more of them than there may be are read.
    assert_eq!(names(&[json!([file("a", 10, 5), file("a", 20, 7), { "name": "./a/", "type": "dir" }])]), ["a"]);
    let many: Vec<Value> = (0..11).map(|number| json!({ "name": number.to_string(), "type": "dir" })).collect();
    assert!(matches!(merge(&[many.into()], Limits { entries: 10, ..Limits::default() }), Err(Error::Limit { .. })));
}

#[test]
fn only_the_right_bytes_make_a_chunk() {
    let bytes = vec![7; 300_000];
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    std::io::Write::write_all(&mut packer, &bytes).unwrap();
    let packed = packer.finish().unwrap();
    let decoded = |inner: usize, size: usize, digest: Sha256, packed: &[u8]| {
        let chunk = Chunk { layer: 0, begin: 0, end: 0, inner: inner as u64, size: size as u64, digest };
        let (mut decoder, mut out) = (Decoder::new(&chunk), Vec::new());
        for piece in packed.chunks(100) {
            decoder.feed(piece, &mut |bytes| {
                out.extend_from_slice(bytes);
                Ok(())
            })?;
        }
        decoder.finish().map(|()| out)
    };
    let check = |inner: usize, size: usize| {
        let wanted = &bytes[inner..inner + size];
        assert_eq!(decoded(inner, size, pack::digest(wanted), &packed).unwrap(), wanted);
    };
    check(0, bytes.len());
    check(1000, 5);
    // Members that follow are not this chunk's.
    let twice = packed.repeat(2);
    assert_eq!(decoded(0, bytes.len(), pack::digest(&bytes), &twice).unwrap(), bytes);
    let whole = pack::digest(&bytes);
    assert!(matches!(decoded(0, bytes.len() - 1, whole, &packed), Err(Error::Mismatch { .. })));
    assert!(decoded(0, bytes.len() + 1, whole, &packed).is_err());
    assert!(decoded(0, bytes.len(), whole, &packed[..packed.len() / 2]).is_err());
    assert!(decoded(0, bytes.len(), whole, b"no gzip at all").is_err());
}

/// What a tree is, whatever its contents are called.
fn shape(tree: &Tree) -> Vec<String> {
    let row = |(path, entry): (Vec<u8>, store::Entry<'_>)| {
        let kind = match &entry.node.kind {
            Kind::File(content) => format!("file of {}", content.size),
            other => format!("{other:?}"),
        };
        format!("{} {kind} {:?} {}", String::from_utf8_lossy(&path), entry.node.meta, entry.names)
    };
    tree.walk().map(row).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, ..ProptestConfig::default() })]

    /// A tree, as a seekable layer: the same as a tar for who reads it whole, and as a table for who does not.
    #[test]
    fn a_tree_survives_being_seekable(files in prop::collection::vec(("[a-c]{1,2}(/[a-c]{1,2}){0,2}", 0u32..5000, 0u8..4), 0..20)) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("pool")).unwrap();
        let mut writer = store.writer().unwrap();
        let mut tree = Tree::default();
        for (path, size, kind) in files {
            let kind = match kind {
                0 => Kind::Directory,
                1 => Kind::Symlink(b"a/b".as_slice().into()),
                _ => Kind::File(writer.file(vec![size as u8; size as usize].as_slice()).unwrap()),
            };
            let node = store::Node { meta: store::Metadata::new(0o750), kind };
            let _ = tree.make_parents(&path, &store::Metadata::new(0o711)).and_then(|()| tree.insert(&path, node));
        }
        writer.publish(&[]).unwrap();
        let mut tar = Vec::new();
        canonical::write(&tree, &store.reader().unwrap(), &mut tar).unwrap();
        let mut layer = Vec::new();
        let packed = pack::pack(tar.as_slice(), &Limits::default(), &mut layer).unwrap().unwrap();
        // Whole.
        let mut writer = store.writer().unwrap();
        let mut unpacker = Unpacker::new(&mut writer, Limits::default());
        let expected = Expected { digest: pack::digest(&layer), size: layer.len() as u64, form: LayerForm::Seekable };
        unpacker.layer(layer.as_slice(), Some(expected), Some(packed.diff_id), &()).unwrap();
        prop_assert!(unpacker.tree == tree);
        // By its table.
        let toc = toc_offset(&layer).unwrap();
        let json = unpack_table(&layer[toc as usize..], &Limits::default()).unwrap();
        prop_assert_eq!(pack::digest(&json), packed.toc);
        let mut merger = Merger::new(Limits::default());
        merger.layer(&json, Place { layer: 0, toc }).unwrap();
        prop_assert_eq!(shape(&merger.tree), shape(&tree));
        for chunk in merger.contents.values().flatten() {
            let mut decoder = Decoder::new(chunk);
            decoder.feed(&layer[chunk.begin as usize..chunk.end as usize], &mut |_| Ok(())).unwrap();
            decoder.finish().unwrap();
        }
        // Packed again it is the same: what belongs to the form is not packed twice.
        let mut plain = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(layer.as_slice()), &mut plain).unwrap();
        let mut again = Vec::new();
        pack::pack(plain.as_slice(), &Limits::default(), &mut again).unwrap().unwrap();
        prop_assert!(again == layer);
    }

    #[test]
    fn any_text_is_read_or_refused(text in ".{0,200}") {
        let _ = Merger::new(Limits::default()).layer(text.as_bytes(), PLACE);
    }

    #[test]
    fn any_entries_are_read_or_refused(entries in prop::collection::vec((0usize..9, "[a./]{0,6}", "[a./]{0,4}", any::<u64>(), 0u64..2000, 0u64..2000, 0u64..2000), 0..8)) {
        let kinds = ["reg", "chunk", "dir", "symlink", "hardlink", "char", "fifo", "reg", "chunk"];
        let entry = |(kind, name, link, size, offset, at, chunk): (usize, String, String, u64, u64, u64, u64)| {
            json!({ "name": name, "type": kinds[kind], "linkName": link, "size": if kind == 7 { size } else { at }, "offset": offset,
                "chunkOffset": at, "chunkSize": chunk, "chunkDigest": digest() })
        };
        let entries: Vec<Value> = entries.into_iter().map(entry).collect();
        if let Ok(merger) = merge(&[entries.into()], Limits::default()) {
            for chunk in merger.contents.values().flatten() {
                prop_assert!(chunk.begin < chunk.end && chunk.end <= PLACE.toc);
            }
        }
    }
}
