//! `skep debug`

use std::path::PathBuf;

use engine::{Arrangement, CellRequest, DebugRequest, Engine, ExecStreams, NamedImage, Privileges, Subject, Unpack};
use model::{DebSource, ImageRef, Source, Stdin};

use super::Context;
use super::select::{self, Found, Pull, Scripts, Wanted};
use crate::error::{CommandError, Result};
use crate::foreground;
use crate::output;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The tools: an image, or packages as deb:PKG,PKG (a shell and the core utilities come with them)
    #[arg(long, value_name = "IMAGE")]
    toolbox: Option<ImageRef>,
    /// Unpack the files of the toolbox when they are first read, and not before
    #[arg(long)]
    lazy: bool,
    /// Make the target's file system the root, with the tools in /toolbox
    #[arg(long)]
    swap: bool,
    /// Let debuggers trace what the target may not: adds SYS_PTRACE, leaves out the system call filter
    #[arg(long)]
    privileged_tools: bool,
    /// Open an image, as a cell that would be made of it
    #[arg(long, value_name = "IMAGE", conflicts_with = "target")]
    image: Option<ImageRef>,
    /// Set an environment variable
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Start in this directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<PathBuf>,
    /// What to attach to: a cell by name or id, or pid:NUMBER
    #[arg(value_name = "TARGET")]
    target: Option<String>,
    /// The command and its arguments; a shell unless given
    #[arg(value_name = "COMMAND", last = true)]
    command: Vec<String>,
}

/// What a shell needs around it. Comes with every toolbox that is named by packages.
const BASE: [&str; 9] = ["bash", "coreutils", "dash", "findutils", "grep", "less", "mawk", "ncurses-base", "sed"];

/// The tools of whoever names none.
const DEFAULT: [&str; 12] = [
    "curl",
    "file",
    "gdb",
    "iproute2",
    "iputils-ping",
    "lsof",
    "netcat-openbsd",
    "procps",
    "psmisc",
    "strace",
    "util-linux",
    "vim-tiny",
];

/// The best shell that a toolbox has.
const SHELL: [&str; 3] = ["/bin/sh", "-c", "command -v bash >/dev/null && exec bash; exec sh"];

pub(super) fn execute(context: &Context, args: Args) -> Result<()> {
    run(context, args).map_err(CommandError::before_program)
}

fn run(context: &Context, args: Args) -> Result<()> {
    let engine = context.engine()?;
    let subject = match &args.image {
        Some(image) => open_image(&engine, image)?,
        None => subject(&engine, args.target.as_deref())?,
    };
    let toolbox = toolbox(&engine, args.toolbox)?;
    let streams = streams();
    let command = if args.command.is_empty() { SHELL.map(str::to_owned).to_vec() } else { args.command };
    let request = DebugRequest {
        image: toolbox.name.to_string(),
        tree: toolbox.record.tree,
        unpack: if args.lazy { Unpack::OnDemand } else { Unpack::Before },
        image_env: toolbox.record.config.env,
        argv: command,
        env: select::environment(&args.env)?,
        cwd: args.workdir,
        arrangement: if args.swap { Arrangement::TargetAsRoot } else { Arrangement::ToolboxAsRoot },
        privileges: if args.privileged_tools { Privileges::Tracing } else { Privileges::AsTarget },
        terminal: matches!(streams, ExecStreams::Pty(..)).then(|| std::env::var("TERM").unwrap_or("xterm".to_owned())),
        streams,
    };
    if request.privileges == Privileges::Tracing {
        output::note(
            "the tools may trace every process of the target (SYS_PTRACE) and are under no system call filter",
        );
    }
    let running = engine.debug(&subject, &request).map_err(start_failure)?;
    let exit = match streams {
        ExecStreams::Pty(..) => foreground::drive_terminal(running, Stdin::Open)?,
        ExecStreams::Inherit { .. } | ExecStreams::Nothing => foreground::wait_forwarding_signals(running)?,
    };
    foreground::exit_with(&exit)
}

fn start_failure(error: engine::Error) -> CommandError {
    let missing = matches!(error, engine::Error::Start { step: model::StartStep::CommandNotFound, .. });
    let error = foreground::start_failure_plain(error);
    if missing { error.hinted("'--toolbox deb:PACKAGE' brings the tools of a package") } else { error }
}

/// A terminal when this command stands on one, else this command's own streams.
fn streams() -> ExecStreams {
    let on_terminal = rustix::termios::isatty(std::io::stdin()) && rustix::termios::isatty(std::io::stdout());
    if on_terminal {
        let (rows, columns) = foreground::terminal_size();
        return ExecStreams::Pty(rows, columns);
    }
    ExecStreams::Inherit { input: Stdin::Open }
}

fn subject(engine: &Engine, wanted: Option<&str>) -> Result<Subject> {
    let Some(wanted) = wanted else {
        return Err(CommandError::usage("what shall be debugged?").hinted("'skep ps' lists the cells that run"));
    };
    if let Some(pid) = wanted.strip_prefix("pid:") {
        let wrong = || CommandError::usage(format!("'{pid}' is no process number"));
        return Ok(Subject::Process(pid.parse().map_err(|_| wrong())?));
    }
    Ok(Subject::Cell(Box::new(engine.find(wanted)?)))
}

/// How an image is wanted here: whatever there is.
const ANY: Wanted =
    Wanted { arch: None, pull: Pull::Missing, security: image::SecurityUpdates::Include, scripts: Scripts::Skip };

fn open_image(engine: &Engine, image: &ImageRef) -> Result<Subject> {
    let found = select::image(engine, image, &ANY)?;
    let name = image.to_string();
    let named = NamedImage { name: &name, id: found.id, record: &found.record };
    let spec = engine::specify(CellRequest::of_command(&["/bin/sh"]), named, engine.fresh_id()?, engine::now());
    let spec = spec.map_err(|_| CommandError::failed("a cell without a command"))?;
    Ok(Subject::Image(Box::new(spec)))
}

/// The toolbox, from the pool or from its source.
fn toolbox(engine: &Engine, wanted: Option<ImageRef>) -> Result<Found> {
    let wanted = match wanted {
        None => packages(&DEFAULT.map(str::to_owned), None),
        Some(ImageRef::Source(Source::Deb(source))) => packages(&source.packages, Some(source.clone())),
        Some(other) => other,
    };
    select::image(engine, &wanted, &ANY)
}

/// Those packages and what a shell needs, in one order whichever way they were given: one toolbox is made once.
fn packages(named: &[String], source: Option<DebSource>) -> ImageRef {
    let mut packages: Vec<String> = named.iter().cloned().chain(BASE.map(str::to_owned)).collect();
    packages.sort();
    packages.dedup();
    let (suite, arch) = source.map_or((None, None), |it| (it.suite, it.arch));
    ImageRef::Source(Source::Deb(DebSource { packages, suite, arch }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_toolbox_of_packages_has_a_shell_and_one_name() {
        let named =
            |names: &[&str]| packages(&names.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>(), None).to_string();
        assert_eq!(named(&["strace", "bash"]), named(&["bash", "strace", "strace"]));
        assert!(named(&["strace"]).contains("coreutils"));
    }
}
