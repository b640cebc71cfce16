//! Registries: pull and push by the OCI distribution protocol.
//!
//! Manifests and blobs are checked against their digests whatever the registry says of them. Blobs are downloaded into the
//! cache first, where a cut connection leaves what had arrived, and the next attempt goes on from there; a layer is parsed
//! only after all of it was found to be what the manifest promised. A registry on the loopback is spoken to without
//! encryption, as docker does; any other with TLS only. The asynchronous runtime lives inside the two functions here.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::HeaderValue;
use model::{ByteSize, ObjectId, Progress, Reference, Sha256, Source};
use oci_client::RegistryOperation;
use oci_client::client::{BlobResponse, Client, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use rustix::fs::FlockOperation;
use store::Store;

use super::auth;
use super::export::{LayerForm, describe, stage};
use super::failure::{Failure, innermost, registry_error};
use super::import::{self, Blobs, Chosen, Document, pick, verify};
use super::json::{self, Descriptor};
use crate::layer::unpack::Hashing;
use crate::staging::Staging;
use crate::{Error, FetchOptions, Fetched, Result};

/// How often a transfer is begun before it is given up.
const ATTEMPTS: u32 = 4;
/// The pause before the second attempt; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Bytes of a blob read and sent at once.
const PIECE: usize = 256 << 10;

/// What was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Digest of the manifest, by which the image can be pulled again whatever happens to the tag.
    pub digest: Sha256,
    /// Bytes sent; blobs that the registry had are not sent again.
    pub sent: ByteSize,
    /// What whoever asked should know.
    pub notes: Vec<String>,
}

/// Pulls an image.
pub(crate) fn pull(
    store: &Store,
    source: &Source,
    reference: &Reference,
    options: &FetchOptions,
    progress: &dyn Progress,
) -> Result<Fetched> {
    let session = Session::open(reference, options)?;
    let blobs = CachedBlobs::of(options)?;
    let chosen = runtime()?.block_on(async {
        let chosen = session.manifest(options).await?;
        let Chosen { manifest, .. } = &chosen;
        if manifest.layers.len() > options.limits.layers {
            return Err(Error::limit("layers of an image", options.limits.layers));
        }
        if manifest.config.size > options.limits.document.get() {
            return Err(Error::limit("bytes of an image's document", options.limits.document));
        }
        manifest.layers.iter().try_for_each(import::acceptable)?;
        session.download(&manifest.config, &blobs, &()).await?;
        let count = manifest.layers.len();
        for (number, layer) in manifest.layers.iter().enumerate() {
            progress.begin(&format!("pulling layer {} of {count}", number + 1), Some(layer.size));
            let outcome = session.download(layer, &blobs, progress).await;
            progress.end();
            outcome?;
        }
        Ok(chosen)
    })?;
    let mut fetched = import::import(store, source, &blobs, &chosen, options, progress)?;
    for blob in chosen.manifest.layers.iter().chain([&chosen.manifest.config]) {
        // What is in the pool need not be in the cache; that it is still there does no harm.
        let _ = fs::remove_file(blobs.path(blob));
    }
    fetched.notes.extend(session.note);
    Ok(fetched)
}

/// Pushes an image under a tag (`latest` when none is given).
///
/// # Errors
/// [`Error::Unsupported`] when the reference names a digest: what an image's digest will be is not for the caller to say.
pub fn push(
    store: &Store,
    id: &ObjectId,
    to: &Reference,
    form: LayerForm,
    options: &FetchOptions,
    progress: &dyn Progress,
) -> Result<Pushed> {
    if to.digest.is_some() {
        let why = "an image is pushed to a tag; its digest follows from its content".to_owned();
        return Err(Error::Unsupported { what: to.to_string(), why });
    }
    let record = store.image(id)?;
    let reader = store.reader()?;
    let session = Session::open(to, options)?;
    let staging = Staging::under(options.cache())?;
    let mut staged = stage(&reader, &record, staging.path(), form, progress)?;
    let config = staging.path().join("config");
    fs::write(&config, &staged.config).map_err(|error| Error::io(config.display(), error))?;
    let sent = runtime()?.block_on(async {
        let mut sent = 0;
        for layer in &staged.layers {
            sent += session.upload(&layer.descriptor, &layer.path, progress).await?;
        }
        sent += session.upload(&staged.config_descriptor, &config, progress).await?;
        session.upload_manifest(&staged.manifest).await?;
        Ok::<u64, Error>(sent)
    })?;
    staged.notes.extend(session.note);
    Ok(Pushed { digest: staged.descriptor.digest, sent: ByteSize::bytes(sent), notes: staged.notes })
}

pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| Error::io("the network", error))
}

/// Blobs that were downloaded.
pub(crate) struct CachedBlobs {
    dir: PathBuf,
}

impl CachedBlobs {
    pub(crate) fn of(options: &FetchOptions) -> Result<Self> {
        let dir = options.cache().join("blobs");
        fs::create_dir_all(&dir).map_err(|error| Error::io(dir.display(), error))?;
        Ok(Self { dir })
    }

    fn path(&self, blob: &Descriptor) -> PathBuf {
        self.dir.join(blob.digest.hex())
    }
}

impl Blobs for CachedBlobs {
    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Read + '_>> {
        let path = self.path(blob);
        Ok(Box::new(File::open(&path).map_err(|error| Error::io(path.display(), error))?))
    }
}

/// A conversation with one registry about one repository.
pub(crate) struct Session {
    pub(super) client: Client,
    pub(crate) auth: RegistryAuth,
    pub(super) reference: Reference,
    pub(super) stall: Duration,
    pub(crate) note: Option<String>,
}

impl Session {
    pub(crate) fn open(reference: &Reference, options: &FetchOptions) -> Result<Self> {
        let credentials = auth::find(reference, options.credentials.as_deref())?;
        let session = Self::with(reference, credentials.auth, Duration::from(options.stall))?;
        Ok(Self { note: credentials.note, ..session })
    }

    /// With credentials that are known already.
    pub(crate) fn with(reference: &Reference, auth: RegistryAuth, stall: Duration) -> Result<Self> {
        // The first to come installs the provider; that another was there already is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = connect(&reference.registry, stall)
            .map_err(|error| registry_error(reference, format!("no connection can be made: {}", innermost(&error))))?;
        Ok(Self { client, auth, reference: reference.clone(), stall, note: None })
    }

    fn tagged(&self) -> oci_client::Reference {
        let Reference { registry, repository, tag, .. } = &self.reference;
        let tag = tag.clone().unwrap_or_else(|| "latest".to_owned());
        oci_client::Reference::with_tag(registry.clone(), repository.clone(), tag)
    }

    pub(super) fn by_digest(&self, digest: Sha256) -> oci_client::Reference {
        let Reference { registry, repository, .. } = &self.reference;
        oci_client::Reference::with_digest(registry.clone(), repository.clone(), digest.to_string())
    }

    /// The manifest for the processor asked for, through indexes if need be.
    pub(crate) async fn manifest(&self, options: &FetchOptions) -> Result<Chosen> {
        let limits = &options.limits;
        let mut expected = self.reference.digest.map(|digest| (digest, None));
        let mut told = String::new();
        for _ in 0..=limits.nesting {
            let address = expected.map_or_else(|| self.tagged(), |(digest, _)| self.by_digest(digest));
            let bytes = self.retried(|| self.raw_manifest(&address)).await?;
            if bytes.len() as u64 > limits.document.get() {
                return Err(Error::limit("bytes of an image's document", limits.document));
            }
            let digest = describe("", &bytes).digest;
            if let Some((wanted, size)) = expected {
                let size = size.unwrap_or(bytes.len() as u64);
                verify("manifest", &bytes, &Descriptor { digest: wanted, size, ..describe("", b"") })?;
            }
            match import::parse(&bytes, &told)? {
                Document::Manifest(manifest) => return Ok(Chosen { manifest, digest }),
                Document::Index(index) => {
                    let entry = pick(index, options.arch_or(None))?;
                    expected = Some((entry.digest, Some(entry.size)));
                    told = entry.media_type;
                }
            }
        }
        Err(Error::limit("indexes within indexes", limits.nesting))
    }

    async fn raw_manifest(&self, address: &oci_client::Reference) -> Result<Bytes, Failure> {
        let accepted = [json::INDEX, json::MANIFEST, json::DOCKER_INDEX, json::DOCKER_MANIFEST];
        let request = self.client.pull_manifest_raw(address, &self.auth, &accepted);
        // The library reads the whole body at once: a body without end must not take the time, or the memory, of ever.
        match tokio::time::timeout(self.stall.saturating_mul(2), request).await {
            Ok(Ok((bytes, _))) => Ok(bytes),
            Ok(Err(error)) => Err(self.judge(error)),
            Err(_) => Err(Failure::Passing("it does not answer".to_owned())),
        }
    }

