//! `skep image`: get, keep and pass on images.

use model::{Arch, ImageName, ImageRef, Source};

use super::select::{self, Found, Pull, Scripts, Wanted};
use super::slim;
use super::{Context, build};
use crate::error::{CommandError, Result};
use crate::output::{self, Align, Reporter, Table, ago, note};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List the images of the pool
    Ls {
        /// Print ids only
        #[arg(short, long, conflicts_with = "json")]
        quiet: bool,
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Get images from where they come from, anew if they are here
    Pull(PullArgs),
    /// Send an image to a registry
    Push {
        /// Pack the layers so that 'debug --lazy' can fetch single files of them (eStargz)
        #[arg(long)]
        lazy: bool,
        /// The image
        #[arg(value_name = "IMAGE")]
        image: ImageRef,
        /// Where to: docker://HOST/REPO[:TAG]
        #[arg(value_name = "DESTINATION")]
        destination: Source,
    },
    /// Take an image from a file or directory
    Import {
        /// oci:DIR, oci-archive:FILE or docker-archive:FILE
        #[arg(value_name = "SOURCE")]
        source: Source,
        /// Call it NAME
        #[arg(value_name = "NAME")]
        name: Option<ImageName>,
    },
    /// Write an image to a file or directory
    Export {
        /// The image
        #[arg(value_name = "IMAGE")]
        image: ImageRef,
        /// oci:DIR, oci-archive:FILE or docker-archive:FILE
        #[arg(value_name = "DESTINATION")]
        destination: Source,
    },
    /// Show everything about images, as JSON
    Inspect {
        /// The images
        #[arg(value_name = "IMAGE", required = true)]
        images: Vec<ImageRef>,
    },
    /// Give an image a further name
    Tag {
        /// The image
        #[arg(value_name = "IMAGE")]
        image: ImageRef,
        /// The name
        #[arg(value_name = "NAME")]
        name: ImageName,
    },
    /// Take names off images; an image without a name goes with the next 'pool gc'
    Rm {
        /// The names
        #[arg(value_name = "IMAGE", required = true)]
        images: Vec<ImageRef>,
    },
    /// Make an appliance: an image of a program that has begun already, and may do only what it did
    Build(build::Args),
    /// Make an image of what another needs, and prove that it is enough
    Slim(slim::Args),
    /// Show what an image was made of
    History {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// The image
        #[arg(value_name = "IMAGE")]
        image: ImageRef,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct PullArgs {
    /// Take the image for this processor
    #[arg(long, value_name = "ARCH")]
    arch: Option<Arch>,
    /// Leave Debian's security updates out of a deb: image
    #[arg(long)]
    no_security: bool,
    /// Run the packages' own configuration scripts when a deb: image is built
    #[arg(long)]
    configure: bool,
    /// Call it NAME as well
    #[arg(long, value_name = "NAME")]
    tag: Option<ImageName>,
    /// The sources
    #[arg(value_name = "SOURCE", required = true)]
    sources: Vec<Source>,
}

pub(super) fn execute(context: &Context, command: Command) -> Result<()> {
    let engine = context.engine()?;
    match command {
        Command::Ls { quiet, json } => list(&engine, quiet, json),
        Command::Pull(args) => pull(&engine, args),
        Command::Push { lazy, image, destination } => {
            let form = if lazy { image::LayerForm::Seekable } else { image::LayerForm::Stream };
            push(&engine, &image, destination, form)
        }
        Command::Import { source, name } => import(&engine, &source, name),
        Command::Export { image, destination } => export(&engine, &image, &destination),
        Command::Inspect { images } => inspect(&engine, &images),
        Command::Tag { image, name } => {
            let found = select::stored_image(&engine, &image)?;
            engine.store().tag(&name, &found.id)?;
            output::line(name.as_str())
        }
        Command::Rm { images } => remove(&engine, &images),
        Command::Build(args) => build::execute(&engine, args),
        Command::Slim(args) => slim::execute(&engine, &args),
        Command::History { json, image } => history(&engine, &image, json),
    }
}

fn list(engine: &engine::Engine, quiet: bool, json: bool) -> Result<()> {
    let (mut images, mut damaged) = (Vec::new(), Vec::new());
    for listed in engine.store().each_ref()? {
        match listed.and_then(|(name, id)| Ok(Found { record: engine.store().image(&id)?, name, id })) {
            Ok(found) => images.push(found),
            Err(error) => damaged.push(error),
        }
    }
    print_list(&images, quiet, json)?;
    // Whatever can be shown has been; the failure is told last, where it is seen.
    let Some(last) = damaged.pop() else { return Ok(()) };
    damaged.into_iter().for_each(|error| CommandError::from(error).report());
    Err(last.into())
}

fn print_list(images: &[Found], quiet: bool, json: bool) -> Result<()> {
    if quiet {
        // An image may have several names.
        let mut seen = std::collections::BTreeSet::new();
        return images.iter().filter(|it| seen.insert(it.id)).try_for_each(|it| output::line(it.id.short()));
    }
    if json {
        return images.iter().try_for_each(|it| output::json(&described(it)));
    }
    let columns = [("NAME", Align::Left), ("ID", Align::Left), ("ARCH", Align::Left), ("SIZE", Align::Right)];
    let mut table = Table::new(columns.into_iter().chain([("CREATED", Align::Left)]));
    for it in images {
        let cells = [it.name.to_string(), it.id.short(), it.record.arch.to_string(), it.record.size.to_string()];
        table.row(cells.into_iter().chain([ago(it.record.created)]));
    }
    table.print()
}

fn described(found: &Found) -> serde_json::Value {
    serde_json::json!({ "name": found.name, "id": found.id, "image": found.record })
}

fn pull(engine: &engine::Engine, args: PullArgs) -> Result<()> {
    let wanted = Wanted {
        arch: args.arch,
        pull: Pull::Always,
        security: if args.no_security { image::SecurityUpdates::LeaveOut } else { image::SecurityUpdates::Include },
        scripts: if args.configure { Scripts::Run } else { Scripts::Skip },
    };
    for source in &args.sources {
        let found = select::get(engine, source, &wanted, args.tag.clone())?;
        output::line(format!("{} {}", found.id.short(), found.name))?;
    }
    Ok(())
}

fn push(engine: &engine::Engine, image: &ImageRef, destination: Source, form: image::LayerForm) -> Result<()> {
    let Source::Registry(reference) = destination else {
        return Err(CommandError::usage(format!("'{destination}' is not a registry"))
            .hinted("like docker://localhost:5000/web:v1; 'skep image export' writes files"));
    };
    let found = select::stored_image(engine, image)?;
    let options = image::FetchOptions::new(engine.home().cache());
    let pushed = image::push(engine.store(), &found.id, &reference, form, &options, &Reporter::new())?;
    pushed.notes.iter().for_each(note);
    output::line(pushed.digest.to_string())
}

fn import(engine: &engine::Engine, source: &Source, name: Option<ImageName>) -> Result<()> {
    if !matches!(source, Source::OciDir { .. } | Source::OciArchive { .. } | Source::DockerArchive { .. }) {
        return Err(CommandError::usage(format!("'{source}' is no file or directory with an image"))
            .hinted(format!("'skep image pull {source}' gets it")));
    }
    let security = image::SecurityUpdates::Include;
    let wanted = Wanted { arch: None, pull: Pull::Always, security, scripts: Scripts::Skip };
    let found = select::get(engine, source, &wanted, name.clone())?;
    output::line(format!("{} {}", found.id.short(), name.unwrap_or(found.name)))
}

fn export(engine: &engine::Engine, image: &ImageRef, destination: &Source) -> Result<()> {
    // What is not here yet is got first: an export is a way of use like any other.
    let security = image::SecurityUpdates::Include;
    let wanted = Wanted { arch: None, pull: Pull::Missing, security, scripts: Scripts::Skip };
    let found = select::image(engine, image, &wanted)?;
    let exported = image::export(engine.store(), &found.id, destination, &Reporter::new())?;
    exported.notes.iter().for_each(note);
    output::line(exported.digest.to_string())
}

fn inspect(engine: &engine::Engine, images: &[ImageRef]) -> Result<()> {
    let mut found = Vec::new();
    for image in images {
        found.push(described(&select::stored_image(engine, image)?));
    }
    output::pretty_json(&found)
}

fn remove(engine: &engine::Engine, images: &[ImageRef]) -> Result<()> {
    for image in images {
        let found = select::stored_image(engine, image)?;
        engine.store().untag(&found.name)?;
        output::line(found.name.as_str())?;
    }
    Ok(())
}

fn history(engine: &engine::Engine, image: &ImageRef, json: bool) -> Result<()> {
    let found = select::stored_image(engine, image)?;
    let steps = image::history(engine.store(), &found.record)?;
    let mut table = Table::new([("CREATED", Align::Left), ("SIZE", Align::Right), ("BY", Align::Left)]);
    for step in steps {
        let by = if step.created_by.is_empty() { step.comment } else { step.created_by };
        let size = step.layer.as_ref().map(|it| it.size);
        if json {
            output::json(&serde_json::json!({ "created": step.created, "size": size, "by": by }))?;
        }
        table.row([step.created.map_or("-".to_owned(), ago), size.map_or("-".to_owned(), |it| it.to_string()), by]);
    }
    if json { Ok(()) } else { table.print() }
}
