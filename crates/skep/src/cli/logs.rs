//! `skep logs`

use std::io::Write;
use std::time::Duration;

use engine::{LogReader, LogRecord, Stream};
use model::Timestamp;

use super::Context;
use crate::error::{CommandError, Kind, Result};
use crate::output::{local_time, parse_since};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Go on while the cell runs
    #[arg(short, long)]
    follow: bool,
    /// Only what was printed since: 10m (ago), or a time
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only what was printed until: 10m (ago), or a time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only the last COUNT lines
    #[arg(short = 'n', long, value_name = "COUNT")]
    tail: Option<usize>,
    /// Begin each line with its time
    #[arg(short, long)]
    timestamps: bool,
    /// What the kernel of a machine said, and not its program
    #[arg(long, conflicts_with_all = ["follow", "since", "until", "tail", "timestamps"])]
    kernel: bool,
    /// The cell, by name or id
    #[arg(value_name = "CELL")]
    cell: String,
}

pub(super) fn execute(context: &Context, args: Args) -> Result<()> {
    let engine = context.engine()?;
    let cell = engine.find(&args.cell)?;
    if args.kernel {
        return kernel(&cell);
    }
    let since = args.since.as_deref().map(parse_since).transpose()?.unwrap_or_default();
    let until = args.until.as_deref().map(parse_since).transpose()?.unwrap_or(Timestamp::from_nanos(u64::MAX));
    let mut reader = LogReader::open(&cell.log_dir());
    let mut printer = Printer { timestamps: args.timestamps, at_line_start: [true; 2] };
    let mut held = Vec::new();
    while let Some(record) = reader.next_record()? {
        match args.tail {
            _ if record.at < since || record.at > until => {}
            Some(_) => held.push(record),
            None => printer.print(&record)?,
        }
    }
    if let Some(count) = args.tail {
        last_lines(held, count).iter().try_for_each(|it| printer.print(it))?;
    }
    if args.follow { follow(&mut reader, &mut printer, &engine, &cell) } else { Ok(()) }
}

/// Prints what a machine's kernel said since it was last started.
fn kernel(cell: &engine::Cell) -> Result<()> {
    let path = cell.kernel_log();
    let mut log = std::fs::File::open(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => CommandError::new(
            Kind::Unsupported,
            format!("{} has no kernel of its own that said anything", cell.spec.name),
        )
        .hinted("only machines have"),
        _ => error.into(),
    })?;
    std::io::copy(&mut log, &mut std::io::stdout().lock())?;
    Ok(())
}

fn follow(reader: &mut LogReader, printer: &mut Printer, engine: &engine::Engine, cell: &engine::Cell) -> Result<()> {
    loop {
        // Asked before the look at the log, so that nothing is missed that was printed between the look and the end.
        let live = engine.find(&cell.spec.id.to_string()).is_ok_and(|it| it.record.state.needs_supervisor());
        while let Some(record) = reader.next_record()? {
            printer.print(&record)?;
        }
        if !live {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The records that hold the last lines, the first of them cut.
fn last_lines(mut records: Vec<LogRecord>, count: usize) -> Vec<LogRecord> {
    let mut wanted = count;
    let mut from_end = 0;
    let mut last = true;
    for record in records.iter_mut().rev() {
        let mut end = record.bytes.len();
        // A line that the very end of the log finishes is one line, not one and an empty one.
        if last && record.bytes.ends_with(b"\n") {
            end -= 1;
        }
        last = false;
        from_end += 1;
        while let Some(newline) = record.bytes[..end].iter().rposition(|it| *it == b'\n') {
            wanted = wanted.saturating_sub(1);
            if wanted == 0 {
                record.bytes.drain(..=newline);
                return records.split_off(records.len() - from_end);
            }
            end = newline;
        }
    }
    if count == 0 { Vec::new() } else { records }
}

struct Printer {
    timestamps: bool,
    at_line_start: [bool; 2],
}

impl Printer {
    fn print(&mut self, record: &LogRecord) -> Result<()> {
        match record.stream {
            Stream::Out => self.write(&mut std::io::stdout().lock(), record, 0),
            Stream::Err => self.write(&mut std::io::stderr().lock(), record, 1),
        }
    }

    fn write(&mut self, out: &mut impl Write, record: &LogRecord, index: usize) -> Result<()> {
        if !self.timestamps {
            out.write_all(&record.bytes)?;
            return Ok(out.flush()?);
        }
        let time = local_time(record.at);
        for line in record.bytes.split_inclusive(|it| *it == b'\n') {
            if self.at_line_start[index] {
                write!(out, "{time} ")?;
            }
            out.write_all(line)?;
            self.at_line_start[index] = line.ends_with(b"\n");
        }
        Ok(out.flush()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_are_cut_at_lines() {
        let check = |pieces: &[&str], count, expected: &str| {
            let record = |text: &&str| LogRecord {
                at: Timestamp::default(),
                stream: Stream::Out,
                bytes: text.as_bytes().to_vec(),
            };
            let cut = last_lines(pieces.iter().map(record).collect(), count);
            let text: Vec<u8> = cut.into_iter().flat_map(|it| it.bytes).collect();
            assert_eq!(String::from_utf8(text).unwrap(), expected, "{pieces:?} {count}");
        };
        check(&["a\nb\nc\n"], 2, "b\nc\n");
        check(&["a\nb\nc"], 2, "b\nc");
        check(&["a\nb", "c\nd\n"], 2, "bc\nd\n");
        check(&["a\n", "b\n", "c\n"], 1, "c\n");
        check(&["a\n", "b\n"], 9, "a\nb\n");
        check(&["a\n"], 0, "");
        check(&[], 3, "");
    }
}
