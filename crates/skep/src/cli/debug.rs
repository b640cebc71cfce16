//! `skep debug`

mod gdb;

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use engine::{
    Arrangement, CellRequest, DebugRequest, Engine, ExecStreams, NamedImage, Privileges, Subject, ToolboxFiles, Trust,
};
use model::{DebSource, ImageRef, ObjectId, Reference, Source, Stdin, TargetRef};

use super::Context;
use super::select::{self, Found, Pull, Scripts, Wanted};
use crate::error::{CommandError, Result};
use crate::foreground;
use crate::output::{self, Align, Reporter, Table};
use crate::relay::{self, Relays};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Engines: skep  podman  docker  k8s  containerd  lxc  nspawn, whose state is read below / (or SKEP_ENGINES)"
)]
pub(super) struct Args {
    /// The tools: an image, or packages as deb:PKG,PKG (a shell and the core utilities come with them)
    #[arg(long, value_name = "IMAGE")]
    toolbox: Option<ImageRef>,
    /// Unpack the files of the toolbox when they are first read, and not before; fetch them then from the registry, when the
    /// toolbox was pushed with 'image push --lazy' and is not here
    #[arg(long)]
    lazy: bool,
    /// Make the target's file system the root, with the tools in /toolbox
    #[arg(long)]
    swap: bool,
    /// Let debuggers trace what the target may not: adds SYS_PTRACE, leaves out the system call filter
    #[arg(long)]
    privileged_tools: bool,
    /// Attach to a target that could take the session over, as it may trace processes, before Linux 6.17
    #[arg(long)]
    trust_target: bool,
    /// Open an image, as a cell that would be made of it
    #[arg(long, value_name = "IMAGE", conflicts_with = "target")]
    image: Option<ImageRef>,
    /// Write the memory and the registers of a unikernel's program to FILE, as a core for a debugger, and attach nothing
    #[arg(long, value_name = "FILE", requires = "target", conflicts_with_all = ["command", "toolbox", "lazy", "swap"])]
    core: Option<PathBuf>,
    /// Let gdb at the processor of a machine: at its own pipe ('target remote | skep debug CELL --gdb'), or at ADDRESS, a port
    /// of the loopback or a path
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = gdb::PIPE, requires = "target",
          conflicts_with_all = ["command", "toolbox", "lazy", "swap", "core"])]
    gdb: Option<String>,
    /// Set an environment variable
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Start in this directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<PathBuf>,
    /// Print what runs here as one JSON object a line
    #[arg(long, conflicts_with_all = ["target", "image", "command", "toolbox"])]
    json: bool,
    /// What to attach to: a name or the beginning of an id, ENGINE:NAME or pid:NUMBER. Without: list what runs here
    #[arg(value_name = "TARGET")]
    target: Option<TargetRef>,
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
    if args.target.is_none() && args.image.is_none() {
        return list(context, &args);
    }
    if let (Some(file), Some(target)) = (&args.core, &args.target) {
        return write_core(&context.engine()?, target, file);
    }
    if let (Some(address), Some(target)) = (&args.gdb, &args.target) {
        let engine = context.engine()?;
        let Subject::Cell(cell) = find(&engine, target)? else {
            return Err(CommandError::usage(
                "only a machine has a processor of its own: attach a toolbox, which has gdb",
            ));
        };
        return gdb::serve(&engine, &cell, address);
    }
    if args.image.is_some() {
        sys::process::protect_own_program()?;
    }
    run(context, args).map_err(CommandError::before_program)
}

