//! Compiles the descriptions of processors, so that no start of a machine does; a mistake in one stops the build and says
//! where it is.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where the crate is"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo says where to write"));
    for architecture in ["riscv64", "aarch64"] {
        let folder = here.join("../../isa").join(architecture);
        println!("cargo::rerun-if-changed={}", folder.display());
        let isa = isa::compile(&sources(&folder)).unwrap_or_else(|error| panic!("{error}"));
        let bytes = postcard::to_stdvec(&isa).expect("tables are bytes");
        fs::write(out.join(architecture), bytes).expect("the directory for it is there");
    }
}

fn sources(folder: &Path) -> Vec<isa::Source> {
    let entries = fs::read_dir(folder).expect("descriptions are in the repository");
    let mut files: Vec<PathBuf> = entries.flatten().map(|it| it.path()).collect();
    files.retain(|it| it.extension().is_some_and(|it| it == "isa"));
    files.sort();
    let source = |file: PathBuf| isa::Source {
        name: file.display().to_string(),
        text: fs::read_to_string(&file).expect("a description is text"),
    };
    files.into_iter().map(source).collect()
}
