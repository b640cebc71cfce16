//! A scripted life of a pool that can be killed anywhere, and the check that nothing acknowledged was lost.
//!
//! A child works on a pool with a fail point armed and notes each step in a log, before it begins and when the store
//! says it is done. Whatever the log says was done must be there when the child is dead. Shared by the test suite and
//! by the example `faults`.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use model::{Arch, ByteSize, ImageConfig, ImageName, ImageRecord, LayerRecord, ObjectId, Sha256, Timestamp};
use store::{Content, Error, Kind, Layout, Metadata, Need, Node, RefChange, Repair, Store, Tree, Writer};

/// A small seeded generator: SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}

/// Pseudo-random bytes, half of them compressible.
fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        let word = random.next();
        out.extend_from_slice(&word.to_le_bytes());
        out.extend_from_slice(if word & 1 == 0 { b"the same words again " } else { b"" });
    }
    out.truncate(length);
    out
}

/// The files of image number `seed`. Some are in several images.
fn files(seed: u64) -> Vec<(String, Vec<u8>)> {
    let mut random = Random(seed.wrapping_mul(77));
    let mut files =
        vec![("etc/shared".to_owned(), bytes(1, 150_000)), ("etc/group".to_owned(), bytes(seed % 3 + 10, 9000))];
    for number in 0..10 {
        let length = match random.below(5) {
            0 => random.below(200),
            1 => 300_000 + random.below(100_000),
            _ => random.below(20_000),
        };
        files.push((format!("data/file-{number}"), bytes(seed * 1000 + number, length as usize)));
    }
    files
}

/// What the recipe of an image keeps alive beside its tree.
fn deleted_file(seed: u64) -> Vec<u8> {
    bytes(seed + 5_000_000, 70_000)
}

fn recipe(seed: u64) -> Vec<u8> {
    bytes(seed + 6_000_000, 100_000)
}

/// The name of image number `seed`.
pub(crate) fn name(seed: u64) -> ImageName {
    format!("test:image-{seed}").parse().expect("a valid name")
}

fn tree_of(seed: u64, mut store: impl FnMut(&[u8]) -> Result<Content, Error>) -> Result<Tree, Error> {
    let mut tree = Tree::new(Metadata::new(0o755));
    for (path, bytes) in files(seed) {
        let content = store(&bytes)?;
        tree.make_parents(&path, &Metadata::new(0o755))?;
        tree.insert(&path, Node { meta: Metadata::new(0o640), kind: Kind::File(content) })?;
    }
    tree.link("etc/shared", "data/link")?;
    tree.insert("etc/to", Node::symlink(Metadata::new(0o777), *b"shared"))?;
    Ok(tree)
}

/// Stores image number `seed` and publishes it.
pub(crate) fn publish(store: &Store, seed: u64) -> Result<(), Error> {
    let mut writer = store.writer()?;
    let image = put_image(&mut writer, seed)?;
    writer.publish(&[RefChange::Set(name(seed), image)])
}

fn put_image(writer: &mut Writer, seed: u64) -> Result<ObjectId, Error> {
    let tree = tree_of(seed, |bytes| writer.file(bytes))?;
    let tree_id = writer.tree(&tree)?;
    let deleted = writer.file(deleted_file(seed).as_slice())?;
    let recipe = writer.linked_blob(&recipe(seed), &[deleted.id])?;
    let layer =
        LayerRecord { diff_id: Sha256::from_bytes([seed as u8; 32]), size: ByteSize::bytes(1), recipe, original: None };
    let record = ImageRecord {
        tree: tree_id,
        arch: Arch::Amd64,
        config: ImageConfig::default(),
        oci_config: writer.blob(format!("{{\"image\":{seed}}}").as_bytes())?,
        oci_id: Sha256::from_bytes([1; 32]),
        layers: vec![layer],
        source: format!("test:{seed}"),
        inputs: Vec::new(),
        created: Timestamp::from_nanos(seed),
        size: ByteSize::bytes(tree.content_size()),
        slim: None,
    };
    writer.image(&record)
}

