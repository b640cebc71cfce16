//! The JSON documents of an image: index, manifest, configuration. OCI image specification 1.1 and docker's older twins.
//!
//! Reading is lenient where tools differ (unknown fields, `null` for nothing) and strict where it matters: digests parse or
//! fail, sizes cannot be negative, and a document is small. Writing gives the same bytes for the same data.

use std::collections::BTreeMap;

use model::{Arch, ImageConfig, Sha256, Timestamp};
use serde::{Deserialize, Deserializer, Serialize};

use crate::{Error, Result};

pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// What a document points at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Sha256,
    pub(crate) size: u64,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
    /// Elsewhere than in the registry: refused.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub(crate) urls: Vec<String>,
}

/// The name of a tag in an OCI layout's index.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// What an image runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Platform {
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
}

/// A list of manifests.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub(crate) schema_version: u32,
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) manifests: Vec<Descriptor>,
}

/// One image: its configuration and its layers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) config: Descriptor,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) layers: Vec<Descriptor>,
}

/// An image's configuration.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ConfigFile {
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) architecture: String,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) os: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) config: RunConfig,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) rootfs: RootFs,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub(crate) history: Vec<History>,
}

/// How its program runs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct RunConfig {
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    user: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    exposed_ports: BTreeMap<String, Empty>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    env: Vec<String>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    cmd: Vec<String>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    volumes: BTreeMap<String, Empty>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    working_dir: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    stop_signal: String,
}

/// `{}`, the value of a set written as a map; some tools write `null`.
#[derive(Clone, Debug, Default)]
struct Empty;

impl Serialize for Empty {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde::ser::SerializeMap::end(serializer.serialize_map(Some(0))?)
    }
}

impl<'de> Deserialize<'de> for Empty {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

/// Which tars make up the file system.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct RootFs {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) diff_ids: Vec<Sha256>,
}

/// What was done for one layer, or for none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct History {
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<String>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub(crate) created_by: String,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub(crate) comment: String,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "std::ops::Not::not")]
    pub(crate) empty_layer: bool,
}

/// One image of a docker archive.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ArchivedImage {
    pub(crate) config: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) repo_tags: Vec<String>,
    pub(crate) layers: Vec<String>,
}

/// `null` reads as nothing.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl ConfigFile {
    pub(crate) fn new(
        arch: Arch,
        config: &ImageConfig,
        diff_ids: Vec<Sha256>,
        history: Vec<History>,
        created: Timestamp,
    ) -> Self {
        let set = |names: &[String]| names.iter().map(|name| (name.clone(), Empty)).collect();
        Self {
            created: time_text(created),
            architecture: arch.oci().to_owned(),
            variant: (arch == Arch::Arm).then(|| "v7".to_owned()),
            os: "linux".to_owned(),
            config: RunConfig {
                user: config.user.clone(),
                exposed_ports: set(&config.exposed_ports),
                env: config.env.clone(),
                entrypoint: config.entrypoint.clone(),
                cmd: config.command.clone(),
                volumes: set(&config.volumes),
                working_dir: config.workdir.clone(),
                labels: config.labels.clone(),
                stop_signal: config.stop_signal.clone(),
            },
            rootfs: RootFs { kind: "layers".to_owned(), diff_ids },
            history,
        }
    }

    /// What of it concerns a cell.
    pub(crate) fn image_config(&self) -> ImageConfig {
        let config = &self.config;
        ImageConfig {
            entrypoint: config.entrypoint.clone(),
            command: config.cmd.clone(),
            env: config.env.clone(),
            workdir: config.working_dir.clone(),
            user: config.user.clone(),
            exposed_ports: config.exposed_ports.keys().cloned().collect(),
            volumes: config.volumes.keys().cloned().collect(),
            stop_signal: config.stop_signal.clone(),
            labels: config.labels.clone(),
        }
    }

    /// When it was made, by its own account.
    pub(crate) fn created(&self) -> Timestamp {
        self.created.as_deref().and_then(parse_time).unwrap_or_default()
    }

    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>> {
        to_bytes(self)
    }
}

/// A moment as RFC 3339 text; nothing for the epoch itself, which stands for "not told".
pub(crate) fn time_text(time: Timestamp) -> Option<String> {
    let moment = jiff::Timestamp::from_nanosecond(i128::from(time.as_nanos())).ok()?;
    (time.as_nanos() > 0).then(|| moment.to_string())
}

/// Reads such text; times before the epoch read as none.
pub(crate) fn parse_time(text: &str) -> Option<Timestamp> {
    let time: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(time.as_nanosecond()).ok().map(Timestamp::from_nanos)
}

/// Writes a document.
pub(crate) fn to_bytes(document: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(document).map_err(|error| Error::malformed("image document", error.to_string()))
}

/// Reads a document. serde_json bounds how deep it may be nested.
pub(crate) fn from_bytes<T: for<'de> Deserialize<'de>>(what: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| Error::malformed(what, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tools_write_is_read() {
        let text = r#"{"architecture":"arm64","os":"linux","created":"2024-02-03T04:05:06.5Z","unknown":{"x":[1]},
            "config":{"Cmd":null,"Entrypoint":["/a"],"Env":null,"ExposedPorts":{"80/tcp":{},"53/udp":null},
            "Labels":null,"OnBuild":null,"Volumes":{"/data":{}},"User":"web","Healthcheck":{"Test":[]}},
            "rootfs":{"type":"layers","diff_ids":null},"history":null}"#;
        let file: ConfigFile = from_bytes("configuration", text.as_bytes()).unwrap();
        let config = file.image_config();
        assert_eq!(config.entrypoint, ["/a"]);
        assert_eq!(config.exposed_ports, ["53/udp", "80/tcp"]);
        assert_eq!((config.user.as_str(), config.command.len()), ("web", 0));
        assert_eq!(file.created().as_nanos(), 1_706_933_106_500_000_000);
    }

    #[test]
    fn a_configuration_reads_back_as_written() {
        let config = ImageConfig {
            command: vec!["nginx".to_owned()],
            exposed_ports: vec!["80/tcp".to_owned()],
            stop_signal: "SIGQUIT".to_owned(),
            ..ImageConfig::default()
        };
        let file = ConfigFile::new(Arch::Arm, &config, Vec::new(), Vec::new(), Timestamp::from_nanos(5_000_000_000));
        let bytes = file.to_bytes().unwrap();
        let read: ConfigFile = from_bytes("configuration", &bytes).unwrap();
        assert_eq!(read.image_config(), config);
        assert_eq!(read.created().as_nanos(), 5_000_000_000);
        assert_eq!(read.to_bytes().unwrap(), bytes);
    }

    #[test]
    fn hostile_documents_are_refused() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(from_bytes::<Index>("index", deep.as_bytes()).is_err());
        let digest = "0".repeat(64);
        for wrong in [
            r#"{"schemaVersion":2,"manifests":[{"digest":"sha256:zz","size":1}]}"#.to_owned(),
            format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"sha256:{digest}","size":-1}}]}}"#),
            format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"md5:{digest}","size":1}}]}}"#),
            r#"{"schemaVersion":2}"#.to_owned(),
        ] {
            assert!(from_bytes::<Index>("index", wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
