//! A command about to take a process over: what is executed, with which arguments, surroundings and streams.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use model::StartStep;
use rustix::fs::Uid;
use sys::Errno;
use sys::exec::{self, StringArray};
use sys::fork;
use sys::signal::{self, SignalSet};

use crate::error::{Error, Result};
use crate::protocol::{Failure, Stage};

/// What is searched for a command without a slash when the environment has no `PATH`.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command, compiled before the process that becomes it is made.
pub struct Command {
    /// The files to try, in order.
    candidates: Vec<CString>,
    arguments: StringArray,
    environment: StringArray,
    /// Absolute.
    working_directory: CString,
}

/// A program's standard streams, as its last parent holds them.
#[derive(Debug)]
pub enum Streams {
    /// All three are this terminal, which becomes the controlling one.
    Terminal(OwnedFd),
    /// These.
    Three([OwnedFd; 3]),
}

impl Command {
    /// The command `arguments` with that environment, to be started in that directory. A name without a slash is searched
    /// in the `PATH` that the environment has.
    ///
    /// # Errors
    /// [`StartStep::CommandNotFound`] when the command is empty.
    pub fn compile(arguments: Vec<CString>, environment: Vec<CString>, working_directory: CString) -> Result<Self> {
        let command = arguments.first().filter(|it| !it.is_empty()).ok_or_else(|| {
            Error::refused(StartStep::CommandNotFound, "executing the program", "the command is empty")
        })?;
        Ok(Self {
            candidates: candidates(command, &environment),
            arguments: StringArray::new(arguments),
            environment: StringArray::new(environment),
            working_directory,
        })
    }

    /// Where it starts.
    pub fn working_directory(&self) -> &CStr {
        &self.working_directory
    }

    /// The command as given, for messages.
    pub fn name(&self) -> String {
        self.arguments.strings().first().map(|it| it.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// The first file that could be executed. Fork-safe.
    pub(crate) fn find(&self) -> std::result::Result<&CStr, Failure> {
        let mut worst = Stage::NotFound.fail(Errno::NOENT);
        for candidate in &self.candidates {
            match rustix::fs::access(candidate.as_c_str(), rustix::fs::Access::EXEC_OK) {
                Ok(()) => return Ok(candidate),
                Err(Errno::ACCESS) => worst = Stage::NotExecutable.fail(Errno::ACCESS),
                Err(_) => {}
            }
        }
        Err(worst)
    }

    /// Its arguments.
    pub(crate) fn arguments(&self) -> &[CString] {
        self.arguments.strings()
    }

    /// Its environment.
    pub(crate) fn environment(&self) -> &[CString] {
        self.environment.strings()
    }

    /// What it is made of, for a program that executes it: the files to try, the arguments, the environment.
    pub fn into_parts(self) -> (Vec<CString>, Vec<CString>, Vec<CString>) {
        (self.candidates, self.arguments.into_strings(), self.environment.into_strings())
    }

    /// Tries each candidate as `execvp` does: one that may not be executed is remembered but does not end the search.
    /// Returns only when all failed. Fork-safe.
    pub fn execute(&self) -> std::result::Result<Infallible, Failure> {
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
}

impl Streams {
    /// Makes pipes the program's own, whose user outside is `uid`: only their owner opens them by a name like
    /// `/dev/stdout`. Files stay whose they are. Where it fails, the program still has them open.
    pub(crate) fn give_to(&self, uid: u32) {
        const PIPEFS: u64 = 0x5049_5045;
        let Self::Three(three) = self else { return };
        for stream in three {
            if rustix::fs::fstatfs(stream).is_ok_and(|it| it.f_type as u64 == PIPEFS) {
                let _ = rustix::fs::fchown(stream, Some(Uid::from_raw(uid)), None);
            }
        }
    }

    /// Makes them the calling process's own, which gets a session of its own: signals of the terminal that skep runs in are
    /// not the program's. A terminal is given to user `owner`. Every other descriptor but `keep` is closed at once: what a
    /// hostile root leads the process to from here on must not find them. Fork-safe.
    pub fn connect(&self, owner: u32, keep: &[BorrowedFd<'_>]) -> std::result::Result<(), Failure> {
        rustix::process::setsid().map_err(|errno| Stage::Terminal.fail(errno))?;
        if let Self::Terminal(terminal) = self {
            rustix::process::ioctl_tiocsctty(terminal).map_err(|errno| Stage::Terminal.fail(errno))?;
        }
        self.lay_out(owner, keep)
    }

    /// The same for a process whose child gets the session of its own. Fork-safe.
    pub fn lay_out(&self, owner: u32, keep: &[BorrowedFd<'_>]) -> std::result::Result<(), Failure> {
        let three = match self {
            Self::Terminal(terminal) => {
                // The device file belongs to whoever uses it; a read-only or foreign one keeps its owner.
                let _ = rustix::fs::fchown(terminal, Some(Uid::from_raw(owner)), None);
                [terminal.as_fd(); 3]
            }
            Self::Three([stdin, stdout, stderr]) => [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
        };
        exec::set_stdio(three).map_err(|errno| Stage::Streams.fail(errno))?;
        exec::close_all_but(keep).map_err(|errno| Stage::Streams.fail(errno))
    }
}

/// Makes a child that becomes a program by `become_it`, with no signal blocked; returns when it has. Fork-safe, for a caller
/// that blocks all signals.
pub(crate) fn start_program(
    become_it: impl FnOnce() -> std::result::Result<Infallible, Failure>,
) -> std::result::Result<fork::Child, Failure> {
    let failed = |errno| Stage::Fork.fail(errno);
    let mut failure = None;
    // It shares the caller's memory, so the reason need not travel.
    let child = fork::spawn_to_exec(None, || {
        failure = match signal::block(SignalSet::NONE).map_err(failed).and_then(|_| become_it()) {
            Ok(never) => match never {},
            Err(failure) => Some(failure),
        };
        125
    });
    let child = child.map_err(failed)?;
    match failure {
        None => Ok(child),
        Some(failure) => Err(failure),
    }
}

fn candidates(command: &CStr, environment: &[CString]) -> Vec<CString> {
    let command = command.to_bytes();
    if command.contains(&b'/') {
        return CString::new(command).into_iter().collect();
    }
    let path = environment.iter().find_map(|it| it.to_bytes().strip_prefix(b"PATH="));
    path.unwrap_or(DEFAULT_PATH.as_bytes())
        .split(|byte| *byte == b':')
        .filter_map(|directory| {
            let directory = if directory.is_empty() { b"." } else { directory };
            CString::new([directory, b"/", command].concat()).ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_searched_as_a_shell_would() {
        let text = |it: &str| CString::new(it).unwrap();
        let environment = ["A=b", "PATH=/x::/y"].map(text);
        assert_eq!(candidates(c"ls", &environment), ["/x/ls", "./ls", "/y/ls"].map(text));
        assert_eq!(candidates(c"./ls", &environment), ["./ls"].map(text));
        assert_eq!(candidates(c"/bin/ls", &[]), ["/bin/ls"].map(text));
        assert_eq!(candidates(c"ls", &[]).len(), 6);
    }
}