/// Fails unless image number `seed` reads back byte for byte.
pub(crate) fn verify(store: &Store, seed: u64) -> Result<(), String> {
    let show = |error: Error| format!("image {seed}: {error}");
    let id = store.resolve(&name(seed)).map_err(show)?.ok_or(format!("image {seed} has lost its name"))?;
    let record = store.image(&id).map_err(show)?;
    let reader = store.reader().map_err(show)?;
    let tree = reader.tree(&record.tree).map_err(show)?;
    for (path, expected) in files(seed) {
        let entry = tree.get(&path).ok_or(format!("image {seed} has lost {path}"))?;
        let Kind::File(content) = entry.node.kind else { return Err(format!("image {seed}: {path} is no file")) };
        let mut read = Vec::new();
        reader.content(&content).map_err(show)?.read_to_end(&mut read).map_err(|why| format!("{path}: {why}"))?;
        if read != expected {
            return Err(format!("image {seed}: wrong bytes in {path}"));
        }
    }
    if tree.len() != files(seed).len() + 4 {
        return Err(format!("image {seed} has {} inodes", tree.len()));
    }
    for layer in &record.layers {
        if reader.blob(&layer.recipe).map_err(show)? != recipe(seed) {
            return Err(format!("image {seed}: wrong recipe"));
        }
    }
    Ok(())
}

/// One step of a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Store an image and publish it.
    Publish(u64),
    /// Take its name away.
    Untag(u64),
    /// Unpack it for overlayfs.
    Compose(u64),
    /// Unpack it as plain files.
    Plain(u64),
    /// Unpack half of its files, one by one.
    Fill(u64),
    /// Collect.
    Gc,
    /// Lose the index and rebuild it.
    Rebuild,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Publish(seed) => write!(f, "publish {seed}"),
            Self::Untag(seed) => write!(f, "untag {seed}"),
            Self::Compose(seed) => write!(f, "compose {seed}"),
            Self::Plain(seed) => write!(f, "plain {seed}"),
            Self::Fill(seed) => write!(f, "fill {seed}"),
            Self::Gc => f.write_str("gc 0"),
            Self::Rebuild => f.write_str("rebuild 0"),
        }
    }
}

/// The life that passes every fail point.
pub(crate) fn script() -> Vec<Step> {
    use Step::*;
    vec![
        Publish(1),
        Publish(2),
        Fill(1),
        Compose(1),
        Plain(2),
        Publish(3),
        Untag(1),
        Gc,
        Publish(1),
        Rebuild,
        Fill(2),
        Compose(2),
        Plain(3),
        Untag(2),
        Gc,
        Publish(4),
    ]
}

/// A random life.
pub(crate) fn random_script(seed: u64) -> Vec<Step> {
    let mut random = Random(seed);
    let length = 4 + random.below(6);
    (0..length)
        .map(|_| {
            let image = 1 + random.below(4);
            match random.below(11) {
                0..=3 => Step::Publish(image),
                4 => Step::Untag(image),
                5 => Step::Compose(image),
                6 => Step::Plain(image),
                7 | 8 => Step::Gc,
                9 => Step::Fill(image),
                _ => Step::Rebuild,
            }
        })
        .collect()
}

fn log(path: &Path, line: &str) {
    let mut file = OpenOptions::new().create(true).append(true).open(path).expect("open the log");
    file.write_all(format!("{line}\n").as_bytes()).expect("write the log");
}

/// What the child does: the steps, until one fails.
pub(crate) fn live(base: &Path, script: &[Step]) -> Result<(), Error> {
    let record = base.join("log");
    let store = Store::open(base.join("pool"))?;
    for step in script {
        log(&record, &format!("begin {step}"));
        run(&store, *step)?;
        log(&record, &format!("done {step}"));
    }
    Ok(())
}

fn run(store: &Store, step: Step) -> Result<(), Error> {
    let unpack = |seed: u64, layout| match store.resolve(&name(seed))? {
        None => Ok(()),
        Some(id) => store.rootfs(&store.image(&id)?.tree, layout, &()).map(|_| ()),
    };
    match step {
        Step::Publish(seed) => publish(store, seed),
        Step::Untag(seed) => store.untag(&name(seed)).map(|_| ()),
        Step::Compose(seed) => unpack(seed, Layout::Composed),
        Step::Plain(seed) => unpack(seed, Layout::Plain),
        Step::Fill(seed) => fill(store, seed),
        Step::Gc => store.gc(&[], &()).map(|_| ()),
        Step::Rebuild => {
            let _ = fs::remove_file(store.dir().join("index.redb"));
            store.fsck(Repair::Mend, &()).map(|_| ())
        }
    }
}

