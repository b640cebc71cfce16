//! The interpreter against qemu and against generated code: every described instruction, with random bits and operands.
//!
//! A program is made that does thousands of instructions, each with registers of its own, and writes down what became of
//! them. qemu's user mode runs it, or our own translator does; the interpreter does the same instructions on the same registers
//! and memory. Nothing but equality in every bit, flags included, is let pass.
//!
//! `SKEP_DIFFERENTIAL_CASES` says how many of each instruction are tried, `SKEP_DIFFERENTIAL_SEED` with which numbers, and
//! `SKEP_DIFFERENTIAL_ONLY` which (a part of their names in the description).

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says on its error stream what it skipped"
)]

mod aarch64;
#[path = "../board/mod.rs"]
mod board;
mod cases;
mod program;
mod riscv64;
mod target;
mod traps;
mod values;

use program::Engine;
use target::Target;

#[test]
fn aarch64_does_as_qemu_does() {
    agrees_with_qemu(&aarch64::Aarch64);
}

#[test]
fn riscv64_does_as_qemu_does() {
    agrees_with_qemu(&riscv64::Riscv64);
}

#[test]
fn aarch64_is_translated_as_it_is_interpreted() {
    agree(Engine::Translator, &aarch64::Aarch64);
}

#[test]
fn riscv64_is_translated_as_it_is_interpreted() {
    agree(Engine::Translator, &riscv64::Riscv64);
}

#[test]
fn without_floating_point_its_instructions_trap() {
    for (target, least) in [(&aarch64::Aarch64 as &dyn Target, 1000), (&riscv64::Riscv64, 50)] {
        let (trapped, wrong) = traps::run(target);
        assert!(
            wrong.is_empty(),
            "{}: these do not trap, or do something before:\n{}",
            target.name(),
            wrong.join("\n")
        );
        assert!(trapped > least, "{}: hardly anything was tried", target.name());
    }
}

fn agrees_with_qemu(target: &dyn Target) {
    let found = std::process::Command::new(target.qemu()).arg("--version").output();
    if found.is_err() {
        return eprintln!("skipped: needs {} (package qemu-user)", target.qemu());
    }
    agree(Engine::Qemu, target);
}

fn agree(engine: Engine, target: &dyn Target) {
    let report = cases::run(engine, target);
    eprintln!("{}: {} cases of {} instructions agree", target.name(), report.agreed, report.instructions);
    for name in &report.untried {
        eprintln!("  not tried: {name}");
    }
    let mut text = String::new();
    for disagreement in &report.disagreements {
        text.push_str(disagreement);
        text.push('\n');
    }
    assert!(text.is_empty(), "{} disagree:\n{text}", report.disagreements.len());
    assert!(report.agreed > 1000 || std::env::var_os(cases::ONLY).is_some(), "hardly anything was tried");
}
