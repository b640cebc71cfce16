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
