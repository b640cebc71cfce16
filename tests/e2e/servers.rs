//! Programs of Debian packages in cells: servers that answer real clients over published ports, and are asked to end in
//! the way that their image says.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use skep_tests::{TestEnv, can_run, free_port};

/// A server, and what a client says to it.
struct Server {
    image: &'static str,
    /// The port that it listens on in its cell.
    port: u16,
    /// A file of its own configuration: where it is mounted, and its text.
    file: Option<(&'static str, &'static str)>,
    /// The command, when it is not the image's own.
    command: &'static [&'static str],
    says: &'static [u8],
    /// What the answer must hold, in this order.
    hears: &'static [&'static [u8]],
}

const PLAIN: Server = Server { image: "", port: 80, file: None, command: &[], says: b"", hears: &[] };

const GET: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

macro_rules! servers {
    ($($name:ident: $server:expr;)+) => {
        $(mod $name {
            use super::*;

            const SERVER: Server = $server;

            #[test]
            fn in_a_container() {
                check(&SERVER, Way::Container);
            }

            #[test]
            fn in_a_virtual_machine() {
                check(&SERVER, Way::Kvm);
            }

            #[test]
            fn in_a_confined_process() {
                check(&SERVER, Way::Process);
            }
        })+
    };
}

servers! {
    redis: Server {
        image: "deb:redis-server",
        port: 6379,
        says: b"PING\r\nSET bee honey\r\nGET bee\r\n",
        hears: &[b"+PONG\r\n", b"+OK\r\n", b"$5\r\nhoney\r\n"],
        ..PLAIN
    };
    redis_that_saves: Server {
        image: "deb:redis-server",
        port: 6379,
        says: b"SET bee honey\r\nBGSAVE\r\nBGREWRITEAOF\r\nGET bee\r\n",
        // Each is done by a process of its own; which of the two is put off is a matter of moments.
        hears: &[b"+OK\r\n", b"+Background saving", b"+Background append only file rewriting", b"$5\r\nhoney\r\n"],
        ..PLAIN
    };
    nginx: Server {
        image: "deb:nginx",
        file: Some((
            "/etc/nginx/nginx.conf",
            "worker_processes 2;\nevents {}\n\
             http { server { listen 80; location / { return 200 \"busy-bees\"; } } }\n",
        )),
        says: GET,
        hears: &[b"200 OK", b"nginx", b"busy-bees"],
        ..PLAIN
    };
    memcached: Server {
        image: "deb:memcached",
        port: 11211,
        says: b"version\r\nset bee 0 0 5\r\nhoney\r\nget bee\r\n",
        hears: &[b"VERSION 1.", b"STORED\r\n", b"VALUE bee 0 5\r\nhoney\r\nEND\r\n"],
        ..PLAIN
    };
    mosquitto: Server {
        image: "deb:mosquitto",
        port: 1883,
        // CONNECT of MQTT 3.1.1: a clean session, kept alive for a minute, for the client "bee"; and its CONNACK.
        says: b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03bee",
        hears: &[b"\x20\x02\x00\x00"],
        ..PLAIN
    };
    lighttpd: Server { image: "deb:lighttpd", says: GET, hears: &[b"200 OK", b"lighttpd", b"</html>"], ..PLAIN };
    apache2: Server { image: "deb:apache2", says: GET, hears: &[b"200 OK", b"Apache2", b"</html>"], ..PLAIN };
    haproxy: Server {
        image: "deb:haproxy",
        // The package's own configuration has no frontend.
        file: Some((
            "/etc/haproxy/haproxy.cfg",
            "defaults\n mode http\n timeout client 5s\n\
             frontend web\n bind :80\n http-request return status 200 content-type text/plain string busy-bees\n",
        )),
        says: GET,
        hears: &[b"200 OK", b"busy-bees"],
        ..PLAIN
    };
    dnsmasq: Server {
        image: "deb:dnsmasq",
        port: 53,
        file: Some(("/etc/dnsmasq.conf", "address=/bee.test/192.0.2.7\n")),
        // A query for the address of bee.test over TCP: the length, the header, the question; and the answer's address.
        says: b"\x00\x1a\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03bee\x04test\x00\x00\x01\x00\x01",
        hears: &[b"\x03bee\x04test", b"\x00\x04\xc0\x00\x02\x07"],
        ..PLAIN
    };
}

