//! Networks for real: needs root, makes namespaces and bridges of its own and leaves none.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a helper of a test fails the test and says so")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use model::{CellId, CellName, NetMode, Network, PortMapping};
use net::{Attachment, Net, Service};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

/// A namespace as a cell has one: nobody lives in it yet.
struct Cell {
    id: CellId,
    name: CellName,
    netns: OwnedFd,
}

impl Cell {
    fn new(bits: u64, name: &str) -> Self {
        let netns = std::thread::spawn(|| {
            // Only this thread moves, and it ends at once; the descriptor keeps the namespace.
            #[expect(deprecated, reason = "only flags that unshare descriptors make it unsafe")]
            rustix::thread::unshare(UnshareFlags::NEWNET).unwrap();
            std::fs::File::open("/proc/thread-self/ns/net").unwrap().into()
        });
        let id = CellId::from_random(bits ^ u64::from(std::process::id()) << 16);
        Self { id, name: name.parse().unwrap(), netns: netns.join().unwrap() }
    }

    fn attach(&self, net: &Net, mode: &NetMode) -> Attachment {
        let network = Network { mode: mode.clone(), ..Network::default() };
        net.attach(self.id, &self.name, &network, self.netns.as_fd()).unwrap().unwrap()
    }

    /// Does something on a thread inside the namespace.
    fn inside<T: Send + 'static>(&self, action: impl FnOnce() -> T + Send + 'static) -> std::thread::JoinHandle<T> {
        let netns = self.netns.try_clone().unwrap();
        std::thread::spawn(move || {
            rustix::thread::move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            action()
        })
    }
}

fn published(port: PortMapping) -> Network {
    Network { ports: vec![port], ..Network::default() }
}

fn serve(mut service: Service) {
    std::thread::spawn(move || {
        loop {
            let mut fds = [rustix::event::PollFd::from_borrowed_fd(service.fd(), rustix::event::PollFlags::IN)];
            let _ = rustix::event::poll(&mut fds, None);
            service.dispatch();
        }
    });
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: making network namespaces takes root");
    }
    root
}

fn echo_once(listener: TcpListener) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    stream.write_all(&bytes).unwrap();
}

#[test]
fn cells_reach_each_other_by_name_and_are_reached_by_port() {
    if !is_root() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let net = Net::open(home.path()).unwrap();
    let mode: NetMode = "blue".parse().unwrap();
    let (web, client) = (Cell::new(1, "web"), Cell::new(2, "client"));
    let place = web.attach(&net, &mode);
    assert_eq!(place.degraded, []);
    let other = client.attach(&net, &mode);
    let interface = std::path::Path::new("/sys/class/net").join(&place.interface);
    assert!(interface.exists());

    // By published port, from the host, both ways and to the end of the stream.
    let mapping: PortMapping = "127.0.0.1::7".parse().unwrap();
    let service = net.service(&place, &published(mapping), web.netns.as_fd()).unwrap();
    let (address, _) = service.published()[0];
    serve(service);
    let listener = web.inside(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 7)).unwrap()).join().unwrap();
    let echo = web.inside(move || echo_once(listener));
    let mut stream = TcpStream::connect(address).unwrap();
    let sent = vec![7u8; 3 << 20];
    let copy = sent.clone();
    let mut writer = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        writer.write_all(&copy).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    writing.join().unwrap();
    echo.join().unwrap();
    assert!(received == sent, "{} of {} bytes came back", received.len(), sent.len());
    assert!(place.traffic().unwrap().received > 3 << 20);

    // By name, from the other cell.
    serve(net.service(&other, &Network::default(), client.netns.as_fd()).unwrap());
    let answer = client.inside(|| {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut question = vec![0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        question.extend_from_slice(b"\x03web\0\0\x01\0\x01");
        socket.send_to(&question, (net::RESOLVER, 53)).unwrap();
        let mut answer = [0; 512];
        let count = socket.recv(&mut answer).unwrap();
        answer[..count].to_vec()
    });
    assert!(answer.join().unwrap().ends_with(&place.address.octets()), "web resolves to its address");
    let listener = web.inside(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8)).unwrap()).join().unwrap();
    let echo = web.inside(move || echo_once(listener));
    let target = SocketAddr::from((place.address, 8));
    client.inside(move || TcpStream::connect(target).map(drop)).join().unwrap().unwrap();
    echo.join().unwrap();

    // Nothing is left, however often one detaches. A link goes when the last thread and descriptor of its namespace do.
    for cell in [&web, &client, &web] {
        net.detach(cell.id).unwrap();
    }
    net.dissolve_idle().unwrap();
    let left: Vec<_> = std::fs::read_dir(home.path()).unwrap().flatten().map(|it| it.file_name()).collect();
    assert_eq!(left, [".lock"]);
    assert!(!has_bridge_of(&place), "the bridge goes with the last cell");
}

#[test]
fn a_deleted_home_leaves_no_bridge() {
    if !is_root() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let net = Net::open(home.path().join("net")).unwrap();
    let cell = Cell::new(4, "gone");
    let place = cell.attach(&net, &NetMode::Default);
    net.detach(cell.id).unwrap();
    let deleting = home.path().join("net");
    let deleter = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        std::fs::remove_dir_all(deleting).unwrap();
    });
    net.linger().unwrap();
    deleter.join().unwrap();
    assert!(!has_bridge_of(&place));
}

fn has_bridge_of(place: &Attachment) -> bool {
    let routes = std::fs::read_to_string("/proc/net/route").unwrap();
    let gateway = u32::from(place.gateway).swap_bytes() & 0x00f0_ffff;
    routes.contains(&format!("{gateway:08X}"))
}

#[test]
fn udp_ports_and_taken_ports() {
    if !is_root() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let net = Net::open(home.path()).unwrap();
    let cell = Cell::new(3, "dns");
    let place = cell.attach(&net, &NetMode::Default);
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let mapping: PortMapping = format!("127.0.0.1:{port}:80").parse().unwrap();
    let error = net.service(&place, &published(mapping), cell.netns.as_fd()).unwrap_err().to_string();
    assert!(error.contains(&format!("127.0.0.1:{port}:80 of the host cannot be published")), "{error}");

    let mapping: PortMapping = "127.0.0.1::9/udp".parse().unwrap();
    let service = net.service(&place, &published(mapping), cell.netns.as_fd()).unwrap();
    let (address, _) = service.published()[0];
    serve(service);
    let inner = cell.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 9)).unwrap()).join().unwrap();
    let echo = std::thread::spawn(move || {
        let mut buffer = [0; 64];
        let (count, peer) = inner.recv_from(&mut buffer).unwrap();
        inner.send_to(&buffer[..count], peer).unwrap();
    });
    let outer = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    outer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    outer.send_to(b"ping", address).unwrap();
    let mut buffer = [0; 64];
    assert_eq!(outer.recv(&mut buffer).unwrap(), 4);
    echo.join().unwrap();
    net.detach(cell.id).unwrap();
    net.linger().unwrap();
    assert!(!has_bridge_of(&place), "whoever lingers removes the bridge");
}
