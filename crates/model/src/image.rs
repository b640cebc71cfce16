//! What an image is: a root file system in the store, and how its program wants to be run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::arch::Arch;
use crate::digest::{ObjectId, Sha256};
use crate::time::Timestamp;
use crate::units::ByteSize;

/// How the program of an image wants to be run: the part of an OCI image configuration that concerns a cell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// The command's fixed beginning.
    pub entrypoint: Vec<String>,
    /// The default arguments, replaced by those of the command line.
    pub command: Vec<String>,
    /// `NAME=value` pairs.
    pub env: Vec<String>,
    /// The directory to start in; empty means `/`.
    pub workdir: String,
    /// `user`, `user:group` or numbers; empty means root.
    pub user: String,
    /// Ports the program listens on, `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// Paths whose content should outlive a cell.
    pub volumes: Vec<String>,
    /// The signal that asks the program to end, `SIGTERM` when empty.
    pub stop_signal: String,
    /// Free annotations.
    pub labels: BTreeMap<String, String>,
}

/// A stored image: what `refs` of the store point at, and all that a start needs to know.
///
/// **An image record is immutable and content-addressed:** its id is the BLAKE3 of its canonical JSON, so the same inputs
/// give the same id on every machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The root file system: a tree in the store.
    pub tree: ObjectId,
    /// The processor it is for.
    pub arch: Arch,
    /// How to run it.
    pub config: ImageConfig,
    /// The OCI image configuration, byte for byte, as a blob in the store. Its SHA-256 is the image's OCI id.
    pub oci_config: ObjectId,
    /// SHA-256 of those bytes.
    pub oci_id: Sha256,
    /// The layers, lowest first.
    pub layers: Vec<LayerRecord>,
    /// The source text that it was made from, in canonical form: `deb:nginx-light`, `docker://…`.
    pub source: String,
    /// What went into it, for a rebuild and for a pedigree: `nginx-light 1.22.1-9 sha256:…`, one string an input.
    pub inputs: Vec<String>,
    /// When its content was made, by its source's own account (0 for a reproducible build).
    pub created: Timestamp,
    /// The size of all file content.
    pub size: ByteSize,
    /// What it is a part of, when it was made by slimming.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slim: Option<SlimRecord>,
}

/// How an image came about by slimming. Its tree and the complement, put together, are the original's tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlimRecord {
    /// The original image's record. It may be gone.
    pub original: ObjectId,
    /// What the original was called.
    pub name: String,
    /// What was taken away: a tree in the store.
    pub complement: ObjectId,
    /// What was kept and why: a blob in the store.
    pub report: ObjectId,
    /// A system call profile, as OCI runtimes take it: a blob in the store.
    pub seccomp: ObjectId,
}

/// One layer of an image, able to give back the very tar it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// SHA-256 of the uncompressed tar.
    pub diff_id: Sha256,
    /// Size of the uncompressed tar.
    pub size: ByteSize,
    /// How to put the tar together again from the store: headers, padding, order.
    pub recipe: ObjectId,
    /// The compressed blob that it arrived as, if it arrived as one. Only its name is kept: a push compresses anew and
    /// says so.
    pub original: Option<Sha256>,
}
