//! How a cell reaches others and others reach it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::boundary::named_enum;
use crate::parse::{ParseError, serde_as_text};

/// A cell's network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// What it is connected to.
    pub mode: NetMode,
    /// Ports of the host that lead into it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortMapping>,
    /// Whose sockets its programs have.
    #[serde(skip_serializing_if = "NetStack::is_host")]
    pub stack: NetStack,
}

named_enum! {
    /// What makes a network of a cell's link: the value of `--net-stack`.
    NetStack, "network stack" {
        /// The host's kernel, in the cell's namespace.
        Host = "host",
        /// A unikernel by itself: the host moves frames for it, and makes no socket.
        Guest = "guest",
    }
}

#[expect(clippy::derivable_impls, reason = "the macro derives the same traits for every enumeration")]
impl Default for NetStack {
    fn default() -> Self {
        Self::Host
    }
}

impl NetStack {
    /// Whether that is the host's, as it is for most.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
    fn is_host(&self) -> bool {
        *self == Self::Host
    }
}

/// The value of `--net`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NetMode {
    /// The default bridge, named `skep0`.
    #[default]
    Default,
    /// A loopback interface and nothing else.
    None,
    /// The host's own interfaces: no separation.
    Host,
    /// A bridge of that name, shared by the cells that name it. At most 10 letters, digits and `-`.
    Named(String),
}

impl NetMode {
    /// The name of the network that the cell joins, when it joins one.
    pub fn network(&self) -> Option<&str> {
        match self {
            Self::Default => Some("default"),
            Self::Named(name) => Some(name),
            Self::None | Self::Host => None,
        }
    }
}

impl fmt::Display for NetMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Default => "default",
            Self::None => "none",
            Self::Host => "host",
            Self::Named(name) => name,
        })
    }
}

impl FromStr for NetMode {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let fits = (1..=10).contains(&text.len());
        let plain = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        match text {
            "default" | "bridge" => Ok(Self::Default),
            "none" => Ok(Self::None),
            "host" => Ok(Self::Host),
            _ if fits && plain && !text.starts_with('-') => Ok(Self::Named(text.to_owned())),
            _ => Err(ParseError::new(
                "network",
                text,
                "none, host, default, or a name of up to 10 lower-case letters, digits and '-'",
            )),
        }
    }
}

serde_as_text!(NetMode);

named_enum! {
    /// A transport protocol that ports belong to.
    Protocol, "protocol" {
        /// TCP.
        Tcp = "tcp",
        /// UDP.
        Udp = "udp",
    }
}

/// A port of the host that leads to a port of the cell. Reads `8080:80`, `127.0.0.1:8080:80/udp`, `80` (any free host
/// port) and `[::1]:8080:80`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortMapping {
    /// The host address it listens on; none means all.
    pub address: Option<IpAddr>,
    /// The host's port; none means that the kernel picks a free one.
    pub host: Option<u16>,
    /// The cell's port.
    pub cell: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
            Some(IpAddr::V4(address)) => write!(f, "{address}:")?,
            None => {}
        }
        match self.host {
            Some(port) => write!(f, "{port}:")?,
            None if self.address.is_some() => f.write_str(":")?,
            None => {}
        }
        write!(f, "{}", self.cell)?;
        match self.protocol {
            Protocol::Tcp => Ok(()),
            Protocol::Udp => f.write_str("/udp"),
        }
    }
}

impl FromStr for PortMapping {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new("port mapping", text, "[ADDRESS:][HOST:]CELL[/udp], like 8080:80");
        let port = |text: &str| match text.parse::<u16>() {
            Ok(port) if port != 0 => Ok(port),
            _ => Err(wrong()),
        };
        let (ports, protocol) = match text.rsplit_once('/') {
            Some((ports, protocol)) => (ports, protocol.parse().map_err(|_| wrong())?),
            None => (text, Protocol::Tcp),
        };
        let (rest, cell) = match ports.rsplit_once(':') {
            Some((rest, cell)) => (Some(rest), port(cell)?),
            None => (None, port(ports)?),
        };
        let (address, host) = match rest.map(|rest| rest.rsplit_once(':').map_or((None, rest), |(a, h)| (Some(a), h))) {
            None => (None, None),
            Some((address, "")) if address.is_some() => (address, None),
            Some((address, host)) => (address, Some(port(host)?)),
        };
        let bare = |text: &str| text.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(text).parse();
        let address = address.map(bare).transpose().map_err(|_| wrong())?;
        Ok(Self { address, host, cell, protocol })
    }
}

serde_as_text!(PortMapping);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_mappings_round_trip() {
        let texts = ["80", "8080:80", "8080:53/udp", "127.0.0.1:8080:80", "[::1]:8080:80", "127.0.0.1::80"];
        for text in texts {
            assert_eq!(text.parse::<PortMapping>().unwrap().to_string(), text);
        }
        for wrong in ["", "0", "8080:", ":80", "65536:1", "a:80", "1.2.3:1:2", "80/sctp", "1:2:3:4"] {
            assert!(wrong.parse::<PortMapping>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn networks_read_and_print() {
        for text in ["default", "none", "host", "web-1"] {
            assert_eq!(text.parse::<NetMode>().unwrap().to_string(), text);
        }
        for wrong in ["", "Web", "a b", "far-too-long-name", "-x"] {
            assert!(wrong.parse::<NetMode>().is_err(), "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn parsing_never_panics(text in ".{0,30}") {
            let _ = text.parse::<PortMapping>();
            let _ = text.parse::<NetMode>();
        }
    }
}
