//! Makes tars and images by hand, right ones and wrong ones.

use std::io::Write;
use std::path::Path;

use sha2::Digest;

use crate::env::write;

/// A tar being made.
#[derive(Clone, Default)]
pub(crate) struct Tar(pub(crate) Vec<u8>);

/// One header, as it is written: nothing is checked here.
#[derive(Clone)]
pub(crate) struct Entry<'e> {
    pub(crate) name: &'e [u8],
    pub(crate) kind: u8,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) link: &'e [u8],
    pub(crate) size: Size<'e>,
    pub(crate) device: (u32, u32),
    pub(crate) mtime: u64,
}

#[derive(Clone)]
pub(crate) enum Size<'e> {
    Number(u64),
    /// The field's twelve bytes as they are.
    Raw(&'e [u8]),
}

impl<'e> Entry<'e> {
    pub(crate) fn new(kind: u8, name: &'e str) -> Self {
        let mode = if kind == b'5' { 0o755 } else { 0o644 };
        let name = name.as_bytes();
        Self { name, kind, mode, owner: (0, 0), link: b"", size: Size::Number(0), device: (0, 0), mtime: 1_700_000_000 }
    }
}

impl Tar {
    pub(crate) fn raw(mut self, entry: &Entry<'_>, content: &[u8]) -> Self {
        let mut block = [0u8; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &entry.name[..entry.name.len().min(100)]);
        put(100, format!("{:07o}\0", entry.mode).as_bytes());
        put(108, format!("{:07o}\0", entry.owner.0).as_bytes());
        put(116, format!("{:07o}\0", entry.owner.1).as_bytes());
        match entry.size {
            Size::Number(size) => put(124, format!("{size:011o}\0").as_bytes()),
            Size::Raw(bytes) => put(124, bytes),
        }
        put(136, format!("{:011o}\0", entry.mtime).as_bytes());
        put(148, b"        ");
        put(156, &[entry.kind]);
        put(157, &entry.link[..entry.link.len().min(100)]);
        put(257, b"ustar\x0000");
        put(329, format!("{:07o}\0", entry.device.0).as_bytes());
        put(337, format!("{:07o}\0", entry.device.1).as_bytes());
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&block);
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: &str, content: &[u8]) -> Self {
        self.raw(&Entry { size: Size::Number(content.len() as u64), ..Entry::new(b'0', name) }, content)
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.raw(&Entry::new(b'5', name), b"")
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.raw(&Entry { link: target.as_bytes(), mode: 0o777, ..Entry::new(b'2', name) }, b"")
    }

    pub(crate) fn hardlink(self, name: &str, target: &str) -> Self {
        self.raw(&Entry { link: target.as_bytes(), ..Entry::new(b'1', name) }, b"")
    }

    /// A PAX header for the next entry.
    pub(crate) fn pax(self, records: &[(&str, &str)]) -> Self {
        let mut text = String::new();
        for (key, value) in records {
            let rest = format!(" {key}={value}\n");
            let mut length = rest.len() + 1;
            while length != rest.len() + length.to_string().len() {
                length = rest.len() + length.to_string().len();
            }
            text.push_str(&format!("{length}{rest}"));
        }
        self.raw(&Entry { size: Size::Number(text.len() as u64), ..Entry::new(b'x', "pax") }, text.as_bytes())
    }

    /// Ends the tar.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    model::Sha256::from_bytes(sha2::Sha256::digest(bytes).into()).to_string()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// How a layer is packed in an image made here.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Packed {
    Plain,
    Gzip,
    Zstd,
}

/// The blobs of an image of those layers: the last is the manifest.
pub(crate) fn image(layers: &[Vec<u8>], packed: Packed) -> Vec<Vec<u8>> {
    let blobs: Vec<(Vec<u8>, &str)> = layers
        .iter()
        .map(|layer| match packed {
            Packed::Plain => (layer.clone(), "application/vnd.oci.image.layer.v1.tar"),
            Packed::Gzip => (gzip(layer), "application/vnd.oci.image.layer.v1.tar+gzip"),
            Packed::Zstd => {
                (zstd::encode_all(layer.as_slice(), 1).unwrap(), "application/vnd.oci.image.layer.v1.tar+zstd")
            }
        })
        .collect();
    let diff_ids: Vec<String> = layers.iter().map(|layer| sha256(layer)).collect();
    let config = serde_json::json!({
        "architecture": model::Arch::HOST.oci(), "os": "linux", "config": {"Cmd": ["/bin/true"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string()
    .into_bytes();
    let described: Vec<serde_json::Value> = blobs
        .iter()
        .map(|(blob, kind)| serde_json::json!({"mediaType": kind, "digest": sha256(blob), "size": blob.len()}))
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": sha256(&config), "size": config.len()},
        "layers": described,
    })
    .to_string()
    .into_bytes();
    blobs.into_iter().map(|(blob, _)| blob).chain([config, manifest]).collect()
}

/// An OCI layout whose index points at the last of those blobs.
pub(crate) fn layout(dir: &Path, blobs: &[Vec<u8>]) {
    let manifest = blobs.last().unwrap();
    let entry = serde_json::json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": sha256(manifest), "size": manifest.len(),
    });
    layout_of(dir, blobs, &entry);
}

/// An OCI layout with that one entry in its index.
pub(crate) fn layout_of(dir: &Path, blobs: &[Vec<u8>], entry: &serde_json::Value) {
    for blob in blobs {
        write(&dir.join("blobs/sha256").join(&sha256(blob)[7..]), blob);
    }
    write(&dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#);
    write(&dir.join("index.json"), serde_json::json!({"schemaVersion": 2, "manifests": [entry]}).to_string());
}