/// The boundary that it runs in, and what executes it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Container,
    Kvm,
    Process,
}

impl Way {
    fn can_run(self) -> bool {
        can_run(if self == Self::Kvm { &["root", "kvm"] } else { &["root"] })
    }

    /// What `run` is told.
    fn boundary(self) -> &'static str {
        if self == Self::Container { "--as=container" } else { "--as=unikernel" }
    }

    fn engine(self) -> &'static str {
        if self == Self::Process { "process" } else { "kvm" }
    }
}

fn check(server: &Server, way: Way) {
    if !way.can_run() {
        return;
    }
    let env = TestEnv::with(server.image);
    let port = free_port();
    let mut args = vec!["run".to_owned(), "-d".to_owned(), "--name".to_owned(), "server".to_owned()];
    args.push(way.boundary().to_owned());
    args.extend(["-p".to_owned(), format!("{port}:{}", server.port)]);
    if let Some((path, text)) = server.file {
        let file = env.scratch().join("configuration");
        std::fs::write(&file, text).unwrap();
        args.extend(["-v".to_owned(), format!("{}:{path}:ro", file.display())]);
    }
    args.push(server.image.to_owned());
    args.extend(server.command.iter().map(|word| (*word).to_owned()));
    env.finish(env.command(args).env("SKEP_ENGINE", way.engine())).ok();
    let answer = converse(port, server).unwrap_or_else(|answer| {
        let (logs, why) = (env.skep(["logs", "server"]), env.skep(["why", "server"]));
        panic!("{} answered {:?}\n{}{}{}", server.image, answer.escape_ascii().to_string(), logs.out, logs.err, why.out)
    });
    assert!(!answer.is_empty());
    // Haproxy's master ignores, for a moment, what asks it to end, when its worker serves already.
    std::thread::sleep(Duration::from_millis(300));
    env.skep(["stop", "server"]).ok();
    let stopped: serde_json::Value = serde_json::from_str(&env.skep(["inspect", "server"]).ok()).unwrap();
    let exit = &stopped[0]["record"]["state"]["report"]["exit"];
    assert!(exit["reason"].is_string(), "{stopped}");
    assert_ne!(exit["signal"], 9, "it did not end when it was asked to");
}

/// Says what the client says until it hears what it should; what it heard last when it never does.
fn converse(port: u16, server: &Server) -> Result<Vec<u8>, Vec<u8>> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let answer = ask(port, server).unwrap_or_default();
        if complete(&answer, server.hears) {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            return Err(answer);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn ask(port: u16, server: &Server) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(server.says)?;
    let (mut answer, mut piece) = (Vec::new(), [0; 16 << 10]);
    while !complete(&answer, server.hears) {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(count) => answer.extend_from_slice(&piece[..count]),
        }
    }
    Ok(answer)
}

