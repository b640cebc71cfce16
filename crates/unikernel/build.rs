//! Builds the library operating system, which is a program of another kind: freestanding, at an address of its own, with
//! no red zone, since interrupts arrive on its stack. The result is part of the host's program.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let guest = manifest.join("../../guest/libos");
    for part in ["guest/libos", "crates/abi"] {
        println!("cargo::rerun-if-changed={}", manifest.join("../..").join(part).display());
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let target = out.join("guest");
    let built = build(&guest, &target);
    std::fs::copy(built, out.join("libos")).expect("the library operating system was just built");
}

fn build(guest: &Path, target: &Path) -> PathBuf {
    let script = guest.join("libos.ld");
    let link = [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        &format!("-Wl,-T,{},--build-id=none,--gc-sections,-z,max-page-size=4096,-z,noexecstack", script.display()),
    ];
    let mut flags = vec![
        "-Crelocation-model=pic".to_owned(),
        "-Cno-redzone=yes".to_owned(),
        "-Ctarget-cpu=x86-64".to_owned(),
        "-Cforce-frame-pointers=yes".to_owned(),
        // Below the usual 225: a network stack has come in, and all of it is to stay below 400 KiB.
        "-Cllvm-args=--inline-threshold=110".to_owned(),
        "-Cstrip=symbols".to_owned(),
    ];
    flags.extend(link.iter().map(|it| format!("-Clink-arg={it}")));
    let mut cargo = Command::new(env::var_os("CARGO").expect("cargo sets it"));
    cargo
        .current_dir(guest)
        .args(["build", "--release", "--quiet", "--locked", "--target", TARGET, "--target-dir"])
        .arg(target);
    // What is meant for the host's crates: flags, and clippy in the compiler's place.
    for name in ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET", "CLIPPY_ARGS"] {
        cargo.env_remove(name);
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    let status = cargo.status().expect("cargo is there: it runs this");
    assert!(status.success(), "the library operating system does not build: run 'cargo build' in guest/libos");
    target.join(TARGET).join("release/libos")
}
