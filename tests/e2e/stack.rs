//! Unikernels whose sockets are of a network stack of their own: reached over published ports and by other cells, and reaching
//! them, while the tender makes no socket for them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use skep_tests::{TestEnv, can_run, free_port};

const BUSYBOX: &str = "deb:busybox-static";
const LIGHTTPD: &str = "deb:lighttpd";
const PYTHON: &str = "deb:python3";
const NETCAT: &str = "deb:netcat-openbsd";

macro_rules! on_both_engines {
    ($($name:ident: $check:expr;)+) => {
        $(mod $name {
            use super::*;

            #[test]
            fn in_a_virtual_machine() {
                if can_run(&["root", "kvm"]) {
                    $check("kvm");
                }
            }

            #[test]
            fn in_a_confined_process() {
                if can_run(&["root"]) {
                    $check("process");
                }
            }
        })+
    };
}

on_both_engines! {
    a_web_server_answers: web_server;
    threads_serve_together: memcached;
    redis_serves_and_saves: redis;
    python_serves_files: python;
    names_lead_there_and_back: names;
    a_process_reaches_itself: inward;
    no_socket_is_the_hosts: hostile;
    a_child_has_no_sockets: child;
    a_copy_has_no_sockets: copy;
}

fn start(env: &TestEnv, engine: &str, args: &[&str]) {
    let run = ["run", "-d", "--as", "unikernel", "--net-stack", "guest"];
    env.finish(env.command(run.iter().chain(args)).env("SKEP_ENGINE", engine)).ok();
}

