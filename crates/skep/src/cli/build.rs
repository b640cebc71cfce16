//! `skep image build`

use engine::{ApplianceRequest, Engine, Jit, Warm};
use model::{Boundary, ImageName, ImageRef};

use super::select::{self, Pull, Scripts, Wanted};
use crate::error::{CommandError, Kind, Result};
use crate::output::{self, Reporter};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What the program is separated by; only a unikernel can be kept
    #[arg(long = "as", value_name = "BOUNDARY")]
    boundary: Boundary,
    /// Call the appliance NAME
    #[arg(short = 't', long = "tag", value_name = "NAME")]
    name: ImageName,
    /// When the program is ready: 'port N', 'log TEXT' or 'seconds N'
    #[arg(long, value_name = "WHEN", default_value = "seconds 1")]
    warm_until: Warm,
    /// Let it make these system calls of the host, too, beside those that it made until it was ready
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    allow: Vec<String>,
    /// Let it make code while it runs
    #[arg(long)]
    jit: bool,
    /// The image
    #[arg(value_name = "IMAGE")]
    image: ImageRef,
    /// The command and its arguments [default: the image's]
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

pub(super) fn execute(engine: &Engine, args: Args) -> Result<()> {
    if args.boundary != Boundary::Unikernel {
        return Err(CommandError::new(Kind::Unsupported, format!("a {} cannot be an appliance", args.boundary))
            .hinted("'--as unikernel' can"));
    }
    let security = image::SecurityUpdates::Include;
    let wanted = Wanted { arch: None, pull: Pull::Missing, security, scripts: Scripts::Skip };
    let found = select::image(engine, &args.image, &wanted)?;
    let request = ApplianceRequest {
        image: &args.image.to_string(),
        id: found.id,
        record: &found.record,
        command: args.command,
        warm: args.warm_until,
        calls: &args.allow,
        jit: if args.jit { Jit::Declared } else { Jit::None },
        name: &args.name,
    };
    let made = engine.appliance(&request, &Reporter::new())?;
    output::line(format!("{} {}", made.id.short(), made.name))
}
