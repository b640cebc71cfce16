//! `skep doctor`: what this machine can do for cells, measured, and how to mend what it cannot.

use sys::probe::{Finding, State};

use super::Context;
use crate::error::{CommandError, Kind, Result};
use crate::output;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Row<'a> {
    name: &'a str,
    ok: bool,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<&'a str>,
}

pub(super) fn execute(context: &Context, args: Args) -> Result<()> {
    let home = context.home()?;
    home.prepare()?;
    let mut findings = sys::probe::measure(home.data());
    findings.push(packages());
    let rows: Vec<Row<'_>> = findings.iter().map(row).collect();
    if args.json {
        return rows.iter().try_for_each(output::json);
    }
    let width = rows.iter().map(|it| it.name.len()).max().unwrap_or(0);
    for row in &rows {
        let mark = if row.ok { "ok     " } else { "missing" };
        let fix = row.fix.map_or(String::new(), |fix| format!("; fix: {fix}"));
        output::line(format!("{mark}  {:<width$}  {}{fix}", row.name, output::without_numbers(row.detail)).trim_end())?;
    }
    output::line(format!("         {:<width$}  {}", "data", home.data().display()))?;
    match rows.iter().filter(|row| !row.ok).count() {
        0 => Ok(()),
        count => {
            Err(CommandError::new(Kind::Unsupported, format!("{count} of {} capabilities are missing", rows.len()))
                .hinted("cells run without them, with less; each line above ends with its fix"))
        }
    }
}

/// Whether `deb:` images can be had: apt, and sources for it.
fn packages() -> Finding {
    let has_program = ["/usr/bin/apt-get", "/bin/apt-get"].iter().any(|it| std::path::Path::new(it).exists());
    let sources = ["/etc/apt/sources.list", "/etc/apt/sources.list.d"];
    let has_sources = sources.iter().any(|it| std::path::Path::new(it).exists());
    let state = match (has_program, has_sources) {
        (true, true) => State::Ok("apt-get, with sources".to_owned()),
        (false, _) => State::Missing { why: "no apt-get".to_owned(), fix: "deb: images need a Debian; others do not" },
        (true, false) => State::Missing { why: "no sources".to_owned(), fix: "write /etc/apt/sources.list" },
    };
    Finding { name: "Debian packages", state }
}

fn row(finding: &Finding) -> Row<'_> {
    match &finding.state {
        State::Ok(detail) => Row { name: finding.name, ok: true, detail, fix: None },
        State::Missing { why, fix } => Row { name: finding.name, ok: false, detail: why, fix: Some(fix) },
    }
}
