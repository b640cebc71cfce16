//! What a machine hears first that goes on from where another stood: what must not be the same in both.
//!
//! The guest's kernel does not notice that it is another now. It is given randomness to begin anew with, the time, and the
//! addresses that its network has here. **Until it has heard of these** its other programs may have run for some thousand
//! instructions; and what a program has in its own memory, nobody can know.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::guest::Network;
use super::kept::SavedSession;
use super::link::Link;
use super::root::{CLOSE_ON_EXEC, HERE, READ_WRITE};
use super::script::{Call, Script, Value};
use super::setup;
use crate::error::Result;

const ADD_ENTROPY: i64 = 0x4008_5203;
const RESEED: i64 = 0x5207;
const REAL_TIME: i64 = 0;
const KILL: i64 = 9;

/// Tells it; programs whose askers are not here end.
pub(super) fn renew(link: &mut Link, network: Option<&Network>, others: &[SavedSession]) -> Result<()> {
    let mut script = Script::new();
    add_randomness(&mut script);
    if let Some(network) = network {
        setup::reconnect(&mut script, network);
    }
    for it in others {
        script.call(Call::Kill, [it.process.into(), KILL.into()]);
        let mut ends: Vec<i32> = it.outputs.iter().map(|(from, _)| *from).chain(it.input).chain(it.terminal).collect();
        ends.sort_unstable();
        ends.dedup();
        for end in ends {
            script.call(Call::Close, [Value::Number(end.into())]);
        }
    }
    link.call(script)?;
    if let Some(network) = network {
        announce(network);
    }
    set_time(link)
}

/// Sets the time of day. It is late by as long as its way takes, and the first ways are long: all on them is translated.
fn set_time(link: &mut Link) -> Result<()> {
    const SHORT: Duration = Duration::from_millis(10);
    const TIMES: u32 = 5;
    for _ in 0..TIMES {
        let began = Instant::now();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut script = Script::new();
        let now = script.data(&[now.as_secs(), now.subsec_nanos().into()].map(u64::to_le_bytes).concat());
        script.call(Call::ClockSettime, [REAL_TIME.into(), now.into()]);
        link.call(script)?;
        if began.elapsed() < SHORT {
            break;
        }
    }
    Ok(())
}

/// Tells the network where the machine's address is now. Another card may have had it a moment ago, and a guest that knows
/// its way out already asks for nothing, by which the others would hear.
fn announce(network: &Network) {
    // If it is lost, they find out in half a minute.
    let _ = rustix::io::write(&network.frames, &question(network));
}

/// "Who has the gateway's address? Tell mine." (RFC 826)
fn question(it: &Network) -> Vec<u8> {
    const TO_ALL: [u8; 6] = [255; 6];
    const ARP: [u8; 2] = [8, 6];
    // Ethernet, the internet, the lengths of their addresses, a request.
    const KIND: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];
    let (own, gateway) = (it.address.octets(), it.gateway.octets());
    [&TO_ALL[..], &it.hardware, &ARP, &KIND, &it.hardware, &own, &[0; 6], &gateway].concat()
}

/// Sixty-four bytes that count, and the wish that what is given out from now on be made of them.
fn add_randomness(script: &mut Script) {
    let seed = crate::machine::seed(crate::machine::Outside::Host);
    let counts = [seed.len() as u32 * 8, seed.len() as u32].map(u32::to_le_bytes).concat();
    let seed = script.data(&[counts.as_slice(), &seed].concat());
    let path = script.text("/dev/random");
    let file = script.call(Call::Openat, [HERE.into(), path.into(), (READ_WRITE | CLOSE_ON_EXEC).into()]);
    script.call(Call::Ioctl, [file.into(), ADD_ENTROPY.into(), seed.into()]);
    script.call(Call::Ioctl, [file.into(), RESEED.into(), 0.into()]);
    script.call(Call::Close, [file.into()]);
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn a_network_is_told_where_an_address_is() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let network = Network {
            frames: ours.into(),
            hardware: [2, 0, 0, 0, 0, 9],
            address: [10, 0, 0, 5].into(),
            prefix: 24,
            gateway: [10, 0, 0, 1].into(),
        };
        announce(&network);
        let mut frame = [0; 64];
        assert_eq!(theirs.recv(&mut frame).unwrap(), 42);
        assert_eq!(frame[..14], [255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 9, 8, 6]);
        assert_eq!(frame[20..32], [0, 1, 2, 0, 0, 0, 0, 9, 10, 0, 0, 5]);
        assert_eq!(frame[38..42], [10, 0, 0, 1]);
    }
}
