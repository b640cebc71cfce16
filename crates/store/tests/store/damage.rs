//! Damage to each class of file: what is read is right or an error, fsck names the damage, and mends what can be mended.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use model::{ImageName, ObjectId};
use store::{DamageState, FsckReport, Layout, Repair, Store};

use crate::faults::fast_dir;
use crate::faults::scenario::{Random, name, publish, verify};

/// A pool with three images, one of them unpacked both ways.
struct Pool {
    _dir: tempfile::TempDir,
    store: Store,
}

impl Pool {
    fn new() -> Self {
        let dir = fast_dir();
        let store = Store::open(dir.path().join("pool")).unwrap();
        for image in 1..=3 {
            publish(&store, image).unwrap();
        }
        let tree = store.image(&store.resolve(&name(1)).unwrap().unwrap()).unwrap().tree;
        for layout in [Layout::Composed, Layout::Plain] {
            store.rootfs(&tree, layout, &()).unwrap();
        }
        Self { _dir: dir, store }
    }

    /// Every file of a class, sorted.
    fn files(&self, class: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut todo = vec![self.store.dir().join(class)];
        while let Some(path) = todo.pop() {
            match fs::symlink_metadata(&path).unwrap().is_dir() {
                true => todo.extend(fs::read_dir(&path).unwrap().map(|it| it.unwrap().path())),
                false => found.push(path),
            }
        }
        found.sort();
        assert!(!found.is_empty(), "no file in {class}");
        found
    }

    fn fsck(&self, repair: Repair) -> FsckReport {
        self.store.fsck(repair, &()).unwrap()
    }

    /// The images that read back. One that does not must fail with an error: wrong bytes fail the test.
    fn readable(&self) -> Vec<u64> {
        (1..=3)
            .filter(|image| match verify(&self.store, *image) {
                Ok(()) => true,
                Err(why) => {
                    assert!(!why.contains("wrong bytes") && !why.contains("wrong recipe"), "silent damage: {why}");
                    false
                }
            })
            .collect()
    }
}

fn change(path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    let before = bytes.clone();
    edit(&mut bytes);
    assert!(bytes != before, "the damage changed nothing");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path, bytes).unwrap();
}

fn flip(path: &Path, random: &mut Random) {
    change(path, |bytes| {
        let place = random.below(bytes.len() as u64) as usize;
        bytes[place] ^= 1 << random.below(8);
    });
}

/// Damages files of a class in `rounds` ways, and checks what every round must keep: nothing wrong is read, fsck finds
/// it and names the class, and after mending what is sound reads back.
fn check(class: &str, rounds: u64, damage: impl Fn(&Path, &mut Random)) -> Vec<FsckReport> {
    (0..rounds)
        .map(|seed| {
            let pool = Pool::new();
            let mut random = Random(seed + 17);
            let files = pool.files(class);
            let victim = &files[random.below(files.len() as u64) as usize];
            damage(victim, &mut random);
            pool.readable();
            let found = pool.fsck(Repair::CheckOnly);
            let relative = victim.strip_prefix(pool.store.dir()).unwrap().display().to_string();
            assert!(!found.is_sound(), "{class}, seed {seed}: damage to {relative} was not found");
            let named = found.damage.iter().any(|it| relative.starts_with(&it.what) || class == "farm");
            assert!(named, "{relative} is not named: {:#?}", found.damage);
            let mended = pool.fsck(Repair::Mend);
            let lost: Vec<_> = mended.damage.iter().filter(|it| it.state == DamageState::Lost).collect();
            let readable = pool.readable();
            assert!(!lost.is_empty() || readable.len() == 3, "{class}: {:#?}", mended.damage);
            // Storing the images again heals whatever was lost.
            for image in 1..=3 {
                publish(&pool.store, image).unwrap();
            }
            assert_eq!(pool.readable(), [1, 2, 3]);
            let again = pool.fsck(Repair::Mend);
            let again = if again.is_sound() { pool.fsck(Repair::CheckOnly) } else { again };
            assert!(again.is_sound(), "{class} after healing: {:#?}", again.damage);
            mended
        })
        .collect()
}

