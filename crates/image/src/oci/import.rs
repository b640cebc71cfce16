//! From a manifest to an image in the pool, whichever way its blobs come.

use std::io::Read;

use model::{Arch, ImageRecord, Progress, Sha256, Source};
use sha2::Digest;
use store::Store;

use super::export::LayerForm;
use super::json::{self, ConfigFile, Descriptor, Index, Manifest};
use crate::layer::unpack::{Expected, Unpacker, check};
use crate::limits::Limits;
use crate::seekable::remote::toc_digest;
use crate::{Error, FetchOptions, Fetched, Result, record};

/// Where blobs are to be had by digest.
pub(crate) trait Blobs {
    /// A blob's bytes, which the caller checks.
    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Read + '_>>;
}

/// Reads a document that is small, and is what its descriptor says.
pub(crate) fn document(blobs: &dyn Blobs, what: &str, blob: &Descriptor, limits: &Limits) -> Result<Vec<u8>> {
    if blob.size > limits.document.get() {
        return Err(Error::limit("bytes of an image's document", limits.document));
    }
    let mut bytes = Vec::new();
    let source = blobs.open(blob)?;
    source.take(blob.size + 1).read_to_end(&mut bytes).map_err(|error| Error::read(what, error))?;
    verify(what, &bytes, blob)?;
    Ok(bytes)
}

/// Checks bytes against the descriptor that promised them.
pub(crate) fn verify(what: &str, bytes: &[u8], blob: &Descriptor) -> Result<()> {
    check(&format!("size of {what}"), &blob.size, &(bytes.len() as u64))?;
    check(what, &blob.digest, &Sha256::from_bytes(sha2::Sha256::digest(bytes).into()))
}

/// An image's manifest with its digest.
pub(crate) struct Chosen {
    pub(crate) manifest: Manifest,
    pub(crate) digest: Sha256,
}

/// Follows a descriptor to the manifest for that processor, through indexes if need be. An index that leads to itself
/// cannot be made, as it would have to hold its own digest; one that is nested without end is cut off by the limit.
pub(crate) fn choose(blobs: &dyn Blobs, start: &Descriptor, arch: Arch, limits: &Limits) -> Result<Chosen> {
    let mut at = start.clone();
    for _ in 0..=limits.nesting {
        let bytes = document(blobs, "manifest", &at, limits)?;
        match parse(&bytes, &at.media_type)? {
            Document::Manifest(manifest) => return Ok(Chosen { manifest, digest: at.digest }),
            Document::Index(index) => at = pick(index, arch)?,
        }
    }
    Err(Error::limit("indexes within indexes", limits.nesting))
}

/// What a descriptor can lead to.
pub(crate) enum Document {
    Index(Index),
    Manifest(Manifest),
}

/// Tells an index from a manifest by its media type, or by its shape when it has none.
pub(crate) fn parse(bytes: &[u8], told: &str) -> Result<Document> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        #[serde(default)]
        media_type: String,
        manifests: Option<serde::de::IgnoredAny>,
        layers: Option<serde::de::IgnoredAny>,
        #[serde(rename = "fsLayers")]
        fs_layers: Option<serde::de::IgnoredAny>,
    }
    let shape: Shape = json::from_bytes("manifest", bytes)?;
    // One document that is both would be read as either by different tools.
    if shape.manifests.is_some() && (shape.layers.is_some() || shape.fs_layers.is_some()) {
        return Err(Error::malformed("manifest", "it is an index and a manifest at once"));
    }
    if shape.fs_layers.is_some() {
        let why = "it is of docker's first form, which no registry serves by default any more".to_owned();
        return Err(Error::Unsupported { what: "manifest".to_owned(), why });
    }
    let kind = if shape.media_type.is_empty() { told } else { &shape.media_type };
    match kind {
        json::INDEX | json::DOCKER_INDEX => json::from_bytes("index", bytes).map(Document::Index),
        json::MANIFEST | json::DOCKER_MANIFEST => json::from_bytes("manifest", bytes).map(Document::Manifest),
        "" if shape.manifests.is_some() => json::from_bytes("index", bytes).map(Document::Index),
        "" => json::from_bytes("manifest", bytes).map(Document::Manifest),
        other => {
            Err(Error::Unsupported { what: format!("document of type {other}"), why: "it is no image".to_owned() })
        }
    }
}

/// The entry of an index for that processor.
pub(crate) fn pick(index: Index, arch: Arch) -> Result<Descriptor> {
    let is_index = |entry: &Descriptor| matches!(entry.media_type.as_str(), json::INDEX | json::DOCKER_INDEX);
    let fits = |entry: &&Descriptor| {
        let platform = entry.platform.as_ref();
        platform.is_some_and(|it| it.os == "linux" && it.architecture.parse() == Ok(arch) && variant_fits(it, arch))
    };
    if let Some(found) = index.manifests.iter().find(fits) {
        return Ok(found.clone());
    }
    // Without platforms there is nothing to choose by; with one entry there is nothing to choose.
    let unnamed: Vec<&Descriptor> = index.manifests.iter().filter(|entry| entry.platform.is_none()).collect();
    match unnamed.as_slice() {
        [only] => return Ok((*only).clone()),
        several => {
            if let Some(nested) = several.iter().find(|entry| is_index(entry)) {
                return Ok((*nested).clone());
            }
        }
    }
    let offered: Vec<String> =
        index.manifests.iter().filter_map(|entry| entry.platform.as_ref()).map(|it| it.architecture.clone()).collect();
    Err(Error::not_found(format!("an image for {arch}"), format!("there are ones for {}", offered.join(", "))))
}

