//! Devices that go on for drivers of others.

use serde_json::Value;

use super::*;

impl Driver {
    /// The same driver with another device, which goes on where its own stands, on a copy of its memory.
    pub(super) fn copy(&self, device: Box<dyn Device>) -> Driver {
        let memory = Memory::thaw(&self.ram.freeze().unwrap()).unwrap();
        let ram = Ram::new(Arc::new(memory), BASE);
        let mut slot = Slot::new(device, ram.clone());
        slot.restore(self.slot.save().unwrap()).unwrap();
        Driver { slot, ram, given: self.given }
    }
}

/// A console with a port, and the port's other end.
fn console() -> (Box<dyn Device>, UnixStream) {
    let (host, guest) = UnixStream::pair().unwrap();
    guest.set_nonblocking(true).unwrap();
    let input = Some(guest.try_clone().unwrap().into());
    let agent = Port { name: "agent".into(), input, output: guest.into() };
    let console = Port { name: "console".into(), input: None, output: File::create("/dev/null").unwrap().into() };
    (Box::new(Console::new(vec![console, agent])), host)
}

#[test]
fn a_port_goes_on_with_what_was_not_taken_yet() {
    let (device, mut host) = console();
    let mut driver = Driver::new(device);
    let open = [&1u32.to_le_bytes()[..], &6u16.to_le_bytes(), &[1, 0]].concat();
    driver.ask(3, &open, 0);
    assert_eq!(driver.ask(4, &[], 64), None, "nothing has come");
    // Until the host takes no more, in the midst of a request.
    let block: Vec<u8> = (0..0x4000u32).map(|it| it as u8).collect();
    while driver.ask(5, &block, 0).is_some() {}
    let (device, mut other) = console();
    let mut copy = driver.copy(device);
    let given = driver.given[5] as usize;
    let mut taken = vec![0; given * block.len()];
    let count = {
        host.set_nonblocking(true).unwrap();
        let mut count = 0;
        while let Ok(more) = host.read(&mut taken[count..]) {
            count += more;
        }
        count
    };
    assert!(count < taken.len());
    copy.slot.ready();
    other.read_exact(&mut taken[count..]).unwrap();
    assert!(taken == block.repeat(given), "each byte once, here or there");
    assert_eq!(copy.used(5).0, copy.given[5]);
    // What waits for input waits in both, and each has its own.
    other.write_all(b"other").unwrap();
    copy.slot.ready();
    assert_eq!(copy.written(4, REQUESTS + 4 * 0x8000).unwrap(), b"other");
    assert_eq!(driver.written(4, REQUESTS + 4 * 0x8000), None);
    host.set_nonblocking(false).unwrap();
    host.write_all(b"first").unwrap();
    driver.slot.ready();
    assert_eq!(driver.written(4, REQUESTS + 4 * 0x8000).unwrap(), b"first");
}

#[test]
fn a_card_and_a_source_of_entropy_go_on() {
    let card = || {
        let (host, guest) = UnixDatagram::pair().unwrap();
        guest.set_nonblocking(true).unwrap();
        host.set_nonblocking(true).unwrap();
        let card = Card { address: [2, 0, 0, 0, 0, 1], frames: guest.into(), source: None };
        (Box::new(Network::new(card)) as Box<dyn Device>, host)
    };
    let ((device, host), (another, other)) = (card(), card());
    let mut driver = Driver::new(device);
    assert_eq!(driver.ask(0, &[], 64), None);
    let mut copy = driver.copy(another);
    other.send(b"to the copy").unwrap();
    copy.slot.ready();
    assert_eq!(&copy.written(0, REQUESTS).unwrap()[12..], b"to the copy");
    copy.ask(1, &[&[0; 12][..], b"of the copy"].concat(), 0).unwrap();
    let mut bytes = [0; 64];
    assert_eq!(other.recv(&mut bytes).unwrap(), 11);
    assert!(host.recv(&mut bytes).is_err());
    assert_eq!(driver.written(0, REQUESTS), None, "the first waits still");

    let mut driver = Driver::new(Box::new(Entropy));
    driver.ask(0, &[], 32).unwrap();
    let mut copy = driver.copy(Box::new(Entropy));
    assert_ne!(driver.ask(0, &[], 32).unwrap(), copy.ask(0, &[], 32).unwrap());
}

#[test]
fn a_balloon_is_asked_for_what_it_was_asked_for() {
    let balloon = Balloon::new().unwrap();
    let mut driver = Driver::new(Box::new(Inflatable::new(balloon.clone())));
    balloon.ask(5 * 4096);
    driver.set(0x104, 3);
    let mut copy = driver.copy(Box::new(Inflatable::new(Balloon::new().unwrap())));
    assert_eq!((copy.get(0x100), copy.get(0x104)), (5, 3));
}

/// A part of a state, by a number, becomes something else.
fn change(state: &mut Value, which: &mut usize, to: &Value) {
    if *which == 0 {
        *state = to.clone();
    }
    *which = which.wrapping_sub(1);
    match state {
        Value::Array(list) => list.iter_mut().for_each(|it| change(it, which, to)),
        Value::Object(map) => map.values_mut().for_each(|it| change(it, which, to)),
        _ => {}
    }
}

proptest! {
    /// Whatever a state says, it is refused, or the device goes on and harms nobody.
    #[test]
    fn random_states_harm_nobody(
        which in 1..6usize,
        changes in prop::collection::vec((0..60usize, prop_oneof![
            any::<u64>().prop_map(Value::from),
            (0..20u64).prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            Just(Value::Null),
            Just(Value::Array(Vec::new())),
            Just(Value::from("00")),
        ]), 1..5),
    ) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("outside"), "secret").unwrap();
        let mut driver = Driver::new(device(which, &directory));
        driver.ask(0, &[1; 32], 64);
        let mut state = driver.slot.save().unwrap();
        for (mut which, to) in changes {
            change(&mut state, &mut which, &to);
        }
        let mut slot = Slot::new(device(which, &directory), driver.ram.clone());
        if slot.restore(state).is_err() {
            return Ok(());
        }
        let mut copy = Driver { slot, ram: driver.ram.clone(), given: driver.given };
        for queue in 0..6 {
            copy.notify(queue, 0);
        }
        copy.slot.ready();
        copy.slot.save().unwrap();
        copy.begin(16);
        prop_assert!(!copy.needs_reset());
    }
}
