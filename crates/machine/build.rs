//! Compiles the descriptions of processors, so that no start of a machine does; a mistake in one stops the build and says
//! where it is.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where the crate is"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo says where to write"));
    for architecture in ["riscv64", "aarch64"] {
        let folder = here.join("../../isa").join(architecture);
        println!("cargo::rerun-if-changed={}", folder.display());
        let isa = isa::compile(&isa::Source::all_in(&folder).expect("descriptions are in the repository"))
            .unwrap_or_else(|error| panic!("{error}"));
        let bytes = postcard::to_stdvec(&isa).expect("tables are bytes");
        fs::write(out.join(architecture), bytes).expect("the directory for it is there");
    }
}
