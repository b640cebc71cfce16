//! Programs of the host and of a machine that call each other by `AF_VSOCK`.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use skep_tests::{TestEnv, can_run};

const PYTHON: &str = "deb:python3-minimal,libpython3-stdlib/arm64";
const ARM: &str = "deb:busybox-static/arm64";

/// Calls the host and says what it hears; then answers whoever calls with what he says, one after the other.
const PROGRAM: &str = r#"
import socket, sys
def new(): return socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
def all(it):
    got = b""
    while piece := it.recv(65536): got += piece
    return got
host = new()
host.connect((socket.VMADDR_CID_HOST, 80))
host.sendall(b"from the guest")
host.shutdown(socket.SHUT_WR)
print(len(all(host)), flush=True)
try: new().connect((socket.VMADDR_CID_HOST, 81))
except OSError as error: print(type(error).__name__, flush=True)
door = new()
door.bind((socket.VMADDR_CID_ANY, 52))
door.listen()
for _ in range(2):
    caller, (address, port) = door.accept()
    print("called by", address, flush=True)
    caller.sendall(all(caller))
    caller.close()
"#;

/// Calls a port of the machine's, as soon as somebody is there.
fn call(socket: &Path, port: u32) -> UnixStream {
    let began = Instant::now();
    loop {
        if let Ok(mut caller) = UnixStream::connect(socket) {
            caller.write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
            let mut line = Vec::new();
            let mut byte = [0];
            while !line.ends_with(b"\n") && caller.read(&mut byte).is_ok_and(|size| size == 1) {
                line.push(byte[0]);
            }
            if line.starts_with(b"OK ") {
                return caller;
            }
        }
        assert!(began.elapsed() < Duration::from_secs(60), "nobody is there");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Says something, and gives the answer.
fn said(mut caller: UnixStream, what: &[u8]) -> Vec<u8> {
    let mut writer = caller.try_clone().unwrap();
    let (what, mut answer) = (what.to_vec(), Vec::new());
    let writing = std::thread::spawn(move || {
        writer.write_all(&what).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    caller.read_to_end(&mut answer).unwrap();
    writing.join().unwrap();
    answer
}

#[test]
fn programs_of_a_machine_and_of_its_host_call_each_other() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(PYTHON);
    let (socket, big) = (env.scratch().join("v"), vec![b'x'; 3_000_000]);
    let listener = UnixListener::bind(env.scratch().join("v_80")).unwrap();
    let path = socket.to_str().unwrap();
    let run = env.spawn(["run", "--rm", "--net", "none", "--vsock", path, PYTHON, "--", "python3", "-c", PROGRAM]);
    let (mut guest, _) = listener.accept().unwrap();
    let mut heard = String::new();
    guest.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "from the guest");
    guest.write_all(&big).unwrap();
    drop(guest);
    assert_eq!(said(call(&socket, 52), b"a word"), b"a word");
    assert!(said(call(&socket, 52), &big) == big, "all of it comes back, in order");
    let output = run.wait_with_output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let (out, err) = (printed, String::from_utf8_lossy(&output.stderr).into_owned());
    assert_eq!(out, "3000000\nConnectionResetError\ncalled by 2\ncalled by 2\n", "{err}");
    assert!(output.status.success() && !socket.exists(), "{err}");
}

#[test]
fn a_socket_is_whoevers_who_listens_there() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(ARM);
    env.pull("deb:busybox-static");
    let socket = env.scratch().join("v");
    let path = socket.to_str().unwrap();
    let run = |image: &str| env.skep(["run", "--rm", "--net", "none", "--vsock", path, image, "--", "busybox", "true"]);
    let listener = UnixListener::bind(&socket).unwrap();
    let refused = run(ARM);
    assert!(refused.code != 0 && refused.err.contains("in use"), "{}", refused.err);
    assert!(socket.exists(), "another's is left alone");
    // Nobody has it any more, and it is there still.
    drop(listener);
    run(ARM).ok();
    assert!(!socket.exists());
    assert!(run("deb:busybox-static").fails(2).contains("--vsock goes with --as machine"));
}
