//! Compiles the steward: a program without any library, that the crate carries within and executes from memory.

use std::env;
use std::path::Path;
use std::process::Command;

/// For a fixed address, with as few pages as can be: it is executed at the start of each session, and read by nobody else.
const LINK: &str =
    "-nostartfiles -nostdlib -static -Wl,--build-id=none,--no-eh-frame-hdr,-z,norelro,-z,noseparate-code";

fn main() {
    println!("cargo::rerun-if-changed=steward");
    let var = |name: &str| env::var(name).unwrap_or_default();
    let output = Path::new(&var("OUT_DIR")).join("steward");
    let mut rustc = Command::new(var("RUSTC"));
    rustc.args(["--edition", "2024", "--crate-name", "steward", "--crate-type", "bin", "--target", &var("TARGET")]);
    rustc.args(["-C", "panic=abort", "-C", "opt-level=s", "-C", "lto=fat", "-C", "codegen-units=1"]);
    rustc.args(["-C", "strip=symbols", "-C", "relocation-model=static", "-C", &format!("link-args={LINK}")]);
    rustc.args(["-D", "warnings", "steward/main.rs", "-o"]).arg(&output);
    let done = rustc.status();
    assert!(done.is_ok_and(|it| it.success()), "the steward does not compile");
}