/// What comes back when that is said to a port of this machine, until the other end ends or all that is wanted is there.
fn converse(env: &TestEnv, port: u16, says: &str, wanted: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let mut answer = Vec::new();
        let asked = TcpStream::connect(("127.0.0.1", port)).and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            stream.write_all(says.as_bytes())?;
            let mut piece = [0; 64 << 10];
            while !String::from_utf8_lossy(&answer).contains(wanted) {
                match stream.read(&mut piece)? {
                    0 => break,
                    count => answer.extend_from_slice(&piece[..count]),
                }
            }
            Ok(())
        });
        let text = String::from_utf8_lossy(&answer).into_owned();
        if text.contains(wanted) {
            return text;
        }
        if Instant::now() > deadline {
            let (logs, why) = (env.skep(["logs", "server"]), env.skep(["why", "server"]));
            panic!("port {port}: {asked:?}, {text:?}\n{}{}{}", logs.out, logs.err, why.out);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn get(env: &TestEnv, port: u16, path: &str, wanted: &str) -> String {
    converse(env, port, &format!("GET {path} HTTP/1.0\r\n\r\n"), wanted)
}

fn web_server(engine: &str) {
    let env = TestEnv::with(LIGHTTPD);
    let port = free_port();
    let publish = format!("{port}:80");
    start(&env, engine, &["--name", "server", "-p", &publish, LIGHTTPD]);
    for _ in 0..5 {
        assert!(get(&env, port, "/", "</html>").contains("200 OK"));
    }
    let told: serde_json::Value = serde_json::from_str(&env.skep(["inspect", "server"]).ok()).unwrap();
    assert_eq!(told[0]["spec"]["network"]["stack"], "guest", "{told}");
    // Started again, it is the same.
    env.skep(["stop", "server"]).ok();
    env.finish(env.command(["start", "server"]).env("SKEP_ENGINE", engine)).ok();
    get(&env, port, "/", "</html>");
    if engine == "kvm" {
        let error = env.skep(["snapshot", "server"]).fails(5);
        assert!(error.contains("--net-stack guest"), "{error}");
    }
    get(&env, port, "/", "</html>");
    env.skep(["stop", "server"]).ok();
}

/// Threads that share sockets and an epoll instance each.
fn memcached(engine: &str) {
    let env = TestEnv::with("deb:memcached");
    let port = free_port();
    let publish = format!("{port}:11211");
    start(&env, engine, &["--name", "server", "-p", &publish, "deb:memcached"]);
    for bee in 0..10 {
        let honey = format!("honey{bee}");
        converse(
            &env,
            port,
            &format!("set bee{bee} 0 0 6\r\n{honey}\r\nget bee{bee}\r\n"),
            &format!("{honey}\r\nEND\r\n"),
        );
    }
}

fn redis(engine: &str) {
    let env = TestEnv::with("deb:redis-server");
    env.pull("deb:redis-tools");
    let port = free_port();
    let publish = format!("{port}:6379");
    start(&env, engine, &["--name", "server", "-p", &publish, "deb:redis-server"]);
    converse(&env, port, "PING\r\nSET bee honey\r\nGET bee\r\n", "+PONG\r\n+OK\r\n$5\r\nhoney\r\n");
    converse(&env, port, "BGSAVE\r\n", "+Background saving");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !converse(&env, port, "INFO persistence\r\n", "rdb_last_bgsave_status").contains("rdb_bgsave_in_progress:0") {
        assert!(Instant::now() < deadline, "it never saved");
        std::thread::sleep(Duration::from_millis(50));
    }
    let told = converse(&env, port, "INFO persistence\r\n", "rdb_last_bgsave_status");
    assert!(told.contains("rdb_last_bgsave_status:ok"), "{told}");
    // More at once than are waited for, and more than a buffer holds.
    let clients =
        ["redis-benchmark", "-p", &port.to_string(), "-q", "-n", "300", "-c", "30", "-t", "get,set,lrange_300"];
    let run = ["run", "--rm", "--net", "host", "deb:redis-tools", "--"];
    let said = env.skep(run.iter().chain(&clients)).ok();
    for test in ["SET", "GET", "LRANGE_300"] {
        assert!(said.contains(test), "{test} is missing: {said}");
    }
    assert!(!said.to_lowercase().contains("error"), "{said}");
    let long = "x".repeat(300_000);
    let set = format!("*3\r\n$3\r\nSET\r\n$4\r\nlong\r\n$300000\r\n{long}\r\n");
    converse(&env, port, &format!("{set}GET long\r\n"), &format!("$300000\r\n{long}\r\n"));
}

fn python(engine: &str) {
    let env = TestEnv::with(PYTHON);
    let port = free_port();
    let publish = format!("{port}:8000");
    let files = env.scratch().join("files");
    std::fs::create_dir_all(&files).unwrap();
    std::fs::write(files.join("large"), "honeycomb\n".repeat(200_000)).unwrap();
    let volume = format!("{}:/files:ro", files.display());
    let args = ["--name", "server", "-p", &publish, "-v", &volume, PYTHON, "--"];
    let command = ["python3", "-m", "http.server", "--directory", "/files", "8000"];
    start(&env, engine, &args.iter().chain(&command).copied().collect::<Vec<_>>());
    assert!(get(&env, port, "/", "large").contains("200 OK"));
    let answer = get(&env, port, "/large", &"honeycomb\n".repeat(200_000));
    assert!(answer.contains("Content-Length: 2000000"));
}

fn names(engine: &str) {
    let env = TestEnv::with(BUSYBOX);
    env.pull(NETCAT);
    let serve = |text: &str| format!("while :; do echo from {text} | busybox nc -l -p 80; done");
    let with = ["run", "-d", "--net", "blue", "--name", "outside", BUSYBOX, "--", "busybox", "sh", "-c"];
    env.skep(with.iter().map(|it| (*it).to_owned()).chain([serve("outside")])).ok();
    let ask = |name: &str, stack: &[&str]| {
        let run =
            [&["run", "--rm", "--net", "blue"], stack, &[NETCAT, "--", "nc.openbsd", "-d", "-w", "30", name, "80"]];
        env.finish(env.command(run.concat()).env("SKEP_ENGINE", engine))
    };
    let own = ["--as", "unikernel", "--net-stack", "guest"];
    assert_eq!(ask("outside", &own).ok(), "from outside\n");
    env.pull(LIGHTTPD);
    start(&env, engine, &["--net", "blue", "--name", "server", LIGHTTPD]);
    let fetch = "for i in 1 2 3 4 5 6 7 8 9; do busybox wget -q -O - http://$A/ && exit; busybox sleep 1; done";
    let told: serde_json::Value = serde_json::from_str(&env.skep(["inspect", "server"]).ok()).unwrap();
    let address = format!("A={}", told[0]["record"]["attachment"]["address"].as_str().unwrap());
    for stack in [&own[..], &[]] {
        let run = ["run", "--rm", "--net", "blue", "-e", &address];
        let command = [BUSYBOX, "--", "busybox", "sh", "-c", fetch];
        let run = run.iter().chain(stack).chain(&command);
        let page = env.finish(env.command(run).env("SKEP_ENGINE", engine)).ok();
        assert!(page.contains("</html>"), "{stack:?}: {page}");
    }
}

/// A program that a Python says.
fn say(env: &TestEnv, engine: &str, net: &str, program: &str) -> String {
    let run = ["run", "--rm", "--as", "unikernel", "--net-stack", "guest", "--net", net, PYTHON, "--", "python3", "-c"];
    env.finish(env.command(run.iter().chain(&[program])).env("SKEP_ENGINE", engine)).ok()
}

fn inward(engine: &str) {
    let env = TestEnv::with(PYTHON);
    let program = r#"
import errno, select, socket, threading
l = socket.socket(); l.bind(("127.0.0.1", 0)); l.listen(5)
def serve():
    while True:
        c, _ = l.accept()
        threading.Thread(target=lambda: [c.sendall(b) for b in iter(lambda: c.recv(65536), b"")] and c.close()).start()
threading.Thread(target=serve, daemon=True).start()
c = socket.create_connection(l.getsockname())
bytes_ = bytes(range(256)) * 4096
def send(): c.sendall(bytes_); c.shutdown(socket.SHUT_WR)
threading.Thread(target=send).start()
got = b"".join(iter(lambda: c.recv(100000), b""))
print(got == bytes_)
u, v = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in "uv"]
u.bind(("127.0.0.1", 0)); v.sendto(b"datagram", u.getsockname()); print(u.recvfrom(100)[0])
r, w = __import__("os").pipe()
e = select.epoll(); e.register(u, select.EPOLLIN); e.register(r, select.EPOLLIN)
print(e.poll(0)); v.sendto(b"x", u.getsockname()); print(len(e.poll(5)))
__import__("os").write(w, b"y")
while len(e.poll(5)) < 2: pass
u.recv(9); print([f == r for f, _ in e.poll(5)])
print(select.select([u, r], [v], [], 5) == ([r], [v], []))
try: socket.create_connection(("127.0.0.1", 9))
except OSError as it: print(errno.errorcode[it.errno])
for family in (socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET):
    try: socket.socket(family, socket.SOCK_RAW if family != socket.AF_INET6 else socket.SOCK_STREAM)
    except OSError as it: print(errno.errorcode[it.errno])
try: socket.create_connection(("192.0.2.1", 9))
except OSError as it: print(errno.errorcode[it.errno])
"#;
    let right = "True\nb'datagram'\n[]\n1\n[True]\nTrue\nECONNREFUSED\nEAFNOSUPPORT\nEAFNOSUPPORT\nEAFNOSUPPORT\n\
                 ENETUNREACH\n";
    assert_eq!(say(&env, engine, "none", program), right, "{engine}");
}

