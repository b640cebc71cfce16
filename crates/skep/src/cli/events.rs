//! `skep events`

use std::time::Duration;

use engine::EventReader;
use model::{Event, EventKind, Remedy};

use super::Context;
use crate::error::Result;
use crate::output::{self, local_time, parse_since};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Go on with what happens from now on
    #[arg(short, long)]
    follow: bool,
    /// Only what happened since: 10m (ago), or a time
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only of this cell, by name or id
    #[arg(long, value_name = "CELL")]
    cell: Option<String>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

pub(super) fn execute(context: &Context, args: Args) -> Result<()> {
    let engine = context.engine()?;
    let since = args.since.as_deref().map(parse_since).transpose()?.unwrap_or_default();
    let mut reader = EventReader::open(engine.home(), since)?;
    let mut heard = false;
    loop {
        let event = match reader.next_event()? {
            Some(event) if concerns(&event, args.cell.as_deref()) => event,
            Some(_) => continue,
            None if args.follow => {
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
            None => break,
        };
        heard = true;
        if args.json { output::json(&event)? } else { output::line(describe(&event))? }
    }
    match args.cell {
        // Of a cell that never was there is nothing to hear; one that is may just have been quiet.
        Some(cell) if !heard => Ok(engine.find(&cell).map(drop)?),
        _ => Ok(()),
    }
}

/// A removed cell still has its events, so the name is compared, not looked up.
fn concerns(event: &Event, cell: Option<&str>) -> bool {
    cell.is_none_or(|it| event.name == it || event.cell.is_some_and(|id| id.to_string().starts_with(it)))
}

fn describe(event: &Event) -> String {
    let more = match &event.kind {
        EventKind::Created { image } => format!(" from {image}"),
        EventKind::Started { pid } => format!(" as process {pid}"),
        EventKind::Renamed { from } => format!(" from {from}"),
        EventKind::Executed { command } => format!(" {command}"),
        EventKind::Debugged { toolbox, command, privileges } if privileges == "target" => {
            format!(" with {toolbox}: {command}")
        }
        EventKind::Debugged { toolbox, command, privileges } => {
            format!(" with {toolbox} ({privileges} privileges): {command}")
        }
        EventKind::Degraded { what, why } => format!(": {what} not applied: {why}"),
        EventKind::Missed(it) => match &it.remedy {
            Remedy::Nothing => format!(": {it}"),
            Remedy::PutBack => format!(": {it}; put back"),
            Remedy::Failed(why) => format!(": {it}; could not be put back: {why}"),
        },
        EventKind::Exited { exit, .. } => format!(": {exit}"),
        EventKind::Restarting { attempt } => format!(", attempt {attempt}"),
        EventKind::Recovered { why } => format!(": {why}"),
        EventKind::Paused | EventKind::Resumed | EventKind::Limited | EventKind::Removed => String::new(),
    };
    format!("{} {} {}{more}", local_time(event.at), event.name, event.kind.word())
}
