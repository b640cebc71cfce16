//! From what was typed and what the image says to a specification: a pure function.

use std::collections::BTreeMap;
use std::path::PathBuf;

use model::{
    Boundary, CellId, CellImage, CellName, CellSpec, ImageRecord, Init, Ipc, Lifetime, Limits, LogPolicy, MachineSpec,
    Mount, NetMode, Network, ObjectId, Process, RestartPolicy, Seccomp, Security, Stdin, StopPolicy, Terminal,
    Timestamp, UserSpec, Watch,
};

/// What a command asks for. What it leaves out comes from the image.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each field is the one of `CellSpec` or `Process` by that name")]
pub struct CellRequest {
    pub name: Option<CellName>,
    pub boundary: Boundary,
    /// The arguments after the image's name; they replace the image's default arguments.
    pub command: Vec<String>,
    /// Replaces the image's entry point, and its default arguments with it.
    pub entrypoint: Option<String>,
    pub env: Vec<String>,
    pub cwd: Option<PathBuf>,
    pub user: Option<UserSpec>,
    pub terminal: Terminal,
    pub stdin: Stdin,
    pub hostname: Option<String>,
    pub limits: Limits,
    pub network: Network,
    pub ipc: Ipc,
    pub mounts: Vec<Mount>,
    pub security: Security,
    pub init: Init,
    pub restart: RestartPolicy,
    pub stop: StopPolicy,
    pub log: LogPolicy,
    pub lifetime: Lifetime,
    pub watch: Watch,
    pub labels: BTreeMap<String, String>,
    pub machine: Option<MachineSpec>,
}

/// What is watched. That misses are to be noted is said of every cell and holds where there can be any. It takes a filter of
/// the cell's calls that asks the supervisor: where the profile asks it already, or there is to be no filter, they are not.
fn watched(request: &CellRequest, record: &ImageRecord) -> Watch {
    let can_miss = record.slim.is_some() && request.boundary == Boundary::Container;
    match request.watch {
        Watch::MissesNoted if !can_miss || request.security.seccomp != Seccomp::Default => Watch::Nothing,
        other => other,
    }
}

impl CellRequest {
    /// A container without a network that runs that command, and everything else as it comes.
    pub fn of_command(command: &[&str]) -> Self {
        Self {
            name: None,
            boundary: Boundary::Container,
            command: command.iter().map(|it| (*it).to_owned()).collect(),
            entrypoint: None,
            env: Vec::new(),
            cwd: None,
            user: None,
            terminal: Terminal::None,
            stdin: Stdin::Closed,
            hostname: None,
            limits: Limits::default(),
            network: Network { mode: NetMode::None, ..Network::default() },
            ipc: Ipc::Private,
            mounts: Vec::new(),
            security: Security::default(),
            init: Init::Reaper,
            restart: RestartPolicy::No,
            stop: StopPolicy::default(),
            log: LogPolicy::default(),
            lifetime: Lifetime::Keep,
            watch: Watch::Nothing,
            labels: BTreeMap::new(),
            machine: None,
        }
    }
}

/// An image that a cell can be made of.
#[derive(Clone, Copy, Debug)]
pub struct NamedImage<'a> {
    /// The name it was asked for by.
    pub name: &'a str,
    /// Its id.
    pub id: ObjectId,
    /// What it is.
    pub record: &'a ImageRecord,
}

/// The image has no default command and none was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoCommand;

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The specification of a new cell.
pub fn specify(request: CellRequest, image: NamedImage<'_>, id: CellId, now: Timestamp) -> Result<CellSpec, NoCommand> {
    let config = &image.record.config;
    let argv = command_line(&request, image.record)?;
    let watch = watched(&request, image.record);
    let name = request.name.unwrap_or_else(|| CellName::generated(id));
    let user = match request.user {
        Some(user) => user,
        // A user that the image spells in no known way is looked up as it stands, and not found, when the cell starts.
        None => config.user.parse().unwrap_or_default(),
    };
    let mut env = vec![DEFAULT_PATH.to_owned()];
    if request.terminal == Terminal::Pty {
        env.push("TERM=xterm".to_owned());
    }
    merge_env(&mut env, config.env.iter().chain(&request.env));
    let cwd = request.cwd.unwrap_or_else(|| PathBuf::from(&config.workdir));
    let process = Process {
        argv,
        env,
        cwd: if cwd.is_absolute() { cwd } else { PathBuf::from("/").join(cwd) },
        user,
        terminal: request.terminal,
        stdin: request.stdin,
    };
    let labels = config.labels.iter().map(|(k, v)| (k.clone(), v.clone())).chain(request.labels).collect();
    Ok(CellSpec {
        id,
        hostname: request.hostname.unwrap_or_else(|| name.as_str().to_owned()),
        name,
        image: CellImage {
            name: image.name.to_owned(),
            id: image.id,
            tree: image.record.tree,
            arch: image.record.arch,
        },
        // An appliance is one program in its machine, whatever else it could be run as.
        boundary: if config.labels.contains_key(image::APPLIANCE_LABEL) {
            Boundary::Unikernel
        } else {
            request.boundary
        },
        process,
        limits: request.limits,
        network: request.network,
        ipc: request.ipc,
        mounts: request.mounts,
        security: request.security,
        init: request.init,
        restart: request.restart,
        stop: request.stop,
        log: request.log,
        lifetime: request.lifetime,
        watch,
        machine: request.machine,
        labels,
        created: now,
    })
}

