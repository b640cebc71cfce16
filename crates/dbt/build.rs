//! Says which translator this is: code that another has made is not this one's (`translate/kept.rs`).

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where the crate is"));
    let mut hasher = DefaultHasher::new();
    // Numbers of operations are those of the tables that `isa` makes.
    for folder in [here.join("src"), here.join("../isa/src")] {
        println!("cargo::rerun-if-changed={}", folder.display());
        hash_all(&folder, &mut hasher);
    }
    println!("cargo::rustc-env=TRANSLATOR={}", hasher.finish());
}

fn hash_all(folder: &Path, hasher: &mut DefaultHasher) {
    let entries = fs::read_dir(folder).expect("sources are in the repository");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("sources can be read").path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            hash_all(&path, hasher);
        } else {
            fs::read(&path).expect("sources can be read").hash(hasher);
        }
    }
}