/// Whether all of the parts are there, one after the other.
fn complete(answer: &[u8], parts: &[&[u8]]) -> bool {
    let mut rest = answer;
    parts.iter().all(|part| match rest.windows(part.len()).position(|it| it == *part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

#[test]
fn programs_that_answer_on_their_output() {
    if !can_run(&["root"]) {
        return;
    }
    let check = |image: &str, command: &[&str], answer: &str| {
        let env = TestEnv::with(image);
        let run = ["run", "--rm", "--net", "none", image, "--"];
        assert_eq!(env.skep(run.iter().chain(command)).ok(), answer, "{image}");
    };
    check("deb:sqlite3", &["sqlite3", ":memory:", "select 6*7, sqlite_version() > '3'"], "42|1\n");
    check("deb:python3-minimal", &["python3", "-c", "import zlib, sys; print(6*7, sys.version_info[0])"], "42 3\n");
}

/// Every command that redis-benchmark knows, from twenty clients.
fn measure_redis(way: Way) {
    if !way.can_run() {
        return;
    }
    let env = TestEnv::with("deb:redis-server");
    env.pull("deb:redis-tools");
    let port = free_port();
    let publish = format!("{port}:6379");
    let run = ["run", "-d", "--name", "server", way.boundary(), "-p", &publish, "deb:redis-server"];
    env.finish(env.command(run).env("SKEP_ENGINE", way.engine())).ok();
    let server = Server { port: 6379, says: b"PING\r\n", hears: &[b"+PONG\r\n"], image: "deb:redis-server", ..PLAIN };
    converse(port, &server).unwrap();
    let port = port.to_string();
    let clients = ["redis-benchmark", "-p", &port, "-q", "-n", "500", "-c", "20"];
    let run = ["run", "--rm", "--net", "host", "deb:redis-tools", "--"];
    let said = env.skep(run.iter().chain(&clients)).ok();
    for test in ["PING_INLINE", "SET", "LPUSH", "HSET", "ZPOPMIN", "LRANGE_600", "MSET"] {
        assert!(said.contains(test), "{test} is missing: {said}");
    }
    assert!(!said.to_lowercase().contains("error"), "{said}");
}

#[test]
fn redis_is_measured_in_a_virtual_machine() {
    measure_redis(Way::Kvm);
}

#[test]
fn redis_is_measured_in_a_confined_process() {
    measure_redis(Way::Process);
}

/// A server whose master reads what is root's alone, its configuration, and whose workers are somebody else.
fn serve_as_somebody_else(way: Way) {
    use std::os::unix::fs::PermissionsExt;
    if !way.can_run() {
        return;
    }
    const IMAGE: &str = "deb:nginx";
    let env = TestEnv::with(IMAGE);
    let (pages, configuration, port) = (env.scratch().join("pages"), env.scratch().join("configuration"), free_port());
    std::fs::create_dir_all(&pages).unwrap();
    let text = "user www-data;\nworker_processes 2;\nevents {}\nhttp { server { listen 80; root /pages; } }\n";
    for (path, text, mode) in [
        (pages.join("open"), "honey", 0o644),
        (pages.join("secret"), "queen", 0o600),
        (configuration.clone(), text, 0o600),
    ] {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let volumes =
        [format!("{}:/pages:ro", pages.display()), format!("{}:/etc/nginx/nginx.conf:ro", configuration.display())];
    let publish = format!("{port}:80");
    let run =
        ["run", "-d", "--name", "server", way.boundary(), "-p", &publish, "-v", &volumes[0], "-v", &volumes[1], IMAGE];
    env.finish(env.command(run).env("SKEP_ENGINE", way.engine())).ok();
    let get = |page: &'static [u8], hears: &'static [&'static [u8]]| {
        converse(port, &Server { says: page, hears, ..PLAIN })
            .unwrap_or_else(|answer| panic!("{}", answer.escape_ascii().to_string()))
    };
    // Often enough for a page to be kept between.
    for _ in 0..8 {
        get(b"GET /open HTTP/1.0\r\n\r\n", &[b"200 OK", b"honey"]);
        get(b"GET /secret HTTP/1.0\r\n\r\n", &[b"403 Forbidden"]);
    }
    env.skep(["rm", "-f", "server"]).ok();
}

#[test]
fn workers_of_a_container_read_what_they_may() {
    serve_as_somebody_else(Way::Container);
}

#[test]
fn workers_of_a_virtual_machine_read_what_they_may() {
    serve_as_somebody_else(Way::Kvm);
}

#[test]
fn workers_of_a_confined_process_read_what_they_may() {
    serve_as_somebody_else(Way::Process);
}