    /// Begins again, after a pause, what failed for a reason that may pass.
    pub(super) async fn retried<T, F: Future<Output = Result<T, Failure>>>(
        &self,
        attempt: impl Fn() -> F,
    ) -> Result<T> {
        let mut pause = FIRST_PAUSE;
        let mut last = String::new();
        for number in 0..ATTEMPTS {
            if number > 0 {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            match attempt().await {
                Ok(value) => return Ok(value),
                Err(Failure::Lasting(error)) => return Err(error),
                Err(Failure::Passing(said)) => last = said,
            }
        }
        Err(registry_error(&self.reference, format!("{last} (tried {ATTEMPTS} times)")))
    }

    /// An error of this registry's.
    pub(crate) fn error(&self, said: String) -> Error {
        registry_error(&self.reference, said)
    }

    pub(super) fn judge(&self, error: OciDistributionError) -> Failure {
        Failure::of(error, &self.reference, &self.note_text())
    }

    fn note_text(&self) -> String {
        self.note.as_ref().map_or_else(String::new, |note| format!(" ({note})"))
    }

    /// Brings a blob into the cache, whole and checked.
    pub(crate) async fn download(&self, blob: &Descriptor, into: &CachedBlobs, progress: &dyn Progress) -> Result<()> {
        let whole = into.path(blob);
        let failed = |error: std::io::Error| Error::io(whole.display(), error);
        let part = whole.with_extension("part");
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&part).map_err(failed)?;
        // Two pulls of one blob take turns; the second finds it there.
        rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(|error| Error::io(part.display(), error))?;
        if fs::metadata(&whole).is_ok_and(|metadata| metadata.len() == blob.size) {
            progress.advance(blob.size);
            return Ok(());
        }
        self.retried_download(blob, &mut file, progress).await?;
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let (digest, size) = Hashing::new(&file).finish().map_err(failed)?;
        if (digest, size) != (blob.digest, blob.size) {
            let _ = fs::remove_file(&part);
            let found = format!("{digest} of {size} bytes");
            let expected = format!("{} of {} bytes", blob.digest, blob.size);
            return Err(Error::Mismatch { what: "blob".to_owned(), expected, found });
        }
        fs::rename(&part, &whole).map_err(failed)
    }

