//! Random operations against a model, and the stored form against itself and against noise.

use std::collections::{BTreeMap, HashMap};

use model::ObjectId;
use proptest::prelude::*;

use super::*;
use crate::chunk::Sink;
use crate::object::{Content, Kind as ObjectKind};

#[derive(Default)]
struct Memory(HashMap<ObjectId, Vec<u8>>);

impl Sink for Memory {
    fn put(&mut self, kind: ObjectKind, bytes: &[u8]) -> Result<ObjectId> {
        let id = kind.id_of(bytes);
        self.0.insert(id, bytes.to_vec());
        Ok(id)
    }
}

impl Memory {
    fn decode(&self, id: &ObjectId) -> Result<Tree> {
        decode(id, |object| self.0.get(object).cloned().ok_or(Error::Missing(*object)))
    }
}

/// A tree as a table: path to inode number, inode number to node. The obvious way, and slow.
#[derive(Default)]
struct Model {
    names: BTreeMap<String, usize>,
    nodes: Vec<Node>,
}

impl Model {
    fn is_dir(&self, path: &str) -> bool {
        path.is_empty() || self.names.get(path).is_some_and(|inode| self.nodes[*inode].kind == Kind::Directory)
    }

    fn parent_is_dir(&self, path: &str) -> bool {
        self.is_dir(path.rsplit_once('/').map_or("", |(parent, _)| parent))
    }

    fn remove(&mut self, path: &str) {
        let beneath = format!("{path}/");
        self.names.retain(|name, _| name != path && !name.starts_with(&beneath));
    }

    fn insert(&mut self, path: &str, node: Node) -> bool {
        if !self.parent_is_dir(path) {
            return false;
        }
        if self.names.contains_key(path) && self.is_dir(path) && node.kind == Kind::Directory {
            let inode = self.names[path];
            self.nodes[inode] = node;
            return true;
        }
        self.remove(path);
        self.nodes.push(node);
        self.names.insert(path.to_owned(), self.nodes.len() - 1);
        true
    }

    fn link(&mut self, target: &str, path: &str) -> bool {
        let Some(&inode) = self.names.get(target) else { return false };
        if self.is_dir(target) || !self.parent_is_dir(path) {
            return false;
        }
        if self.names.get(path) != Some(&inode) {
            self.remove(path);
            self.names.insert(path.to_owned(), inode);
        }
        true
    }
}

#[derive(Clone, Debug)]
enum Op {
    Insert(String, Node),
    Link(String, String),
    Remove(String),
    Clear(String),
    Parents(String),
}

fn paths() -> impl Strategy<Value = String> {
    prop::collection::vec("[abc]", 1..4).prop_map(|names| names.join("/"))
}

fn metas() -> impl Strategy<Value = Metadata> {
    let xattrs = prop::collection::btree_map("user\\.[a-c]", prop::collection::vec(any::<u8>(), 0..5), 0..3);
    (0u16..0o10000, any::<u32>(), any::<u32>(), any::<i64>(), 0u32..1_000_000_000, xattrs).prop_map(
        |(mode, uid, gid, seconds, nanos, xattrs)| Metadata {
            mode,
            uid,
            gid,
            mtime: Mtime { seconds, nanos },
            xattrs: xattrs.into_iter().map(|(name, value)| (name.into_bytes().into(), value.into())).collect(),
        },
    )
}

fn nodes() -> impl Strategy<Value = Node> {
    let device = (0u32..1 << 12, 0u32..1 << 20).prop_map(|(major, minor)| Device { major, minor });
    let kind = prop_oneof![
        4 => Just(Kind::Directory),
        3 => any::<([u8; 32], u32)>().prop_map(|(id, size)| match size {
            0 => Kind::File(Content::EMPTY),
            size => Kind::File(Content { id: ObjectId::from_bytes(id), size: size.into() }),
        }),
        1 => "[a-c/]{1,8}".prop_map(|target| Kind::Symlink(target.into_bytes().into())),
        1 => device.clone().prop_map(Kind::CharDevice),
        1 => device.prop_map(Kind::BlockDevice),
        1 => Just(Kind::Fifo),
        1 => Just(Kind::Socket),
    ];
    (metas(), kind).prop_map(|(meta, kind)| Node { meta, kind })
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        8 => (paths(), nodes()).prop_map(|(path, node)| Op::Insert(path, node)),
        3 => (paths(), paths()).prop_map(|(target, path)| Op::Link(target, path)),
        1 => paths().prop_map(Op::Remove),
        1 => paths().prop_map(Op::Clear),
        1 => paths().prop_map(Op::Parents),
    ];
    prop::collection::vec(op, 0..60)
}

