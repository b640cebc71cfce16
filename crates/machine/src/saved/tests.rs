//! What goes on from a state behaves as what had it would have: driven at random, before and after.

use std::fmt::Debug;
use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;

use proptest::prelude::*;

use super::*;
use crate::bus::{Device, Line};
use crate::clock::Goldfish;
use crate::console::Console;
use crate::gic::Gic;
use crate::pl011::Pl011;
use crate::plic::Plic;

/// One access: to read, or what to write, and where.
type Access = (Option<u64>, u64);

fn accesses(end: u64) -> impl Strategy<Value = Vec<Access>> {
    proptest::collection::vec((proptest::option::of(any::<u64>()), 0..end), 0..60)
}

fn drive(device: &mut dyn Device, accesses: &[Access]) -> Vec<(u64, Line)> {
    let one = |(value, offset): &Access| {
        let read = match value {
            Some(value) => {
                device.type_in(&value.to_le_bytes()[..(*value % 5) as usize]);
                device.write(*offset, 4, *value);
                0
            }
            None => device.read(*offset, 4),
        };
        (read, device.line())
    };
    accesses.iter().map(one).collect()
}

/// What comes of a state, in a device that was another before.
fn check(make: impl Fn() -> Box<dyn Device>, before: &[Access], after: &[Access]) {
    let (mut first, mut other) = (make(), make());
    drive(&mut *first, before);
    drive(&mut *other, after);
    other.restore(first.save().unwrap()).unwrap();
    assert_eq!(other.save().unwrap(), first.save().unwrap());
    assert_eq!(drive(&mut *other, after), drive(&mut *first, after));
    assert_eq!(other.save().unwrap(), first.save().unwrap());
}

/// The same for what is no device on a bus.
fn check_data<T: Serialize + DeserializeOwned, R: PartialEq + Debug>(
    mut first: T,
    before: &[Access],
    after: &[Access],
    drive: impl Fn(&mut T, &Access) -> R,
) {
    before.iter().for_each(|it| drop(drive(&mut first, it)));
    let mut other: T = of_data(data(&first).unwrap()).unwrap();
    for it in after {
        assert_eq!(drive(&mut first, it), drive(&mut other, it));
    }
    assert_eq!(data(&first).unwrap(), data(&other).unwrap());
}

fn drive_gic(gic: &mut Gic, (value, at): &Access) -> (u64, bool) {
    // Those registers by op0, op1, CRn, CRm and op2 that there are.
    const KEYS: [(u64, u64); 6] =
        [(4, 6 << 3), (12, 12 << 3), (12, 12 << 3 | 1), (12, 12 << 3 | 7), (12, 11 << 3 | 1), (12, 11 << 3 | 5)];
    let (crn, rest) = KEYS[(at >> 4) as usize % KEYS.len()];
    let key = crn << 7 | rest;
    let processor = (value.unwrap_or(0) >> 1 & 1) as usize;
    let read = match (at % 4, value) {
        (0, Some(value)) => {
            gic.set_line(processor, (at >> 2) as u32 % 96, value & 1 != 0);
            0
        }
        (1, Some(value)) => {
            gic.write_distributor(at & 0xffc, *value);
            0
        }
        (1, None) => gic.read_distributor(at & 0xffc),
        (2, Some(value)) => {
            gic.write_redistributor(0x1_0000 + (at & 0xffc), *value);
            0
        }
        (2, None) => gic.read_redistributor(0x1_0000 + (at & 0xffc)),
        (_, Some(value)) => {
            gic.write_register(processor, key, *value);
            0
        }
        (_, None) => gic.read_register(processor, key),
    };
    (read, gic.is_raised(0) || gic.is_raised(1))
}

