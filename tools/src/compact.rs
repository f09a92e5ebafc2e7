//! `sidecar-log compact`: sealed segments rewritten smaller, one after the other.

use std::{
    io::{self, Write},
    ops::ControlFlow,
};

use anyhow::bail;
use serde::Serialize;
use sidecar_log_format::{Error, Maintenance, RewriteOptions, Sequence, estimate};

use crate::{
    LogArgument,
    print::{self, Align, human},
    print_json,
};

/// The block sizes that may be asked for: a reader holds a whole block in memory.
const BLOCK_BYTES_MIN: usize = 64 << 10;
const BLOCK_BYTES_MAX: usize = 8 << 20;

#[derive(clap::Args)]
pub(crate) struct CompactArguments {
    #[command(flatten)]
    log: LogArgument,
    /// zstd level, 1 to 19. Segments that have it already are left alone.
    #[arg(long, default_value_t = RewriteOptions::COMPACTION.level, value_parser = clap::value_parser!(i32).range(1..=19))]
    level: i32,
    /// Bytes of events that are compressed together, 64KiB to 8MiB.
    #[arg(long, default_value = "1MiB", value_parser = block_bytes)]
    block_bytes: usize,
    /// Change nothing; compress samples and estimate the gain.
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// What was done, or would be.
#[derive(Serialize)]
pub(crate) struct Compaction {
    pub(crate) dry_run: bool,
    pub(crate) level: i32,
    pub(crate) block_bytes: usize,
    pub(crate) segments: Vec<CompactedSegment>,
    /// Segments that are left as they are, because they would grow.
    pub(crate) would_grow: Vec<CompactedSegment>,
    /// Segments that could not be rewritten, and why.
    pub(crate) failures: Vec<String>,
}

/// One segment, before and after.
#[derive(Serialize)]
pub(crate) struct CompactedSegment {
    pub(crate) first_sequence: Sequence,
    pub(crate) bytes_raw: u64,
    pub(crate) bytes_before: u64,
    pub(crate) bytes_after: u64,
}

/// Says whether all segments are compact now, or would be.
pub(crate) fn compact(arguments: &CompactArguments, out: &mut impl Write) -> anyhow::Result<bool> {
    let options = RewriteOptions { level: arguments.level, block_bytes: arguments.block_bytes };
    let mut compaction = Compaction {
        dry_run: arguments.dry_run,
        level: options.level,
        block_bytes: options.block_bytes,
        segments: Vec::new(),
        would_grow: Vec::new(),
        failures: Vec::new(),
    };
    if arguments.dry_run {
        try_out(&arguments.log, options, &mut compaction)
    } else {
        rewrite(&arguments.log, options, &mut compaction)
    }?;
    if arguments.json { print_json(out, &compaction) } else { print_compaction(out, &compaction) }?;
    Ok(compaction.failures.is_empty())
}

fn try_out(log: &LogArgument, options: RewriteOptions, compaction: &mut Compaction) -> anyhow::Result<()> {
    let bar = print::byte_bar("sampling");
    let estimates = estimate(&log.open()?, options, &mut |progress| {
        bar.set_length(progress.bytes_total);
        bar.set_position(progress.bytes);
    })?;
    bar.finish_and_clear();
    let estimated = estimates.into_iter().map(|estimate| CompactedSegment {
        first_sequence: estimate.first_sequence,
        bytes_raw: estimate.bytes_raw,
        bytes_before: estimate.bytes_before,
        bytes_after: estimate.bytes_after,
    });
    (compaction.would_grow, compaction.segments) =
        estimated.partition(|segment| segment.bytes_after > segment.bytes_before);
    Ok(())
}

fn rewrite(log: &LogArgument, options: RewriteOptions, compaction: &mut Compaction) -> anyhow::Result<()> {
    let maintenance = match Maintenance::open(log.storage()?) {
        Err(Error::Locked { directory }) => bail!(
            "{directory} is being written. Its sidecar compacts it by itself, with `compaction = \"on\"` under [storage.log] \
             in its configuration; otherwise stop it first. --dry-run works all the same"
        ),
        maintenance => maintenance?,
    };
    let due = maintenance.segments_to_compact(0, options)?;
    let bar = print::byte_bar("compacting");
    let mut bytes_raw = Vec::with_capacity(due.len());
    for &first in &due {
        bytes_raw.push(maintenance.describe(first)?.bytes_raw);
    }
    bar.set_length(bytes_raw.iter().sum());
    for (first_sequence, bytes_raw) in due.into_iter().zip(bytes_raw) {
        let mut note = |bytes| {
            bar.inc(bytes);
            ControlFlow::Continue(())
        };
        match maintenance.rewrite_at_pace(first_sequence, options, &mut note) {
            Ok(Some(done)) => {
                let list = if done.is_left { &mut compaction.would_grow } else { &mut compaction.segments };
                list.push(CompactedSegment {
                    first_sequence,
                    bytes_raw,
                    bytes_before: done.bytes_before,
                    bytes_after: done.bytes_after,
                });
            }
            Ok(None) => {}
            // The others can still be made smaller.
            Err(error) if error.is_damage() => compaction.failures.push(error.to_string()),
            Err(error) => return Err(error.into()),
        }
    }
    bar.finish_and_clear();
    Ok(())
}

fn block_bytes(text: &str) -> Result<usize, String> {
    let (digits, unit) = match (text.strip_suffix("KiB"), text.strip_suffix("MiB")) {
        (Some(digits), _) => (digits, 1 << 10),
        (_, Some(digits)) => (digits, 1 << 20),
        _ => (text, 1),
    };
    let bytes = digits.trim().parse::<usize>().ok().and_then(|number| number.checked_mul(unit));
    bytes
        .filter(|bytes| (BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(bytes))
        .ok_or_else(|| "give a number of bytes from 64KiB to 8MiB, such as 1MiB".to_owned())
}

/// For people.
fn print_compaction(out: &mut impl Write, compaction: &Compaction) -> io::Result<()> {
    for failure in &compaction.failures {
        writeln!(out, "{:<14} {failure}", "left alone")?;
    }
    for segment in &compaction.would_grow {
        let (before, after) = (human(segment.bytes_before), human(segment.bytes_after));
        writeln!(
            out,
            "{:<14} {:020}.segment: it would grow from {before} to {after} at level {}",
            "left as it is", segment.first_sequence, compaction.level
        )?;
    }
    if compaction.segments.is_empty() && !compaction.would_grow.is_empty() {
        return Ok(());
    }
    if compaction.segments.is_empty() {
        return writeln!(
            out,
            "{:<14} no sealed segment that is not at level {} already",
            "nothing to do", compaction.level
        );
    }
    let row = |name: String, raw: u64, before: u64, after: u64| {
        let share = |bytes: u64| if raw > 0 { format!("{:.3}", bytes as f64 / raw as f64) } else { "-".to_owned() };
        vec![name, human(raw), human(before), share(before), human(after), share(after)]
    };
    let rows = compaction.segments.iter().map(|segment| {
        let file = format!("{:020}.segment", segment.first_sequence);
        row(file, segment.bytes_raw, segment.bytes_before, segment.bytes_after)
    });
    let sum = |bytes: fn(&CompactedSegment) -> u64| compaction.segments.iter().map(bytes).sum::<u64>();
    let (raw, before) = (sum(|segment| segment.bytes_raw), sum(|segment| segment.bytes_before));
    let after = sum(|segment| segment.bytes_after);
    let what = if compaction.dry_run { "after, about" } else { "after" };
    print::table(
        out,
        &["segment", "raw", "before", "of raw", what, "of raw"],
        &[Align::Left, Align::Right, Align::Right, Align::Right, Align::Right, Align::Right],
        rows.chain([row("all of these".to_owned(), raw, before, after)]),
    )?;
    writeln!(out)?;
    let freed = human(before.saturating_sub(after));
    match compaction.dry_run {
        true => writeln!(out, "would free     about {freed}"),
        false => writeln!(out, "freed          {freed}"),
    }
}
