//! `sidecar-log tail`: the newest events, as `cat` prints them.

use clap::Args;

use crate::{
    LogArgument,
    cat::{CatArguments, Format},
    selection::Selection,
};

#[derive(Args)]
pub(crate) struct TailArguments {
    #[command(flatten)]
    log: LogArgument,
    /// How many
    #[arg(short = 'n', long = "last", value_name = "N", default_value_t = 10)]
    last: u64,
    /// Continue with every new event as it is committed
    #[arg(short, long)]
    follow: bool,
    /// Only these kinds, for example BlockAdded,Step
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    types: Vec<String>,
    /// How events are printed
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    format: Format,
}

impl From<TailArguments> for CatArguments {
    fn from(TailArguments { log, last, follow, types, format }: TailArguments) -> Self {
        let selection = Selection { from: None, until: None, types };
        CatArguments { log, selection, since: None, until_time: None, last: Some(last), format, follow }
    }
}
