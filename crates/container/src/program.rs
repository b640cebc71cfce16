//! A program about to be executed: everything that the last process before it does to itself, compiled beforehand.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use model::{NewPrivileges, Process, Seccomp, Security, StartStep, Watch};
use sys::Errno;
use sys::capability::{self, CapabilitySet};
use sys::exec::{self, GroupChange, StringArray};
use sys::seccomp::Instruction;

use crate::error::{Error, Result};
use crate::protocol::{Failure, Report, Stage, report};
use crate::seccomp::{self, Refusal};
use crate::users::Identity;

/// What is searched for a command without a slash when the environment has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program and all that it starts with.
pub(crate) struct Program {
    /// The files to try, in order.
    candidates: Vec<CString>,
    arguments: StringArray,
    environment: StringArray,
    identity: Identity,
    group_change: GroupChange,
    capabilities: CapabilitySet,
    new_privileges: NewPrivileges,
    filter: Option<Filter>,
    /// Absolute.
    working_directory: CString,
}

struct Filter {
    instructions: Vec<Instruction>,
    listener: Listener,
}

/// Whether the filter announces calls.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Listener {
    None,
    Told,
}

/// The program's standard streams, as its last parent holds them.
pub(crate) enum Streams {
    /// All three are this terminal, which becomes the controlling one.
    Terminal(OwnedFd),
    /// These.
    Three([OwnedFd; 3]),
}

impl Program {
    /// Compiles `process`, to run as `identity` under `security`.
    pub(crate) fn compile(
        process: &Process,
        security: &Security,
        identity: Identity,
        group_change: GroupChange,
        watch: Watch,
    ) -> Result<Self> {
        let text = |it: &str| {
            CString::new(it).map_err(|_| {
                Error::refused(StartStep::CommandNotExecutable, "compiling the command", "it holds a zero byte")
            })
        };
        let mut environment = process.env.clone();
        let has = |name: &str| process.env.iter().any(|it| it.split_once('=').is_some_and(|(key, _)| key == name));
        if !has("PATH") {
            environment.push(format!("PATH={DEFAULT_PATH}"));
        }
        if !has("HOME") {
            environment.push(format!("HOME={}", identity.home));
        }
        if !has("TERM") && process.terminal == model::Terminal::Pty {
            environment.push("TERM=xterm".to_owned());
        }
        let command = process.argv.first().filter(|it| !it.is_empty()).ok_or_else(|| {
            Error::refused(StartStep::CommandNotFound, "executing the program", "the command is empty")
        })?;
        let candidates = candidates(command, &environment).iter().map(|it| text(it)).collect::<Result<_>>()?;
        let array = |strings: &[String]| strings.iter().map(|it| text(it)).collect::<Result<_>>().map(StringArray::new);
        let bits = security.capabilities.iter().fold(0, |set, it| set | 1u64 << it.number());
        Ok(Self {
            candidates,
            arguments: array(&process.argv)?,
            environment: array(&environment)?,
            group_change,
            capabilities: CapabilitySet(bits),
            new_privileges: security.new_privileges,
            filter: filter(security, watch),
            working_directory: text(&process.cwd.to_string_lossy())?,
            identity,
        })
    }

    /// Becomes the program. Returns only when that failed. Fork-safe.
    pub(crate) fn become_it(
        &self,
        streams: &Streams,
        control: BorrowedFd<'_>,
    ) -> std::result::Result<Infallible, Failure> {
        self.connect(streams)?;
        let _ = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        self.confine(control)?;
        self.execute()
    }