fn run(context: &Context, args: Args) -> Result<()> {
    let engine = context.engine()?;
    let subject = match (&args.image, &args.target) {
        (Some(image), _) => open_image(&engine, image)?,
        (None, Some(target)) => find(&engine, target)?,
        (None, None) => return Err(CommandError::usage("what shall be debugged?")),
    };
    if matches!(&subject, Subject::Cell(cell) if !cell.record.state.is_live()) {
        // Its first process will be ours. (Into what runs, nothing of ours goes.)
        sys::process::protect_own_program()?;
    }
    let toolbox = Toolbox::find(&engine, args.toolbox, args.lazy.then_some(OnDemand))?;
    // For when this machine cannot serve files on demand after all.
    let pull = || toolbox.pull(&engine).map_err(engine::Error::from);
    let (streams, relays) = streams()?;
    let on_terminal = matches!(streams, ExecStreams::Pty(..));
    let command = if args.command.is_empty() { SHELL.map(str::to_owned).to_vec() } else { args.command };
    let request = DebugRequest {
        image: toolbox.name(),
        files: toolbox.files(args.lazy.then_some(OnDemand), &pull),
        image_env: toolbox.env().to_vec(),
        argv: command,
        env: select::environment(&args.env)?,
        cwd: args.workdir,
        arrangement: if args.swap { Arrangement::TargetAsRoot } else { Arrangement::ToolboxAsRoot },
        privileges: if args.privileged_tools { Privileges::Tracing } else { Privileges::AsTarget },
        trust: if args.trust_target { Trust::Trusted } else { Trust::Hostile },
        terminal: on_terminal.then(|| std::env::var("TERM").unwrap_or("xterm".to_owned())),
    };
    if request.privileges == Privileges::Tracing {
        output::note(
            "the tools may trace every process of the target (SYS_PTRACE) and are under no system call filter",
        );
    }
    let running = engine.debug(&subject, &request, streams).map_err(start_failure)?;
    let troubles = running.troubles();
    let exit = match on_terminal {
        true => foreground::drive_terminal(running, Stdin::Open)?,
        false => foreground::wait_forwarding_signals(running, relays)?,
    };
    troubles.iter().flat_map(|it| it.lines()).for_each(output::note);
    foreground::exit_with(&exit)
}

/// Where the program's memory goes, which may hold anything, nobody else looks.
fn write_core(engine: &Engine, target: &TargetRef, path: &Path) -> Result<()> {
    let Subject::Cell(cell) = find(engine, target)? else {
        return Err(CommandError::usage("only a cell of skep's is written down: attach a toolbox, which has gdb"));
    };
    let failed = |error: std::io::Error| CommandError::failed(format!("making {}: {error}", path.display()));
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    engine.write_core(&cell, file.into()).map_err(|error| {
        // Half of one is of no use to anybody.
        let _ = std::fs::remove_file(path);
        error.into()
    })
}

fn start_failure(error: engine::Error) -> CommandError {
    let missing = matches!(error, engine::Error::Start { step: model::StartStep::CommandNotFound, .. });
    let error = foreground::start_failure_plain(error);
    if missing { error.hinted("'--toolbox deb:PACKAGE' brings the tools of a package") } else { error }
}

/// A terminal when this command stands on one, else this command's own streams.
fn streams() -> Result<(ExecStreams, Relays)> {
    let on_terminal = rustix::termios::isatty(std::io::stdin()) && rustix::termios::isatty(std::io::stdout());
    if on_terminal {
        let (rows, columns) = foreground::terminal_size();
        return Ok((ExecStreams::Pty(rows, columns), Relays::default()));
    }
    relay::streams(Stdin::Open)
}

fn find(engine: &Engine, target: &TargetRef) -> Result<Subject> {
    let subject = engine.find_target(&Context::engine_roots(), target)?;
    if let Subject::Container(found) = &subject {
        let name = found.to_string();
        // Who owns a container's user namespace can look into every session there.
        if found.is_anothers() && name != target.to_string() {
            output::note(format!("the target is {name}, another user's"));
        }
    }
    Ok(subject)
}

