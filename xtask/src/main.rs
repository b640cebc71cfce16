//! Everything that a contributor runs: `cargo xtask test`, `test-vm`, `tidy`, `fuzz`, `decoder`, `lockstep`, `bench NAME`.
//!
//! CI runs the same commands. A check that fails says what to change.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "printing is what these tasks are for")]

mod bench;
mod debian;
mod fuzz;
mod lockstep;
mod test;
mod tidy;
mod vm;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// What a task returns: nothing, or one line for the contributor.
type Result<T = ()> = std::result::Result<T, String>;

const USAGE: &str = "\
usage: cargo xtask TASK
  test [FILTER…]           install what the tests need, run them all
  test-vm [WORD…]          test the binary on a stock Debian kernel in a virtual machine (as root on Debian): all of it,
                           or the checks with such a word in their names
  tidy                     check format, lints, layers, unsafe, documentation
  fuzz [--for MINUTES] [--seed N]
                           many more cases of the properties of a guest's interfaces
  decoder                  ask other disassemblers about every word that there is, in some minutes
  lockstep                 boot kernels translated and interpreted at once, and compare them as they go
  bench NAME [--json]      measure beside a peer: start, ingest, debug, lazy, build, faults, slim,
                           unikernel, boot, fork, ipc, link, dbt
  bench dbt [--rounds N] [--coremark DIR] [SET…]
                           of these only: integer, float, system, micro, boot, riscv, lines
";

/// The tests that have too many questions to be run with the others.
const DECODER: [&str; 8] = ["test", "--release", "--package", "skep-isa", "--test", "decoder", "--", "--ignored"];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["test", filters @ ..] => test::run(filters),
        ["test-vm", words @ ..] => vm::run(words),
        ["tidy"] => tidy::run(),
        ["fuzz", options @ ..] => fuzz::run(options),
        ["decoder"] => must(&mut cargo(&DECODER)),
        ["lockstep"] => lockstep::run(),
        ["bench", name, options @ ..] => bench::run(name, options),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Where cargo puts what it builds.
fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Cargo, at the root of the repository.
fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    command
}

/// Runs a command to its end; its failure is ours.
fn must(command: &mut Command) -> Result {
    let shown = format!("{command:?}").replace('"', "");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{shown}: {status}")),
        Err(error) => Err(format!("{shown}: {error}")),
    }
}

/// Runs a command and gives what it prints; its failure is ours, with its words.
fn output_of(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}").replace('"', "");
    let output = command.output().map_err(|e| format!("{shown}: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{shown}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
}

/// Whether a program by that name can be run.
fn has_program(name: &str) -> bool {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    // Podman keeps the programs that it alone calls in a directory of its own.
    let further = ["/usr/sbin", "/sbin", "/usr/lib/podman"].map(PathBuf::from);
    std::env::split_paths(&dirs).chain(further).any(|dir| dir.join(name).is_file())
}