fn variant_fits(platform: &json::Platform, arch: Arch) -> bool {
    arch != Arch::Arm || platform.variant.as_deref().is_none_or(|variant| variant == "v7")
}

/// Takes an image into the pool.
pub(crate) fn import(
    store: &Store,
    source: &Source,
    blobs: &dyn Blobs,
    chosen: &Chosen,
    options: &FetchOptions,
    progress: &dyn Progress,
) -> Result<Fetched> {
    let Chosen { manifest, digest } = chosen;
    let limits = &options.limits;
    if manifest.layers.len() > limits.layers {
        return Err(Error::limit("layers of an image", limits.layers));
    }
    manifest.layers.iter().try_for_each(acceptable)?;
    let config_bytes = document(blobs, "configuration", &manifest.config, limits)?;
    let mut draft = Imported::read(source, &config_bytes, options)?;
    if draft.diff_ids.len() != manifest.layers.len() {
        let (told, there) = (draft.diff_ids.len(), manifest.layers.len());
        return Err(Error::malformed("configuration", format!("it tells of {told} layers, the manifest of {there}")));
    }
    let mut writer = store.writer()?;
    let mut unpacker = Unpacker::new(&mut writer, *limits);
    let count = manifest.layers.len();
    for (number, (layer, diff_id)) in manifest.layers.iter().zip(draft.diff_ids.clone()).enumerate() {
        progress.begin(&format!("unpacking layer {} of {count}", number + 1), Some(layer.size));
        let form = match toc_digest(layer) {
            Some(_) => LayerForm::Seekable,
            None => LayerForm::Stream,
        };
        let expected = Expected { digest: layer.digest, size: layer.size, form };
        // One byte more than promised is enough to see that it is not what was promised.
        let bytes = blobs.open(layer)?.take(layer.size.saturating_add(1));
        let record = unpacker.layer(bytes, Some(expected), Some(diff_id), progress);
        progress.end();
        draft.layers.push(record?);
    }
    let tree = std::mem::take(&mut unpacker.tree);
    draft.inputs = std::iter::once(format!("manifest {digest}"))
        .chain(manifest.layers.iter().map(|layer| format!("layer {}", layer.digest)))
        .collect();
    draft.finish(source, writer, tree, &config_bytes, options)
}

/// Refuses layers that are no layers, or that are not in the place of the others.
pub(crate) fn acceptable(layer: &Descriptor) -> Result<()> {
    let kind = layer.media_type.as_str();
    let refuse = |why: &str| Err(Error::Unsupported { what: format!("layer {}", layer.digest), why: why.to_owned() });
    if !layer.urls.is_empty() || kind.contains("foreign") || kind.contains("nondistributable") {
        return refuse("it is a foreign layer, to be had from elsewhere only");
    }
    if kind.ends_with("+encrypted") {
        return refuse("it is encrypted");
    }
    if !kind.is_empty() && !kind.contains("tar") {
        return refuse(&format!("its type is {kind}, which is no file system"));
    }
    Ok(())
}

/// An image that came from elsewhere, while its layers are being taken in.
pub(crate) struct Imported {
    pub(crate) arch: Arch,
    pub(crate) file: ConfigFile,
    pub(crate) diff_ids: Vec<Sha256>,
    pub(crate) layers: Vec<model::LayerRecord>,
    pub(crate) inputs: Vec<String>,
}

impl Imported {
    /// Reads a configuration, and checks that the image is one for the processor that was asked for.
    pub(crate) fn read(source: &Source, config: &[u8], options: &FetchOptions) -> Result<Self> {
        let file: ConfigFile = json::from_bytes("configuration", config)?;
        if !matches!(file.os.as_str(), "" | "linux") {
            let why = format!("it is for {}", file.os);
            return Err(Error::Unsupported { what: source.to_string(), why });
        }
        let arch: Arch = if file.architecture.is_empty() {
            Arch::HOST
        } else {
            file.architecture.parse().map_err(|_| Error::Unsupported {
                what: source.to_string(),
                why: format!("it is for the processor {}", file.architecture.escape_debug()),
            })?
        };
        if let Some(asked) = options.arch.filter(|asked| *asked != arch) {
            return Err(Error::not_found(format!("an image for {asked}"), format!("{source} is for {arch}")));
        }
        let diff_ids = file.rootfs.diff_ids.clone();
        Ok(Self { arch, file, diff_ids, layers: Vec::new(), inputs: Vec::new() })
    }

    /// Stores and publishes the image.
    pub(crate) fn finish(
        self,
        source: &Source,
        mut writer: store::Writer,
        tree: store::Tree,
        config: &[u8],
        options: &FetchOptions,
    ) -> Result<Fetched> {
        let record = ImageRecord {
            tree: writer.tree(&tree)?,
            arch: self.arch,
            config: self.file.image_config(),
            oci_config: writer.blob(config)?,
            oci_id: Sha256::from_bytes(sha2::Sha256::digest(config).into()),
            layers: self.layers,
            source: source.to_string(),
            inputs: self.inputs,
            created: self.file.created(),
            size: model::ByteSize::bytes(tree.content_size()),
            slim: None,
        };
        record::publish(writer, source, record, Vec::new(), options.name.as_ref())
    }
}
