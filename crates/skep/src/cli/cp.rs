//! `skep cp`

use engine::CopyEnd;

use super::Context;
use crate::error::{CommandError, Kind, Result};
use crate::output;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print nothing
    #[arg(short, long)]
    quiet: bool,
    /// What to copy: PATH, or CELL:PATH
    #[arg(value_name = "FROM")]
    from: String,
    /// Where to: PATH, or CELL:PATH
    #[arg(value_name = "TO")]
    to: String,
}

pub(super) fn execute(context: &Context, args: Args) -> Result<()> {
    if [&args.from, &args.to].into_iter().any(|it| it == "-") {
        return Err(CommandError::usage("cp copies files, not streams")
            .hinted("'skep exec CELL cat PATH' prints a file; './-' is a file of that name"));
    }
    let engine = context.engine()?;
    let (cell, from, to) = match (split(&args.from), split(&args.to)) {
        (Some((cell, path)), None) => (cell, CopyEnd::Cell(path.into()), CopyEnd::Host(args.to.into())),
        (None, Some((cell, path))) => (cell, CopyEnd::Host(args.from.clone().into()), CopyEnd::Cell(path.into())),
        (None, None) => {
            return Err(CommandError::usage("neither end is in a cell").hinted("one of the two must be CELL:PATH"));
        }
        (Some(_), Some(_)) => {
            return Err(CommandError::usage("both ends are in cells").hinted("copy to the host first, then from there"));
        }
    };
    let cell = engine.find(cell)?;
    let report = engine.copy(&cell, &from, &to).map_err(|error| match error {
        engine::Error::Io { ref source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            CommandError::new(Kind::NotFound, error.to_string())
        }
        other => other.into(),
    })?;
    if !args.quiet {
        let size = model::ByteSize::bytes(report.bytes);
        output::note(format!("copied {}, {size}", model::counted(report.entries, "entry", "entries")));
    }
    Ok(())
}

/// `CELL:PATH`; anything with a slash before the colon, or that begins with a dot, is a path of the host.
fn split(text: &str) -> Option<(&str, &str)> {
    let (cell, path) = text.split_once(':')?;
    (!cell.is_empty() && !cell.contains('/') && !cell.starts_with('.')).then_some((cell, path))
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn ends_are_told_apart() {
        assert_eq!(split("web:/etc/hosts"), Some(("web", "/etc/hosts")));
        assert_eq!(split("web:rel"), Some(("web", "rel")));
        for host in ["/a", "a", "./a:b", "/x:y", ":x"] {
            assert_eq!(split(host), None, "{host}");
        }
    }
}
