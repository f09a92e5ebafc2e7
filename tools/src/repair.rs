//! `sidecar-log repair`: sets a damaged log right, and lets nodes bring again what it has lost of late.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use sidecar::engine::storage_folder::LogPlaces;
use sidecar_log_format::{
    Sequence,
    repair::{Action, RepairOptions, repair as repair_log},
};

use crate::{LogArgument, locate, print, print_json};

/// Events that nodes may still have: a hundred times what one keeps unless it is configured otherwise.
const EVENTS_OF_NODES: u64 = 500_000;

/// Repairs the log; returns whether nothing is left to do.
pub(crate) fn repair(log: &LogArgument, dry_run: bool, json: bool, out: &mut impl Write) -> anyhow::Result<bool> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
    let actions = repair_log(&log.storage()?, RepairOptions { dry_run, now })?;
    if json {
        print_json(out, &actions)?
    } else {
        print::actions(out, &actions, dry_run)?
    }
    if let Some(last) = actions.iter().filter_map(last_lost).max().filter(|_| !dry_run)
        && last.saturating_add(EVENTS_OF_NODES) >= log.open()?.head().next_sequence
    {
        forget_index(&locate::log_directory(&log.path)?)?;
    }
    Ok(!actions.iter().any(|action| dry_run || matches!(action, Action::Leave { .. })))
}

/// The last event that is gone with what was damaged.
fn last_lost(action: &Action) -> Option<Sequence> {
    match action {
        Action::Quarantine { last_sequence, .. } | Action::SetTailAside { last_sequence, .. } => *last_sequence,
        Action::MarkHole { last_sequence, .. } => Some(*last_sequence),
        _ => None,
    }
}

/// Removes the identity index, which knows the events that are gone and would keep them out when a node sends them again.
fn forget_index(log: &Path) -> anyhow::Result<()> {
    let Some(places) = LogPlaces::of(&fs::canonicalize(log).with_context(|| format!("cannot read {}", log.display()))?)
    else {
        return Ok(());
    };
    let index = places.index_file();
    match fs::remove_file(&index) {
        Ok(()) => print::to_stderr(format_args!(
            "note: the identity index was removed, so that nodes can bring the lost events again; the sidecar makes it again \
             from the log at its next start"
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot remove {}", index.display())),
    }
    Ok(())
}
