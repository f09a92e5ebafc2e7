//! Which events of a log somebody asks for, and what is to be said about those that it does not have.

use std::ops::Range;

use anyhow::bail;
use sidecar_log_format::{Kind, Log, Missing, Sequence, inspect::copy_lacks};

use crate::{WrongUsage, print};

#[derive(clap::Args)]
pub(crate) struct Selection {
    /// The first sequence [default: the oldest retained]
    #[arg(long, value_name = "SEQUENCE")]
    pub(crate) from: Option<Sequence>,
    /// The last sequence, itself included [default: the newest]
    #[arg(long, value_name = "SEQUENCE")]
    pub(crate) until: Option<Sequence>,
    /// Only these kinds, for example BlockAdded,Step
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    pub(crate) types: Vec<String>,
}

impl Selection {
    /// Refuses a range that ends before it begins.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        match (self.from, self.until) {
            (Some(from), Some(until)) if until < from => {
                Err(WrongUsage(format!("--until {until} is before --from {from}")).into())
            }
            _ => Ok(()),
        }
    }

    /// One bit per chosen kind of a log that calls them by these names.
    pub(crate) fn kinds(&self, names: &[(u8, String)]) -> anyhow::Result<u64> {
        if self.types.is_empty() {
            return Ok(u64::MAX);
        }
        let mut chosen = 0;
        for wanted in &self.types {
            match names.iter().find(|(_, name)| name == wanted) {
                Some((number, _)) => chosen |= Kind(*number).bit(),
                None if wanted == "other" => chosen |= Kind::OTHER.bit(),
                None => {
                    let mut known: Vec<_> = names.iter().map(|(_, name)| name.as_str()).collect();
                    if !names.iter().any(|(number, _)| *number == Kind::OTHER.0) {
                        known.push("other");
                    }
                    bail!("this log has no kind {wanted:?}; it knows {}", known.join(", "));
                }
            }
        }
        Ok(chosen)
    }

    /// Warns of what is asked for and lies outside the log; what is missing inside it is met on the way.
    pub(crate) fn warn_outside(&self, log: &Log) -> anyhow::Result<()> {
        let (oldest, next) = (log.beginning(), log.head().next_sequence);
        if let Some(from) = self.from.filter(|&from| from > next) {
            print::to_stderr(format_args!("warning: sequence {from} is not stored yet: {next} is next"));
        }
        if let Some(until) = self.until.filter(|&until| until < oldest && self.from.is_none()) {
            print::to_stderr(format_args!("warning: sequences up to {until} were dropped: the oldest is {oldest}"));
        }
        if let Some(lacks) = copy_lacks(log)?
            && self.until.is_none_or(|until| until >= lacks.first_sequence)
        {
            print::to_stderr(format_args!(
                "warning: this is a copy of a log that ends before {lacks}, which its head names"
            ));
        }
        Ok(())
    }

    /// Warns of an end behind the newest event, on behalf of who does not wait for it.
    pub(crate) fn warn_not_stored_yet(&self, log: &Log) -> anyhow::Result<()> {
        let next = log.head().next_sequence;
        let first = copy_lacks(log)?.map_or(next, |lacks| lacks.last_sequence.saturating_add(1));
        // A start behind the newest is named already.
        if let Some(until) = self.until.filter(|&until| until >= first && self.from.is_none_or(|from| from <= next)) {
            print::to_stderr(format_args!("warning: sequences {first} to {until} are not stored yet"));
        }
        Ok(())
    }
}

/// Warns of sequences that name no event.
pub(crate) fn warn_missing(sequences: &Range<Sequence>, why: &Missing) {
    let (first, last) = (sequences.start, sequences.end.saturating_sub(1));
    print::to_stderr(format_args!("warning: sequences {first} to {last} are {why}"));
}

/// Whether events are left out that should be there: a file is gone or damaged, and no mark settles it.
pub(crate) fn is_unsettled(why: &Missing) -> bool {
    matches!(why, Missing::Lost | Missing::Quarantined(_) | Missing::Unreadable(_))
}
