//! Everything that the binary prints goes through here: tables, JSON, errors, progress.

mod progress;
mod table;
mod time;

use std::io::{IsTerminal, Write};

pub(crate) use progress::Reporter;
pub(crate) use table::{Align, Table};
pub(crate) use time::{ago, local_time, parse_since};

use crate::error::Result;

/// Prints one line on standard output.
pub(crate) fn line(text: impl AsRef<str>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_ref().as_bytes())?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

/// Prints one line of JSON on standard output.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string(value).map_err(crate::error::CommandError::failed)?;
    line(text)
}

/// Prints JSON for people to read.
pub(crate) fn pretty_json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(crate::error::CommandError::failed)?;
    line(text)
}

/// Says something beside the result, on standard error.
pub(crate) fn note(text: impl AsRef<str>) {
    let _ = writeln!(std::io::stderr(), "skep: {}", text.as_ref());
}

/// Warns of something that was asked for and is not so.
pub(crate) fn warning(text: impl AsRef<str>) {
    let _ = writeln!(std::io::stderr(), "{} {}", paint("warning:", "33"), text.as_ref());
}

/// Reports a failure and what to do about it.
pub(crate) fn error(message: &str, hints: &[String]) {
    let mut err = std::io::stderr().lock();
    let _ = writeln!(err, "{} {message}", paint("error:", "31;1"));
    for hint in hints {
        let _ = writeln!(err, "{} {hint}", paint("hint:", "36"));
    }
}

/// Colours a word of standard error when it is a terminal that wants colours.
fn paint(word: &str, code: &str) -> String {
    let plain = std::env::var_os("NO_COLOR").is_some() || !std::io::stderr().is_terminal();
    if plain { word.to_owned() } else { format!("\x1b[{code}m{word}\x1b[0m") }
}