fn fill(store: &Store, seed: u64) -> Result<(), Error> {
    let Some(id) = store.resolve(&name(seed))? else { return Ok(()) };
    let tree = store.image(&id)?.tree;
    let ready = store.on_demand(&tree)?;
    assert!(ready.metadata.exists());
    let filler = store.filler()?;
    for (number, (_, entry)) in store.reader()?.tree(&tree)?.walk().enumerate().filter(|(number, _)| number % 3 != 0) {
        if let Kind::File(content) = &entry.node.kind {
            filler.fill(&content.id, if number % 2 == 0 { Need::Now } else { Need::Soon })?;
        }
    }
    Ok(())
}

/// Which images must be there, as far as the log tells; those that a step was busy with may be or not.
fn expected(log: &str) -> (Vec<u64>, bool) {
    let mut state: BTreeMap<u64, Option<bool>> = BTreeMap::new();
    let mut rebuilding = false;
    for line in log.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [phase, step, number] = words[..] else { continue };
        let image = number.parse().unwrap_or(0);
        match (phase, step) {
            ("begin", "publish") if state.get(&image) == Some(&Some(true)) => {}
            ("begin", "publish" | "untag") => drop(state.insert(image, None)),
            ("done", "publish") => drop(state.insert(image, Some(true))),
            ("done", "untag") => drop(state.insert(image, Some(false))),
            ("begin", "rebuild") => rebuilding = true,
            ("done", "rebuild") => rebuilding = false,
            _ => {}
        }
    }
    (state.into_iter().filter(|(_, state)| *state == Some(true)).map(|(image, _)| image).collect(), rebuilding)
}

/// Runs one life in a child process that `child` prepares, with `fault` armed, and checks what is left.
pub(crate) fn run_one(base: &Path, fault: &str, mut child: Command) -> Result<ExitStatus, String> {
    let output = child.env("SKEP_STORE_FAIL", fault).output().map_err(|why| why.to_string())?;
    let code = output.status.code();
    if code.is_some_and(|code| code != 0 && code != 3) {
        return Err(format!("{fault}: the child ended with {code:?}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    if fault.ends_with(":power") {
        // After a power cut it is another boot, and these are nobody's.
        let _ = fs::remove_dir_all(base.join("pool/fresh"));
    }
    check(base)
        .map_err(|why| format!("{fault}: {why}; log:\n{}", fs::read_to_string(base.join("log")).unwrap_or_default()))?;
    Ok(output.status)
}

/// Checks a pool whose user was killed.
pub(crate) fn check(base: &Path) -> Result<(), String> {
    let record = fs::read_to_string(base.join("log")).unwrap_or_default();
    let (images, rebuilding) = expected(&record);
    let show = |error: Error| error.to_string();
    let store = Store::open(base.join("pool")).map_err(show)?;
    if rebuilding {
        store.fsck(Repair::Mend, &()).map_err(show)?;
    }
    let sound = |when: &str| {
        let report = store.fsck(Repair::CheckOnly, &()).map_err(show)?;
        if report.is_sound() { Ok(()) } else { Err(format!("{when}: {:#?}", report.damage)) }
    };
    sound("after the kill")?;
    let all =
        |when: &str| images.iter().try_for_each(|seed| verify(&store, *seed).map_err(|why| format!("{when}: {why}")));
    all("after the kill")?;
    for (name, _) in store.refs().map_err(show)? {
        let seed = name.as_str().rsplit('-').next().and_then(|it| it.parse().ok()).ok_or("a strange name")?;
        verify(&store, seed).map_err(|why| format!("half published: {why}"))?;
    }
    publish(&store, 9).map_err(show)?;
    store.gc(&[], &()).map_err(show)?;
    all("after a collection")?;
    verify(&store, 9)?;
    sound("after a collection")?;
    for seed in images {
        let tree = store.resolve(&name(seed)).and_then(|id| store.image(&id.expect("verified"))).map_err(show)?.tree;
        store.rootfs(&tree, Layout::Composed, &()).map_err(show)?;
        store.rootfs(&tree, Layout::Plain, &()).map_err(show)?;
    }
    sound("after unpacking")?;
    let left: Vec<PathBuf> =
        fs::read_dir(base.join("pool/tmp")).map_err(|why| why.to_string())?.flatten().map(|it| it.path()).collect();
    if left.is_empty() { Ok(()) } else { Err(format!("left in tmp: {left:?}")) }
}
