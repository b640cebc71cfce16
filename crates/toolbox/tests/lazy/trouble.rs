//! Damage, dead servers, collectors: each is an error for whoever is concerned, soon, and for nobody else.

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use model::ObjectId;
use store::{Content, Tree};
use sys::Errno;
use toolbox::lazy::{Lazy, Serving};

use crate::fixture::{Pool, Root, SERVER, able, noise, put};

const LOST: Content = Content { id: ObjectId::from_bytes([7; 32]), size: 1000 };
/// Long enough to be killed over.
const LARGE: usize = 64 << 20;
/// Nothing here takes nearly as long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Fails instead of waiting for ever.
fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, wait) = mpsc::channel();
    std::thread::spawn(move || done.send(work()));
    wait.recv_timeout(PATIENCE).expect("it hangs")
}

/// What a reader gets: `EIO`, or from a file system whose server is dead the kernel's words for that.
fn is_io_error<T>(result: std::io::Result<T>) -> bool {
    let errno = result.err().and_then(|it| Errno::from_io_error(&it));
    [Errno::IO, Errno::NOTCONN, Errno::CONNABORTED].map(Some).contains(&errno)
}

fn trouble() -> Pool {
    Pool::new(|writer| {
        let mut tree = Tree::default();
        put(&mut tree, "lost", LOST);
        for number in 0..6 {
            put(&mut tree, &format!("good-{number}"), writer.file(&*noise(400_000, number)).unwrap());
        }
        put(&mut tree, "large", writer.file(&*noise(LARGE, 99)).unwrap());
        tree
    })
}

#[test]
fn a_missing_content_is_an_error_of_its_file_alone() {
    if !able() {
        return;
    }
    let pool = trouble();
    let root = Root::of(pool.start(SERVER));
    assert_eq!(std::fs::metadata(root.path("lost")).unwrap().len(), LOST.size);
    for _ in 0..2 {
        assert!(is_io_error(root.read("lost")));
    }
    assert!(root.read("good-0").unwrap() == noise(400_000, 0));
}

/// Turns one bit of a content in the packs, which hold what does not compress as it is.
fn damage(pool: &Pool, bytes: &[u8]) {
    for entry in std::fs::read_dir(pool.store.dir().join("packs")).unwrap() {
        let path = entry.unwrap().path();
        let mut pack = std::fs::read(&path).unwrap();
        if let Some(place) = pack.windows(64).position(|it| it == &bytes[..64]) {
            pack[place] ^= 1;
            return std::fs::write(path, pack).unwrap();
        }
    }
    panic!("the content is not in the packs as it is");
}

#[test]
fn damaged_bytes_are_never_read() {
    if !able() {
        return;
    }
    let pool = trouble();
    damage(&pool, &noise(400_000, 3));
    let root = Root::of(pool.start(SERVER));
    assert!(is_io_error(root.read("good-3")));
    assert!(root.read("large").unwrap() == noise(LARGE, 99));
    assert!(root.read("good-5").unwrap() == noise(400_000, 5));
}

#[test]
fn a_killed_server_takes_only_what_was_not_read() {
    if !able() {
        return;
    }
    let pool = trouble();
    let root = Root::writable(pool.start(SERVER));
    assert!(root.read("good-0").unwrap() == noise(400_000, 0));
    sys::process::kill(root.lazy.server().unwrap()).unwrap();
    sys::process::wait(root.lazy.server().unwrap()).unwrap();
    let unread = root.path("good-1");
    assert!(is_io_error(in_time(move || std::fs::read(unread))));
    assert!(root.read("good-0").unwrap() == noise(400_000, 0));
    assert_eq!(std::fs::read_dir(root.dir()).unwrap().count(), 8);
    std::fs::write(root.path("new"), "written").unwrap();
    assert_eq!(root.read("new").unwrap(), b"written");
}

#[test]
fn a_server_killed_at_work_lets_its_readers_go() {
    if !able() {
        return;
    }
    for pause in [0, 3, 10, 30] {
        let pool = trouble();
        let root = Root::of(pool.start(SERVER));
        let large = root.path("large");
        let reader = std::thread::spawn(move || in_time(move || std::fs::read(large)));
        std::thread::sleep(Duration::from_millis(pause));
        sys::process::kill(root.lazy.server().unwrap()).unwrap();
        match reader.join().unwrap() {
            Ok(bytes) => assert!(bytes == noise(LARGE, 99)),
            failed => assert!(is_io_error(failed)),
        }
        // What it left unfinished is taken for nothing by the next one.
        drop(root);
        let root = Root::of(pool.start(SERVER));
        assert!(root.read("large").unwrap() == noise(LARGE, 99));
    }
}

#[test]
fn the_machine_does_not_see_it_and_the_server_goes_with_it() {
    if !able() {
        return;
    }
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let pool = trouble();
    let root = Root::of(pool.start(SERVER));
    assert!(root.read("good-0").is_ok());
    let ours = pool.store.dir().display().to_string();
    let seen = |line: &str| line.contains(" - fuse ") && line.contains(" none ") || line.contains(&ours);
    assert!(!mounts().lines().any(seen));
    let server = root.lazy.server().unwrap().try_clone_to_owned().unwrap();
    drop(root);
    assert_eq!(sys::process::send_signal(server.as_fd(), 15), Err(Errno::SRCH));
}

/// Whether a collector finds the pool free of readers within some time.
fn becomes_free(pool: &Pool) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if !pool.store.gc(&[pool.id], &()).unwrap().deferred {
            return true;
        }
    }
    false
}

#[test]
fn no_collector_comes_near_while_it_is_in_use() {
    if !able() {
        return;
    }
    for serving in [Serving::Thread, SERVER] {
        let pool = Pool::new(|writer| {
            let mut tree = Tree::default();
            put(&mut tree, "file", writer.file(&*noise(100_000, 1)).unwrap());
            put(&mut tree, "other", writer.file(&*noise(100_000, 2)).unwrap());
            tree
        });
        let root = Root::of(pool.start(serving));
        assert!(root.read("file").is_ok());
        // No name leads to the tree, and nobody tells that it is in use.
        assert!(pool.store.gc(&[], &()).unwrap().deferred);
        assert_eq!(pool.unpacked().len(), 1);
        assert!(root.read("other").unwrap() == noise(100_000, 2));
        if let Some(server) = root.lazy.server() {
            sys::process::kill(server).unwrap();
            assert!(pool.store.gc(&[], &()).unwrap().deferred);
            assert!(root.read("other").unwrap() == noise(100_000, 2));
        }
        drop(root);
        assert!(becomes_free(&pool), "the server is still there");
        assert!(!pool.fresh().exists());
        // The collector left nothing that a next one would miss.
        assert!(pool.mount().read("file").is_ok());
    }
}

#[test]
fn a_tree_that_is_not_there_is_an_error_at_once() {
    if !able() {
        return;
    }
    let pool = trouble();
    let refused = Lazy::start(&pool.store, &LOST.id, None, SERVER);
    assert!(matches!(refused, Err(toolbox::Error::Store(store::Error::Missing(_)))), "{refused:?}");
    assert_eq!(std::fs::read(pool.fresh().join("none")).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_server_that_does_not_come_up_is_an_error_at_once() {
    if !able() {
        return;
    }
    let pool = trouble();
    let refused = in_time(move || {
        // For this binary these words select no test.
        Lazy::start(&pool.store, &pool.id, None, Serving::Process(&["lazy", "no such test"])).is_err()
    });
    assert!(refused);
}
