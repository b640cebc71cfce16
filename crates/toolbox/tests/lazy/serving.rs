//! What is unpacked when, and what happens to readers when the server fails.

use crate::fixture::{Pool, Root, SERVER, able, noise, put};
use store::Tree;

/// Not a test: this binary as a server, when it is executed with a pool and a descriptor behind the words for libtest.
#[test]
fn server() {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    if args.last().and_then(|it| it.to_str()?.parse::<u32>().ok()).is_some() {
        toolbox::lazy::server_main(args).unwrap();
    }
}

fn three_files() -> Pool {
    Pool::new(|writer| {
        let mut tree = Tree::default();
        for (number, name) in ["etc/one", "etc/two", "bin/three"].into_iter().enumerate() {
            put(&mut tree, name, writer.file(&*noise(100_000, number as u64)).unwrap());
        }
        tree
    })
}

#[test]
fn a_file_is_unpacked_when_it_is_read_and_not_before() {
    if !able() {
        return;
    }
    let pool = three_files();
    let root = pool.mount();
    assert_eq!(std::fs::metadata(root.path("etc/one")).unwrap().len(), 100_000);
    assert_eq!(std::fs::read_dir(root.path("etc")).unwrap().count(), 2);
    assert!(pool.unpacked().is_empty());
    assert!(root.read("etc/two").unwrap() == noise(100_000, 1));
    assert_eq!(pool.unpacked().len(), 1);
    assert!(root.read("etc/one").unwrap() == noise(100_000, 0));
    assert_eq!(pool.unpacked().len(), 2);
}

#[test]
fn a_server_of_its_own_serves_too() {
    if !able() {
        return;
    }
    let pool = three_files();
    let root = Root::of(pool.start(SERVER));
    assert!(root.read("bin/three").unwrap() == noise(100_000, 2));
}
