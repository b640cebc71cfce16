//! How the binary is linked: with the unwinder in it, so that it needs no shared library but the C library's own, and for a
//! fixed address.
//!
//! The latter spares each start the 13 thousand relocations that a movable program of this size has, and the writing to 60
//! pages that come with them: 0.15 ms, where `skep debug` has two or three in all. What it gives up is that the addresses of
//! skep's own code cannot be guessed (those of libraries, stack and heap still cannot). Stack protection, read-only
//! relocations and immediate binding stay.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let var = |name: &str| std::env::var(name).unwrap_or_default();
    if var("CARGO_CFG_TARGET_OS") == "linux" && var("CARGO_CFG_TARGET_ENV") == "gnu" {
        // The standard library asks for libgcc_s; with its symbols here already, the linker leaves that out (it links
        // only what is needed).
        println!("cargo::rustc-link-arg-bins=-Wl,--whole-archive,-l:libgcc_eh.a,--no-whole-archive");
        if var("PROFILE") == "release" {
            println!("cargo::rustc-link-arg-bins=-no-pie");
        }
    }
}
