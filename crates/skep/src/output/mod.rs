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
    let _ = writeln!(std::io::stderr(), "{} {}", paint("warning:", "33"), without_numbers(text.as_ref()));
}

/// Reports a failure and what to do about it.
pub(crate) fn error(message: &str, hints: &[String]) {
    let mut err = std::io::stderr().lock();
    let _ = writeln!(err, "{} {}", paint("error:", "31;1"), without_numbers(message));
    for hint in hints {
        let _ = writeln!(err, "{} {hint}", paint("hint:", "36"));
    }
}

/// The text without the error numbers that the standard library adds to the system's words: they tell people nothing.
pub(crate) fn without_numbers(text: &str) -> String {
    let mut pieces = text.split(" (os error ");
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        match piece.split_once(')') {
            Some((number, rest)) if number.bytes().all(|it| it.is_ascii_digit()) => plain.push_str(rest),
            _ => plain.extend([" (os error ", piece]),
        }
    }
    plain
}

/// Colours a word of standard error when it is a terminal that wants colours.
fn paint(word: &str, code: &str) -> String {
    let plain = std::env::var_os("NO_COLOR").is_some() || !std::io::stderr().is_terminal();
    if plain { word.to_owned() } else { format!("\x1b[{code}m{word}\x1b[0m") }
}

#[cfg(test)]
mod tests {
    use super::without_numbers;

    #[test]
    fn error_numbers_are_left_out() {
        let check = |text: &str, plain: &str| assert_eq!(without_numbers(text), plain);
        check("copying a to b: No such file or directory (os error 2)", "copying a to b: No such file or directory");
        check("a (os error 2): b (os error 13) (tried 4 times)", "a: b (tried 4 times)");
        check("nothing to leave out", "nothing to leave out");
        check("a (os error x) b", "a (os error x) b");
        check("cut (os error 2", "cut (os error 2");
    }
}
