//! What was asked for when a cell was made. A specification is immutable but for its name, limits and restart policy.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::arch::Arch;
use crate::boundary::{Boundary, named_enum};
use crate::digest::ObjectId;
use crate::disk::{DiskSpec, FirstProgram};
use crate::ipc::Ipc;
use crate::limits::Limits;
use crate::name::{CellId, CellName};
use crate::network::Network;
use crate::parse::{ParseError, serde_as_text};
use crate::security::Security;
use crate::time::{Span, Timestamp};
use crate::units::ByteSize;

/// Everything that a cell is, short of its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellSpec {
    /// Its identity.
    pub id: CellId,
    /// What people call it.
    pub name: CellName,
    /// What it is an instance of.
    pub image: CellImage,
    /// What separates it from the rest.
    pub boundary: Boundary,
    /// Its program.
    pub process: Process,
    /// Its host name; the cell's name unless told otherwise.
    pub hostname: String,
    /// What it may use.
    pub limits: Limits,
    /// How it is reached.
    pub network: Network,
    /// With whom its programs exchange messages and share memory.
    #[serde(default, skip_serializing_if = "Ipc::is_private")]
    pub ipc: Ipc,
    /// What else is mounted in it.
    pub mounts: Vec<Mount>,
    /// What its programs may do.
    pub security: Security,
    /// Who is process 1.
    pub init: Init,
    /// When to start it again.
    pub restart: RestartPolicy,
    /// How to end it.
    pub stop: StopPolicy,
    /// How much of its output to keep.
    pub log: LogPolicy,
    /// Whether it outlives its program.
    pub lifetime: Lifetime,
    /// What of its program's doings its supervisor watches.
    #[serde(default)]
    pub watch: Watch,
    /// What a machine starts with; nothing for every other boundary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineSpec>,
    /// Free annotations.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created: Timestamp,
}

/// The image that a cell is an instance of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellImage {
    /// The name it was asked for by.
    pub name: String,
    /// The image record.
    pub id: ObjectId,
    /// The root file system.
    pub tree: ObjectId,
    /// The processor it is for.
    pub arch: Arch,
}

/// What a machine starts with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineSpec {
    /// Its kernel's image, a file of the host.
    pub kernel: PathBuf,
    /// Its kernel's modules, files of the host, in the order in which they are loaded.
    pub modules: Vec<PathBuf>,
    /// Its disks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskSpec>,
    /// Whose first program it starts with.
    #[serde(default, skip_serializing_if = "FirstProgram::is_the_images")]
    pub first: FirstProgram,
    /// What cloud-init finds: a file with its configuration, or a directory of such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_init: Option<PathBuf>,
    /// The socket by which programs of the host and of the machine meet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vsock: Option<PathBuf>,
}

/// A program to run in a cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// The command and its arguments; never empty.
    pub argv: Vec<String>,
    /// `NAME=value` pairs.
    pub env: Vec<String>,
    /// The directory to start in, absolute.
    pub cwd: PathBuf,
    /// Who it runs as.
    pub user: UserSpec,
    /// Whether it has a terminal.
    pub terminal: Terminal,
    /// Whether its standard input stays open.
    pub stdin: Stdin,
}

/// A user by name or number, with an optional group: `www-data`, `1000`, `www-data:adm`. Resolved against the files of
/// the cell when a program starts; empty means root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UserSpec(String);

impl UserSpec {
    /// The user's part.
    pub fn user(&self) -> &str {
        self.0.split_once(':').map_or(self.0.as_str(), |(user, _)| user)
    }

    /// The group's part, when there is one.
    pub fn group(&self) -> Option<&str> {
        self.0.split_once(':').map(|(_, group)| group)
    }
}

impl fmt::Display for UserSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for UserSpec {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let plain = text.bytes().all(|b| b.is_ascii_graphic());
        if plain && text.matches(':').count() <= 1 {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseError::new("user", text, "USER or USER:GROUP, by name or number"))
        }
    }
}

named_enum! {
    /// Whether a program has a terminal.
    Terminal, "terminal setting" {
        /// Three plain streams.
        None = "none",
        /// A pseudo-terminal as all three.
        Pty = "pty",
    }
}

named_enum! {
    /// Whether a program's standard input stays open.
    Stdin, "standard input setting" {
        /// It reads end of file at once.
        Closed = "closed",
        /// It reads what an attached client sends.
        Open = "open",
    }
}

named_enum! {
    /// Who is process 1 of a cell.
    Init, "init setting" {
        /// A small init that reaps orphans and hands on signals.
        Reaper = "reaper",
        /// The program itself, for images that bring an init.
        Program = "program",
    }
}

named_enum! {
    /// Whether a cell outlives its program.
    Lifetime, "lifetime" {
        /// It stays, to be looked at and started again.
        Keep = "keep",
        /// It is removed as soon as its program ends.
        RemoveOnExit = "remove-on-exit",
    }
}

named_enum! {
    /// What of its program's doings a cell's supervisor watches.
    Watch, "watch setting" {
        /// Nothing.
        Nothing = "nothing",
        /// Which files and system calls it uses, to make a slim image of.
        Uses = "uses",
        /// The files that it looks for in vain because slimming took them away: they are put back.
        Misses = "misses",
        /// The same files: they are noted, and stay away.
        MissesNoted = "misses-noted",
    }
}

