//! The pool: one content-addressed, deduplicated, compressed store under everything skep keeps.
//!
//! Start at [`Store`]. A [`Writer`] takes in files, [`Tree`]s and image records and publishes them under names; a
//! [`Reader`] gives them back; [`Store::rootfs`] unpacks a tree for a cell. What always holds:
//!
//! - **Acknowledged is durable**: when [`Writer::publish`] returns, `kill -9` and power loss lose nothing of it.
//! - **Checked is returned**: bytes that do not hash to their id are an error that names them, never data.
//! - **One writer, many readers**, across processes, without a daemon; the path of a starting cell takes no lock.
//! - **The index is a cache**: packs alone can rebuild it.
//!
//! The format is versioned and has room for volumes and snapshots; this crate has neither yet.

#![forbid(unsafe_code)]

mod chunk;
mod codec;
mod durable;
mod erofs;
mod error;
pub mod fail;
mod fsck;
mod gc;
mod guard;
mod index;
mod ingest;
mod layout;
mod lock;
mod mark;
mod object;
mod pack;
mod reader;
mod refs;
mod status;
mod store;
mod tree;
mod unpack;
mod writer;

pub use error::{Error, Result};
pub use fsck::{Damage, DamageState, FsckReport, Repair};
pub use gc::GcReport;
pub use object::Content;
pub use reader::{ContentReader, Reader};
pub use status::Status;
pub use store::{Pin, Store};
pub use tree::{
    Device, Entry, InodeId, Kind, MAX_NAME, MAX_PATH, MAX_TARGET, MAX_XATTR, Metadata, Mtime, Node, Tree, Walk,
};
pub use unpack::{Aside, Filler, Layout, Need, Omission, OnDemand, Rootfs};
pub use writer::{FileWriter, RefChange, Tally, Writer};