    fn connect(&self, streams: &Streams) -> std::result::Result<(), Failure> {
        // A session of its own: signals of the terminal that skep runs in are not the cell's.
        rustix::process::setsid().map_err(|errno| Stage::Terminal.fail(errno))?;
        let three = match streams {
            Streams::Terminal(terminal) => {
                rustix::process::ioctl_tiocsctty(terminal).map_err(|errno| Stage::Terminal.fail(errno))?;
                // The device file belongs to whoever uses it; a read-only or foreign one keeps its owner.
                let owner = rustix::fs::Uid::from_raw(self.identity.uid);
                let _ = rustix::fs::fchown(terminal, Some(owner), None);
                [terminal.as_fd(); 3]
            }
            Streams::Three([stdin, stdout, stderr]) => [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
        };
        exec::set_stdio(three).map_err(|errno| Stage::Streams.fail(errno))?;
        exec::close_on_exec_from(3).map_err(|errno| Stage::Streams.fail(errno))
    }

    fn confine(&self, control: BorrowedFd<'_>) -> std::result::Result<(), Failure> {
        capability::bound(self.capabilities).map_err(|errno| Stage::Capabilities.fail(errno))?;
        let privileged_filter = self.new_privileges == NewPrivileges::Allowed;
        if privileged_filter {
            // Without no-new-privileges only somebody privileged may install a filter, so it comes before all is dropped.
            self.install_filter(control)?;
        }
        exec::become_user(self.identity.uid, self.identity.gid, &self.identity.groups, self.group_change)
            .map_err(|errno| Stage::Identity.fail(errno))?;
        // Changing users made the kernel forget it. (It forgets again when a program that gains privileges by its file is
        // executed: then only the cell's control groups, or its process 1, take the program with them.)
        exec::die_with_parent().map_err(|errno| Stage::Identity.fail(errno))?;
        rustix::process::chdir(self.working_directory.as_c_str())
            .map_err(|errno| Stage::WorkingDirectory.fail(errno))?;
        if self.identity.uid == 0 {
            capability::set(self.capabilities).map_err(|errno| Stage::Capabilities.fail(errno))?;
        }
        capability::clear_ambient().map_err(|errno| Stage::Capabilities.fail(errno))?;
        if !privileged_filter {
            exec::no_new_privileges().map_err(|errno| Stage::NewPrivileges.fail(errno))?;
            self.install_filter(control)?;
        }
        Ok(())
    }

    fn install_filter(&self, control: BorrowedFd<'_>) -> std::result::Result<(), Failure> {
        let fail = |errno| Stage::Seccomp.fail(errno);
        match &self.filter {
            None => Ok(()),
            Some(Filter { instructions, listener: Listener::None }) => {
                sys::seccomp::install(instructions).map_err(fail)
            }
            Some(Filter { instructions, listener: Listener::Told }) => {
                let listener = sys::seccomp::install_with_listener(instructions).map_err(fail)?;
                report(control, Report::Listener, &[listener.as_fd()]).map_err(fail)
            }
        }
    }

    /// Tries each candidate as `execvp` does: one that may not be executed is remembered but does not end the search.
    fn execute(&self) -> std::result::Result<Infallible, Failure> {
        let mut worst = Stage::NotFound.fail(Errno::NOENT);
        for candidate in &self.candidates {
            match exec::execve(candidate, &self.arguments, &self.environment) {
                Ok(never) => match never {},
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(Errno::ACCESS) => worst = Stage::NotExecutable.fail(Errno::ACCESS),
                Err(errno) => return Err(Stage::NotExecutable.fail(errno)),
            }
        }
        Err(worst)
    }

    /// What is left of our own process 1 once the program runs: it needs to signal the program, whoever that runs as, and
    /// nothing else. Fork-safe.
    pub(crate) fn drop_to_reaper(&self) -> std::result::Result<(), Failure> {
        const KILL: CapabilitySet = CapabilitySet(1 << 5);
        let fail = |errno| Stage::Capabilities.fail(errno);
        capability::bound(CapabilitySet(0)).map_err(fail)?;
        capability::set(KILL).map_err(fail)?;
        exec::no_new_privileges().map_err(|errno| Stage::NewPrivileges.fail(errno))
    }

    /// The command as given, for messages.
    pub(crate) fn command(&self) -> String {
        self.arguments.strings().first().map(|it| it.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

fn candidates(command: &str, environment: &[String]) -> Vec<String> {
    if command.contains('/') {
        return vec![command.to_owned()];
    }
    let path = environment.iter().find_map(|it| it.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    path.split(':')
        .map(|directory| match directory {
            "" => format!("./{command}"),
            directory => format!("{directory}/{command}"),
        })
        .collect()
}

fn filter(security: &Security, watch: Watch) -> Option<Filter> {
    let refusal = match security.seccomp {
        Seccomp::Unconfined if watch == Watch::Nothing => return None,
        Seccomp::Unconfined => Refusal::Nothing,
        Seccomp::Default => Refusal::Error,
        Seccomp::Strict => Refusal::Announce,
    };
    let announces = watch != Watch::Nothing || refusal == Refusal::Announce;
    let listener = if announces { Listener::Told } else { Listener::None };
    Some(Filter { instructions: seccomp::compile(&security.capabilities, refusal, watch), listener })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_searched_as_a_shell_would() {
        let environment = ["A=b".to_owned(), "PATH=/x::/y".to_owned()];
        assert_eq!(candidates("ls", &environment), ["/x/ls", "./ls", "/y/ls"]);
        assert_eq!(candidates("./ls", &environment), ["./ls"]);
        assert_eq!(candidates("/bin/ls", &[]), ["/bin/ls"]);
        assert_eq!(candidates("ls", &[]).len(), 6);
    }
}
