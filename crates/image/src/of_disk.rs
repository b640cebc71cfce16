//! What a cell is made of whose system is on a disk: an image with next to nothing in it.
//!
//! The machine's own kernel never sees it. It is where the process that runs the machine lives, and it has the one file in
//! it that a cell is looked for its command in.

use model::{Arch, ByteSize, ImageConfig, ImageRecord, ObjectId, Sha256, Timestamp};
use store::{Metadata, Node, Store, Tree};

use crate::Result;

/// The command: what the disk has by that name is meant.
const COMMAND: &str = "/sbin/init";
const DIRECTORIES: [&str; 7] = ["dev", "proc", "sys", "etc", "run", "tmp", "sbin"];

/// Puts it into the pool. It has no name there, and goes with the last cell that is made of it.
///
/// # Errors
/// Those of the pool.
pub fn of_disk(store: &Store, arch: Arch) -> Result<(ObjectId, ImageRecord)> {
    let mut writer = store.writer()?;
    let mut tree = Tree::default();
    for directory in DIRECTORIES {
        tree.insert(directory, Node::directory(Metadata::new(0o755)))?;
    }
    let content = writer.file(&b"#!/bin/false\n# The disk's own /sbin/init is what runs.\n"[..])?;
    tree.insert(COMMAND.trim_start_matches('/'), Node::file(Metadata::new(0o755), content))?;
    let tree = writer.tree(&tree)?;
    writer.publish(&[])?;
    let record = ImageRecord {
        tree,
        arch,
        config: ImageConfig { entrypoint: vec![COMMAND.to_owned()], ..ImageConfig::default() },
        // It is no image of OCI's.
        oci_config: tree,
        oci_id: Sha256::from_bytes([0; 32]),
        layers: Vec::new(),
        source: String::new(),
        inputs: Vec::new(),
        created: Timestamp::default(),
        size: ByteSize::bytes(0),
        slim: None,
    };
    Ok((tree, record))
}
