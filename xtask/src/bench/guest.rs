//! Programs run as guests of the unikernel boundary, by either engine, and as processes of the host.
//!
//! They run without a cell around them (the tender alone, an example of its crate): what is compared is how a program's
//! calls are answered.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::debian::{self, Tool};
use crate::{Result, cargo, must, output_of, target_dir};

/// Who runs a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Kvm,
    Process,
    Host,
}

pub(super) const ALL: [Way; 3] = [Way::Kvm, Way::Process, Way::Host];

/// Those that are ours, if they can be had here.
pub(super) fn ours() -> Vec<Way> {
    let kvm = Path::new("/dev/kvm").exists();
    ALL.into_iter().filter(|way| *way != Way::Host && (*way != Way::Kvm || kvm)).collect()
}

impl Way {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Process => "process",
            Self::Host => "host",
        }
    }

    /// A command that runs a program so.
    pub(super) fn command(self, program: &Path) -> Command {
        if self == Self::Host {
            return Command::new(program);
        }
        let mut command = Command::new(target_dir().join("release/examples/tender"));
        command.env("SKEP_ENGINE", self.name()).arg(program);
        command
    }
}

/// Builds the tender.
pub(super) fn prepare() -> Result {
    must(&mut cargo(&["build", "--release", "--package", "skep-unikernel", "--example", "tender"]))
}

/// Compiles a program of one file, static.
pub(super) fn compile(dir: &Path, name: &str, source: &str) -> Result<PathBuf> {
    compile_with(dir, name, source, &["-static"])
}

/// Compiles a program of one file.
pub(super) fn compile_with(dir: &Path, name: &str, source: &str, options: &[&str]) -> Result<PathBuf> {
    const TOOLS: &[Tool] = &[Tool { program: "cc", package: "build-essential" }];
    if let Some((tool, why)) = debian::ensure(TOOLS).first() {
        return Err(format!("{} is missing: {why}", tool.program));
    }
    let (text, program) = (dir.join(format!("{name}.c")), dir.join(name));
    std::fs::write(&text, source).map_err(|e| e.to_string())?;
    must(Command::new("cc").args(["-O2", "-o"]).arg(&program).arg(&text).args(options))?;
    Ok(program)
}

/// What a program prints, a list of numbers for each of its columns: of all rounds, in which all ways take turns.
pub(super) fn columns<const N: usize>(
    program: &Path,
    arguments: &[&str],
    rounds: usize,
) -> Result<Vec<(Way, [Vec<f64>; N])>> {
    let mut all: Vec<(Way, [Vec<f64>; N])> =
        ours().into_iter().chain([Way::Host]).map(|way| (way, [const { Vec::new() }; N])).collect();
    for _ in 0..rounds {
        for (way, columns) in &mut all {
            let text = output_of(way.command(program).args(arguments))?;
            for line in text.lines() {
                let numbers: Vec<f64> = line.split_whitespace().filter_map(|it| it.parse().ok()).collect();
                if numbers.len() != N {
                    return Err(format!("{}: it printed: {line}", program.display()));
                }
                columns.iter_mut().zip(numbers).for_each(|(column, number)| column.push(number));
            }
        }
    }
    Ok(all)
}
