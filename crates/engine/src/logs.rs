//! What a cell printed, kept with its times in files that do not grow without end.
//!
//! A log is `log/current` and, after rotation, `log/1` (younger) to `log/N` (older). A file is a sequence of records: a
//! header line `NANOSECONDS STREAM LENGTH`, that many bytes as the program wrote them, a newline. Records hold what one
//! read from the program gave, so a line may lie in two and a record may hold several. **A torn last record is the mark
//! of a crash and reads as the end**; nothing in a log can make a reader fail or hold more than one record.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use model::{LogPolicy, Timestamp};

use crate::error::{Error, Result};

/// Which of a program's output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, and everything of a program that has a terminal.
    Out,
    /// Standard error.
    Err,
}

/// One piece of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// When it was read from the program.
    pub at: Timestamp,
    /// Where the program wrote it.
    pub stream: Stream,
    /// What it wrote.
    pub bytes: Vec<u8>,
}

/// No record is longer: a supervisor reads at most that much at once.
const MAX_RECORD: usize = 64 << 10;

const CURRENT: &str = "current";

/// Appends to a cell's log. Held by its supervisor.
#[derive(Debug)]
pub(crate) struct LogWriter {
    dir: PathBuf,
    policy: LogPolicy,
    file: File,
    written: u64,
}

impl LogWriter {
    pub(crate) fn open(dir: &Path, policy: LogPolicy) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|e| Error::at("making", dir, e))?;
        let (file, written) = open_current(dir)?;
        Ok(Self { dir: dir.to_owned(), policy, file, written })
    }

    /// Appends one record with one write, rotating first when the file is full.
    pub(crate) fn append(&mut self, at: Timestamp, stream: Stream, bytes: &[u8]) -> Result<()> {
        for piece in bytes.chunks(MAX_RECORD) {
            if self.written >= self.policy.max_size.get() {
                self.rotate()?;
            }
            let word = match stream {
                Stream::Out => "o",
                Stream::Err => "e",
            };
            let mut record = format!("{} {word} {}\n", at.as_nanos(), piece.len()).into_bytes();
            record.extend_from_slice(piece);
            record.push(b'\n');
            if let Err(error) = self.file.write_all(&record) {
                // Half a record would hide all that follow it.
                let _ = self.file.set_len(self.written);
                return Err(Error::at("writing the log in", &self.dir, error));
            }
            self.written += record.len() as u64;
        }
        Ok(())
    }

    fn rotate(&mut self) -> Result<()> {
        let keep = self.policy.max_files.max(1);
        // The oldest is renamed over first, so at every instant each kept record is in exactly one file.
        for number in (1..keep).rev() {
            let younger = if number == 1 { CURRENT.to_owned() } else { (number - 1).to_string() };
            let _ = std::fs::rename(self.dir.join(younger), self.dir.join(number.to_string()));
        }
        if keep == 1 {
            let _ = std::fs::remove_file(self.dir.join(CURRENT));
        }
        (self.file, self.written) = open_current(&self.dir)?;
        Ok(())
    }
}

/// Opens the current file for appending, less the torn record that a crash may have left at its end.
fn open_current(dir: &Path) -> Result<(File, u64)> {
    let path = dir.join(CURRENT);
    let open = File::options().read(true).append(true).create(true).open(&path);
    let file = open.map_err(|e| Error::at("opening", &path, e))?;
    let failed = |e| Error::at("reading", &path, e);
    let sound = sound_length(&file).map_err(failed)?;
    if file.metadata().map_err(failed)?.len() > sound {
        file.set_len(sound).map_err(|e| Error::at("mending", &path, e))?;
    }
    Ok((file, sound))
}

/// How many bytes at the beginning of a log are whole records.
fn sound_length(file: &File) -> std::io::Result<u64> {
    let end = file.metadata()?.len();
    let mut reader = BufReader::new(file);
    let mut sound = 0;
    let mut header = Vec::new();
    loop {
        header.clear();
        reader.by_ref().take(MAX_HEADER).read_until(b'\n', &mut header)?;
        let Some((_, _, length)) = header.strip_suffix(b"\n").and_then(parse_header) else { return Ok(sound) };
        let next = sound + header.len() as u64 + length as u64 + 1;
        if next > end {
            return Ok(sound);
        }
        reader.seek_relative(length as i64 + 1)?;
        sound = next;
    }
}

