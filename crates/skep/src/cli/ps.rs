//! `skep ps`

use engine::Cell;
use model::{NetMode, State};

use super::Context;
use crate::error::{CommandError, Result};
use crate::output::{self, Align, Table, ago};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Include cells that do not run
    #[arg(short, long)]
    all: bool,
    /// Print ids only
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
    /// Only cells with KEY=VALUE: name, state, image, label or boundary
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

pub(super) fn execute(context: &Context, args: Args) -> Result<()> {
    let engine = context.engine()?;
    let filters = args.filter.iter().map(|it| Filter::parse(it)).collect::<Result<Vec<_>>>()?;
    let asks_state = filters.iter().any(|it| matches!(it, Filter::State(_)));
    let mut cells = engine.cells()?;
    for (id, why) in engine.damaged()? {
        output::warning(format!("cell {id} is left out: {why}; 'skep rm -f {id}' removes it"));
    }
    cells.retain(|cell| args.all || asks_state || cell.record.state.needs_supervisor());
    cells.retain(|cell| filters.iter().all(|it| it.accepts(cell)));
    if args.quiet {
        return cells.iter().try_for_each(|cell| output::line(cell.spec.id.to_string()));
    }
    if args.json {
        return cells.iter().try_for_each(|cell| output::json(&summary(cell)));
    }
    let columns = ["ID", "NAME", "IMAGE", "COMMAND", "STATE", "AS", "ENGINE", "PORTS"];
    let mut table = Table::new(columns.map(|title| (title, Align::Left)));
    for cell in &cells {
        table.row([
            cell.spec.id.to_string(),
            cell.spec.name.to_string(),
            shortened(&cell.spec.image.name, 30),
            shortened(&cell.spec.process.argv.join(" "), 24),
            shortened(&state(cell), 40),
            cell.spec.boundary.to_string(),
            cell.record.engine.to_string(),
            ports(cell),
        ]);
    }
    table.print()
}

enum Filter {
    Name(String),
    State(String),
    Image(String),
    Boundary(String),
    Label(String, Option<String>),
}

impl Filter {
    fn parse(text: &str) -> Result<Self> {
        let wrong = || {
            CommandError::usage(format!("'{text}' is not a filter"))
                .hinted("like --filter state=running or label=app=web")
        };
        let (key, value) = text.split_once('=').ok_or_else(wrong)?;
        let owned = value.to_owned();
        Ok(match key {
            "name" => Self::Name(owned),
            "state" | "status" => Self::State(owned),
            "image" | "ancestor" => Self::Image(owned),
            "boundary" | "as" => Self::Boundary(owned),
            "label" => match value.split_once('=') {
                Some((key, value)) => Self::Label(key.to_owned(), Some(value.to_owned())),
                None => Self::Label(owned, None),
            },
            _ => return Err(wrong()),
        })
    }

    fn accepts(&self, cell: &Cell) -> bool {
        match self {
            Self::Name(part) => cell.spec.name.as_str().contains(part),
            Self::State(word) => cell.record.state.word() == word,
            Self::Image(name) => cell.spec.image.name == *name,
            Self::Boundary(word) => cell.spec.boundary.as_str() == word,
            Self::Label(key, value) => {
                cell.spec.labels.get(key).is_some_and(|it| value.as_ref().is_none_or(|value| it == value))
            }
        }
    }
}

/// What lists show of a cell.
#[derive(serde::Serialize)]
struct Summary<'a> {
    id: model::CellId,
    name: &'a model::CellName,
    image: &'a str,
    command: &'a [String],
    #[serde(flatten)]
    state: &'a State,
    boundary: model::Boundary,
    engine: model::Engine,
    created: model::Timestamp,
    ports: &'a [model::PortMapping],
    pid: Option<u32>,
    parent: Option<model::CellId>,
    degraded: &'a [model::Degraded],
    labels: &'a std::collections::BTreeMap<String, String>,
}

fn summary(cell: &Cell) -> Summary<'_> {
    Summary {
        id: cell.spec.id,
        name: &cell.spec.name,
        image: &cell.spec.image.name,
        command: &cell.spec.process.argv,
        state: &cell.record.state,
        boundary: cell.spec.boundary,
        engine: cell.record.engine,
        created: cell.spec.created,
        ports: &cell.spec.network.ports,
        pid: cell.record.process.map(|it| it.pid),
        parent: cell.record.kin.map(|it| it.parent),
        degraded: &cell.record.degraded,
        labels: &cell.spec.labels,
    }
}

fn state(cell: &Cell) -> String {
    let mark = if cell.record.degraded.is_empty() { "" } else { " (degraded)" };
    match &cell.record.state {
        State::Running { since } => format!("running {}{mark}", engine::now().since(*since)),
        State::Exited { report } => {
            format!("{}, {}", output::without_numbers(&report.exit.to_string()), ago(report.at))
        }
        other => format!("{}{mark}", other.word()),
    }
}

fn ports(cell: &Cell) -> String {
    match cell.spec.network.mode {
        NetMode::Host => "host".to_owned(),
        _ => cell.spec.network.ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

fn shortened(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    text.chars().take(limit - 1).chain(['…']).collect()
}
