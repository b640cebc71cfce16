//! Layers in and out: what is kept, what is refused.

use proptest::prelude::*;
use store::{Content, Device, Kind, Metadata, Mtime, Node, Store, Tree};

use super::reader::Reader;
use super::unpack::Unpacker;
use super::{canonical, recipe};
use crate::limits::Limits;

/// What a node may be, its content given by a number.
fn kinds() -> impl Strategy<Value = (u8, u32)> {
    (0u8..7, 0u32..2000)
}

fn metadata() -> impl Strategy<Value = Metadata> {
    let seconds = prop_oneof![0i64..1 << 34, Just(-5), Just(1 << 40)];
    let ids = prop_oneof![0u32..3, Just(1 << 22), Just(u32::MAX - 1)];
    let attribute = prop::option::of(prop::collection::vec(any::<u8>(), 0..40));
    (0u16..0o10000, ids.clone(), ids, seconds, prop_oneof![Just(0), 0u32..1_000_000_000], attribute).prop_map(
        |(mode, uid, gid, seconds, nanos, attribute)| {
            let xattrs = attribute.into_iter().map(|value| ((*b"user.x").into(), value.into())).collect();
            Metadata { mode, uid, gid, mtime: Mtime { seconds, nanos }, xattrs }
        },
    )
}

/// Names short, long, and not quite text.
fn names() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![prop::collection::vec(b'a'..b'e', 1..3), Just(vec![b'n'; 200]), Just(b"odd \xff name".to_vec()),]
}

fn paths() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(names(), 1..4).prop_map(|names| names.join(&b'/'))
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("pool")).unwrap();
    (dir, store)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// A tree, as a tar, as a tree: the same; and the tar that comes out of the recipe is the one that went in.
    #[test]
    fn a_tree_survives_being_a_layer(nodes in prop::collection::vec((paths(), kinds(), metadata()), 0..24), root in metadata()) {
        let (_dir, store) = store();
        let mut writer = store.writer().unwrap();
        let mut tree = Tree::new(root);
        for (path, (kind, number), meta) in nodes {
            let kind = match kind {
                0 | 1 => Kind::File(writer.file(vec![number as u8; number as usize].as_slice()).unwrap()),
                2 => Kind::Symlink(vec![b't'; 1 + number as usize % 300].into()),
                3 => Kind::Fifo,
                4 => Kind::CharDevice(Device { major: number, minor: 7 }),
                5 => {
                    // A further name for something that is there.
                    let target = tree.walk().find(|(_, it)| !matches!(it.node.kind, Kind::Directory)).map(|it| it.0);
                    if let Some(target) = target {
                        let _ = tree.make_parents(&path, &Metadata::new(0o755)).and_then(|()| tree.link(&target, &path));
                    }
                    continue;
                }
                _ => Kind::Directory,
            };
            let _ = tree.make_parents(&path, &Metadata::new(0o711)).and_then(|()| tree.insert(&path, Node { meta, kind }));
        }
        writer.publish(&[]).unwrap();
        let reader = store.reader().unwrap();
        let mut tar = Vec::new();
        canonical::write(&tree, &reader, &mut tar).unwrap();
        let mut writer = store.writer().unwrap();
        let mut unpacker = Unpacker::new(&mut writer, Limits::default());
        let layer = unpacker.layer(tar.as_slice(), None, None, &()).unwrap();
        let back = std::mem::take(&mut unpacker.tree);
        writer.tree(&back).unwrap();
        writer.publish(&[]).unwrap();
        prop_assert!(back == tree);
        let reader = store.reader().unwrap();
        let mut again = Vec::new();
        recipe::replay(&reader.blob(&layer.recipe).unwrap(), &reader, &mut again).unwrap();
        prop_assert_eq!(again, tar);
    }

    /// Bytes that are nearly a tar are read to an end or an error.
    #[test]
    fn nearly_tars_are_read(blocks in prop::collection::vec((0u8..8, prop::collection::vec(any::<u8>(), 0..64)), 0..8)) {
        let mut tar = Vec::new();
        for (kind, bytes) in blocks {
            let mut header = super::header::Header::new([b'0', b'5', b'x', b'L', b'S', b'1', b'g', 0][usize::from(kind)]);
            header.set_path(b"name");
            header.set_number(super::header::SIZE, bytes.len() as u64);
            let mut block = header.clone();
            // The area of old sparse maps.
            block.0[386..386 + bytes.len()].copy_from_slice(&bytes);
            tar.extend_from_slice(&if kind == 4 { block.seal() } else { header.seal() });
            tar.extend_from_slice(&bytes);
            tar.resize(tar.len().next_multiple_of(512), 0);
        }
        let mut reader = Reader::new(tar.as_slice(), Limits::default());
        for _ in 0..100 {
            match reader.next(&mut ()) {
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return Ok(()),
            }
        }
        prop_assert!(false, "a tar of eight entries has no hundred");
    }

    #[test]
    fn any_recipe_is_replayed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), length in any::<u64>()) {
        let (_dir, store) = store();
        let reader = store.reader().unwrap();
        let mut plain = b"skep layer recipe 1\n".to_vec();
        plain.extend_from_slice(&bytes);
        let packed = zstd::encode_all(plain.as_slice(), 1).unwrap();
        let _ = recipe::replay(&packed, &reader, &mut std::io::sink());
        let mut writer = recipe::RecipeWriter::new().unwrap();
        writer.content(Content { id: Content::EMPTY.id, size: length }, 0, length).unwrap();
        let (recipe, _) = writer.finish().unwrap();
        prop_assert!(length == 0 || recipe::replay(&recipe, &reader, &mut std::io::sink()).is_err());
    }
}
