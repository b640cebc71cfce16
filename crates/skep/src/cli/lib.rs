//! `skep lib`: the libraries of running programs.

use std::str::FromStr;

use engine::{LibraryData, LibraryUpdate};
use model::{ImageRef, ParseError, Sha256};

use super::Context;
use super::select::{self, Pull, Scripts, Wanted};
use crate::error::Result;
use crate::output::{self, Align, Table};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List the libraries that the processes of a cell have
    Ls(Listing),
    /// Put a newer build of a library in its place while the programs run
    Update(Update),
}

#[derive(Debug, clap::Args)]
pub(super) struct Listing {
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    /// The cell, by name or id
    #[arg(value_name = "CELL")]
    cell: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct Update {
    /// Trust this very file, whoever made it: the digest that sha256sum prints
    #[arg(long, value_name = "sha256:HEX")]
    digest: Option<Sha256>,
    /// Let data begin afresh that has changed and has no name by which it could be kept
    #[arg(long)]
    fresh_data: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The cell, by name or id
    #[arg(value_name = "CELL")]
    cell: String,
    /// The library by its own name, and an image that has the new one, like libz.so.1=deb:zlib1g
    #[arg(value_name = "LIBRARY=IMAGE")]
    library: Replacement,
}

/// A library, and where the new one is.
#[derive(Clone, Debug)]
struct Replacement {
    soname: String,
    image: ImageRef,
}

impl FromStr for Replacement {
    type Err = ParseError;

    fn from_str(text: &str) -> std::result::Result<Self, ParseError> {
        let wrong = || ParseError::new("library", text, "NAME=IMAGE, like libz.so.1=deb:zlib1g");
        let (soname, image) = text.split_once('=').ok_or_else(wrong)?;
        let plain = !soname.is_empty() && soname.bytes().all(|it| it.is_ascii_graphic() && it != b'/');
        if !plain {
            return Err(wrong());
        }
        Ok(Self { soname: soname.to_owned(), image: image.parse()? })
    }
}

pub(super) fn execute(context: &Context, command: Command) -> Result<()> {
    let engine = context.engine()?;
    match command {
        Command::Ls(args) => list(&engine, &args),
        Command::Update(args) => update(&engine, args),
    }
}

fn list(engine: &engine::Engine, args: &Listing) -> Result<()> {
    let libraries = engine.libraries(&engine.find(&args.cell)?)?;
    if args.json {
        return libraries.iter().try_for_each(output::json);
    }
    let mut table = Table::new([
        ("PROCESS", Align::Right),
        ("LIBRARY", Align::Left),
        ("VERSION", Align::Left),
        ("STATE", Align::Left),
        ("BUILD", Align::Left),
        ("FILE", Align::Left),
    ]);
    for it in libraries {
        // What a program says of itself may hold anything, for a terminal too.
        let [soname, version, path] = [it.soname, it.version, it.path].map(|it| it.escape_debug().to_string());
        let build = it.build_id.get(..12).unwrap_or(&it.build_id).to_owned();
        table.row([it.process.to_string(), soname, version, it.state.to_owned(), build, path]);
    }
    table.print()
}

fn update(engine: &engine::Engine, args: Update) -> Result<()> {
    let cell = engine.find(&args.cell)?;
    let security = image::SecurityUpdates::Include;
    let wanted = Wanted { arch: None, pull: Pull::Missing, security, scripts: Scripts::Skip };
    let found = select::image(engine, &args.library.image, &wanted)?;
    let update = LibraryUpdate {
        soname: &args.library.soname,
        image: &found.record,
        digest: args.digest,
        data: if args.fresh_data { LibraryData::Fresh } else { LibraryData::Carried },
    };
    let report = engine.update_library(&cell, &update)?;
    if !report.root.is_empty() {
        output::warning(format!("programs that are executed from now on get the old one: {}", report.root));
    }
    if args.json {
        return output::json(&report);
    }
    let processes = model::counted(report.processes as usize, "process", "processes");
    let microseconds = report.stood_still / 1000;
    output::line(format!("{} {} in {processes}, stopped for {microseconds} us", update.soname, report.version))
}