/// A header is at most two numbers of 20 digits; a longer one is damage.
const MAX_HEADER: u64 = 64;

type LogFile = BufReader<File>;

/// Opens the files of a log: those set aside, the oldest last, and the current one. A rotation in between is noticed,
/// and they are opened anew.
fn open_all(dir: &Path) -> (Vec<LogFile>, Option<LogFile>) {
    let open = |name: &str| File::open(dir.join(name)).ok().map(BufReader::new);
    loop {
        let current = open(CURRENT);
        let older = (1..u32::MAX).map_while(|number| open(&number.to_string())).collect();
        if current.as_ref().is_none_or(|it| !is_rotated(dir, it)) {
            return (older, current);
        }
    }
}

fn inode(reader: &LogFile) -> Option<u64> {
    reader.get_ref().metadata().ok().map(|it| it.ino())
}

/// Whether another file is the current one now, in which case nothing will be added to this one.
fn is_rotated(dir: &Path, reader: &LogFile) -> bool {
    let now = std::fs::metadata(dir.join(CURRENT)).map(|it| it.ino());
    matches!((now, inode(reader)), (Ok(now), Some(then)) if now != then)
}

/// Reads a cell's log from its oldest record on, across rotations, and goes on when more is written.
#[derive(Debug)]
pub struct LogReader {
    dir: PathBuf,
    /// Files older than the current one that are still to be read, the next one last.
    older: Vec<LogFile>,
    current: Option<LogFile>,
    /// Bytes of a record that was not complete at the last look.
    partial: Vec<u8>,
}

impl LogReader {
    /// Opens every file of the log. A cell that never ran has none, which reads as empty.
    pub fn open(dir: &Path) -> Self {
        let (older, current) = open_all(dir);
        Self { dir: dir.to_owned(), older, current, partial: Vec::new() }
    }

    /// The next record, or nothing when there is none yet.
    pub fn next_record(&mut self) -> Result<Option<LogRecord>> {
        loop {
            while let Some(mut reader) = self.older.pop() {
                if let Some(record) = self.read_from(&mut reader)? {
                    self.older.push(reader);
                    return Ok(Some(record));
                }
                self.partial.clear();
            }
            let Some(mut reader) = self.current.take() else {
                (_, self.current) = open_all(&self.dir);
                if self.current.is_none() {
                    return Ok(None);
                }
                continue;
            };
            // Asked before the reading: a file that was set aside by then is read to its very end.
            let rotated = is_rotated(&self.dir, &reader);
            let record = self.read_from(&mut reader)?;
            if record.is_some() || !rotated {
                self.current = Some(reader);
                return Ok(record);
            }
            self.partial.clear();
            self.go_on_after(&reader);
        }
    }

    /// Goes on with the files that are younger than the one that was read to its end, however many came to be meanwhile.
    fn go_on_after(&mut self, read: &LogFile) {
        (self.older, self.current) = open_all(&self.dir);
        if let Some(position) = self.older.iter().position(|it| inode(it) == inode(read)) {
            self.older.truncate(position);
        }
    }

    fn read_from(&mut self, reader: &mut BufReader<File>) -> Result<Option<LogRecord>> {
        let failed = |e| Error::at("reading the log in", &self.dir, e);
        if !self.partial.contains(&b'\n') {
            reader.by_ref().take(MAX_HEADER).read_until(b'\n', &mut self.partial).map_err(failed)?;
        }
        let Some(end) = self.partial.iter().position(|it| *it == b'\n') else { return Ok(None) };
        let Some((at, stream, length)) = parse_header(&self.partial[..end]) else { return Ok(None) };
        let wanted = end + 1 + length + 1;
        let missing = wanted.saturating_sub(self.partial.len());
        reader.by_ref().take(missing as u64).read_to_end(&mut self.partial).map_err(failed)?;
        if self.partial.len() < wanted {
            return Ok(None);
        }
        let bytes = self.partial[end + 1..wanted - 1].to_vec();
        self.partial.clear();
        Ok(Some(LogRecord { at, stream, bytes }))
    }
}

