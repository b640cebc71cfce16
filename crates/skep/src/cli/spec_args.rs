//! The arguments that `run` and `create` share: everything that a cell can be told.

use std::collections::BTreeMap;
use std::path::PathBuf;

use engine::CellRequest;
use model::{
    Arch, Boundary, ByteSize, Capability, CellName, CellSpec, Cpus, DiskSpec, FirstProgram, ImageRecord, ImageRef,
    Init, IoLimit, Ipc, Lifetime, Limits, LogPolicy, MachineSpec, Mount, MountAccess, MountKind, NetMode, NetStack,
    Network, NewPrivileges, PortMapping, RestartPolicy, RootAccess, Seccomp, Security, Source, Span, Stdin, StopPolicy,
    Terminal, UserNamespace, UserSpec, Watch, Weight,
};

use crate::cli::select::{self, Pull};
use crate::error::{CommandError, Kind, Result};
use crate::output::Reporter;

mod system;

/// Where kernels are looked for that the machine's own sources do not have.
const NEWEST_SUITE: &str = "stable";

#[derive(Debug, clap::Args)]
pub(super) struct SpecArgs {
    /// Call the cell NAME
    #[arg(long, value_name = "NAME")]
    name: Option<CellName>,
    /// What separates the cell from the rest: container, unikernel or machine
    #[arg(long = "as", value_name = "BOUNDARY")]
    boundary: Option<Boundary>,
    /// The kernel of a machine, a file [default: the distribution's]
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Give a machine a disk, by its name qcow2 or raw; without an image, start the system that is on it
    #[arg(long, value_name = "[raw:|qcow2:]FILE[:ro]")]
    disk: Vec<DiskSpec>,
    /// Have cloud-init on the disk find this: its user-data, or a directory with user-data, meta-data and so on
    #[arg(long, value_name = "FILE|DIR")]
    cloud_init: Option<PathBuf>,
    /// Connect programs of the host with AF_VSOCK of a machine: the machine's ports by this socket, the host's by PATH_PORT
    #[arg(long, value_name = "PATH")]
    vsock: Option<PathBuf>,
    /// Take the image for this processor
    #[arg(long, value_name = "ARCH")]
    arch: Option<Arch>,
    /// When to get the image: always, missing or never
    #[arg(long, value_name = "WHEN", default_value = "missing", hide_default_value = true)]
    pull: Pull,
    /// Leave Debian's security updates out of a deb: image
    #[arg(long)]
    no_security: bool,
    /// Run the packages' own configuration scripts when a deb: image is built
    #[arg(long)]
    configure: bool,
    /// Remove the cell when its program ends
    #[arg(long)]
    pub(super) rm: bool,
    /// Keep standard input open
    #[arg(short, long)]
    pub(super) interactive: bool,
    /// Give the program a terminal
    #[arg(short, long)]
    pub(super) tty: bool,
    /// Set an environment variable; NAME alone takes the value it has here
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Start in this directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<PathBuf>,
    /// Run as this user
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<UserSpec>,
    /// Run this instead of the image's entry point
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// The cell's host name [default: its name]
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// The most memory it may hold, like 64m
    #[arg(short, long, value_name = "SIZE", value_parser = select::memory_limit)]
    memory: Option<ByteSize>,
    /// The most processor time, like 0.5 or 2; a machine has as many processors
    #[arg(long, value_name = "COUNT")]
    cpus: Option<Cpus>,
    /// Its share of contended processors, 1 to 10000 [default: 100]
    #[arg(long, value_name = "WEIGHT")]
    cpu_weight: Option<Weight>,
    /// The most processes and threads
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pids_limit: Option<u32>,
    /// The rate of a block device, like /dev/vda:wbps=10m
    #[arg(long, value_name = "RATE")]
    io: Vec<IoLimit>,
    /// Lead a port of the host into the cell, like 8080:80
    #[arg(short, long, value_name = "[ADDR:][HOST:]CELL[/udp]")]
    publish: Vec<PortMapping>,
    /// What it is connected to: default, none, host, or a network's name
    #[arg(long, visible_alias = "network", value_name = "NET", default_value = "default", hide_default_value = true)]
    net: NetMode,
    /// Whose network stack its sockets are of: host, or guest, a unikernel's own
    #[arg(long, value_name = "WHOSE", default_value = "host", hide_default_value = true)]
    net_stack: NetStack,
    /// Whose messages and shared memory it sees: private, shareable, or cell:NAME to join a cell's
    #[arg(long, value_name = "WHOSE", default_value = "private", hide_default_value = true)]
    ipc: Ipc,
    /// Mount a file or directory of the host
    #[arg(short, long, value_name = "HOST:CELL[:ro]")]
    volume: Vec<Mount>,
    /// Mount memory there, optionally of a size: /run:16m
    #[arg(long, value_name = "PATH[:SIZE]")]
    tmpfs: Vec<String>,
    /// Make the root file system read-only
    #[arg(long)]
    read_only: bool,
    /// Add a capability, or ALL
    #[arg(long, value_name = "CAP")]
    cap_add: Vec<String>,
    /// Drop a capability, or ALL
    #[arg(long, value_name = "CAP")]
    cap_drop: Vec<String>,
    /// Give it every capability and no system call filter
    #[arg(long)]
    privileged: bool,
    /// The system call filter: default, strict or unconfined
    #[arg(long, value_name = "PROFILE")]
    seccomp: Option<Seccomp>,
    /// Let set-user-id programs raise privileges
    #[arg(long)]
    allow_new_privileges: bool,
    /// The user namespace: host or auto
    #[arg(long, value_name = "HOW", default_value = "host", hide_default_value = true)]
    userns: UserNamespace,
    /// Make the program process 1 instead of skep's small init
    #[arg(long)]
    no_init: bool,
    /// When to start it again: no, on-failure[:MAX] or always
    #[arg(long, value_name = "POLICY", default_value = "no", hide_default_value = true)]
    restart: RestartPolicy,
    /// The signal that asks it to end [default: the image's, or TERM]
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// How long to wait for that [default: 10s]
    #[arg(long, value_name = "TIME")]
    stop_timeout: Option<Span>,
    /// Put back files of a slim image's original when a program looks for them
    #[arg(long)]
    restore_misses: bool,
    /// Do not note which files of a slim image's original programs look for
    #[arg(long, conflicts_with = "restore_misses")]
    ignore_misses: bool,
    /// Annotate the cell
    #[arg(short, long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Begin a new log file at this size [default: 10m]
    #[arg(long, value_name = "SIZE")]
    log_size: Option<ByteSize>,
    /// Keep that many log files [default: 3]
    #[arg(long, value_name = "COUNT")]
    log_files: Option<u32>,
    /// Print the specification that this would make, and make nothing
    #[arg(long)]
    pub(super) explain: bool,
    /// The image: deb:PKG, host:/PATH, oci:DIR, docker://HOST/REPO, or one of the pool
    #[arg(value_name = "IMAGE", required_unless_present = "disk")]
    image: Option<ImageRef>,
    /// The command and its arguments [default: the image's]
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl SpecArgs {
    /// Gets the image and makes the specification.
    pub(super) fn specify(self, engine: &engine::Engine) -> Result<CellSpec> {
        let wanted = select::Wanted {
            arch: self.arch,
            pull: self.pull,
            security: if self.no_security { image::SecurityUpdates::LeaveOut } else { image::SecurityUpdates::Include },
            scripts: if self.configure { select::Scripts::Run } else { select::Scripts::Skip },
        };
        let Some(image) = &self.image else { return self.specify_system(engine) };
        if self.cloud_init.is_some() {
            return Err(CommandError::usage("--cloud-init is for the system of a disk")
                .hinted("leave out the image to start what is on the disk"));
        }
        let found = select::image(engine, image, &wanted)?;
        let name = image.to_string();
        if found.record.config.labels.contains_key(image::APPLIANCE_LABEL) {
            let other = self.boundary.is_some_and(|it| it != Boundary::Unikernel);
            if other || !self.command.is_empty() {
                let what = if other { "the boundary" } else { "the command" };
                return Err(CommandError::usage(format!("{name} is an appliance: it goes on as it was made"))
                    .hinted(format!("leave out {what}: 'skep run {name}'")));
            }
        }
        if found.record.config.labels.contains_key(image::APPLIANCE_LABEL) && self.net_stack == NetStack::Guest {
            let what = format!("{name} is an appliance: it goes on as it was made, with the host's network stack");
            return Err(CommandError::usage(what).hinted("leave out --net-stack guest"));
        }
        if found.record.config.labels.contains_key(image::APPLIANCE_LABEL) && !self.ipc.is_private() {
            let what = format!("{name} is an appliance: it goes on as it was made, and shares no memory with others");
            return Err(CommandError::usage(what).hinted("leave out --ipc"));
        }
        self.check_restoring(&name, &found.record)?;
        let stop_signal =
            self.stop_signal.clone().or(Some(found.record.config.stop_signal.clone()).filter(|it| !it.is_empty()));
        let (boundary, machine) = self.choose_boundary(engine, &found.record)?;
        let request = CellRequest { machine, ..self.request(stop_signal.as_deref(), boundary)? };
        let image = engine::NamedImage { name: &name, id: found.id, record: &found.record };
        engine::specify(request, image, engine.fresh_id()?, engine::now()).map_err(|engine::NoCommand| {
            CommandError::usage(format!("{name} has no default command"))
                .hinted(format!("give one: 'skep run {name} -- COMMAND'"))
        })
    }

    /// Restoring needs something that was removed, and the right to write into the cell.
    fn check_restoring(&self, name: &str, record: &ImageRecord) -> Result<()> {
        if !self.restore_misses {
            return Ok(());
        }
        if record.slim.is_none() {
            return Err(CommandError::usage(format!("{name} is no slim image: nothing of it can be missed"))
                .hinted("leave out --restore-misses"));
        }
        let refused =
            |what: &str| Err(CommandError::new(Kind::Unsupported, format!("--restore-misses does not go {what}")));
        if self.userns != UserNamespace::Host {
            return refused("with --userns auto");
        }
        if self.seccomp == Some(Seccomp::Strict) {
            return refused("with --seccomp strict");
        }
        if self.read_only {
            return refused("with --read-only: there is nowhere to put a file");
        }
        if rustix::process::geteuid().is_root() { Ok(()) } else { refused("without root") }
    }

    /// What separates the cell from the rest: an image for another processor needs a machine that has one.
    fn choose_boundary(
        &self,
        engine: &engine::Engine,
        record: &ImageRecord,
    ) -> Result<(Boundary, Option<MachineSpec>)> {
        let arch = record.arch;
        let has_machines = engine::machine_processor(arch).is_some() && arch != Arch::HOST;
        let boundary = match self.boundary {
            None if has_machines => Boundary::Machine,
            None => Boundary::Container,
            Some(Boundary::Machine) if arch == Arch::HOST => {
                engine::native_machines()?;
                Boundary::Machine
            }
            Some(Boundary::Machine) if !has_machines => {
                return Err(CommandError::new(Kind::Unsupported, format!("there are no machines for {arch}"))
                    .hinted("there are some for arm64 and riscv64"));
            }
            Some(boundary) => boundary,
        };
        if boundary != Boundary::Machine {
            if !self.disk.is_empty() {
                let error = CommandError::usage(format!("a {boundary} has no disks"));
                return Err(error.hinted("--disk goes with --as machine; -v mounts a directory"));
            }
            if self.vsock.is_some() {
                let error = CommandError::usage(format!("a {boundary} has no sockets of machines"));
                return Err(error.hinted("--vsock goes with --as machine; -v mounts a directory with sockets"));
            }
            if self.kernel.is_some() {
                let error = CommandError::usage(format!("a {boundary} has no kernel of its own"));
                return Err(error.hinted("--kernel goes with --as machine"));
            }
            return Ok((boundary, None));
        }
        if self.net == NetMode::Host {
            return Err(CommandError::usage("a machine has a kernel of its own, and so a network of its own")
                .hinted("leave out --net host; -p leads ports of the host into it"));
        }
        Ok((boundary, Some(self.machine(engine, record, FirstProgram::Images)?)))
    }

    /// What the machine starts with.
    fn machine(&self, engine: &engine::Engine, record: &ImageRecord, first: FirstProgram) -> Result<MachineSpec> {
        let files = self.kernel(engine, record)?;
        let kernel = match &self.kernel {
            Some(file) => std::path::absolute(file)?,
            None => files.image,
        };
        let mut modules = if self.disk.is_empty() { files.modules } else { files.modules_with_disks };
        if self.vsock.is_some() {
            let further = files.modules_of_sockets.into_iter().filter(|it| !modules.contains(it));
            modules.extend(further.collect::<Vec<_>>());
        }
        Ok(MachineSpec {
            kernel,
            modules,
            disks: self.disk.iter().map(system::disk).collect::<Result<_>>()?,
            first,
            cloud_init: self.cloud_init.as_deref().map(std::path::absolute).transpose()?,
            vsock: self.vsock.as_deref().map(std::path::absolute).transpose()?,
        })
    }

    /// The distribution's kernel for an image: that of its own suite, if it names one.
    fn kernel(&self, engine: &engine::Engine, record: &ImageRecord) -> Result<image::deb::KernelFiles> {
        let suite = match record.source.parse() {
            Ok(Source::Deb(source)) => source.suite,
            _ => None,
        };
        let options = image::FetchOptions::new(engine.home().cache());
        let kernel = |suite: Option<&str>| image::deb::kernel(suite, record.arch, &options, &Reporter::new());
        match kernel(suite.as_deref()) {
            // The machine's own sources need not have that processor.
            Err(image::Error::NoSuchPackage { .. }) if suite.is_none() => kernel(Some(NEWEST_SUITE)),
            outcome => outcome,
        }
        .map_err(|error| {
            CommandError::from(error).hinted("a machine needs a kernel, which is fetched once; --kernel gives another")
        })
    }

    fn request(self, stop_signal: Option<&str>, boundary: Boundary) -> Result<CellRequest> {
        if let (Some(port), NetMode::None | NetMode::Host) = (self.publish.first(), &self.net) {
            let error = CommandError::usage(format!("port {port} cannot be published with --net {}", self.net));
            return Err(error.hinted(match self.net {
                NetMode::Host => "leave out -p: the cell's ports are the host's own",
                _ => "leave out --net none: the cell must be on a network to be reached",
            }));
        }
        self.check_stack(boundary)?;
        let mut stop = StopPolicy::default();
        if let Some(signal) = stop_signal {
            stop.signal = select::signal(signal)?;
        }
        stop.timeout = self.stop_timeout.unwrap_or(stop.timeout);
        let mut log = LogPolicy::default();
        log.max_size = self.log_size.unwrap_or(log.max_size);
        log.max_files = self.log_files.unwrap_or(log.max_files);
        let mut mounts = self.volume.clone();
        for text in &self.tmpfs {
            mounts.push(parse_tmpfs(text)?);
        }
        let mut labels = BTreeMap::new();
        for text in &self.label {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            labels.insert(key.to_owned(), value.to_owned());
        }
        Ok(CellRequest {
            security: self.security()?,
            name: self.name,
            boundary,
            command: self.command,
            entrypoint: self.entrypoint,
            env: select::environment(&self.env)?,
            cwd: self.workdir,
            user: self.user,
            terminal: if self.tty { Terminal::Pty } else { Terminal::None },
            stdin: if self.interactive { Stdin::Open } else { Stdin::Closed },
            hostname: self.hostname,
            limits: Limits {
                memory: self.memory,
                cpus: self.cpus,
                cpu_weight: self.cpu_weight,
                pids: self.pids_limit,
                io: self.io,
            },
            network: Network { mode: self.net, ports: self.publish, stack: self.net_stack },
            ipc: self.ipc,
            mounts,
            init: if self.no_init { Init::Program } else { Init::Reaper },
            restart: self.restart,
            stop,
            log,
            lifetime: if self.rm { Lifetime::RemoveOnExit } else { Lifetime::Keep },
            watch: match (self.restore_misses, self.ignore_misses) {
                (true, _) => Watch::Misses,
                (_, true) => Watch::Nothing,
                _ => Watch::MissesNoted,
            },
            labels,
            machine: None,
        })
    }

    /// A stack of its own takes a boundary that has one, and a link to be its.
    fn check_stack(&self, boundary: Boundary) -> Result<()> {
        if self.net_stack == NetStack::Host {
            return Ok(());
        }
        if boundary != Boundary::Unikernel {
            let error = CommandError::new(Kind::Unsupported, format!("a {boundary} has no network stack of its own"));
            return Err(error.hinted("--net-stack guest goes with --as unikernel"));
        }
        if self.net == NetMode::Host {
            let error =
                CommandError::usage("--net-stack guest does not go with --net host: there is no link for it alone");
            return Err(error.hinted("leave out --net host"));
        }
        Ok(())
    }

    fn security(&self) -> Result<Security> {
        let mut security = if self.privileged { Security::privileged() } else { Security::default() };
        for name in &self.cap_drop {
            match name.to_ascii_uppercase().as_str() {
                "ALL" => security.capabilities.clear(),
                _ => drop(security.capabilities.remove(&name.parse::<Capability>()?)),
            }
        }
        for name in &self.cap_add {
            match name.to_ascii_uppercase().as_str() {
                "ALL" => security.capabilities.extend(Capability::ALL),
                _ => drop(security.capabilities.insert(name.parse()?)),
            }
        }
        security.seccomp = self.seccomp.unwrap_or(security.seccomp);
        if self.allow_new_privileges {
            security.new_privileges = NewPrivileges::Allowed;
        }
        if self.read_only {
            security.root = RootAccess::ReadOnly;
        }
        security.user_namespace = self.userns;
        Ok(security)
    }
}

fn parse_tmpfs(text: &str) -> Result<Mount> {
    let (path, size) = match text.split_once(':') {
        Some((path, size)) => (path, Some(size.strip_prefix("size=").unwrap_or(size).parse()?)),
        None => (text, None),
    };
    if !path.starts_with('/') {
        return Err(CommandError::usage(format!("'{text}' is not an absolute path")).hinted("like --tmpfs /run:16m"));
    }
    Ok(Mount { kind: MountKind::Tmpfs(size), target: path.into(), access: MountAccess::ReadWrite })
}