fn apply(tree: &mut Tree, model: &mut Model, op: Op) {
    match op {
        Op::Insert(path, node) => {
            assert_eq!(tree.insert(&path, node.clone()).is_ok(), model.insert(&path, node), "insert {path}");
        }
        Op::Link(target, path) => {
            assert_eq!(tree.link(&target, &path).is_ok(), model.link(&target, &path), "link {target} {path}");
        }
        Op::Remove(path) => {
            let there = model.names.contains_key(&path);
            assert_eq!(tree.remove(&path).unwrap(), there);
            model.remove(&path);
        }
        Op::Clear(path) => {
            let beneath = format!("{path}/");
            assert_eq!(tree.clear(&path).is_ok(), model.names.contains_key(&path));
            model.names.retain(|name, _| !name.starts_with(&beneath));
        }
        Op::Parents(path) => {
            let parents: Vec<_> = path.match_indices('/').map(|(place, _)| path[..place].to_owned()).collect();
            let possible = parents.iter().all(|it| !model.names.contains_key(it) || model.is_dir(it));
            assert_eq!(tree.make_parents(&path, &Metadata::new(0o700)).is_ok(), possible);
            for parent in parents {
                if model.names.contains_key(&parent) && !model.is_dir(&parent) {
                    break;
                }
                if !model.names.contains_key(&parent) {
                    model.insert(&parent, Node::directory(Metadata::new(0o700)));
                }
            }
        }
    }
}

fn same(tree: &Tree, model: &Model) {
    // In a walk a directory's content follows it at once: '/' sorts before every other byte of a name.
    let mut expected: Vec<(&String, &usize)> = model.names.iter().collect();
    expected.sort_by_key(|(path, _)| path.replace('/', "\0"));
    let mut links: HashMap<InodeId, usize> = HashMap::new();
    let walked: Vec<_> = tree.walk().skip(1).collect();
    assert_eq!(walked.len(), expected.len());
    for ((path, entry), (model_path, inode)) in walked.iter().zip(expected) {
        assert_eq!(path, model_path.as_bytes());
        assert_eq!(entry.node, &model.nodes[*inode]);
        assert_eq!(links.entry(entry.inode).or_insert(*inode), inode, "the same links");
        let names = model.names.values().filter(|it| *it == inode).count();
        assert_eq!(entry.names as usize, names, "names of {model_path}");
        assert!(tree.get(model_path).is_some_and(|found| found.inode == entry.inode));
    }
    let inodes: std::collections::BTreeSet<_> = model.names.values().collect();
    assert_eq!(tree.len(), inodes.len() + 1, "inodes without a name are gone");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn a_tree_does_as_its_model_does_and_reads_back(ops in ops()) {
        let (mut tree, mut model) = (Tree::default(), Model::default());
        for op in ops {
            apply(&mut tree, &mut model, op);
        }
        same(&tree, &model);
        let mut memory = Memory::default();
        let id = encode(&tree, &mut memory).unwrap();
        let again = memory.decode(&id).unwrap();
        prop_assert!(again == tree);
        prop_assert_eq!(encode(&again, &mut Memory::default()).unwrap(), id, "one tree, one stored form");
    }

    #[test]
    fn stored_forms_survive_anything(bytes in prop::collection::vec(any::<u8>(), 0..300), version in any::<bool>()) {
        let bytes = if version { [&[encode::VERSION], &bytes[..]].concat() } else { bytes };
        for kind in [ObjectKind::Tree, ObjectKind::Directory] {
            let _ = references(kind, &bytes);
        }
        let _ = decode(&ObjectId::from_bytes([0; 32]), |_| Ok(bytes.clone()));
    }

    #[test]
    fn a_broken_tree_is_an_error_or_another_tree(ops in ops(), place: prop::sample::Index, bit in 0u8..8) {
        let (mut tree, mut model) = (Tree::default(), Model::default());
        for op in ops {
            apply(&mut tree, &mut model, op);
        }
        let mut memory = Memory::default();
        let id = encode(&tree, &mut memory).unwrap();
        let mut ids: Vec<_> = memory.0.keys().copied().collect();
        ids.sort();
        let victim = memory.0.get_mut(&ids[place.index(ids.len())]).unwrap();
        let at = place.index(victim.len());
        victim[at] ^= 1 << bit;
        if let Ok(other) = memory.decode(&id) {
            prop_assert!(other != tree, "each tree has one stored form");
        }
    }
}

