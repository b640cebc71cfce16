//! `skep set`

use model::{ByteSize, Cpus, IoLimit, Limits, RestartPolicy, Weight};

use super::{Context, select};
use crate::error::{CommandError, Result};
use crate::output;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The most memory it may hold, like 64m
    #[arg(short, long, value_name = "SIZE", value_parser = select::memory_limit)]
    memory: Option<ByteSize>,
    /// The most processor time, like 0.5 or 2
    #[arg(long, value_name = "COUNT")]
    cpus: Option<Cpus>,
    /// Its share of contended processors, 1 to 10000
    #[arg(long, value_name = "WEIGHT")]
    cpu_weight: Option<Weight>,
    /// The most processes and threads
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pids_limit: Option<u32>,
    /// The rate of a block device, like /dev/vda:wbps=10m
    #[arg(long, value_name = "RATE")]
    io: Vec<IoLimit>,
    /// When to start it again: no, on-failure[:MAX] or always
    #[arg(long, value_name = "POLICY")]
    restart: Option<RestartPolicy>,
    /// The cells, by name or id
    #[arg(value_name = "CELL", required = true)]
    cells: Vec<String>,
}

pub(super) fn execute(context: &Context, args: Args) -> Result<()> {
    let limits = Limits {
        memory: args.memory,
        cpus: args.cpus,
        cpu_weight: args.cpu_weight,
        pids: args.pids_limit,
        io: args.io,
    };
    if limits.is_empty() && args.restart.is_none() {
        return Err(CommandError::usage("nothing to change was given").hinted("like --memory 128m or --restart always"));
    }
    let engine = context.engine()?;
    select::for_each(&engine, &args.cells, |mut cell| {
        let warnings = engine.set(&mut cell, limits.clone(), args.restart)?;
        warnings.iter().for_each(output::warning);
        output::line(cell.spec.name.as_str())
    })
}
