//! Makes the lists of the descriptions' sources, so that a new file of one needs no word here.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where the crate is"));
    let mut text = String::new();
    for (constant, folder) in [("RISCV64", "riscv64"), ("AARCH64", "aarch64")] {
        let folder = here.join("../../isa").join(folder);
        println!("cargo::rerun-if-changed={}", folder.display());
        let entries = fs::read_dir(&folder).expect("descriptions are in the repository");
        let mut files: Vec<PathBuf> = entries.flatten().map(|it| it.path()).collect();
        files.retain(|it| it.extension().is_some_and(|it| it == "isa"));
        files.sort();
        text.push_str(&format!("pub(super) const {constant}: &[(&str, &str)] = &[\n"));
        for file in files {
            let file = fs::canonicalize(file).expect("a file that was just listed");
            let name = file.file_name().and_then(|it| it.to_str()).expect("descriptions have plain names").to_owned();
            text.push_str(&format!("    ({name:?}, include_str!({:?})),\n", file.display().to_string()));
        }
        text.push_str("];\n");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo says where to write")).join("sources.rs");
    fs::write(out, text).expect("the directory for it is there");
}
