//! Bytes of a gzip member as they arrive, turned into those of one chunk. No I/O.
//!
//! **Never more comes out than the chunk has**, whatever the member holds; and what came out is the chunk only when
//! [`Decoder::finish`] says so.

use std::io::Write;

use flate2::write::GzDecoder;
use model::Sha256;
use sha2::Digest;

use super::toc::Chunk;
use crate::layer::unpack::check;
use crate::{Error, Result};

/// So many packed bytes are unpacked at once: a bound on what they can become.
const STEP: usize = 4 << 10;

/// A chunk on its way.
pub(crate) struct Decoder {
    member: GzDecoder<Window>,
    digest: Sha256,
}

/// What of a member is the chunk.
struct Window {
    before: u64,
    left: u64,
    hash: sha2::Sha256,
    ready: Vec<u8>,
}

impl Write for Window {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let passed = bytes.len().min(usize::try_from(self.before).unwrap_or(usize::MAX));
        self.before -= passed as u64;
        let rest = bytes.get(passed..).unwrap_or_default();
        let taken = rest.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let taken = rest.get(..taken).unwrap_or_default();
        self.left -= taken.len() as u64;
        self.hash.update(taken);
        self.ready.extend_from_slice(taken);
        // What is behind the chunk is nobody's.
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Decoder {
    pub(crate) fn new(chunk: &Chunk) -> Self {
        let window = Window { before: chunk.inner, left: chunk.size, hash: sha2::Sha256::new(), ready: Vec::new() };
        Self { member: GzDecoder::new(window), digest: chunk.digest }
    }

    /// Takes in packed bytes and gives what becomes of them to `give`.
    pub(crate) fn feed(&mut self, packed: &[u8], give: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        for mut step in packed.chunks(STEP) {
            while !step.is_empty() && self.member.get_ref().left > 0 {
                let damaged = |error: std::io::Error| Error::malformed("layer", error.to_string());
                let count = self.member.write(step).map_err(damaged)?;
                self.member.flush().map_err(damaged)?;
                step = step.get(count..).unwrap_or_default();
                let window = self.member.get_mut();
                give(&window.ready)?;
                window.ready.clear();
                if count == 0 && window.left > 0 {
                    return Err(Error::malformed("layer", "a chunk is shorter than its table of contents says"));
                }
            }
        }
        Ok(())
    }

    /// Whether all bytes have come.
    pub(crate) fn is_full(&self) -> bool {
        self.member.get_ref().left == 0
    }

    /// Whether what came out is the chunk.
    pub(crate) fn finish(mut self) -> Result<()> {
        let window = self.member.get_mut();
        if window.left > 0 {
            return Err(Error::malformed("layer", "a chunk ends too early"));
        }
        let digest = Sha256::from_bytes(std::mem::take(&mut window.hash).finalize().into());
        check("chunk of a layer", &self.digest, &digest)
    }
}
