//! Networks: published ports, names, separation.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use skep_tests::{TestEnv, can_run, free_port};

const BUSYBOX: &str = "deb:busybox-static";

/// The answer to a request, asked again while nobody listens yet.
fn get(port: u16, path: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let mut answer = String::new();
        let asked = TcpStream::connect(("127.0.0.1", port)).and_then(|mut stream| {
            write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
            stream.read_to_string(&mut answer)
        });
        if asked.is_ok() && !answer.is_empty() {
            return answer;
        }
        assert!(Instant::now() < deadline, "nobody answers on port {port}: {asked:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_web_server_from_debian_packages_serves() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with("deb:nginx-light");
    let port = free_port();
    let publish = format!("{port}:80");
    env.skep(["run", "-d", "-p", &publish, "--name", "web", "deb:nginx-light"]).ok();
    assert!(get(port, "/").contains("Welcome to nginx"));
    assert!(env.skep(["exec", "web", "--", "nginx", "-v"]).err.contains("nginx version"));
    assert!(env.skep(["logs", "web"]).ok().contains("GET / HTTP/1.0"));
    assert!(env.skep(["ps"]).ok().contains(&publish));
    let error = env.skep(["run", "--rm", "-p", &publish, "deb:nginx-light"]).fails(125);
    assert!(error.contains(&format!("port {publish} of the host cannot be published")), "{error}");
    env.skep(["stop", "web"]).ok();
    env.skep(["rm", "web"]).ok();
}

#[test]
fn cells_of_a_network_find_each_other_by_name() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(BUSYBOX);
    // A statically linked program has no resolver that reads nsswitch.conf: this one has.
    const NETCAT: &str = "deb:netcat-openbsd";
    env.pull(NETCAT);
    let serve = "while :; do echo from b | busybox nc -l -p 80; done";
    env.skep(["run", "-d", "--net", "blue", "--name", "b", BUSYBOX, "--", "busybox", "sh", "-c", serve]).ok();
    let ask =
        |net: &str| env.skep(["run", "--rm", "--net", net, NETCAT, "--", "nc.openbsd", "-d", "-w", "20", "b", "80"]);
    assert_eq!(ask("blue").ok(), "from b\n");
    assert_ne!(ask("green").code, 0, "another network does not see it");
    let listed = env.skep(["run", "--rm", "--net", "none", BUSYBOX, "--", "busybox", "ls", "/sys/class/net"]).ok();
    assert_eq!(listed.trim(), "lo");
}

#[test]
fn a_port_is_open_before_its_server_is() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(BUSYBOX);
    let port = free_port();
    let late = "busybox sleep 1; echo hello | busybox nc -l -p 80";
    let publish = format!("{port}:80");
    let args = ["run", "-d", "-p", &publish, "--name", "late", BUSYBOX, "--", "busybox", "sh", "-c", late];
    env.skep(args).ok();
    // One try, at once.
    let mut answer = String::new();
    TcpStream::connect(("127.0.0.1", port)).unwrap().read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "hello\n");
}

#[test]
fn a_renamed_cell_is_found_by_its_new_name() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(BUSYBOX);
    let sleeper = ["run", "-d", "--net", "names", "--name", "old", BUSYBOX, "--", "busybox", "sleep", "1000"];
    env.skep(sleeper).ok();
    let ask = |name: &str| env.skep(["exec", "old", "busybox", "nslookup", "-type=a", name, "127.0.0.11"]);
    assert!(ask("old").ok().contains("Name:"));
    env.skep(["rename", "old", "new"]).ok();
    let answer = env.skep(["exec", "new", "busybox", "nslookup", "-type=a", "new", "127.0.0.11"]).ok();
    assert!(answer.contains("Name:\tnew"), "{answer}");
}

#[test]
fn many_connections_at_once_are_carried() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with("deb:nginx-light");
    let port = free_port();
    let publish = format!("{port}:80");
    env.skep(["run", "-d", "-p", &publish, "--name", "web", "deb:nginx-light"]).ok();
    assert!(get(port, "/").contains("Welcome to nginx"));
    // All are open before the first is used, and one is never used at all.
    let _idle = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let streams: Vec<_> = (0..200).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    for mut stream in streams {
        let mut answer = String::new();
        write!(stream, "GET / HTTP/1.0\r\n\r\n").unwrap();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("Welcome to nginx"), "{answer}");
    }
}

/// What a published datagram port carries goes there and back, and IPv6 clients are served, too.
#[test]
fn datagrams_and_ipv6_are_carried() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(BUSYBOX);
    const SOCAT: &str = "deb:socat";
    env.pull(SOCAT);
    let port = free_port();
    let (udp, tcp) = (format!("{port}:7/udp"), format!("{port}:7"));
    let run = ["run", "-d", "-p", &udp, "--name", "u", SOCAT, "--", "socat", "UDP4-LISTEN:7,fork", "PIPE"];
    env.skep(run).ok();
    let run = ["run", "-d", "-p", &tcp, "--name", "t", SOCAT, "--", "socat", "TCP4-LISTEN:7,fork", "PIPE"];
    env.skep(run).ok();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    socket.connect(("127.0.0.1", port)).unwrap();
    let mut answer = [0; 16];
    let deadline = Instant::now() + Duration::from_secs(30);
    // Datagrams get lost as long as nobody listens.
    let count = loop {
        socket.send(b"ping").unwrap();
        match socket.recv(&mut answer) {
            Ok(count) => break count,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    };
    assert_eq!(&answer[..count], b"ping");
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: needs IPv6");
        return;
    }
    let mut stream = TcpStream::connect(("::1", port)).unwrap();
    stream.write_all(b"six").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "six");
}