fn parse_header(line: &[u8]) -> Option<(Timestamp, Stream, usize)> {
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let at = Timestamp::from_nanos(words.next()?.parse().ok()?);
    let stream = match words.next()? {
        "o" => Stream::Out,
        "e" => Stream::Err,
        _ => return None,
    };
    let length = words.next()?.parse().ok().filter(|it| *it <= MAX_RECORD)?;
    words.next().is_none().then_some((at, stream, length))
}

#[cfg(test)]
mod tests {
    use model::ByteSize;

    use super::*;

    fn policy(max_size: u64, max_files: u32) -> LogPolicy {
        LogPolicy { max_size: ByteSize::bytes(max_size), max_files }
    }

    fn read_all(reader: &mut LogReader) -> Vec<String> {
        std::iter::from_fn(|| reader.next_record().unwrap())
            .map(|record| String::from_utf8(record.bytes).unwrap())
            .collect()
    }

    #[test]
    fn a_reader_follows_across_rotation_and_keeps_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::open(dir.path(), policy(40, 3)).unwrap();
        let mut follower = LogReader::open(dir.path());
        let mut seen = Vec::new();
        for n in 0..20 {
            writer.append(Timestamp::from_nanos(n), Stream::Out, format!("line {n}\n").as_bytes()).unwrap();
            seen.extend(read_all(&mut follower));
        }
        let all: Vec<_> = (0..20).map(|n| format!("line {n}\n")).collect();
        assert_eq!(seen, all);
        let kept = read_all(&mut LogReader::open(dir.path()));
        assert!(kept.len() < 20 && all.ends_with(&kept), "{kept:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_torn_record_reads_as_the_end_and_completes_when_the_rest_arrives() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(CURRENT), b"1 o 3\nabc\n2 e 5\nde").unwrap();
        let mut reader = LogReader::open(dir.path());
        assert_eq!(read_all(&mut reader), ["abc"]);
        let mut file = File::options().append(true).open(dir.path().join(CURRENT)).unwrap();
        file.write_all(b"fgh\n").unwrap();
        assert_eq!(read_all(&mut reader), ["defgh"]);
    }

    #[test]
    fn a_follower_that_comes_late_misses_nothing_that_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::open(dir.path(), policy(40, 9)).unwrap();
        let line = |n: u64| format!("line {n}\n");
        writer.append(Timestamp::default(), Stream::Out, line(0).as_bytes()).unwrap();
        let mut follower = LogReader::open(dir.path());
        assert_eq!(read_all(&mut follower), [line(0)]);
        for n in 1..12 {
            writer.append(Timestamp::from_nanos(n), Stream::Out, line(n).as_bytes()).unwrap();
        }
        assert!(dir.path().join("3").exists(), "the log rotated several times");
        assert_eq!(read_all(&mut follower), (1..12).map(line).collect::<Vec<_>>());
    }

    #[test]
    fn what_follows_a_torn_record_is_read() {
        let dir = tempfile::tempdir().unwrap();
        for torn in [&b"2 e 5\nde"[..], b"2 e", b"\x00\x00\x00\x00\n"] {
            std::fs::write(dir.path().join(CURRENT), [&b"1 o 3\nabc\n"[..], torn].concat()).unwrap();
            let mut writer = LogWriter::open(dir.path(), policy(1000, 1)).unwrap();
            writer.append(Timestamp::default(), Stream::Out, b"after").unwrap();
            assert_eq!(read_all(&mut LogReader::open(dir.path())), ["abc", "after"], "{torn:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_fail_a_reader(bytes: Vec<u8>) {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join(CURRENT), &bytes).unwrap();
            let mut reader = LogReader::open(dir.path());
            while reader.next_record().unwrap().is_some() {}
            LogWriter::open(dir.path(), LogPolicy::default()).unwrap();
        }
    }
}
