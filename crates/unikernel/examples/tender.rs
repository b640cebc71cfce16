//! Runs a program of this machine as a guest, without a cell around it: for looking into the library operating system.

#![expect(clippy::print_stderr, clippy::expect_used, reason = "a tool for looking into a guest")]

use std::os::fd::AsFd;

fn main() -> std::process::ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.is_empty() {
        arguments.push("/bin/true".to_owned());
    }
    let copy = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().expect("a standard stream is open");
    let guest = unikernel::Guest {
        command: unikernel::Command {
            path: arguments[0].clone().into(),
            arguments,
            environment: std::env::vars().map(|(name, value)| format!("{name}={value}")).collect(),
            directory: std::env::current_dir().expect("there is a working directory"),
            user: 0,
            group: 0,
            groups: Vec::new(),
        },
        snapshot: None,
        seal: None,
        visibility: unikernel::Visibility::Root,
        stack: if std::env::var_os("SKEP_STACK").is_some() {
            unikernel::Stack::Guest(None)
        } else {
            unikernel::Stack::Host
        },
        ipc: unikernel::Ipc::Private,
        patched: std::env::var_os("SKEP_PATCHED").map_or_else(Vec::new, |dir| {
            let root = std::fs::File::open("/").expect("there is a root");
            unikernel::Cache::at(dir).of_root(root.as_fd(), &[], "this machine", unikernel::View::FromInside)
        }),
        control: None,
        streams: [copy(std::io::stdin().as_fd()), copy(std::io::stdout().as_fd()), copy(std::io::stderr().as_fd())],
        open_files: 1024,
        engine: match std::env::var("SKEP_ENGINE").as_deref() {
            Ok("kvm") => {
                let kvm = unikernel::open_kvm().expect("there is /dev/kvm");
                unikernel::Engine::Kvm(unikernel::Machines::begin(kvm, unikernel::Beginning::Program))
            }
            _ => unikernel::Engine::Process,
        },
    };
    match unikernel::run(guest) {
        Ok(outcome) => {
            if std::env::var_os("SKEP_TRAPS").is_some() {
                eprintln!("traps: {}", outcome.traps);
            }
            if !outcome.unknown.is_empty() {
                eprintln!("not implemented: {:?}", outcome.unknown);
            }
            std::process::ExitCode::from(if outcome.status & 0x7f == 0 {
                (outcome.status >> 8) as u8
            } else {
                128 + (outcome.status & 0x7f) as u8
            })
        }
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}
