//! `skep stats`

use std::io::IsTerminal;
use std::time::Duration;

use engine::{Cell, Engine, Stats};
use model::ByteSize;

use super::Context;
use crate::error::Result;
use crate::output::{self, Align, Table};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    /// Go on measuring every second
    #[arg(short, long)]
    follow: bool,
    /// The cells, by name or id [default: all that run]
    #[arg(value_name = "CELL")]
    cells: Vec<String>,
}

/// What stands between two measurements when only one table is asked for.
const GLANCE: Duration = Duration::from_millis(250);

pub(super) fn execute(context: &Context, args: Args) -> Result<()> {
    let engine = context.engine()?;
    let mut before = measure(&engine, &args.cells)?;
    loop {
        std::thread::sleep(if args.follow { Duration::from_secs(1) } else { GLANCE });
        let after = measure(&engine, &args.cells)?;
        let rows: Vec<_> = after
            .iter()
            .map(|(cell, stats)| {
                let earlier = before.iter().find(|(it, _)| it.id() == cell.id());
                (cell, stats, earlier.and_then(|(_, earlier)| stats.processors_since(earlier)))
            })
            .collect();
        if args.json {
            rows.iter().try_for_each(|(cell, stats, processors)| print_json(cell, stats, *processors))?;
        } else {
            print_table(&rows)?;
        }
        if !args.follow {
            return Ok(());
        }
        if !args.json && std::io::stdout().is_terminal() {
            output::line("")?;
        }
        before = after;
    }
}

fn measure(engine: &Engine, wanted: &[String]) -> Result<Vec<(Cell, Stats)>> {
    if !wanted.is_empty() {
        return wanted
            .iter()
            .map(|name| {
                let cell = engine.find(name)?;
                let stats = engine.stats(&cell)?;
                Ok((cell, stats))
            })
            .collect();
    }
    let running = engine.cells()?.into_iter().filter(|it| it.record.state.is_live());
    // A cell that ends while it is looked at is left out.
    Ok(running.filter_map(|cell| engine.stats(&cell).ok().map(|stats| (cell, stats))).collect())
}

fn print_json(cell: &Cell, stats: &Stats, processors: Option<f64>) -> Result<()> {
    #[derive(serde::Serialize)]
    struct Row<'a> {
        id: model::CellId,
        name: &'a model::CellName,
        cpus: Option<f64>,
        #[serde(flatten)]
        stats: &'a Stats,
    }
    output::json(&Row { id: cell.spec.id, name: &cell.spec.name, cpus: processors, stats })
}

fn print_table(rows: &[(&Cell, &Stats, Option<f64>)]) -> Result<()> {
    let mut table = Table::new([
        ("NAME", Align::Left),
        ("CPU", Align::Right),
        ("MEMORY", Align::Right),
        ("LIMIT", Align::Right),
        ("PIDS", Align::Right),
        ("READ", Align::Right),
        ("WRITTEN", Align::Right),
        ("RECEIVED", Align::Right),
        ("SENT", Align::Right),
    ]);
    let size = |it: Option<ByteSize>| it.map_or("-".to_owned(), |it| it.to_string());
    for (cell, stats, processors) in rows {
        table.row([
            cell.spec.name.to_string(),
            processors.map_or("-".to_owned(), |it| format!("{:.1} %", it * 100.0)),
            size(stats.memory),
            size(stats.memory_limit),
            stats.pids.map_or("-".to_owned(), |it| it.to_string()),
            size(stats.io_read),
            size(stats.io_write),
            size(stats.net_received),
            size(stats.net_sent),
        ]);
    }
    table.print()
}
