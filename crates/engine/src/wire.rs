//! The words between a supervisor and its clients, on a stream socket.
//!
//! A frame is a kind (one byte), a length (four bytes, little endian) and that many bytes. Both ends parse what the other
//! sends as untrusted: an unknown kind or a length above [`MAX_PAYLOAD`] ends the conversation.

use model::{CellName, ExitReport, Limits, RestartPolicy};
use serde::{Deserialize, Serialize};

use crate::logs::Stream;

/// No frame carries more.
pub(crate) const MAX_PAYLOAD: usize = 256 << 10;

const HEADER: usize = 5;

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Request {
    /// Send me the output from now on, and take what I send as input.
    Attach,
    /// Tell me when the cell ends for good.
    Wait,
    /// Send it a signal.
    Kill { signal: i32 },
    /// Ask it to end, and end it after that many milliseconds.
    Stop { signal: i32, timeout_ms: u64 },
    /// Stop its processors.
    Pause,
    /// Let them go on.
    Resume,
    /// Change its limits and, when given, its restart policy.
    Set { limits: Limits, restart: Option<RestartPolicy> },
    /// Make it again under each of these names.
    Fork { names: Vec<CellName>, from: CopyFrom },
    /// Go back to where it was kept under that name.
    Rollback { name: CellName },
    /// It has this name now, which the client claimed for it.
    Rename { name: CellName },
}

/// Where copies of a cell begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CopyFrom {
    /// Where the cell stands.
    Here,
    /// Where its family began, when that was a snapshot.
    Start,
}

/// What a supervisor answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Answer {
    /// The program runs.
    Started { warnings: Vec<String> },
    /// The request was carried out; `warnings` are what it could not do.
    Done { warnings: Vec<String> },
    /// The request was refused.
    Refused { why: String },
    /// The cell has something that can be neither copied nor kept.
    Unkept { why: String },
    /// The cell ended for good. Nothing follows.
    Exited(ExitReport),
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Request(Request),
    Answer(Answer),
    /// Output of the program.
    Output(Stream, Vec<u8>),
    /// Input for the program; empty means end of file.
    Input(Vec<u8>),
    /// The client's terminal has that many rows and columns.
    Resize(u16, u16),
}

/// The bytes are no frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Garbage;

impl Frame {
    /// Appends the frame's bytes. Output and input longer than [`MAX_PAYLOAD`] must be cut by the caller.
    pub(crate) fn encode(&self, into: &mut Vec<u8>) {
        let (kind, payload): (u8, std::borrow::Cow<'_, [u8]>) = match self {
            // Serialising plain enums of strings and numbers into memory has no way to fail.
            Self::Request(request) => (b'q', serde_json::to_vec(request).unwrap_or_default().into()),
            Self::Answer(answer) => (b'a', serde_json::to_vec(answer).unwrap_or_default().into()),
            Self::Output(Stream::Out, bytes) => (b'o', bytes.into()),
            Self::Output(Stream::Err, bytes) => (b'e', bytes.into()),
            Self::Input(bytes) => (b'i', bytes.into()),
            Self::Resize(rows, columns) => {
                let [a, b] = rows.to_le_bytes();
                let [c, d] = columns.to_le_bytes();
                (b'r', vec![a, b, c, d].into())
            }
        };
        into.push(kind);
        into.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        into.extend_from_slice(&payload);
    }

    fn decode(kind: u8, payload: &[u8]) -> Result<Self, Garbage> {
        Ok(match (kind, payload) {
            (b'q', json) => Self::Request(serde_json::from_slice(json).map_err(|_| Garbage)?),
            (b'a', json) => Self::Answer(serde_json::from_slice(json).map_err(|_| Garbage)?),
            (b'o', bytes) => Self::Output(Stream::Out, bytes.to_vec()),
            (b'e', bytes) => Self::Output(Stream::Err, bytes.to_vec()),
            (b'i', bytes) => Self::Input(bytes.to_vec()),
            (b'r', &[a, b, c, d]) => Self::Resize(u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])),
            _ => return Err(Garbage),
        })
    }
}

/// Puts frames together from whatever pieces a socket gives.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    bytes: Vec<u8>,
    taken: usize,
}

impl Decoder {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether a complete frame (or garbage) is at hand.
    pub(crate) fn has_frame(&self) -> bool {
        let rest = &self.bytes[self.taken..];
        rest.split_at_checked(HEADER).is_some_and(|(header, body)| {
            let length = u32::from_le_bytes([header[1], header[2], header[3], header[4]]) as usize;
            length > MAX_PAYLOAD || body.len() >= length
        })
    }

    /// The next complete frame, when there is one.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame>, Garbage> {
        let rest = &self.bytes[self.taken..];
        let Some((header, body)) = rest.split_at_checked(HEADER) else { return Ok(None) };
        let length = u32::from_le_bytes([header[1], header[2], header[3], header[4]]) as usize;
        if length > MAX_PAYLOAD {
            return Err(Garbage);
        }
        let Some(payload) = body.get(..length) else { return Ok(None) };
        let frame = Frame::decode(header[0], payload)?;
        self.taken += HEADER + length;
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames() -> Vec<Frame> {
        vec![
            Frame::Request(Request::Stop { signal: 15, timeout_ms: 10 }),
            Frame::Answer(Answer::Done { warnings: vec!["x".into()] }),
            Frame::Output(Stream::Err, b"oops".to_vec()),
            Frame::Input(Vec::new()),
            Frame::Resize(24, 80),
        ]
    }

    proptest! {
        #[test]
        fn frames_survive_being_cut_anywhere(cuts in proptest::collection::vec(1usize..9, 1..80)) {
            let mut bytes = Vec::new();
            frames().iter().for_each(|it| it.encode(&mut bytes));
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            let mut cuts = cuts.into_iter().cycle();
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                decoder.push(piece);
                while let Some(frame) = decoder.next_frame().unwrap() { seen.push(frame); }
                rest = after;
            }
            prop_assert_eq!(seen, frames());
        }

        #[test]
        fn arbitrary_bytes_never_panic_a_decoder(bytes: Vec<u8>) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next_frame() {}
        }
    }

    #[test]
    fn an_endless_frame_is_garbage() {
        let mut decoder = Decoder::default();
        decoder.push(&[b'i', 255, 255, 255, 255]);
        assert_eq!(decoder.next_frame(), Err(Garbage));
    }
}