/// Entry point and arguments, by the rules that docker has: an entry point given on the command line drops the image's
/// arguments; arguments given replace them.
fn command_line(request: &CellRequest, image: &ImageRecord) -> Result<Vec<String>, NoCommand> {
    let entrypoint = match &request.entrypoint {
        Some(entrypoint) => std::slice::from_ref(entrypoint),
        None => &image.config.entrypoint,
    };
    let arguments = if !request.command.is_empty() {
        &request.command
    } else if request.entrypoint.is_some() {
        &Vec::new()
    } else {
        &image.config.command
    };
    let argv: Vec<_> = entrypoint.iter().chain(arguments).cloned().collect();
    if argv.is_empty() { Err(NoCommand) } else { Ok(argv) }
}

/// Adds `NAME=value` pairs; a later one takes the place of an earlier one of the same name.
fn merge_env<'a>(env: &mut Vec<String>, more: impl Iterator<Item = &'a String>) {
    let name = |pair: &str| pair.split_once('=').map_or(pair, |(name, _)| name).to_owned();
    for pair in more {
        match env.iter_mut().find(|it| name(it) == name(pair)) {
            Some(earlier) => earlier.clone_from(pair),
            None => env.push(pair.clone()),
        }
    }
}

/// The process of an `exec`: the cell's own surroundings with another command.
pub fn companion(spec: &CellSpec, request: ExecRequest) -> Process {
    let mut env = spec.process.env.clone();
    if request.terminal == Terminal::Pty {
        merge_env(&mut env, std::iter::once(&"TERM=xterm".to_owned()));
    }
    merge_env(&mut env, request.env.iter());
    Process {
        argv: request.argv,
        env,
        cwd: request.cwd.unwrap_or_else(|| spec.process.cwd.clone()),
        user: request.user.unwrap_or_else(|| spec.process.user.clone()),
        terminal: request.terminal,
        stdin: request.stdin,
    }
}

/// What `exec` asks for.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each field is the one of `Process` by that name")]
pub struct ExecRequest {
    pub argv: Vec<String>,
    pub env: Vec<String>,
    pub cwd: Option<PathBuf>,
    pub user: Option<UserSpec>,
    pub terminal: Terminal,
    pub stdin: Stdin,
}

#[cfg(test)]
mod tests {
    use model::{Arch, ByteSize, ImageConfig, Sha256};

    use super::*;

    fn image(entrypoint: &[&str], command: &[&str]) -> ImageRecord {
        let own = |words: &[&str]| words.iter().map(|it| (*it).to_owned()).collect();
        ImageRecord {
            tree: ObjectId::from_bytes([1; 32]),
            arch: Arch::Amd64,
            config: ImageConfig {
                entrypoint: own(entrypoint),
                command: own(command),
                env: vec!["A=1".into(), "PATH=/x".into()],
                workdir: "srv".into(),
                user: "www-data".into(),
                ..ImageConfig::default()
            },
            oci_config: ObjectId::from_bytes([2; 32]),
            oci_id: Sha256::from_bytes([3; 32]),
            layers: Vec::new(),
            source: "deb:x".into(),
            inputs: Vec::new(),
            created: Timestamp::default(),
            size: ByteSize::bytes(0),
            slim: None,
        }
    }

    fn request() -> CellRequest {
        CellRequest { env: vec!["A=2".into()], ..CellRequest::of_command(&[]) }
    }

    fn specified(request: CellRequest, record: &ImageRecord) -> Result<CellSpec, NoCommand> {
        let image = NamedImage { name: "deb:x", id: ObjectId::from_bytes([9; 32]), record };
        specify(request, image, CellId::from_random(7), Timestamp::default())
    }

    #[test]
    fn commands_follow_dockers_rules() {
        let check = |entrypoint: Option<&str>, command: &[&str], expected: &[&str]| {
            let mut request = request();
            request.entrypoint = entrypoint.map(str::to_owned);
            request.command = command.iter().map(|it| (*it).to_owned()).collect();
            assert_eq!(specified(request, &image(&["e"], &["c"])).unwrap().process.argv, expected);
        };
        check(None, &[], &["e", "c"]);
        check(None, &["x"], &["e", "x"]);
        check(Some("f"), &[], &["f"]);
        check(Some("f"), &["x"], &["f", "x"]);
        assert_eq!(specified(request(), &image(&[], &[])).err(), Some(NoCommand));
    }

    #[test]
    fn surroundings_come_from_the_image_unless_given() {
        let spec = specified(request(), &image(&["e"], &[])).unwrap();
        assert_eq!(spec.process.env, ["PATH=/x", "A=2"]);
        assert_eq!(spec.process.cwd, PathBuf::from("/srv"));
        assert_eq!(spec.process.user.user(), "www-data");
        assert_eq!(spec.hostname, spec.name.as_str());
    }
}
