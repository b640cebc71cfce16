//! The commands, one file each. A command parses its arguments into the model's types, calls the engine or the image
//! crate, and prints.

mod attach;
mod build;
mod compare;
mod completions;
mod cp;
mod create;
mod debug;
mod doctor;
mod events;
mod exec;
mod fork;
mod image;
mod inspect;
mod kill;
mod lib;
mod logs;
mod man;
mod pause;
mod pool;
mod ps;
mod rename;
mod resume;
mod rm;
mod run;
mod select;
mod set;
mod slim;
mod snapshot;
mod spec_args;
mod start;
mod stats;
mod stop;
mod top;
mod tree;
mod version;
mod wait;
mod why;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args as _, CommandFactory, FromArgMatches, Parser, Subcommand};
use engine::{Engine, EngineRoots, Home};

use crate::error::Result;

/// Run any Linux program at the isolation it needs
#[derive(Debug, Parser)]
#[command(name = "skep", version, disable_help_subcommand = true, max_term_width = 100)]
#[command(
    after_help = "Images: deb:PKG  host:/PATH  oci:DIR  oci-archive:FILE  docker-archive:FILE  docker://HOST/REPO"
)]
struct Arguments {
    #[command(flatten)]
    everywhere: Everywhere,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, clap::Args)]
struct Everywhere {
    /// Keep everything in DIR instead of the usual directories (also: SKEP_ROOT)
    #[arg(long, global = true, value_name = "DIR", display_order = 900)]
    root: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a cell from an image and start it
    Run(run::Args),
    /// Make a cell from an image without starting it
    Create(create::Args),
    /// Start cells that do not run
    Start(start::Args),
    /// Ask cells to end, and end them if they do not
    Stop(stop::Args),
    /// Send a signal to the programs of cells
    Kill(kill::Args),
    /// Remove cells
    Rm(rm::Args),
    /// List cells
    Ps(ps::Args),
    /// Show everything about cells or images, as JSON
    Inspect(inspect::Args),
    /// Show what a cell printed
    Logs(logs::Args),
    /// Run a further program in a running cell
    Exec(exec::Args),
    /// Make a running cell again, as it stands
    Fork(fork::Args),
    /// Keep a running unikernel or machine cell as it stands, in its directory: memory and open files, not what files hold
    Snapshot(snapshot::Args),
    /// Have a running cell go back to a snapshot: its memory does, its files stay as they are, a unikernel's forks end
    Rollback(snapshot::RollbackArgs),
    /// Show which cells were made from which
    Tree(tree::Args),
    /// Run an image at each boundary, and show what that takes
    Compare(compare::Args),
    /// Open a shell with tools inside whatever runs
    Debug(debug::Args),
    /// List and replace the libraries of running programs
    #[command(subcommand)]
    Lib(lib::Command),
    /// Copy files between the host and a cell
    Cp(cp::Args),
    /// Join the streams of a running cell
    Attach(attach::Args),
    /// Wait until cells end, and print their exit codes
    Wait(wait::Args),
    /// Stop the processors of cells
    Pause(pause::Args),
    /// Let paused cells go on
    #[command(visible_alias = "unpause")]
    Resume(resume::Args),
    /// Change the limits and the restart policy of cells
    #[command(visible_alias = "update")]
    Set(set::Args),
    /// Give a cell another name
    Rename(rename::Args),
    /// List the processes of a cell
    Top(top::Args),
    /// Show what cells use
    Stats(stats::Args),
    /// Show what happens to cells
    Events(events::Args),
    /// Explain how a cell came to be as it is
    Why(why::Args),
    /// Measure what this machine can do for cells
    Doctor(doctor::Args),
    /// Get, keep and pass on images
    #[command(subcommand)]
    Image(image::Command),
    /// Look after the store beneath images
    #[command(subcommand)]
    Pool(pool::Command),
    /// Print a completion script for a shell
    Completions(completions::Args),
    /// Print the manual, or write manual pages
    Man(man::Args),
    /// Print the version
    Version(version::Args),
}

/// What every command gets.
#[derive(Debug)]
struct Context {
    root: Option<PathBuf>,
}

