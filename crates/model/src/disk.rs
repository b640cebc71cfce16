//! Disks of machines: which file, how it is read, and whether a system of its own starts from it.

use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::cell::MountAccess;
use crate::parse::ParseError;

/// Whose first program a machine starts with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FirstProgram {
    /// The image's command.
    #[default]
    Images,
    /// What the first disk has for process 1.
    Disks,
}

impl FirstProgram {
    pub(crate) fn is_the_images(&self) -> bool {
        *self == Self::Images
    }
}

/// A disk of a machine: a file of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSpec {
    /// The file.
    pub file: PathBuf,
    /// How it is read.
    pub format: DiskFormat,
    /// Whether the machine may write.
    pub access: MountAccess,
}

/// How a disk's file is read. **It is what its owner says**, by the file's name or in front of it, and never what is found in
/// it: a guest that could choose could have its host read any file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskFormat {
    /// Byte for byte.
    Raw,
    /// QEMU's.
    Qcow2,
}

impl FromStr for DiskSpec {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (rest, access) = match text.strip_suffix(":ro") {
            Some(rest) => (rest, MountAccess::ReadOnly),
            None => (text, MountAccess::ReadWrite),
        };
        let (file, format) = match (rest.strip_prefix("raw:"), rest.strip_prefix("qcow2:")) {
            (Some(file), _) => (file, DiskFormat::Raw),
            (_, Some(file)) => (file, DiskFormat::Qcow2),
            _ if rest.ends_with(".qcow2") => (rest, DiskFormat::Qcow2),
            _ => (rest, DiskFormat::Raw),
        };
        if file.is_empty() {
            return Err(ParseError::new("disk", text, "a file, like disk.qcow2, raw:FILE or FILE:ro"));
        }
        Ok(Self { file: file.into(), format, access })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_what_its_name_says_or_what_stands_before() {
        let check = |text: &str, file: &str, format, access| {
            assert_eq!(text.parse::<DiskSpec>().unwrap(), DiskSpec { file: file.into(), format, access }, "{text}");
        };
        check("a/b.qcow2", "a/b.qcow2", DiskFormat::Qcow2, MountAccess::ReadWrite);
        check("b.img:ro", "b.img", DiskFormat::Raw, MountAccess::ReadOnly);
        check("raw:b.qcow2", "b.qcow2", DiskFormat::Raw, MountAccess::ReadWrite);
        check("qcow2:/dev/x:ro", "/dev/x", DiskFormat::Qcow2, MountAccess::ReadOnly);
        assert!("raw:".parse::<DiskSpec>().is_err());
        assert!("".parse::<DiskSpec>().is_err());
    }
}
