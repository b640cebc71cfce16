//! Parts of blobs, as a registry serves them by HTTP range requests.

use std::ops::Range;

use futures_util::StreamExt;
use model::Sha256;
use oci_client::client::BlobResponse;
use oci_client::manifest::OciDescriptor;

use super::failure::{Failure, innermost};
use super::registry::Session;
use crate::{Error, Result};

/// What a registry made of the wish for a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// It sent that part.
    Part,
    /// It sends whole blobs only.
    Whole,
}

/// Whether whoever takes bytes wants more of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    More,
    Enough,
}

impl Session {
    /// Asks once for a part of a blob, and gives its bytes to `take` as they come. Of a whole blob that comes instead, what
    /// stands before the part is passed over.
    pub(crate) async fn part(
        &self,
        blob: Sha256,
        range: Range<u64>,
        take: &mut dyn FnMut(&[u8]) -> Result<Wanted>,
    ) -> Result<Served, Failure> {
        self.client.store_auth_if_needed(&self.reference.registry, &self.auth).await;
        let address = self.by_digest(blob);
        let descriptor = OciDescriptor { digest: blob.to_string(), ..OciDescriptor::default() };
        let length = range.end.saturating_sub(range.start);
        let response = self.client.pull_blob_stream_partial(&address, &descriptor, range.start, Some(length));
        let response = match tokio::time::timeout(self.stall, response).await {
            Ok(response) => response.map_err(|error| self.judge(error))?,
            Err(_) => return Err(Failure::Passing("it does not answer".to_owned())),
        };
        let (served, mut stream, mut passed) = match response {
            BlobResponse::Partial(stream) => (Served::Part, stream.stream, 0),
            BlobResponse::Full(stream) => (Served::Whole, stream.stream, range.start),
        };
        let mut left = length;
        loop {
            let piece = match tokio::time::timeout(self.stall, stream.next()).await {
                Ok(Some(Ok(piece))) => piece,
                Ok(Some(Err(error))) => return Err(Failure::Passing(innermost(&error))),
                Ok(None) if left == 0 => return Ok(served),
                Ok(None) => return Err(Failure::Passing("it ends the connection too early".to_owned())),
                Err(_) => return Err(Failure::Passing("it stopped sending".to_owned())),
            };
            let before = passed.min(piece.len() as u64);
            passed -= before;
            let bytes = piece.get(before as usize..).unwrap_or_default();
            let most = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let bytes = bytes.get(..most).unwrap_or_default();
            left -= bytes.len() as u64;
            let wanted = if bytes.is_empty() { Wanted::More } else { take(bytes).map_err(Failure::Lasting)? };
            // The end of a part is waited for, so that its connection can serve the next.
            if wanted == Wanted::Enough && (left > 0 || served == Served::Whole) || left == 0 && served == Served::Whole
            {
                return Ok(served);
            }
        }
    }

    /// A part of a blob that is small, in memory, asked for as often as a pull does.
    pub(crate) async fn small_part(&self, blob: Sha256, range: Range<u64>, most: u64) -> Result<(Vec<u8>, Served)> {
        if range.end.saturating_sub(range.start) > most {
            return Err(Error::limit("bytes of a part of a layer", most));
        }
        self.retried(|| async {
            let mut bytes = Vec::new();
            let mut take = |piece: &[u8]| {
                bytes.extend_from_slice(piece);
                Ok(Wanted::More)
            };
            let served = self.part(blob, range.clone(), &mut take).await?;
            Ok((bytes, served))
        })
        .await
    }
}