#[test]
fn names_that_no_directory_can_hold_are_refused() {
    let mut tree = Tree::default();
    let file = || Node::file(Metadata::new(0o644), Content::EMPTY);
    let long = "x".repeat(256);
    for wrong in ["", ".", "..", "a/..", "./a", "a\0b", "missing/a", &long, &"x/".repeat(2100)] {
        assert!(tree.insert(wrong, file()).is_err(), "{wrong:?}");
    }
    tree.insert("/f/", file()).unwrap();
    assert!(tree.insert("f/x", file()).is_err());
    assert!(tree.insert("link", Node::symlink(Metadata::new(0o777), *b"")).is_err());
    assert!(tree.remove("").is_err() && tree.insert("", file()).is_err());
    assert_eq!(tree.len(), 2);
}

#[test]
fn equal_directories_are_one_object_whatever_stands_around_them() {
    let mut tree = Tree::default();
    for top in ["a", "b"] {
        let meta = Metadata { uid: u32::from(top == "b"), ..Metadata::new(0o755) };
        tree.insert(top, Node::directory(meta)).unwrap();
        tree.insert(format!("{top}/in"), Node::directory(Metadata::new(0o755))).unwrap();
        tree.insert(format!("{top}/in/x"), Node { meta: Metadata::new(0o644), kind: Kind::Fifo }).unwrap();
    }
    let mut memory = Memory::default();
    encode(&tree, &mut memory).unwrap();
    // The inner directory, the two that are equal in content, the root, the tree.
    assert_eq!(memory.0.len(), 4);
}

#[test]
fn a_directory_that_names_itself_a_million_times_is_refused() {
    let mut memory = Memory::default();
    let mut tree = Tree::default();
    tree.insert("d", Node::directory(Metadata::new(0o755))).unwrap();
    tree.insert("e", Node::directory(Metadata::new(0o755))).unwrap();
    let id = encode(&tree, &mut memory).unwrap();
    // A hash that lies: the two inner directories lead back to the one that holds them.
    let root =
        memory.0.iter().find(|(_, bytes)| bytes.len() > 60 && bytes.windows(1).any(|it| it == b"e")).map(|it| *it.0);
    let outer = memory.0[&root.unwrap()].clone();
    let result = decode::decode_within(10_000, &id, |object| {
        Ok(if *object == id { memory.0[&id].clone() } else { outer.clone() })
    });
    assert!(matches!(result, Err(Error::TooLarge { .. })), "{:?}", result.map(|tree| tree.len()));
}

#[test]
fn links_are_followed_as_by_a_process_inside() {
    let mut tree = Tree::default();
    let mut link = |path: &str, target: &str| {
        tree.make_parents(path, &Metadata::new(0o755)).unwrap();
        tree.insert(path, Node::symlink(Metadata::new(0o777), target.as_bytes())).unwrap();
    };
    link("lib", "usr/lib");
    link("usr/lib/up", "../../etc");
    link("usr/lib/out", "../../../../../etc/passwd");
    link("loop", "loop");
    link("etc/abs", "/usr/lib");
    let check = |path: &str, expected: Option<&str>| {
        let found = tree.resolve(path).map(|found| String::from_utf8(found).unwrap());
        assert_eq!(found.as_deref(), expected, "{path}");
    };
    check("lib/x", Some("usr/lib/x"));
    check("lib/up", Some("etc"));
    check("lib/up/abs/new", Some("usr/lib/new"));
    check("lib/out", Some("etc/passwd"));
    check("../../etc", Some("etc"));
    check("loop", None);
    check("missing/x", None);
    check("", Some(""));
}