fn child(engine: &str) {
    let env = TestEnv::with(PYTHON);
    let program = r#"
import errno, os, socket, select
l = socket.socket(); l.bind(("127.0.0.1", 0)); l.listen(5)
c = socket.create_connection(l.getsockname()); s, _ = l.accept()
if os.fork() == 0:
    for act in (lambda: c.recv(1), lambda: s.send(b"x"), l.accept):
        try: act()
        except OSError as it: print(errno.errorcode[it.errno], flush=True)
    p = select.poll(); p.register(c); print(p.poll(0)[0][1] & select.POLLHUP != 0, flush=True)
    n = socket.socket(); n.bind(("127.0.0.1", 0)); n.listen(); socket.create_connection(n.getsockname())
    print("own", flush=True)
    os._exit(0)
os.wait(); c.send(b"still"); print(s.recv(9))
"#;
    assert_eq!(say(&env, engine, "none", program), "ENETDOWN\nENETDOWN\nENETDOWN\nTrue\nown\nb'still'\n", "{engine}");
}

fn copy(engine: &str) {
    let env = TestEnv::with(PYTHON);
    let port = free_port();
    let publish = format!("{port}:80");
    let program = r#"
import socket, time
l = socket.socket(); l.bind(("", 80)); l.listen(5); l.settimeout(0.2)
while True:
    try:
        c, _ = l.accept(); c.sendall(b"served\n"); c.close()
    except TimeoutError: pass
    except OSError as it: print(it.errno, flush=True); time.sleep(3600)
"#;
    start(&env, engine, &["--name", "server", "-p", &publish, PYTHON, "--", "python3", "-c", program]);
    converse(&env, port, "", "served");
    env.skep(["fork", "server", "--name", "copy"]).ok();
    converse(&env, port, "", "served");
    let deadline = Instant::now() + Duration::from_secs(30);
    // ENETDOWN, and the first goes on.
    while !env.skep(["logs", "copy-1"]).ok().contains("100\n") {
        assert!(Instant::now() < deadline, "{}", env.skep(["logs", "copy-1"]).out);
        std::thread::sleep(Duration::from_millis(50));
    }
    converse(&env, port, "", "served");
}