fn drive_plic(plic: &mut Plic, (value, at): &Access) -> (u64, bool) {
    const PLACES: [u64; 4] = [0, 0x2000, 0x20_0000, 0x20_0004];
    let place = match at % 8 {
        it @ 0..4 => PLACES[it as usize],
        _ => (at >> 3) % 32 * 4,
    };
    let read = match value {
        Some(value) if at % 8 == 7 => {
            let line = [Line::Low, Line::High, Line::Edge][(*value % 3) as usize];
            plic.set_line((at >> 3) as u32 % 32, line);
            0
        }
        Some(value) => {
            plic.write(place, *value);
            0
        }
        None => plic.read(place),
    };
    (read, plic.is_raised(0) || plic.is_raised(1))
}

proptest! {
    #[test]
    fn serial_ports_and_clocks_go_on(before in accesses(8), after in accesses(8)) {
        check(|| Box::new(Console::new(Box::new(io::sink()), None)), &before, &after);
        let wide = |list: &[Access]| list.iter().map(|(value, at)| (*value, at * 8)).collect::<Vec<_>>();
        check(|| Box::new(Pl011::new(Box::new(io::sink()), None)), &wide(&before), &wide(&after));
        // The rest of its registers are the time.
        let high = |list: &[Access]| list.iter().map(|(value, _)| (*value, 4)).collect::<Vec<_>>();
        check(|| Box::new(Goldfish::default()), &high(&before), &high(&after));
    }

    #[test]
    fn interrupt_controllers_go_on(before in accesses(0x1000), after in accesses(0x1000)) {
        check_data(Gic::new(2), &before, &after, drive_gic);
        check_data(Plic::new(2), &before, &after, drive_plic);
    }

    #[test]
    fn bytes_are_read_as_they_were_written(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        #[derive(Serialize, Deserialize)]
        struct Bytes(#[serde(with = "hex")] Vec<u8>);
        let text = data(&Bytes(bytes.clone())).unwrap();
        prop_assert_eq!(of_data::<Bytes>(text).unwrap().0, bytes);
        for wrong in ["0", "0g", "é"] {
            prop_assert!(of_data::<Bytes>(wrong.into()).is_err());
        }
    }
}

#[test]
fn what_a_port_prints_afterwards_goes_where_the_new_one_prints() {
    let make = || {
        let (mut host, guest) = UnixStream::pair().unwrap();
        host.set_nonblocking(true).unwrap();
        let read = move || {
            let mut bytes = [0; 8];
            host.read(&mut bytes).map(|count| bytes[..count].to_vec()).unwrap_or_default()
        };
        (Console::new(Box::new(guest), None), read)
    };
    let ((mut first, mut of_first), (mut other, mut of_other)) = (make(), make());
    first.write(0, 1, b'a'.into());
    other.restore(first.save().unwrap()).unwrap();
    other.write(0, 1, b'b'.into());
    assert_eq!((of_first(), of_other()), (b"a".to_vec(), b"b".to_vec()));
}

#[test]
fn states_that_do_not_fit_are_refused() {
    let mut port = Pl011::new(Box::new(io::sink()), None);
    let mut state = port.save().unwrap();
    state["received"] = vec![0; 33].into();
    assert!(port.restore(state).is_err());
    let mut port = Console::new(Box::new(io::sink()), None);
    let mut state = port.save().unwrap();
    state["received"] = vec![0; 1000].into();
    assert!(port.restore(state).is_err());
    for wrong in [Value::Null, Value::from("x"), Value::from(vec![1])] {
        assert!(port.restore(wrong.clone()).is_err());
        assert!(of_data::<Gic>(wrong.clone()).is_err());
        assert!(of_data::<Plic>(wrong).is_err());
    }
    let mut gic = data(&Gic::new(2)).unwrap();
    gic["shared"][0]["priorities"] = vec![0; 31].into();
    assert!(of_data::<Gic>(gic).is_err());
    for wrong in [1, 3] {
        assert!(Gic::new(2).restore(Gic::new(wrong)).is_err());
        assert!(Plic::new(2).restore(Plic::new(wrong)).is_err());
    }
    let mut gic = data(&Gic::new(2)).unwrap();
    gic["shared"][1]["routes"][3] = 2.into();
    assert!(Gic::new(2).restore(of_data(gic).unwrap()).is_err(), "there is no third processor");
}
