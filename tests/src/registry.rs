//! A registry on the loopback, and a listener before it that counts what is asked and does harm when told to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::TestEnv;

/// Debian's registry on a port of the loopback that the kernel chose.
pub struct Registry {
    child: Child,
    /// Where it listens.
    pub address: String,
}

impl Registry {
    /// Starts one whose files are among the test's own.
    pub fn start(env: &TestEnv) -> Self {
        let config = env.scratch().join("registry.yml");
        let files = env.scratch().join("registry");
        let text = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: 127.0.0.1:0\n",
            files.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new("docker-registry");
        command.args(["serve".as_ref(), config.as_os_str()]).env_clear().env("OTEL_TRACES_EXPORTER", "none");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let address =
            lines.find_map(|line| Some(line.split_once("listening on ")?.1.split(['"', ' ']).next()?.to_owned()));
        // It would end at the first line that nobody reads.
        std::thread::spawn(move || lines.count());
        Self { child, address: address.expect("the registry ended without listening") }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is done to answers for blobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// Nothing.
    None,
    /// The wish for a part is not passed on.
    NoParts,
    /// Some bytes are other ones.
    OtherBytes,
    /// Each answer ends after so many bytes.
    Cut(usize),
    /// The next answer does, and no other.
    CutOnce(usize),
    /// Connections are closed without an answer.
    HangUp,
    /// No answer ever comes.
    Silence,
}

/// What was asked for and sent so far, of blobs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Requests.
    pub requests: u64,
    /// Bytes of their answers, without headers.
    pub bytes: u64,
}

struct Shared {
    registry: String,
    tally: Mutex<Tally>,
    harm: Mutex<Harm>,
    login: Mutex<Option<String>>,
    stop: AtomicBool,
}

/// Stands before a registry.
pub struct Proxy {
    /// Where it listens.
    pub address: String,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Before that registry, harmless.
    pub fn before(registry: &Registry) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared {
            registry: registry.address.clone(),
            tally: Mutex::default(),
            harm: Mutex::new(Harm::None),
            login: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let theirs = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if theirs.stop.load(Ordering::SeqCst) {
                    return;
                }
                let shared = theirs.clone();
                // A client that goes away in the middle is its own affair.
                std::thread::spawn(move || drop(shared.pass(client)));
            }
        });
        Self { address, shared }
    }

    /// From now on.
    pub fn set(&self, harm: Harm) {
        *self.shared.harm.lock().unwrap() = harm;
    }

    /// From now on it wants to be shown this: `user:password` in base64.
    pub fn demand(&self, login: &str) {
        *self.shared.login.lock().unwrap() = Some(format!("authorization: basic {login}").to_ascii_lowercase());
    }

    /// What came since the last time.
    pub fn take_tally(&self) -> Tally {
        std::mem::take(&mut self.shared.tally.lock().unwrap())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(&self.address);
    }
}

/// Everything up to the empty line.
fn head(stream: &mut TcpStream) -> std::io::Result<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

impl Shared {
    /// Passes on one request and its answer.
    fn pass(&self, mut client: TcpStream) -> std::io::Result<()> {
        let asked = head(&mut client)?;
        let blob = asked.starts_with("GET ") && asked.lines().next().unwrap_or_default().contains("/blobs/sha256:");
        if let Some(login) = &*self.login.lock().unwrap()
            && !asked.to_ascii_lowercase().contains(login)
        {
            let answer = "HTTP/1.1 401 X\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            return client.write_all(answer.as_bytes());
        }
        let mut harm = self.harm.lock().unwrap();
        let now = if blob { *harm } else { Harm::None };
        if blob && matches!(*harm, Harm::CutOnce(_)) {
            *harm = Harm::None;
        }
        drop(harm);
        if blob {
            self.tally.lock().unwrap().requests += 1;
        }
        match now {
            Harm::HangUp => return Ok(()),
            Harm::Silence => {
                while !self.stop.load(Ordering::SeqCst) {
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
                return Ok(());
            }
            _ => {}
        }
        let kept = |line: &&str| {
            let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
            name != "connection" && (name != "range" || now != Harm::NoParts)
        };
        let lines: Vec<&str> = asked.trim_end().lines().filter(kept).collect();
        let mut registry = TcpStream::connect(&self.registry)?;
        registry.write_all(format!("{}\r\nConnection: close\r\n\r\n", lines.join("\r\n")).as_bytes())?;
        let (mut from_client, mut to_registry) = (client.try_clone()?, registry.try_clone()?);
        std::thread::spawn(move || std::io::copy(&mut from_client, &mut to_registry));
        client.write_all(head(&mut registry)?.as_bytes())?;
        let most = match now {
            Harm::Cut(most) | Harm::CutOnce(most) => most as u64,
            _ => u64::MAX,
        };
        let mut answer = registry.take(most);
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = answer.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            if now == Harm::OtherBytes {
                buffer[..count].iter_mut().skip(300).step_by(700).for_each(|byte| *byte ^= 0x55);
            }
            client.write_all(&buffer[..count])?;
            if blob {
                self.tally.lock().unwrap().bytes += count as u64;
            }
        }
        client.shutdown(Shutdown::Both)
    }
}
