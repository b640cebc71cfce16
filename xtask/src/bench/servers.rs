//! Servers under load: the same binary as a guest, by either engine, as a process of the host, and in a container of runc.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::guest::{self, Way};
use super::runc::{self, Bundle};
use super::sample::median;
use super::unikernel::Running;
use super::{Bound, Row};
use crate::debian::{self, Tool};
use crate::{Result, output_of};

/// What is served and asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    Redis,
    Nginx,
}

const REDIS: &[Tool] = &[
    Tool { program: "redis-server", package: "redis-server" },
    Tool { program: "redis-benchmark", package: "redis-tools" },
];
const NGINX: &[Tool] = &[Tool { program: "nginx", package: "nginx-light" }, Tool { program: "wrk", package: "wrk" }];

impl Load {
    fn tools(self) -> &'static [Tool] {
        match self {
            Self::Redis => REDIS,
            Self::Nginx => NGINX,
        }
    }

    /// What is measured, and how many requests of it a round has.
    fn questions(self) -> &'static [&'static str] {
        match self {
            Self::Redis => &["redis SET", "redis GET", "redis SET, 16 at once", "redis GET, 16 at once"],
            Self::Nginx => &["nginx, 612 bytes"],
        }
    }

    fn program(self) -> &'static Path {
        match self {
            Self::Redis => Path::new("/usr/bin/redis-server"),
            Self::Nginx => Path::new("/usr/sbin/nginx"),
        }
    }

    fn arguments(self, name: &str, dir: &Path, port: u16) -> Result<Vec<String>> {
        let text = |words: &[&str]| words.iter().map(|it| (*it).to_owned()).collect();
        Ok(match self {
            Self::Redis => text(&["--port", &port.to_string(), "--save", "", "--appendonly", "no"]),
            Self::Nginx => {
                let config = nginx_config(dir, name, port)?;
                text(&["-p", &dir.to_string_lossy(), "-c", &config.to_string_lossy()])
            }
        })
    }

    fn serve(self, peer: Peer, dir: &Path) -> Result<Server> {
        let port = free_port()?;
        let arguments = self.arguments(peer.name(), dir, port)?;
        let (mut command, bundle) = match peer {
            Peer::Way(way) => {
                let mut command = way.command(self.program());
                command.args(arguments);
                (command, None)
            }
            Peer::Runc => {
                let bundle = runc::with_the_hosts_files(dir, self.program(), &arguments)?;
                (bundle.command(), Some(bundle))
            }
        };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir(dir);
        let running = Running(command.spawn().map_err(|e| e.to_string())?);
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if begun.elapsed() > Duration::from_secs(10) {
                return Err(format!("{} did not answer ({})", self.program().display(), peer.name()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Server { peer, port, _running: running, _bundle: bundle })
    }

    /// Requests a second.
    fn ask(self, question: usize, port: u16) -> Result<f64> {
        let port = port.to_string();
        let text = match self {
            Self::Redis => {
                let operation = if question.is_multiple_of(2) { "set" } else { "get" };
                let (count, at_once) = if question < 2 { ("4000", "1") } else { ("60000", "16") };
                let words = ["-p", &port, "-t", operation, "-n", count, "-P", at_once, "--csv"];
                output_of(Command::new("redis-benchmark").args(words))?
            }
            Self::Nginx => {
                let url = format!("http://127.0.0.1:{port}/index.html");
                output_of(Command::new("wrk").args(["-t1", "-c16", "-d1s", &url]))?
            }
        };
        let number = match self {
            Self::Redis => text.lines().last().and_then(|it| it.split(',').nth(1)?.trim_matches('"').parse().ok()),
            Self::Nginx => text.lines().find_map(|it| it.trim().strip_prefix("Requests/sec:")?.trim().parse().ok()),
        };
        number.ok_or_else(|| format!("no rate in: {text}"))
    }
}

/// Who runs a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Way(Way),
    Runc,
}

impl Peer {
    fn name(self) -> &'static str {
        match self {
            Self::Way(Way::Host) => "host process",
            Self::Way(way) => way.name(),
            Self::Runc => "runc",
        }
    }

    fn is_ours(self) -> bool {
        !matches!(self, Self::Runc | Self::Way(Way::Host))
    }
}

/// A server that runs. The process ends before its container is removed.
struct Server {
    peer: Peer,
    port: u16,
    _running: Running,
    _bundle: Option<Bundle>,
}

fn nginx_config(dir: &Path, name: &str, port: u16) -> Result<std::path::PathBuf> {
    let root = dir.join("pages");
    std::fs::create_dir_all(&root).map_err(|e| e.to_string())?;
    std::fs::write(root.join("index.html"), "x".repeat(612)).map_err(|e| e.to_string())?;
    let text = format!(
        "daemon off; master_process off; error_log stderr crit; pid {name}.pid;\n\
         events {{ worker_connections 256; }}\n\
         http {{ access_log off; keepalive_requests 1000000; client_body_temp_path {name}-body;\n\
         proxy_temp_path {name}-proxy; fastcgi_temp_path {name}-fastcgi; uwsgi_temp_path {name}-uwsgi;\n\
         scgi_temp_path {name}-scgi; server {{ listen 127.0.0.1:{port}; root {}; }} }}\n",
        root.display(),
        name = name.replace(' ', "-"),
    );
    let path = dir.join(format!("nginx-{}.conf", name.replace(' ', "-")));
    std::fs::write(&path, text).map_err(|e| e.to_string())?;
    Ok(path)
}

/// A port that nobody listens on.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).and_then(|it| it.local_addr());
    listener.map(|it| it.port()).map_err(|e| e.to_string())
}

pub(super) fn rows(dir: &Path, load: Load, rounds: usize) -> Result<Vec<Row>> {
    let bound = Bound::RatioAtLeast(0.9);
    let named = |question: &str, way: Way| format!("{question} ({})", way.name());
    if let Some((tool, why)) = debian::ensure(load.tools()).first() {
        eprintln!("xtask: {} is missing: {why}", tool.program);
        let row = |question: &str, way| {
            Row::new(&named(question, way), "/s", f64::NAN, Some(("host process", None)), 0, bound)
        };
        return Ok(load.questions().iter().flat_map(|it| guest::ours().into_iter().map(|way| row(it, way))).collect());
    }
    let runc = crate::has_program("runc").then_some(Peer::Runc);
    let peers = guest::ours().into_iter().chain([Way::Host]).map(Peer::Way).chain(runc);
    let servers = peers.map(|peer| load.serve(peer, dir)).collect::<Result<Vec<_>>>()?;
    let mut rates = vec![vec![Vec::new(); servers.len()]; load.questions().len()];
    for round in 0..=rounds {
        for (question, rates) in rates.iter_mut().enumerate() {
            for (server, rates) in servers.iter().zip(rates) {
                let rate = load.ask(question, server.port)?;
                // The first round warms caches.
                if round > 0 {
                    rates.push(rate);
                }
            }
        }
    }
    let mut rows = Vec::new();
    for (question, rates) in load.questions().iter().zip(&rates) {
        let medians: Vec<(Peer, f64)> = servers.iter().zip(rates).map(|(it, rates)| (it.peer, median(rates))).collect();
        for (ours, rate) in medians.iter().filter(|it| it.0.is_ours()) {
            let name = format!("{question} ({})", ours.name());
            for (peer, theirs) in medians.iter().filter(|it| !it.0.is_ours()) {
                rows.push(Row::new(&name, "/s", *rate, Some((peer.name(), Some(*theirs))), rounds, bound));
            }
        }
    }
    Ok(rows)
}
