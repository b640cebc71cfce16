//! A registry on the loopback that misbehaves as told.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::tar::sha256;

/// How it serves blobs and manifests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Manner {
    Honest,
    /// Every answer for a blob ends after so many bytes, and parts can be asked for.
    Cuts(usize),
    /// The same without parts.
    CutsWhole(usize),
    /// Sends half of a blob, then nothing.
    Stalls,
    /// Sends bytes of its own.
    Lies,
    /// Sends more than it promised.
    Overfull,
    /// Answers with that status.
    Fails(u16),
    /// Answers 503 so often, then honestly.
    Recovers(usize),
    /// Accepts, and never answers.
    Silent,
    /// A manifest that is not what its digest says.
    LiesInManifest,
}

pub(crate) struct Server {
    pub(crate) address: String,
    pub(crate) requests: Arc<AtomicUsize>,
    pub(crate) ranges: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    /// Serves an image whose last blob is its manifest.
    pub(crate) fn start(blobs: Vec<Vec<u8>>, manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (requests, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let ranges = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::new((blobs, manner, requests.clone(), ranges.clone(), stop.clone()));
        let thread = std::thread::spawn(move || {
            let mut workers = Vec::new();
            for stream in listener.incoming() {
                if shared.4.load(Ordering::SeqCst) {
                    break;
                }
                let (shared, Ok(stream)) = (shared.clone(), stream) else { continue };
                workers.push(std::thread::spawn(move || {
                    let _ = answer(stream, &shared.0, shared.1, &shared.2, &shared.3, &shared.4);
                }));
            }
            for worker in workers {
                let _ = worker.join();
            }
        });
        Self { address, requests, ranges, stop, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(&self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(
    mut stream: TcpStream,
    blobs: &[Vec<u8>],
    manner: Manner,
    requests: &AtomicUsize,
    ranges: &Mutex<Vec<String>>,
    stop: &AtomicBool,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().unwrap_or(Ok(String::new()))?;
    let mut from = None;
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            ranges.lock().unwrap().push(range.to_owned());
            from = range.split('-').next().and_then(|start| start.parse::<usize>().ok());
        }
    }
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let wait = || {
        while !stop.load(Ordering::SeqCst) {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    };
    let status = |stream: &mut TcpStream, code: u16| {
        write!(stream, "HTTP/1.1 {code} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    };
    if manner == Manner::Silent {
        wait();
        return Ok(());
    }
    if path == "/v2/" {
        return status(&mut stream, 200);
    }
    let number = requests.fetch_add(1, Ordering::SeqCst);
    match manner {
        Manner::Fails(code) => return status(&mut stream, code),
        Manner::Recovers(count) if number < count => return status(&mut stream, 503),
        _ => {}
    }
    let manifest = path.contains("/manifests/");
    let name = path.rsplit('/').next().unwrap_or_default();
    let found = if manifest { blobs.last() } else { blobs.iter().find(|blob| sha256(blob) == name) };
    let Some(found) = found else { return status(&mut stream, 404) };
    let mut body = found.clone();
    let layer = !manifest && name == sha256(&blobs[0]);
    if manner == Manner::LiesInManifest && manifest || manner == Manner::Lies && layer {
        let middle = body.len() / 2;
        body[middle] ^= 1;
    }
    if manner == Manner::Overfull && layer {
        body.extend_from_slice(b"more");
    }
    let partial = from.filter(|_| layer && !matches!(manner, Manner::CutsWhole(_)));
    let body = body.split_off(partial.unwrap_or(0).min(found.len()));
    let code = if partial.is_some() { 206 } else { 200 };
    let kind = if manifest { "application/vnd.oci.image.manifest.v1+json" } else { "application/octet-stream" };
    write!(
        stream,
        "HTTP/1.1 {code} X\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    match manner {
        Manner::Cuts(count) | Manner::CutsWhole(count) if layer => stream.write_all(&body[..count.min(body.len())]),
        Manner::Stalls if layer => {
            stream.write_all(&body[..body.len() / 2])?;
            wait();
            Ok(())
        }
        _ => stream.write_all(&body),
    }
}