impl Context {
    fn home(&self) -> Result<Home> {
        let variable = |name: &str| std::env::var_os(name).filter(|it| !it.is_empty()).map(PathBuf::from);
        Ok(match self.root.clone().or_else(|| variable("SKEP_ROOT")) {
            Some(root) => Home::at(std::path::absolute(root)?),
            None => Home::default_for_user(variable)?,
        })
    }

    /// Where the state of other engines lies.
    fn engine_roots() -> EngineRoots {
        let top = std::env::var_os("SKEP_ENGINES").filter(|it| !it.is_empty());
        top.map(EngineRoots::below).unwrap_or_default()
    }

    fn engine(&self) -> Result<Engine> {
        Ok(Engine::open(self.home()?)?)
    }
}

/// Parses the arguments, does what they say, and reports.
pub(crate) fn main() -> ExitCode {
    completions::answer_shell();
    let arguments = match parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match arguments.command.execute(&Context { root: arguments.everywhere.root }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.report();
            error.exit_code()
        }
    }
}

/// As [`Parser::try_parse`], but the definition of the command line is not freed: that took an eighth of what `skep exec`
/// does in all, and the process ends soon.
fn parse() -> std::result::Result<Arguments, clap::Error> {
    if let Some(arguments) = parse_alone() {
        return Ok(arguments);
    }
    let mut definition = std::mem::ManuallyDrop::new(definition());
    let mut matches = definition.try_get_matches_from_mut(std::env::args_os())?;
    Arguments::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut definition))
}

/// The same with a definition of nothing but the one command that comes first, for those that must be quick: defining all
/// of them takes a quarter of a millisecond, and `skep debug` two or three in all. What is not right for it, or asks for
/// help, is left to the whole definition.
fn parse_alone() -> Option<Arguments> {
    let first = std::env::args_os().nth(1)?;
    let command = match first.to_str()? {
        "debug" => debug::Args::augment_args(clap::Command::new("debug")),
        "exec" => exec::Args::augment_args(clap::Command::new("exec")),
        _ => return None,
    };
    let alone = Everywhere::augment_args(clap::Command::new("skep").disable_help_subcommand(true)).subcommand(command);
    let mut alone = std::mem::ManuallyDrop::new(alone);
    let mut matches = alone.try_get_matches_from_mut(std::env::args_os()).ok()?;
    Arguments::from_arg_matches_mut(&mut matches).ok()
}

impl Command {
    fn execute(self, context: &Context) -> Result<()> {
        match self {
            Self::Run(args) => run::execute(context, args),
            Self::Create(args) => create::execute(context, args),
            Self::Start(args) => start::execute(context, args),
            Self::Stop(args) => stop::execute(context, args),
            Self::Kill(args) => kill::execute(context, args),
            Self::Rm(args) => rm::execute(context, args),
            Self::Ps(args) => ps::execute(context, args),
            Self::Inspect(args) => inspect::execute(context, args),
            Self::Logs(args) => logs::execute(context, args),
            Self::Exec(args) => exec::execute(context, args),
            Self::Fork(args) => fork::execute(context, args),
            Self::Snapshot(args) => snapshot::execute(context, args),
            Self::Rollback(args) => snapshot::roll_back(context, &args),
            Self::Tree(args) => tree::execute(context, args),
            Self::Compare(args) => compare::execute(context, args),
            Self::Debug(args) => debug::execute(context, args),
            Self::Lib(command) => lib::execute(context, command),
            Self::Cp(args) => cp::execute(context, args),
            Self::Attach(args) => attach::execute(context, args),
            Self::Wait(args) => wait::execute(context, args),
            Self::Pause(args) => pause::execute(context, args),
            Self::Resume(args) => resume::execute(context, args),
            Self::Set(args) => set::execute(context, args),
            Self::Rename(args) => rename::execute(context, args),
            Self::Top(args) => top::execute(context, args),
            Self::Stats(args) => stats::execute(context, args),
            Self::Events(args) => events::execute(context, args),
            Self::Why(args) => why::execute(context, args),
            Self::Doctor(args) => doctor::execute(context, args),
            Self::Image(command) => image::execute(context, command),
            Self::Pool(command) => pool::execute(context, command),
            Self::Completions(args) => completions::execute(args),
            Self::Man(args) => man::execute(args),
            Self::Version(args) => version::execute(args),
        }
    }
}

/// The whole command line as clap knows it, for completions and manual pages.
fn definition() -> clap::Command {
    Arguments::command()
}