    async fn retried_download(&self, blob: &Descriptor, file: &mut File, progress: &dyn Progress) -> Result<()> {
        let mut pause = FIRST_PAUSE;
        let mut failures = 0;
        let mut told = 0;
        loop {
            let before = length(file)?;
            match self.attempt_download(blob, file, &mut told, progress).await {
                Ok(()) => return Ok(()),
                Err(Failure::Lasting(error)) => return Err(error),
                Err(Failure::Passing(said)) => {
                    // An attempt that brought much is progress, however it ended; drops that keep coming are not.
                    failures = if length(file)? > before + PIECE as u64 { 1 } else { failures + 1 };
                    if failures >= ATTEMPTS {
                        return Err(registry_error(&self.reference, format!("{said} (tried {ATTEMPTS} times)")));
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(FIRST_PAUSE * 16);
        }
    }

    /// Downloads what the file does not have yet. `told` is how much progress knows of.
    async fn attempt_download(
        &self,
        blob: &Descriptor,
        file: &mut File,
        told: &mut u64,
        progress: &dyn Progress,
    ) -> Result<(), Failure> {
        let lasting = |error: std::io::Error| Failure::Lasting(Error::io("the cache of blobs", error));
        let mut have = length(file).map_err(Failure::Lasting)?;
        if have > blob.size {
            file.set_len(0).map_err(lasting)?;
            have = 0;
        }
        if have == blob.size {
            return Ok(());
        }
        self.client.store_auth_if_needed(&self.reference.registry, &self.auth).await;
        let address = self.by_digest(blob.digest);
        let descriptor = OciDescriptor { digest: blob.digest.to_string(), ..OciDescriptor::default() };
        let response = self.client.pull_blob_stream_partial(&address, &descriptor, have, None);
        let response = match tokio::time::timeout(self.stall.saturating_mul(2), response).await {
            Ok(response) => response.map_err(|error| self.judge(error))?,
            Err(_) => return Err(Failure::Passing("it does not answer".to_owned())),
        };
        let mut stream = match response {
            BlobResponse::Partial(stream) => stream.stream,
            // It does not serve parts: from the beginning.
            BlobResponse::Full(stream) => {
                file.set_len(0).map_err(lasting)?;
                have = 0;
                stream.stream
            }
        };
        file.seek(SeekFrom::Start(have)).map_err(lasting)?;
        while have < blob.size {
            let piece = match tokio::time::timeout(self.stall, stream.next()).await {
                Ok(Some(Ok(piece))) => piece,
                Ok(Some(Err(error))) => return Err(Failure::Passing(innermost(&error))),
                Ok(None) => return Err(Failure::Passing("it ends the connection too early".to_owned())),
                Err(_) => return Err(Failure::Passing("it stopped sending".to_owned())),
            };
            // What is beyond the promised size is not taken in; the digest tells whether the rest is right.
            let room = usize::try_from(blob.size - have).unwrap_or(usize::MAX).min(piece.len());
            file.write_all(piece.get(..room).unwrap_or_default()).map_err(lasting)?;
            have += room as u64;
            if have > *told {
                progress.advance(have - *told);
                *told = have;
            }
        }
        Ok(())
    }

    /// Sends a blob unless the registry has it; how many bytes were sent.
    async fn upload(&self, blob: &Descriptor, file: &Path, progress: &dyn Progress) -> Result<u64> {
        let address = self.tagged();
        let digest = blob.digest.to_string();
        self.retried(|| async {
            let outcome = self.client.auth(&address, &self.auth, RegistryOperation::Push).await;
            outcome.map(|_| ()).map_err(|error| self.judge(error))
        })
        .await?;
        let known = self
            .retried(|| async { self.client.blob_exists(&address, &digest).await.map_err(|error| self.judge(error)) });
        if known.await? {
            return Ok(0);
        }
        progress.begin(&format!("pushing {}", blob.digest), Some(blob.size));
        let outcome = self
            .retried(|| async {
                let pieces = Pieces::of(file).map_err(Failure::Lasting)?;
                let stream = futures_util::stream::iter(pieces);
                let sent = self.client.push_blob_stream(&address, stream, &digest, Some(blob.size)).await;
                sent.map(|_| ()).map_err(|error| self.judge(error))
            })
            .await;
        progress.advance(blob.size);
        progress.end();
        outcome.map(|()| blob.size)
    }

    async fn upload_manifest(&self, manifest: &[u8]) -> Result<()> {
        let address = self.tagged();
        self.retried(|| async {
            let kind = HeaderValue::from_static(json::MANIFEST);
            let sent = self.client.push_manifest_raw(&address, manifest.to_vec(), kind).await;
            sent.map(|_| ()).map_err(|error| self.judge(error))
        })
        .await
    }
}

fn length(file: &File) -> Result<u64> {
    file.metadata().map(|metadata| metadata.len()).map_err(|error| Error::io("the cache of blobs", error))
}

/// A file in pieces.
struct Pieces(File);

impl Pieces {
    fn of(path: &Path) -> Result<Self> {
        File::open(path).map(Self).map_err(|error| Error::io(path.display(), error))
    }
}

impl Iterator for Pieces {
    type Item = Result<Bytes, OciDistributionError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut piece = Vec::new();
        match Read::by_ref(&mut self.0).take(PIECE as u64).read_to_end(&mut piece) {
            Ok(0) => None,
            Ok(_) => Some(Ok(piece.into())),
            Err(error) => Some(Err(error.into())),
        }
    }
}

/// A client for a registry. The library needs the machine's certificate authorities even for one on the loopback.
fn connect(registry: &str, stall: Duration) -> Result<Client, OciDistributionError> {
    let plain = if is_loopback(registry) { vec![registry.to_owned()] } else { Vec::new() };
    Client::try_from(ClientConfig {
        protocol: ClientProtocol::HttpsExcept(plain),
        use_monolithic_push: true,
        connect_timeout: Some(stall),
        read_timeout: Some(stall),
        user_agent: concat!("skep/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    })
}

/// Whether a registry is on this machine.
fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => registry.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_loopback_goes_without_encryption() {
        for (registry, loopback) in [
            ("localhost:5000", true),
            ("localhost", true),
            ("127.0.0.1:5000", true),
            ("127.8.9.1", true),
            ("[::1]:5000", true),
            ("localhost.example:5000", false),
            ("127.0.0.1.example", false),
            ("10.0.0.1", false),
            ("docker.io", false),
        ] {
            assert_eq!(is_loopback(registry), loopback, "{registry}");
        }
    }
}