fn hostile(engine: &str) {
    let env = TestEnv::with(BUSYBOX);
    let dir = env.scratch().join("programs");
    std::fs::create_dir_all(&dir).unwrap();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/programs/hostile.c");
    let built = Command::new("cc").args(["-static", "-O1", "-w", "-o"]).arg(dir.join("hostile")).arg(source).status();
    assert!(built.unwrap().success(), "install a C compiler and the C library's static archive");
    let volume = format!("{}:/h:ro", dir.display());
    let run = |script: &str| {
        let run =
            ["run", "--rm", "--as", "unikernel", "--net-stack", "guest", "-v", &volume, BUSYBOX, "--", "sh", "-c"];
        env.finish(env.command(run.iter().chain(&[script])).env("SKEP_ENGINE", engine))
    };
    // Asked past the library operating system, the tender refuses all but what is local.
    assert_eq!(run("/h/hostile sockets; true").ok(), "2: 97\n10: 97\n16: 97\n17: 97\n40: 97\n1: 0\n", "{engine}");
    let ended = run("timeout -s KILL 4 /h/hostile link; echo end");
    assert_eq!((ended.code, ended.out.lines().last()), (0, Some("end")), "{engine}: {}", ended.err);
    // Whoever comes next has the link, and all of it.
    let gateway = "busybox wget -q -O - http://$(busybox awk '/nameserver/ {print $2}' /etc/resolv.conf):9/ 2>&1";
    let after = run(&format!("timeout -s KILL 4 /h/hostile link; {gateway}"));
    assert!(after.out.contains("Connection refused"), "{engine}: {}{}", after.out, after.err);
}

#[test]
fn only_a_unikernel_with_a_link_has_a_stack() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(BUSYBOX);
    let refused = |args: &[&str], code: i32| {
        let run = [&["run", "--rm", "--net-stack", "guest"], args, &[BUSYBOX, "--", "true"]].concat();
        env.skep(run).fails(code)
    };
    let error = refused(&[], 5);
    assert!(error.contains("a container has no network stack of its own"), "{error}");
    assert!(error.contains("--net-stack guest goes with --as unikernel"), "{error}");
    let error = refused(&["--as", "unikernel", "--net", "host"], 2);
    assert!(error.contains("--net host"), "{error}");
}
