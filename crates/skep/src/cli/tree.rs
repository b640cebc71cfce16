//! `skep tree`

use engine::{Cell, Relative};
use model::CellId;

use super::Context;
use crate::error::Result;
use crate::output;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Show the processes of each cell, too, where they are known by family
    #[arg(short, long)]
    processes: bool,
    /// Include cells that do not run
    #[arg(short, long)]
    all: bool,
    /// Only the families of these cells, by name or id
    #[arg(value_name = "CELL")]
    cells: Vec<String>,
}

/// One line of the tree, and what hangs below it.
struct Branch {
    text: String,
    below: Vec<Branch>,
}

pub(super) fn execute(context: &Context, args: Args) -> Result<()> {
    let engine = context.engine()?;
    let wanted = args.cells.iter().map(|it| Ok(root_of(&engine.find(it)?))).collect::<Result<Vec<_>>>()?;
    let mut cells = engine.cells()?;
    cells.retain(|it| args.all || it.record.state.needs_supervisor());
    cells.retain(|it| wanted.is_empty() || wanted.contains(&root_of(it)));
    let processes = |cell: &Cell| match args.processes && cell.record.kin.is_none_or(|it| it.host().is_none()) {
        // A cell that is not of a kind with families, or just ended, has none to show.
        true => engine.family(cell).unwrap_or_default(),
        false => Vec::new(),
    };
    let here = |id: CellId| cells.iter().any(|it| it.id() == id);
    let roots = cells.iter().filter(|it| it.record.kin.is_none_or(|kin| !here(kin.parent)));
    for root in roots {
        let branch = branch_of(root, &cells, &processes(root), &processes);
        output::line(&branch.text)?;
        print(&branch.below, "")?;
    }
    Ok(())
}

fn root_of(cell: &Cell) -> CellId {
    cell.record.kin.map_or(cell.id(), |it| it.root)
}

fn branch_of(cell: &Cell, cells: &[Cell], family: &[Relative], processes: &dyn Fn(&Cell) -> Vec<Relative>) -> Branch {
    let (spec, record) = (&cell.spec, &cell.record);
    let text = format!("{} ({}, {}, {})", spec.name, record.state.word(), spec.boundary, record.engine);
    let first = record.kin.map_or(1, |it| it.number.max(1));
    let mut below = processes_below(0, first, family);
    let children = cells.iter().filter(|it| it.record.kin.is_some_and(|kin| kin.parent == cell.id()));
    below.extend(children.map(|it| match it.record.kin.and_then(engine::Kin::host) {
        Some(_) => branch_of(it, cells, family, processes),
        None => branch_of(it, cells, &processes(it), processes),
    }));
    Branch { text, below }
}

fn processes_below(parent: u32, cell: u32, family: &[Relative]) -> Vec<Branch> {
    let children = family.iter().filter(|it| it.parent == parent && it.cell == cell);
    let branch = |it: &Relative| Branch {
        text: format!("{} {}", it.number, it.name.escape_debug()),
        // Nobody descends from what comes from outside.
        below: if it.number == parent { Vec::new() } else { processes_below(it.number, cell, family) },
    };
    children.map(branch).collect()
}

fn print(branches: &[Branch], indent: &str) -> Result<()> {
    for (index, branch) in branches.iter().enumerate() {
        let is_last = index + 1 == branches.len();
        let (fork, further) = if is_last { ("\u{2514}\u{2500} ", "   ") } else { ("\u{251c}\u{2500} ", "\u{2502}  ") };
        output::line(format!("{indent}{fork}{}", branch.text))?;
        print(&branch.below, &format!("{indent}{further}"))?;
    }
    Ok(())
}
