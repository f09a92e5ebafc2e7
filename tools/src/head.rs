//! `sidecar-log head`: one line that identifies a log's whole history up to a sequence.

use std::io::Write;

use anyhow::bail;
use serde::Serialize;
use sidecar_log_format::Sequence;

use crate::{LogArgument, print_json};

#[derive(clap::Args)]
pub(crate) struct HeadArguments {
    #[command(flatten)]
    log: LogArgument,
    /// The hash after this event [default: the newest]
    #[arg(long, value_name = "SEQUENCE")]
    at: Option<Sequence>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Line {
    log_id: String,
    /// `None` while the log holds no event.
    sequence: Option<Sequence>,
    hash: String,
}

/// Prints the line; returns that all is well, because it fails where the log does not know the hash.
pub(crate) fn head(arguments: &HeadArguments, out: &mut impl Write) -> anyhow::Result<bool> {
    let log = arguments.log.open()?;
    let head = log.head();
    let newest = head.next_sequence.checked_sub(1);
    let sequence = arguments.at.or(newest);
    let hash = match arguments.at {
        None => head.chain,
        Some(at) => match log.chain_after(at)? {
            Some(hash) => hash,
            None if newest.is_none_or(|newest| at > newest) => {
                bail!("sequence {at} is not stored yet: {} is next", head.next_sequence)
            }
            None if at < log.retained_from() => bail!("sequence {at} was dropped: the oldest is {}", log.oldest()),
            None => bail!("the log does not know the hash at {at}; `sidecar-log verify --chain` shows what is missing"),
        },
    };
    let line = Line { log_id: hex::encode(log.id()), sequence, hash: hex::encode(hash) };
    if arguments.json {
        print_json(out, &line)?;
    } else {
        let sequence = line.sequence.map_or_else(|| "-".to_owned(), |sequence| sequence.to_string());
        writeln!(out, "{} {sequence} {}", line.log_id, line.hash)?;
    }
    Ok(true)
}