#[test]
fn a_flipped_bit_in_a_pack_is_named_and_costs_no_more_than_its_frame() {
    check("packs", 40, flip);
}

#[test]
fn a_truncated_pack_keeps_what_is_before_the_cut() {
    check("packs", 20, |path, random| {
        change(path, |bytes| bytes.truncate(random.below(bytes.len() as u64) as usize));
    });
}

#[test]
fn a_page_of_zeros_in_a_pack_is_named() {
    check("packs", 20, |path, random| {
        change(path, |bytes| {
            let start = random.below(bytes.len() as u64) as usize / 4096 * 4096;
            bytes.iter_mut().skip(start).take(4096).for_each(|byte| *byte = 0);
        });
    });
}

#[test]
fn a_pack_with_a_torn_footer_loses_nothing() {
    let reports = check("packs", 5, |path, _| change(path, |bytes| bytes.truncate(bytes.len() - 40)));
    for report in reports {
        assert!(report.damage.iter().all(|it| it.images.is_empty()), "{:#?}", report.damage);
    }
}

#[test]
fn a_flipped_bit_in_a_ref_is_mended_from_its_own_redundancy() {
    for report in check("refs", 30, flip) {
        assert!(report.is_sound(), "{:#?}", report.damage);
    }
}

#[test]
fn a_flipped_bit_in_an_image_record_is_mended_from_the_packs() {
    for report in check("images", 20, flip) {
        assert!(report.is_sound(), "{:#?}", report.damage);
    }
}

#[test]
fn a_flipped_bit_in_a_metadata_image_is_found() {
    for report in check("roots", 20, flip) {
        assert!(report.is_sound(), "{:#?}", report.damage);
    }
}

#[test]
fn a_flipped_bit_in_an_unpacked_file_is_mended_in_place() {
    for class in ["objects", "farm"] {
        for report in check(class, 10, flip) {
            assert!(report.is_sound(), "{:#?}", report.damage);
        }
    }
}

#[test]
fn a_lost_index_costs_nothing() {
    let pool = Pool::new();
    fs::remove_file(pool.store.dir().join("index.redb")).unwrap();
    assert_eq!(pool.fsck(Repair::CheckOnly).damage.len(), 1 + 3);
    assert!(pool.fsck(Repair::Mend).is_sound());
    assert_eq!(pool.readable(), [1, 2, 3]);
}

#[test]
fn a_damaged_index_is_found_and_rebuilt() {
    let mut found = 0;
    for seed in 0..60 {
        let pool = Pool::new();
        let index = pool.store.dir().join("index.redb");
        let mut random = Random(seed);
        match seed % 3 {
            0 => flip(&index, &mut random),
            1 => change(&index, |bytes| bytes.truncate(random.below(bytes.len() as u64) as usize)),
            _ => change(&index, |bytes| {
                let start = random.below(bytes.len() as u64) as usize / 4096 * 4096;
                bytes.iter_mut().skip(start).take(4096).for_each(|byte| *byte ^= 0x55);
            }),
        }
        // Whatever redb makes of it, no wrong byte and no panic comes out.
        pool.readable();
        let _ = pool.store.status();
        let _ = pool.store.writer();
        found += u32::from(!pool.fsck(Repair::Mend).damage.is_empty());
        assert!(pool.fsck(Repair::CheckOnly).is_sound());
        assert_eq!(pool.readable(), [1, 2, 3]);
    }
    assert!(found > 20, "only {found} damaged indexes were noticed: was it damage at all?");
}

#[test]
fn swapped_packs_are_named() {
    let pool = Pool::new();
    let files = pool.files("packs");
    let (first, second) = (fs::read(&files[0]).unwrap(), fs::read(&files[1]).unwrap());
    change(&files[0], |bytes| *bytes = second);
    change(&files[1], |bytes| *bytes = first);
    pool.readable();
    assert!(!pool.fsck(Repair::CheckOnly).is_sound());
    assert!(pool.fsck(Repair::Mend).is_sound());
    assert_eq!(pool.readable(), [1, 2, 3]);
}

