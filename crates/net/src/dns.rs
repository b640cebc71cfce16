//! Domain names: which questions we answer ourselves, and how. Pure functions on messages (RFC 1035).

use std::net::Ipv4Addr;

/// What to do with a question.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Send this back.
    Answer(Vec<u8>),
    /// It is not about a cell: ask the host's resolver.
    Forward,
    /// It is no question.
    Ignore,
}

const HEADER: usize = 12;
const TYPE_A: u16 = 1;
const TYPE_PTR: u16 = 12;
const CLASS_IN: u16 = 1;
/// Cells come and go: an answer is soon stale.
const TTL_SECONDS: u32 = 5;

/// Decides about a message from a cell. `address_of` knows the cells by name (lower case), `name_of` by address.
pub(crate) fn decide(
    message: &[u8],
    address_of: impl Fn(&str) -> Option<Ipv4Addr>,
    name_of: impl Fn(Ipv4Addr) -> Option<String>,
) -> Decision {
    let Some(question) = Question::parse(message) else { return Decision::Ignore };
    if question.class != CLASS_IN {
        return Decision::Forward;
    }
    if let Some(address) = address_of(&question.name) {
        // A cell has no other records: an empty answer says so, and keeps the question from the world.
        let records = if question.kind == TYPE_A { vec![(TYPE_A, address.octets().to_vec())] } else { Vec::new() };
        return Decision::Answer(question.answer(message, &records));
    }
    match question.reverse().and_then(name_of) {
        Some(name) if question.kind == TYPE_PTR => {
            let mut data = vec![name.len() as u8];
            data.extend_from_slice(name.as_bytes());
            data.push(0);
            Decision::Answer(question.answer(message, &[(TYPE_PTR, data)]))
        }
        _ => Decision::Forward,
    }
}

#[derive(Debug)]
struct Question {
    name: String,
    kind: u16,
    class: u16,
    /// Where the question section ends.
    end: usize,
}

impl Question {
    /// A standard query with one question. Names in questions are not compressed.
    fn parse(message: &[u8]) -> Option<Self> {
        let header = message.get(..HEADER)?;
        let is_query = header[2] & 0xf8 == 0;
        if !is_query || header[4..6] != [0, 1] {
            return None;
        }
        let mut name = String::new();
        let mut at = HEADER;
        loop {
            let length = usize::from(*message.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            let label = message.get(at..at + length).filter(|_| length <= 63)?;
            if name.len() + length > 255 {
                return None;
            }
            if !name.is_empty() {
                name.push('.');
            }
            name.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
            at += length;
        }
        let tail: &[u8; 4] = message.get(at..at + 4)?.first_chunk()?;
        let kind = u16::from_be_bytes([tail[0], tail[1]]);
        let class = u16::from_be_bytes([tail[2], tail[3]]);
        Some(Self { name, kind, class, end: at + 4 })
    }

    /// The address that a question under `in-addr.arpa` is about.
    fn reverse(&self) -> Option<Ipv4Addr> {
        let mut parts = self.name.strip_suffix(".in-addr.arpa")?.rsplit('.').map(|it| it.parse::<u8>().ok());
        let mut next = || parts.next().flatten();
        Some(Ipv4Addr::new(next()?, next()?, next()?, next()?))
    }

    fn answer(&self, message: &[u8], records: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut answer = message.get(..self.end).unwrap_or_default().to_vec();
        // An authoritative response without error, recursion available; the wish for recursion is repeated.
        answer[2] = 0x84 | (answer[2] & 1);
        answer[3] = 0x80;
        answer[6..8].copy_from_slice(&(records.len() as u16).to_be_bytes());
        answer[8..12].fill(0);
        for (kind, data) in records {
            // The name is that of the question, by a pointer to it.
            answer.extend_from_slice(&[0xc0, HEADER as u8]);
            answer.extend_from_slice(&kind.to_be_bytes());
            answer.extend_from_slice(&CLASS_IN.to_be_bytes());
            answer.extend_from_slice(&TTL_SECONDS.to_be_bytes());
            answer.extend_from_slice(&(data.len() as u16).to_be_bytes());
            answer.extend_from_slice(data);
        }
        answer
    }
}

/// The first name servers of a `resolv.conf(5)`.
pub(crate) fn name_servers(resolv_conf: &str) -> Vec<std::net::IpAddr> {
    let lines = resolv_conf.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    lines.filter_map(|rest| rest.split('%').next()?.trim().parse().ok()).take(3).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut message = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            message.push(label.len() as u8);
            message.extend_from_slice(label.as_bytes());
        }
        message.push(0);
        message.extend_from_slice(&kind.to_be_bytes());
        message.extend_from_slice(&CLASS_IN.to_be_bytes());
        message
    }

    const WEB: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 3);

    fn decided(message: &[u8]) -> Decision {
        decide(message, |name| (name == "web").then_some(WEB), |address| (address == WEB).then(|| "web".into()))
    }

    #[test]
    fn cells_are_answered_and_the_world_is_not_asked_about_them() {
        let Decision::Answer(answer) = decided(&query("WEB", TYPE_A)) else { panic!("no answer") };
        assert_eq!(&answer[..8], [0xab, 0xcd, 0x85, 0x80, 0, 1, 0, 1]);
        assert!(answer.ends_with(&[0, 4, 10, 1, 2, 3]));
        let Decision::Answer(answer) = decided(&query("web", 28)) else { panic!("no answer") };
        assert_eq!(answer[6..8], [0, 0], "a cell has no IPv6 address");
        let Decision::Answer(answer) = decided(&query("3.2.1.10.in-addr.arpa", TYPE_PTR)) else { panic!("no answer") };
        assert!(answer.ends_with(b"\x03web\0"));
        assert_eq!(decided(&query("example.org", TYPE_A)), Decision::Forward);
        assert_eq!(decided(b"short"), Decision::Ignore);
    }

    #[test]
    fn name_servers_are_read() {
        let text = "# x\nnameserver 1.2.3.4\nsearch a\nnameserver fe80::1%eth0\nnameserver what\n";
        assert_eq!(name_servers(text), ["1.2.3.4".parse::<std::net::IpAddr>().unwrap(), "fe80::1".parse().unwrap()]);
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_are_decided_about(bytes: Vec<u8>) {
            let _ = decided(&bytes);
        }
    }
}
