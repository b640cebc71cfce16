//! Says which translator this is: code that another has made is not this one's (`translate/kept.rs`). And makes Rust of
//! the descriptions that there are (`/isa`), each of them by the same rules (`function`), for the compiler to work on: see
//! `src/generated.rs`.

#[path = "build/function.rs"]
mod function;
#[path = "build/operation.rs"]
mod operation;
#[path = "build/reach.rs"]
mod reach;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where the crate is"));
    println!("cargo::rerun-if-changed={}", here.join("build").display());
    let mut hasher = DefaultHasher::new();
    // Numbers of operations are those of the tables that `isa` makes.
    for folder in [here.join("src"), here.join("../isa/src")] {
        println!("cargo::rerun-if-changed={}", folder.display());
        hash_all(&folder, &mut hasher);
    }
    println!("cargo::rustc-env=TRANSLATOR={}", hasher.finish());

    let descriptions = here.join("../../isa");
    println!("cargo::rerun-if-changed={}", descriptions.display());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo says where to write"));
    let isas: Vec<isa::Isa> = sorted(&descriptions).iter().map(|folder| compiled(folder)).collect();
    let mut text: String = isas.iter().map(function::module).collect();
    let codes: Vec<String> = isas.iter().map(|isa| format!("{}::CODE", isa.name)).collect();
    text.push_str(&format!("pub(super) static ALL: &[Code] = &[{}];\n", codes.join(", ")));
    fs::write(out.join("generated.rs"), text).expect("the directory for it is there");
}

fn compiled(folder: &Path) -> isa::Isa {
    let sources = isa::Source::all_in(folder).expect("descriptions are in the repository");
    isa::compile(&sources).unwrap_or_else(|error| panic!("{error}"))
}

fn sorted(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("sources are in the repository");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("sources can be read").path()).collect();
    paths.sort();
    paths
}

fn hash_all(folder: &Path, hasher: &mut DefaultHasher) {
    for path in sorted(folder) {
        if path.is_dir() {
            hash_all(&path, hasher);
        } else {
            fs::read(&path).expect("sources can be read").hash(hasher);
        }
    }
}
