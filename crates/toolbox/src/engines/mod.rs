//! Containers of other engines, found in the state that those keep on disk. **No program of theirs is run**, which is
//! what makes finding one a matter of a millisecond, and no daemon is asked.
//!
//! What is read may be stale, broken or hostile, so this always holds:
//! - **A container's process is believed in only when the kernel confirms it** ([`process`]): it began when the engine
//!   says, or its control group or its parent's command line names the container. It cannot be a later process that got
//!   its number.
//! - **What a user keeps is not believed beyond that user's own powers.** As root, the files of a user's podman are opened
//!   beneath that user's directories without following a link or entering another file system ([`place`]), must be plain
//!   files of that user, and may only name processes in a user namespace which that user made.
//! - Names with anything in them but plain printable characters are not shown; sizes are bounded; a container whose files
//!   do not read is left out, and the others are not.

mod containerd;
mod docker;
mod kubernetes;
mod lxc;
mod nspawn;
mod place;
mod podman;
mod process;
mod runtime;

use std::fmt;
use std::path::{Path, PathBuf};

use model::Foreign;

/// Where the state of engines lies: below `/`, unless the file system of a machine is looked at from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    top: PathBuf,
    caller: u32,
}

impl Roots {
    /// State below that directory, as the user of this process sees it.
    pub fn below(top: impl Into<PathBuf>) -> Self {
        Self { top: top.into(), caller: rustix::process::geteuid().as_raw() }
    }

    /// Where a path of the machine is found.
    fn at(&self, path: &str) -> PathBuf {
        self.top.join(path.trim_start_matches('/'))
    }

    fn is_below(&self, path: &Path) -> bool {
        path.starts_with(&self.top)
    }
}

impl Default for Roots {
    fn default() -> Self {
        Self::below("/")
    }
}

/// A container of another engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Whose.
    pub engine: Foreign,
    /// What names are unique in, when not for the whole engine: a namespace, or the user whose it is.
    pub scope: Option<String>,
    /// Its identity for the engine.
    pub id: String,
    /// What it is called, the first of which is shown.
    pub names: Vec<String>,
    /// Its first process, when it runs.
    pub process: Option<Process>,
    /// What it was made of, when the engine tells.
    pub image: Option<String>,
}

/// A process, which cannot be mistaken for a later one of the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number on the host.
    pub pid: u32,
    /// When it began, in clock ticks since the machine did.
    pub began: u64,
}

impl Found {
    /// Whether it is of a user who is neither root nor the caller.
    pub fn is_anothers(&self) -> bool {
        let by_user = match self.engine {
            Foreign::Podman | Foreign::Lxc | Foreign::Nspawn => true,
            Foreign::Docker | Foreign::Kubernetes | Foreign::Containerd => false,
        };
        by_user && self.scope.is_some()
    }

    /// What it is called within its engine: `[SCOPE/]NAME`.
    pub fn name(&self) -> String {
        let name = self.names.first().unwrap_or(&self.id);
        match &self.scope {
            Some(scope) => format!("{scope}/{name}"),
            None => name.clone(),
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.engine, self.name())
    }
}

/// Which containers are asked for.
#[derive(Clone, Copy, Debug)]
pub enum Query<'a> {
    /// Those that run.
    Running,
    /// Those that run or do not.
    Any,
    /// Those, running or not, that go by that name or whose id begins like that.
    Named(&'a str),
}

impl Query<'_> {
    /// Whether the state of the processes of a container is worth being read.
    fn wants(&self, scope: Option<&str>, id: &str, names: &[String]) -> bool {
        match self {
            Self::Running | Self::Any => true,
            Self::Named(wanted) => Fit::of(wanted, scope, id, names).is_some(),
        }
    }
}

/// How well a container fits a name; the best comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Name,
    Id,
    Prefix,
}

impl Fit {
    fn of(wanted: &str, scope: Option<&str>, id: &str, names: &[String]) -> Option<Self> {
        let inside = scope.and_then(|scope| wanted.strip_prefix(scope)?.strip_prefix('/'));
        let fits = |test: &dyn Fn(&str) -> bool| test(wanted) || inside.is_some_and(test);
        if fits(&|it| names.iter().any(|name| name == it)) {
            return Some(Self::Name);
        }
        if fits(&|it| id == it) {
            return Some(Self::Id);
        }
        fits(&|it| !it.is_empty() && id.starts_with(it)).then_some(Self::Prefix)
    }
}

/// The containers of all engines. Those of docker and Kubernetes are containerd's as well, and are shown once.
pub fn containers(roots: &Roots, query: Query<'_>) -> Vec<Found> {
    let mut found: Vec<Found> = Foreign::ALL.iter().flat_map(|engine| of(roots, *engine, query)).collect();
    let shown: Vec<String> =
        found.iter().filter(|it| it.engine != Foreign::Containerd).map(|it| it.id.clone()).collect();
    found.retain(|it| it.engine != Foreign::Containerd || !shown.contains(&it.id));
    best(found, query)
}

/// The containers of one engine.
pub fn containers_of(roots: &Roots, engine: Foreign, query: Query<'_>) -> Vec<Found> {
    best(of(roots, engine, query), query)
}

fn of(roots: &Roots, engine: Foreign, query: Query<'_>) -> Vec<Found> {
    let mut found = match engine {
        Foreign::Podman => podman::containers(roots, query),
        Foreign::Docker => docker::containers(roots, query),
        Foreign::Kubernetes => kubernetes::containers(roots, query),
        Foreign::Containerd => containerd::containers(roots, query),
        Foreign::Lxc => lxc::containers(roots, query),
        Foreign::Nspawn => nspawn::containers(roots, query),
    };
    if matches!(query, Query::Running) {
        found.retain(|it| it.process.is_some());
    }
    found.sort_by_key(|it| (it.name(), it.id.clone()));
    found
}

/// Those that fit a name best: a whole name goes before the beginning of an id.
fn best(mut found: Vec<Found>, query: Query<'_>) -> Vec<Found> {
    let Query::Named(wanted) = query else { return found };
    let fit = |it: &Found| Fit::of(wanted, it.scope.as_deref(), &it.id, &it.names);
    let best = found.iter().filter_map(fit).min();
    found.retain(|it| best.is_some() && fit(it) == best);
    found
}

/// A name, an image or the like from somebody's file, if it can be shown.
fn plain(text: &str) -> Option<String> {
    let is_plain = !text.is_empty() && text.len() <= 255 && text.bytes().all(|it| it.is_ascii_graphic());
    is_plain.then(|| text.to_owned())
}

/// An identity, which is made part of paths.
fn plain_id(text: &str) -> Option<String> {
    let in_path = !text.starts_with('.') && !text.contains('/');
    plain(text).filter(|_| in_path)
}

#[cfg(test)]
mod tests;
