//! `skep compare`
//!
//! Each contender is started by this very program as a user would, one after the other in turns, so that what else the
//! machine does meets all of them alike.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use engine::Engine;
use image::SecurityUpdates;
use model::{Boundary, ByteSize, ImageRef, State};

use super::Context;
use super::select::{self, Pull, Scripts, Wanted};
use crate::error::{CommandError, Kind, Result};
use crate::output::{self, Align, Table};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Start each so often, and take the medians
    #[arg(short = 'n', long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Wait until this port of the cell answers [default: the image's first]
    #[arg(short, long, value_name = "PORT")]
    port: Option<u16>,
    /// Measure what it uses after so many milliseconds more
    #[arg(long, value_name = "MS", default_value_t = 500)]
    settle: u64,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    /// The image, as for run
    #[arg(value_name = "IMAGE")]
    image: ImageRef,
    /// The command and its arguments [default: the image's]
    #[arg(value_name = "COMMAND", trailing_var_arg = true)]
    command: Vec<String>,
}

/// A boundary, and what executes it.
struct Contender {
    boundary: Boundary,
    engine: &'static str,
    samples: Vec<Sample>,
    /// Why there are no more.
    failure: Option<CommandError>,
}

/// One start.
struct Sample {
    /// Until the command came back.
    started: Duration,
    /// Until the port answered.
    answered: Option<Duration>,
    /// How long it ran, if it ended by itself.
    ran: Option<Duration>,
    memory: Option<ByteSize>,
    cpu: Option<Duration>,
}

/// How long a program may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What tells `run` which engine to take.
const ENGINE: &str = "SKEP_ENGINE";

pub(super) fn execute(context: &Context, args: Args) -> Result<()> {
    let engine = context.engine()?;
    let how = Wanted { arch: None, pull: Pull::Missing, security: SecurityUpdates::Include, scripts: Scripts::Skip };
    let image = select::image(&engine, &args.image, &how)?;
    let exposed = || image.record.config.exposed_ports.iter().find_map(|it| it.strip_suffix("/tcp")?.parse().ok());
    let comparison = Comparison {
        engine,
        port: args.port.or_else(exposed),
        settle: Duration::from_millis(args.settle),
        image: args.image.to_string(),
        command: args.command,
    };
    let mut contenders = contenders();
    for _ in 0..args.rounds {
        for it in contenders.iter_mut().filter(|it| it.failure.is_none()) {
            match comparison.start(context, it) {
                Ok(sample) => it.samples.push(sample),
                Err(error) => it.failure = Some(error),
            }
        }
    }
    if args.json {
        contenders.iter().try_for_each(print_json)?;
    } else {
        print_table(&contenders)?;
    }
    contenders.into_iter().find_map(|it| it.failure).map_or(Ok(()), Err)
}

fn contenders() -> Vec<Contender> {
    let one = |boundary, engine| Contender { boundary, engine, samples: Vec::new(), failure: None };
    let mut all = vec![one(Boundary::Container, "native")];
    if std::path::Path::new("/dev/kvm").exists() {
        all.push(one(Boundary::Unikernel, "kvm"));
    }
    all.push(one(Boundary::Unikernel, "process"));
    all
}

/// What is the same for all.
struct Comparison {
    engine: Engine,
    port: Option<u16>,
    settle: Duration,
    image: String,
    command: Vec<String>,
}

impl Comparison {
    fn start(&self, context: &Context, contender: &Contender) -> Result<Sample> {
        let mut command = Command::new("/proc/self/exe");
        if let Some(root) = &context.root {
            command.arg("--root").arg(root);
        }
        // So that it is found, whatever becomes of it.
        let name = format!("compare-{}", std::process::id());
        command.args(["run", "--detach", "--name", &name, "--as", &contender.boundary.to_string()]);
        let outside = self.port.map(|_| free_port()).transpose()?;
        if let (Some(inside), Some(outside)) = (self.port, outside) {
            command.args(["--publish", &format!("{outside}:{inside}")]);
        }
        command.arg(&self.image).arg("--").args(&self.command);
        if contender.boundary == Boundary::Unikernel {
            command.env(ENGINE, contender.engine);
        }
        let begun = Instant::now();
        let out = command.stdin(Stdio::null()).output()?;
        let started = begun.elapsed();
        let sample = if out.status.success() {
            let answered = outside.map(|port| self.wait_for_answer(contender, &name, port, begun)).transpose();
            answered.and_then(|answered| self.measure(&name, started, answered))
        } else {
            let said = String::from_utf8_lossy(&out.stderr);
            let line = said.lines().find_map(|it| it.strip_prefix("error: ")).unwrap_or("it did not start");
            Err(CommandError::new(Kind::Failed, format!("{}: {line}", contender.title())))
        };
        if let Ok(cell) = self.engine.find(&name) {
            super::rm::force(&self.engine, cell)?;
        }
        sample
    }

