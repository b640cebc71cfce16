//! `skep completions`, and the answers that a shell's completion asks for.

use std::ffi::OsStr;

use clap_complete::env::Shells;
use clap_complete::{ArgValueCandidates, CompleteEnv, CompletionCandidate};
use engine::Engine;

use crate::error::{CommandError, Result};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The shell: bash, elvish, fish, powershell or zsh
    #[arg(value_name = "SHELL")]
    shell: String,
}

/// The environment variable by which a shell asks.
const ASKS: &str = "SKEP_COMPLETE";

/// Answers and ends the process if a shell asks for completions.
pub(super) fn answer_shell() {
    if std::env::var_os(ASKS).is_some() {
        CompleteEnv::with_factory(with_candidates).var(ASKS).complete();
    }
}

pub(super) fn execute(args: Args) -> Result<()> {
    let shells = Shells::builtins();
    let shell = shells.completer(&args.shell).ok_or_else(|| {
        let names: Vec<_> = shells.names().collect();
        CommandError::usage(format!("there are no completions for '{}'", args.shell))
            .hinted(format!("there are for {}", names.join(", ")))
    })?;
    let mut script = Vec::new();
    shell.write_registration(ASKS, "skep", "skep", "skep", &mut script)?;
    crate::output::line(String::from_utf8_lossy(&script).trim_end())
}

/// The command line with the names of cells and images where they belong.
fn with_candidates() -> clap::Command {
    super::definition().mut_subcommands(add_candidates)
}

fn add_candidates(command: clap::Command) -> clap::Command {
    let command = command.mut_subcommands(add_candidates);
    command.mut_args(|arg| {
        let titles: Vec<String> = arg.get_value_names().unwrap_or_default().iter().map(|it| it.to_string()).collect();
        match titles.first().map(String::as_str) {
            Some("CELL" | "CELL|IMAGE") => arg.add(ArgValueCandidates::new(cell_names)),
            Some("TARGET") => arg.add(ArgValueCandidates::new(targets)),
            Some("IMAGE") => arg.add(ArgValueCandidates::new(image_names)),
            _ => arg,
        }
    })
}

fn engine() -> Option<Engine> {
    super::Context { root: None }.engine().ok()
}

fn cell_names() -> Vec<CompletionCandidate> {
    engine().map(|it| it.names()).unwrap_or_default().into_iter().map(CompletionCandidate::new).collect()
}

/// Cells as they are called, and what runs here under other engines.
fn targets() -> Vec<CompletionCandidate> {
    let others = engine().and_then(|it| it.running(&super::Context::engine_roots()).ok()).unwrap_or_default();
    let others = others.into_iter().filter(|it| !it.is_cell()).map(|it| CompletionCandidate::new(it.target));
    cell_names().into_iter().chain(others).collect()
}

fn image_names() -> Vec<CompletionCandidate> {
    let refs = engine().and_then(|it| it.store().refs().ok()).unwrap_or_default();
    refs.into_iter().map(|(name, _)| CompletionCandidate::new(OsStr::new(name.as_str()))).collect()
}