/// What runs here, and how to attach to it.
fn list(context: &Context, args: &Args) -> Result<()> {
    if !args.command.is_empty() || args.toolbox.is_some() {
        return Err(CommandError::usage("what shall be debugged?").hinted("'skep debug' lists what runs here"));
    }
    let running = context.engine()?.running(&Context::engine_roots())?;
    if args.json {
        return running.iter().try_for_each(output::json);
    }
    let titles = [("ENGINE", Align::Left), ("NAME", Align::Left), ("ID", Align::Left), ("PID", Align::Right)];
    let mut table = Table::new([titles[0], titles[1], titles[2], titles[3], ("IMAGE", Align::Left)]);
    for it in &running {
        let id = it.id.get(..12).unwrap_or(&it.id).to_owned();
        let image = it.image.clone().unwrap_or_else(|| "-".to_owned());
        table.row([it.engine.clone(), it.name.clone(), id, it.pid.to_string(), image]);
    }
    table.print()?;
    match running.first() {
        Some(first) => output::note(format!("'skep debug {}' attaches to the first of them", first.target)),
        None => output::note("'skep debug pid:NUMBER' attaches to any process"),
    }
    Ok(())
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

/// Files are to come when they are read.
#[derive(Clone, Copy, Debug)]
struct OnDemand;

/// The toolbox.
enum Toolbox {
    /// In the pool.
    Here(Box<Found>),
    /// In a registry.
    There(Reference, Box<image::Remote>),
}

impl Toolbox {
    /// From the pool or from its source; of an image in a registry whose files are to come when they are read, only the names.
    fn find(engine: &Engine, wanted: Option<ImageRef>, on_demand: Option<OnDemand>) -> Result<Self> {
        let wanted = match wanted {
            None => packages(&DEFAULT.map(str::to_owned), None),
            Some(ImageRef::Source(Source::Deb(source))) => packages(&source.packages, Some(source.clone())),
            Some(other) => other,
        };
        if let (Some(OnDemand), ImageRef::Source(Source::Registry(reference))) = (on_demand, &wanted)
            && image::lookup(engine.store(), &wanted)?.is_none()
        {
            let options = image::FetchOptions::new(engine.home().cache());
            match image::open_remote(engine.store(), reference, &options, &Reporter::new())? {
                image::Opened::Seekable(remote) => {
                    remote.notes.iter().for_each(output::note);
                    return Ok(Self::There(reference.clone(), remote));
                }
                image::Opened::Plain(why) => {
                    output::note(format!("the whole toolbox is pulled before it is attached: {why}"))
                }
            }
        }
        select::image(engine, &wanted, &ANY).map(|it| Self::Here(Box::new(it)))
    }

    fn name(&self) -> String {
        match self {
            Self::Here(found) => found.name.to_string(),
            Self::There(reference, _) => Source::Registry(reference.clone()).to_string(),
        }
    }

    fn env(&self) -> &[String] {
        match self {
            Self::Here(found) => &found.record.config.env,
            Self::There(_, remote) => &remote.config.env,
        }
    }

    fn files<'a>(
        &'a self,
        on_demand: Option<OnDemand>,
        otherwise: &'a dyn Fn() -> engine::Result<ObjectId>,
    ) -> ToolboxFiles<'a> {
        match (self, on_demand) {
            (Self::There(_, remote), _) => ToolboxFiles::Remote { remote, otherwise },
            (Self::Here(found), Some(OnDemand)) => ToolboxFiles::OnDemand(found.record.tree),
            (Self::Here(found), None) => ToolboxFiles::Before(found.record.tree),
        }
    }

    /// Brings the whole image into the pool.
    fn pull(&self, engine: &Engine) -> image::Result<ObjectId> {
        match self {
            Self::Here(found) => Ok(found.record.tree),
            Self::There(reference, _) => {
                let options = image::FetchOptions::new(engine.home().cache());
                let source = Source::Registry(reference.clone());
                Ok(image::fetch(engine.store(), &source, &options, &Reporter::new())?.record.tree)
            }
        }
    }
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
