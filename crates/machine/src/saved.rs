//! A machine as data: what it is made again of, elsewhere or later.
//!
//! Whatever has a state says what that is ([`data`]) and takes on another's ([`of_data`]), which was made by a program like
//! this one and may have been anywhere since. **Invariant: whoever restores something checks it as if its guest had said
//! it**; a state that does not fit is an error, never a device that does what no guest could have it do. Between the two
//! nothing is at work: a device has no requests half done, or says which are to be done again.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};

/// The state of something.
pub(crate) type State = Value;

/// A machine that stands still, but for what is in its memory.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedMachine {
    /// What its processors are, by the name of their description or of the host's own kind.
    pub(crate) architecture: String,
    /// Its processors, of which each kind has states of its own.
    pub(crate) processors: Vec<State>,
    /// What each has of the board: its timers.
    pub(crate) seats: Vec<State>,
    /// Ticks of the clock that there were.
    pub(crate) ticks: u64,
    /// The interrupt controller and the like, which all have.
    pub(crate) board: State,
    /// What is on its bus, in order.
    pub(crate) devices: Vec<State>,
}

/// What something says of itself.
pub(crate) fn data(it: &impl Serialize) -> Result<State> {
    serde_json::to_value(it).map_err(|error| Error::Saved { why: error.to_string() })
}

/// What something is by that.
pub(crate) fn of_data<T: DeserializeOwned>(state: State) -> Result<T> {
    serde_json::from_value(state).map_err(|error| Error::Saved { why: error.to_string() })
}

/// What does not fit.
pub(crate) fn unfit<T>(why: &str) -> Result<T> {
    Err(Error::Saved { why: why.into() })
}

/// Bytes, as text.
pub(crate) mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(crate) fn serialize<S: Serializer>(it: &[u8], to: S) -> Result<S::Ok, S::Error> {
        let digit = |it: u8| char::from(b"0123456789abcdef"[usize::from(it & 15)]);
        to.serialize_str(&it.iter().flat_map(|it| [digit(it >> 4), digit(*it)]).collect::<String>())
    }

    pub(crate) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        let digit = |it: u8| char::from(it).to_digit(16).map(|it| it as u8);
        let byte = |it: &[u8]| Some(digit(*it.first()?)? << 4 | digit(*it.get(1)?)?);
        let bytes = text.as_bytes().chunks(2).map(byte).collect::<Option<Vec<u8>>>();
        bytes.ok_or_else(|| de::Error::custom("no hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests;
