//! Where skep keeps what it keeps.
//!
//! ```text
//! DATA/pool/                the store
//! DATA/cache/               downloads for images
//! DATA/cells/ID/            a cell: spec.json state.json lock upper/ work/ log/ and the files mounted into it
//! DATA/cells/.new-ID/       a cell being made; its maker holds its lock
//! DATA/names/NAME           holds the id of the cell that has the name
//! DATA/names.lock           held while names are claimed
//! DATA/events.jsonl         what happened
//! RUN/cells/ID.sock         the supervisor's control socket
//! RUN/net/                  networks and leases
//! ```
//! DATA survives a reboot, RUN need not.

use std::path::{Path, PathBuf};

use model::{CellId, CellName};

use crate::error::{Error, Result};

/// The two directories that everything of one skep lives in.
#[derive(Clone, Debug)]
pub struct Home {
    data: PathBuf,
    run: PathBuf,
}

impl Home {
    /// One directory for both: what `--root` and `SKEP_ROOT` give.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        let data = root.into();
        Self { run: data.join("run"), data }
    }

    /// Two directories that were made out by somebody else.
    pub(crate) fn of_parts(data: PathBuf, run: PathBuf) -> Self {
        Self { data, run }
    }

    /// The system's own directories for root, the user's for everybody else.
    pub fn default_for_user(env: impl Fn(&str) -> Option<PathBuf>) -> Result<Self> {
        let uid = rustix::process::geteuid();
        if uid.is_root() {
            return Ok(Self { data: "/var/lib/skep".into(), run: "/run/skep".into() });
        }
        let no_home = || Error::io("finding the home directory", std::io::Error::other("HOME is not set"));
        let data = match env("XDG_DATA_HOME") {
            Some(dir) => dir,
            None => env("HOME").ok_or_else(no_home)?.join(".local/share"),
        };
        let run = match env("XDG_RUNTIME_DIR") {
            Some(dir) => dir.join("skep"),
            None => PathBuf::from(format!("/tmp/skep-{}", uid.as_raw())),
        };
        Ok(Self { data: data.join("skep"), run })
    }

    /// Makes the directories that are not there yet, readable by their owner alone. The one for what need not survive may
    /// lie where everybody makes directories: one that is somebody else's is refused.
    pub fn prepare(&self) -> Result<()> {
        use std::os::unix::fs::{DirBuilderExt, MetadataExt};
        for dir in [self.cells(), self.names(), self.sockets(), self.net()] {
            if !dir.is_dir() {
                let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
                made.map_err(|e| Error::at("making", &dir, e))?;
            }
        }
        let found = std::fs::symlink_metadata(&self.run).map_err(|e| Error::at("reading", &self.run, e))?;
        let is_ours = found.is_dir() && found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o022 == 0;
        if !is_ours {
            let why = "somebody else owns it or may write to it; remove it, or set XDG_RUNTIME_DIR";
            return Err(Error::at("trusting", &self.run, std::io::Error::other(why)));
        }
        Ok(())
    }

    /// The store.
    pub fn pool(&self) -> PathBuf {
        self.data.join("pool")
    }

    /// What was downloaded for images, and can be again.
    pub fn cache(&self) -> PathBuf {
        self.data.join("cache")
    }

    /// All of the cells' directories.
    pub fn cells(&self) -> PathBuf {
        self.data.join("cells")
    }

    /// One cell's directory.
    pub fn cell(&self, id: CellId) -> PathBuf {
        self.cells().join(id.to_string())
    }

    /// The directory in which a cell is made ready before it appears.
    pub fn nascent_cell(&self, id: CellId) -> PathBuf {
        self.cells().join(format!(".new-{id}"))
    }

    /// The claimed names.
    pub fn names(&self) -> PathBuf {
        self.data.join("names")
    }

    /// The claim on one name.
    pub fn name(&self, name: &CellName) -> PathBuf {
        self.names().join(name.as_str())
    }

    /// The lock under which names are claimed.
    pub fn names_lock(&self) -> PathBuf {
        self.data.join("names.lock")
    }

    /// The journal of events.
    pub fn events(&self) -> PathBuf {
        self.data.join("events.jsonl")
    }

    /// The supervisors' sockets.
    pub fn sockets(&self) -> PathBuf {
        self.run.join("cells")
    }

    /// One supervisor's socket.
    pub fn socket(&self, id: CellId) -> PathBuf {
        self.sockets().join(format!("{id}.sock"))
    }

    /// What the network crate keeps.
    pub fn net(&self) -> PathBuf {
        self.run.join("net")
    }

    /// The directory for what must survive.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The directory for what need not.
    pub fn run(&self) -> &Path {
        &self.run
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_that_others_may_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::of_parts(dir.path().join("data"), dir.path().join("run"));
        home.prepare().unwrap();
        home.prepare().unwrap();
        std::fs::set_permissions(home.run(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(home.prepare().unwrap_err().to_string().contains("XDG_RUNTIME_DIR"));
        std::fs::rename(home.run(), dir.path().join("elsewhere")).unwrap();
        std::fs::set_permissions(dir.path().join("elsewhere"), std::fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), home.run()).unwrap();
        assert!(home.prepare().is_err(), "a link may lead anywhere");
    }
}
