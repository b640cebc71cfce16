//! `bench debug`, attaching by name to containers of other engines: against the engines' own `exec`.

use std::process::Command;

use skep_tests::engines::{Docker, Podman, Users};

use super::sample::{Contender, interleave, median};
use super::{Bound, Row};
use crate::Result;
use crate::debian::{self, Tool};

const ROUNDS: usize = 25;

/// The same program for all, of a toolbox or of a container.
const PROGRAM: [&str; 2] = ["/bin/busybox", "true"];

const TOOLS: &[Tool] = &[
    Tool { program: "busybox", package: "busybox-static" },
    Tool { program: "conmon", package: "conmon" },
    Tool { program: "docker", package: "docker.io" },
    Tool { program: "dockerd", package: "docker.io" },
    Tool { program: "podman", package: "podman" },
    Tool { program: "runc", package: "runc" },
];

/// Every row there is an engine for. `session` makes the beginning of a command that attaches a toolbox with busybox to
/// a target, up to the program that is to run there.
pub(crate) fn rows(session: &dyn Fn(&str) -> Command) -> Result<Vec<Row>> {
    let missing = debian::ensure(TOOLS);
    let lacks = |tools: &[&str]| missing.iter().any(|(tool, _)| tools.contains(&tool.program));
    for (tool, why) in &missing {
        eprintln!("xtask: the peer {} is missing: {why}", tool.program);
    }
    let mut rows = Vec::new();
    if !lacks(&["busybox", "conmon", "podman", "runc"]) {
        rows.push(podman(session)?);
    }
    if !lacks(&["busybox", "docker", "dockerd", "runc"]) {
        rows.push(docker(session)?);
    }
    Ok(rows)
}

fn podman(session: &dyn Fn(&str) -> Command) -> Result<Row> {
    eprintln!("xtask: preparing a container of podman");
    let podman = Podman::start();
    podman.run("target", &[]);
    let ours = || attach(session("podman:target"), podman.place.top());
    let theirs = || exec(podman.command());
    row("attach by name, podman", "podman exec", &ours, &theirs)
}

fn docker(session: &dyn Fn(&str) -> Command) -> Result<Row> {
    eprintln!("xtask: preparing a container of docker");
    let docker = Docker::start(Users::Hosts);
    docker.run("target", &[]);
    let ours = || attach(session("docker:target"), docker.place.top());
    let theirs = || exec(docker.command());
    row("attach by name, docker", "docker exec", &ours, &theirs)
}

fn attach(mut command: Command, top: &std::path::Path) -> Command {
    command.args(PROGRAM).env("SKEP_ENGINES", top);
    command
}

fn exec(mut command: Command) -> Command {
    command.args(["exec", "target"]).args(PROGRAM);
    command
}

fn row(name: &str, peer: &'static str, ours: &dyn Fn() -> Command, theirs: &dyn Fn() -> Command) -> Result<Row> {
    let contenders = [
        Contender { name: "skep debug", command: Box::new(ours) },
        Contender { name: peer, command: Box::new(theirs) },
    ];
    let times = interleave(&contenders, ROUNDS)?;
    let [ours, theirs] = [0, 1].map(|index| times.get(index).map_or(f64::NAN, |it| median(it)));
    Ok(Row::new(name, "ms", ours, Some((peer, Some(theirs))), ROUNDS, Bound::RatioAtMost(0.2)))
}