#[test]
fn a_damaged_record_or_name_does_not_hide_the_others() {
    let pool = Pool::new();
    let record = pool.files("images").remove(0);
    let name = pool.files("refs").remove(0);
    change(&record, |bytes| bytes.truncate(3));
    change(&name, |bytes| bytes.truncate(3));
    let images = pool.store.images().unwrap();
    assert_eq!((images.len(), images.iter().filter(|(_, it)| it.is_err()).count()), (3, 1));
    let (id, damaged) = images.into_iter().find(|(_, it)| it.is_err()).unwrap();
    assert!(record.ends_with(id.to_string()) && damaged.unwrap_err().to_string().contains(&id.to_string()));
    let refs = pool.store.each_ref().unwrap();
    assert_eq!((refs.len(), refs.iter().filter(|it| it.is_err()).count()), (3, 1));
    assert!(pool.store.refs().is_err());
    assert_eq!(pool.store.status().unwrap().images, 3);
}

#[test]
fn a_collector_refuses_to_work_on_a_damaged_image() {
    let pool = Pool::new();
    let packs = pool.files("packs");
    for pack in packs {
        change(&pack, |bytes| bytes.truncate(100));
    }
    let before = pool.files("packs");
    assert!(pool.store.gc(&[], &()).is_err());
    assert_eq!(pool.files("packs"), before);
}

#[test]
fn a_pool_of_another_version_is_refused() {
    let pool = Pool::new();
    change(&pool.store.dir().join("format"), |bytes| *bytes = b"skep pool 2\n".to_vec());
    assert!(matches!(Store::open(pool.store.dir()), Err(store::Error::Format { .. })));
}

#[test]
fn what_is_not_there_is_missing_not_damaged() {
    let pool = Pool::new();
    let nobody: ImageName = "nobody".parse().unwrap();
    assert_eq!(pool.store.resolve(&nobody).unwrap(), None);
    let id = ObjectId::from_bytes([9; 32]);
    assert!(matches!(pool.store.image(&id), Err(store::Error::Missing(_))));
    assert!(matches!(pool.store.reader().unwrap().blob(&id), Err(store::Error::Missing(_))));
    assert!(matches!(pool.store.tag(&nobody, &id), Err(store::Error::Missing(_))));
}

const MEND: &str = "SKEP_TEST_MEND";

/// Not a test of its own: a repair that may die.
#[test]
fn child_that_mends() {
    let Ok(pool) = std::env::var(MEND) else { return };
    if Store::open(pool).and_then(|store| store.fsck(Repair::Mend, &())).is_err() {
        std::process::exit(3);
    }
}

/// Runs a repair that is stopped by `fault`; tells whether it was.
fn stopped_mending(store: &Store, fault: &str) -> bool {
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "damage::child_that_mends", "--test-threads=1"])
        .env(MEND, store.dir())
        .env(store::fail::VARIABLE, fault)
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.code().is_none_or(|code| code == 0 || code == 3), "{fault}: {status}");
    !status.success()
}

#[test]
fn a_repair_that_dies_can_be_repeated() {
    let mut stopped = 0;
    for action in ["kill", "power", "enospc"] {
        for passage in 1..40 {
            let pool = Pool::new();
            let packs = pool.files("packs");
            // The last bytes of a footer: the objects are all still there.
            change(&packs[1], |bytes| bytes.truncate(bytes.len() - 40));
            flip(&pool.files("refs")[0], &mut Random(passage));
            change(&pool.files("images")[1], |bytes| bytes.truncate(10));
            stopped += u32::from(stopped_mending(&pool.store, &format!("any:{passage}:{action}")));
            pool.readable();
            let report = pool.fsck(Repair::Mend);
            let lost = report.damage.iter().filter(|it| it.what.starts_with("image ")).count();
            assert_eq!(lost, 0, "any:{passage}:{action}: {:#?}", report.damage);
            assert_eq!(pool.readable(), [1, 2, 3], "any:{passage}:{action}: {:#?}", report.damage);
            assert!(pool.fsck(Repair::CheckOnly).is_sound(), "any:{passage}:{action}");
        }
    }
    assert!(stopped > 60, "only {stopped} repairs were stopped");
}