#[expect(clippy::derivable_impls, reason = "the macro derives the same traits for every enumeration")]
impl Default for Watch {
    fn default() -> Self {
        Self::Nothing
    }
}

/// Something mounted into a cell. Text form: `SOURCE:TARGET[:ro]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// What.
    pub kind: MountKind,
    /// Where in the cell; absolute.
    pub target: PathBuf,
    /// Whether it can be written.
    pub access: MountAccess,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MountKind {
    /// A file or directory of the host, with what is mounted beneath it.
    Bind(PathBuf),
    /// Memory, up to that size.
    Tmpfs(Option<ByteSize>),
}

named_enum! {
    /// Whether a mount can be written.
    MountAccess, "mount access" {
        /// Reads and writes.
        ReadWrite = "rw",
        /// Reads only.
        ReadOnly = "ro",
    }
}

impl FromStr for Mount {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new("mount", text, "HOST-PATH:CELL-PATH[:ro], both absolute");
        let mut parts = text.split(':');
        let (source, target) = (parts.next().ok_or_else(wrong)?, parts.next().ok_or_else(wrong)?);
        let access = match parts.next() {
            None => MountAccess::ReadWrite,
            Some(word) => word.parse().map_err(|_| wrong())?,
        };
        if parts.next().is_some() || !source.starts_with('/') || !target.starts_with('/') {
            return Err(wrong());
        }
        Ok(Self { kind: MountKind::Bind(source.into()), target: target.into(), access })
    }
}

/// When to start a cell again after its program ended. Text form: `no`, `on-failure[:MAX]`, `always`, `unless-stopped`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// When it failed, that often at most (0: without end).
    OnFailure(u32),
    /// Always, unless somebody stopped it.
    Always,
}

impl RestartPolicy {
    /// How long to wait before run number `attempt` (the first restart is 1), or nothing when there shall be none.
    /// Doubles from 100 ms to a minute, so that a program that dies at once does not spin.
    pub fn delay(self, attempt: u32, success: bool, requested: bool) -> Option<Span> {
        let again = match self {
            Self::No => false,
            Self::OnFailure(max) => !success && (max == 0 || attempt <= max),
            Self::Always => true,
        };
        let doubled = 100u64 << attempt.saturating_sub(1).min(10);
        (again && !requested).then(|| Span::millis(doubled.min(60_000)))
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::OnFailure(0) => f.write_str("on-failure"),
            Self::OnFailure(max) => write!(f, "on-failure:{max}"),
            Self::Always => f.write_str("always"),
        }
    }
}

impl FromStr for RestartPolicy {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new("restart policy", text, "no, on-failure, on-failure:MAX, or always");
        match text.split_once(':') {
            None => match text {
                "no" => Ok(Self::No),
                "on-failure" => Ok(Self::OnFailure(0)),
                "always" | "unless-stopped" => Ok(Self::Always),
                _ => Err(wrong()),
            },
            Some(("on-failure", max)) => max.parse().map(Self::OnFailure).map_err(|_| wrong()),
            Some(_) => Err(wrong()),
        }
    }
}

serde_as_text!(RestartPolicy);

/// How a cell is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopPolicy {
    /// The signal that asks, by number.
    pub signal: i32,
    /// How long to wait before SIGKILL.
    pub timeout: Span,
}

impl Default for StopPolicy {
    fn default() -> Self {
        Self { signal: 15, timeout: Span::seconds(10) }
    }
}

/// How much of a cell's output is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogPolicy {
    /// A file that grows past this is set aside and a new one begun.
    pub max_size: ByteSize,
    /// So many files are kept, the current one included.
    pub max_files: u32,
}

impl Default for LogPolicy {
    fn default() -> Self {
        Self { max_size: ByteSize::mib(10), max_files: 3 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restart_policies_read_print_and_wait() {
        for text in ["no", "on-failure", "on-failure:3", "always"] {
            assert_eq!(text.parse::<RestartPolicy>().unwrap().to_string(), text);
        }
        let policy = RestartPolicy::OnFailure(2);
        assert_eq!(policy.delay(1, false, false), Some(Span::millis(100)));
        assert_eq!(policy.delay(2, false, false), Some(Span::millis(200)));
        assert_eq!(policy.delay(3, false, false), None);
        assert_eq!(policy.delay(1, true, false), None);
        assert_eq!(RestartPolicy::Always.delay(40, true, false), Some(Span::seconds(60)));
        assert_eq!(RestartPolicy::Always.delay(1, true, true), None, "stopped on request");
    }

    #[test]
    fn mounts_and_users_parse() {
        let mount: Mount = "/srv:/data:ro".parse().unwrap();
        assert_eq!((mount.target.as_path(), mount.access), ("/data".as_ref(), MountAccess::ReadOnly));
        for wrong in ["", "/a", "a:/b", "/a:b", "/a:/b:xx", "/a:/b:ro:x"] {
            assert!(wrong.parse::<Mount>().is_err(), "{wrong}");
        }
        let user: UserSpec = "www-data:adm".parse().unwrap();
        assert_eq!((user.user(), user.group()), ("www-data", Some("adm")));
        assert!("a:b:c".parse::<UserSpec>().is_err());
    }
}
