//! Where images come from and where they go: Debian packages, programs of this machine, OCI layouts and archives,
//! registries.
//!
//! [`fetch`] makes an image of any [`model::Source`] and keeps it in the pool under the source's own text; [`lookup`] finds
//! it again. [`slim`] makes a smaller image of one in the pool. What comes from outside is data until it is proved: **an archive's names never touch a file system, its bytes
//! are checked against their digests before anything is published, and its sizes are bounded by [`Limits`].**
//!
//! What is deliberately absent: this crate starts no cell (so a build step runs in the engine, between
//! `deb::configure_plan` and `deb::finish_configured`), mounts nothing, and needs no privilege.

#![forbid(unsafe_code)]

mod appliance;
pub mod deb;
mod elf;
mod error;
mod fetch;
mod history;
mod host;
mod layer;
mod library;
mod limits;
mod lookup;
mod oci;
mod of_disk;
mod record;
mod seekable;
pub mod slim;
mod staging;

pub use appliance::{
    APPLIANCE_LABEL, ApplianceParts, BYTES_PATH, CALLS_LABEL, JIT_LABEL, STATE_PATH, publish_appliance,
};
pub use elf::interpreter;
pub use error::{Error, Result};
pub use fetch::{FetchOptions, Fetched, SecurityUpdates, fetch};
pub use history::{HistoryEntry, history};
pub use library::{LibraryFile, LibraryVersion, is_signed, library, library_version};
pub use limits::Limits;
pub use lookup::lookup;
pub use oci::export::{Exported, LayerForm, export};
pub use oci::registry::{Pushed, push};
pub use of_disk::of_disk;
pub use seekable::fetch::{Catalogue, Fetcher, Receiver};
pub use seekable::remote::{Opened, Remote, Supply, open as open_remote};
