//! The program between skep and a session's own, as skep sees it: how it is executed.
//!
//! It is a program of its own (`steward/` in this crate), so that what those in the target can see has no memory of
//! skep's, and so that `/proc/PID/exe` leads to a sealed file in memory. To execute skep itself again from a read-only mount
//! would do for the latter, but takes a millisecond, as much as all mounts of a session; this takes a fifth of that.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use container::{Command, Failure, Line, Stage};
use rustix::io::FdFlags;
use sys::exec::{self, StringArray};
use sys::seccomp::Instruction;

use crate::confinement::{Confinement, Installer};
use crate::error::{Error, Result};

const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/steward"));

/// What it goes by, in the target's list of processes.
const NAME: &CStr = c"skep-debug";

/// The steward, about to be executed.
pub(crate) struct Steward {
    program: OwnedFd,
    /// What it hands on to the session's program to install.
    filters: Option<OwnedFd>,
    arguments: StringArray,
    environment: StringArray,
}

/// Whether the streams of a session are a terminal that becomes its program's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Controlling {
    Terminal,
    Nothing,
}

impl Steward {
    /// One that executes `command` under that confinement.
    pub(crate) fn compile(
        command: Command,
        confinement: &Confinement,
        label: Option<&CStr>,
        line: &Line,
        controlling: Controlling,
    ) -> Result<Self> {
        let failed = |cause| Error::Kernel { what: "preparing the session's steward".to_owned(), cause };
        let filters = match confinement.installer() {
            Installer::Program => Some(file_of(&confinement.filters)),
            Installer::Usher => None,
        };
        let filters = filters.filter(|_| !confinement.filters.is_empty());
        let filters = filters.map(|it| exec::sealed_file(c"filters", &it)).transpose().map_err(failed)?;
        let (candidates, arguments, environment) = command.into_parts();
        let number = |fd: BorrowedFd<'_>| sys::process::number(fd).unsigned_abs().into();
        let stages = [
            Stage::Handshake,
            Stage::Fork,
            Stage::Terminal,
            Stage::Capabilities,
            Stage::Label,
            Stage::Seccomp,
            Stage::NotFound,
            Stage::NotExecutable,
        ];
        let numbers = [
            number(line.control()),
            number(line.ending()),
            filters.as_ref().map_or(0, |it| number(it.as_fd())),
            u64::from(controlling == Controlling::Terminal),
            confinement.effective.0,
            confinement.inheritable.0,
            confinement.ambient.0,
            candidates.len() as u64,
        ];
        let numbers =
            numbers.into_iter().chain(stages.map(|it| it as u64)).map(|it| format!("{it} ")).collect::<String>();
        let first = [NAME.to_owned(), CString::new(numbers).unwrap_or_default()];
        let label = label.unwrap_or_default().to_owned();
        let all = first.into_iter().chain([label]).chain(candidates).chain(arguments);
        Ok(Self {
            program: exec::sealed_file(NAME, PROGRAM).map_err(failed)?,
            filters,
            arguments: StringArray::new(all.collect()),
            environment: StringArray::new(environment),
        })
    }

    /// What must be open for it, but for the line; at most two.
    pub(crate) fn files(&self) -> [Option<BorrowedFd<'_>>; 2] {
        [Some(self.program.as_fd()), self.filters.as_ref().map(AsFd::as_fd)]
    }

    /// Becomes it. Returns only when that failed. Fork-safe.
    pub(crate) fn execute(&self, line: &Line) -> std::result::Result<Infallible, Failure> {
        let failed = |errno| Stage::Fork.fail(errno);
        for fd in
            [Some(line.control()), Some(line.ending()), self.filters.as_ref().map(AsFd::as_fd)].into_iter().flatten()
        {
            rustix::io::fcntl_setfd(fd, FdFlags::empty()).map_err(failed)?;
        }
        exec::execve_file(self.program.as_fd(), &self.arguments, &self.environment).map_err(failed)
    }
}

/// Filters as the steward reads them: how long the file is, then each with its count of instructions before it.
fn file_of(filters: &[Vec<Instruction>]) -> Vec<u8> {
    let mut file = vec![0; 8];
    for filter in filters {
        file.extend((filter.len() as u64).to_le_bytes());
        for Instruction { code, jt, jf, k } in filter {
            file.extend(code.to_le_bytes());
            file.extend([*jt, *jf]);
            file.extend(k.to_le_bytes());
        }
    }
    let length = file.len() as u64;
    if let Some(first) = file.first_chunk_mut() {
        *first = length.to_le_bytes();
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_lie_in_their_file_as_the_kernel_has_them() {
        let instruction = |k| Instruction { code: 0x06, jt: 1, jf: 2, k };
        let file = file_of(&[vec![instruction(7)], vec![]]);
        assert_eq!(file, [&[32, 0, 0, 0, 0, 0, 0, 0, 1][..], &[0; 7], &[6, 0, 1, 2, 7, 0, 0, 0], &[0; 8]].concat());
    }
}