    /// How long it took until somebody inside answered.
    fn wait_for_answer(&self, contender: &Contender, name: &str, port: u16, begun: Instant) -> Result<Duration> {
        const PAUSE: Duration = Duration::from_millis(1);
        loop {
            if answers(port) {
                return Ok(begun.elapsed());
            }
            let runs = self.engine.find(name).is_ok_and(|it| it.record.state.is_live());
            if !runs || begun.elapsed() > PATIENCE {
                let what = if runs { "does not answer" } else { "ended" };
                let error = CommandError::new(Kind::Failed, format!("{}: the program {what}", contender.title()));
                return Err(error.hinted("name the port that it listens on with --port"));
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn measure(&self, name: &str, started: Duration, answered: Option<Duration>) -> Result<Sample> {
        std::thread::sleep(self.settle);
        let cell = self.engine.find(name)?;
        let (ran, stats) = match &cell.record.state {
            State::Exited { report } => (Some(Duration::from_millis(report.ran.as_millis())), None),
            _ => (None, self.engine.stats(&cell).ok()),
        };
        let cpu = stats.as_ref().and_then(|it| it.cpu_ns).map(Duration::from_nanos);
        Ok(Sample { started, answered, ran, memory: stats.and_then(|it| it.memory), cpu })
    }
}

/// Whether somebody answers there. Ports are published before the program listens on them: a connection that ends without
/// a word is nobody's.
fn answers(port: u16) -> bool {
    const LONGEST: Duration = Duration::from_millis(500);
    let ask = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(LONGEST)).ok()?;
        // What web servers understand, and others complain of.
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
        stream.read(&mut [0; 64]).ok().filter(|length| *length > 0)
    };
    ask().is_some()
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

impl Contender {
    fn title(&self) -> String {
        format!("as {} ({})", self.boundary, self.engine)
    }

    fn median<T: Ord + Copy>(&self, of: impl Fn(&Sample) -> Option<T>) -> Option<T> {
        let mut all: Vec<T> = self.samples.iter().filter_map(of).collect();
        all.sort_unstable();
        all.get(all.len() / 2).copied()
    }
}

fn milliseconds(it: Option<Duration>) -> Option<f64> {
    it.map(|it| it.as_secs_f64() * 1e3)
}

fn print_json(it: &Contender) -> Result<()> {
    #[derive(serde::Serialize)]
    struct Row<'a> {
        boundary: Boundary,
        engine: &'a str,
        rounds: usize,
        started_ms: Option<f64>,
        answered_ms: Option<f64>,
        ran_ms: Option<f64>,
        memory: Option<ByteSize>,
        cpu_ms: Option<f64>,
    }
    output::json(&Row {
        boundary: it.boundary,
        engine: it.engine,
        rounds: it.samples.len(),
        started_ms: milliseconds(it.median(|it| Some(it.started))),
        answered_ms: milliseconds(it.median(|it| it.answered)),
        ran_ms: milliseconds(it.median(|it| it.ran)),
        memory: it.median(|it| it.memory),
        cpu_ms: milliseconds(it.median(|it| it.cpu)),
    })
}

fn print_table(contenders: &[Contender]) -> Result<()> {
    let mut table = Table::new([
        ("BOUNDARY", Align::Left),
        ("ENGINE", Align::Left),
        ("STARTED", Align::Right),
        ("ANSWERED", Align::Right),
        ("RAN", Align::Right),
        ("MEMORY", Align::Right),
        ("PROCESSOR", Align::Right),
    ]);
    let time = |it: Option<Duration>| milliseconds(it).map_or("-".to_owned(), |it| format!("{it:.1} ms"));
    for it in contenders {
        table.row([
            it.boundary.to_string(),
            it.engine.to_owned(),
            time(it.median(|it| Some(it.started))),
            time(it.median(|it| it.answered)),
            time(it.median(|it| it.ran)),
            it.median(|it| it.memory).map_or("-".to_owned(), |it| it.to_string()),
            time(it.median(|it| it.cpu)),
        ]);
    }
    table.print()
}
