//! What people see: aligned tables, exact numbers beside sizes that can be read, times in UTC.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
};

use indicatif::{BinaryBytes, ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use sidecar::rfc3339;
use sidecar_log_format::{
    Sequence, Timestamp,
    inspect::{KindCount, Report, SegmentReport},
    repair::Action,
    verify::{ChainStretch, StretchStart, Verification},
};

/// A time in RFC 3339, UTC, with microseconds.
pub(crate) fn time(micros: Timestamp) -> String {
    rfc3339::format(micros).to_string()
}

/// A time in RFC 3339, in microseconds since the Unix epoch.
pub(crate) fn parse_time(text: &str) -> Result<Timestamp, String> {
    let explained = || format!("{text:?} is not a time like 2026-01-02T03:04:05Z or 2026-01-02T03:04:05.5+01:00");
    rfc3339::parse(text).ok_or_else(explained)
}

/// A line on stderr; a closed stderr does not end the tool.
pub(crate) fn to_stderr(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// A bar over events on stderr, if somebody is looking.
pub(crate) fn event_bar(doing: &'static str, events: Option<u64>) -> ProgressBar {
    bar(doing, events, "{msg} {wide_bar} {human_pos}/{human_len} events, {eta}")
}

/// A bar over bytes on stderr, if somebody is looking.
pub(crate) fn byte_bar(doing: &'static str) -> ProgressBar {
    bar(doing, None, "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {eta}")
}

/// It leaves nothing behind, also when what it shows fails.
fn bar(doing: &'static str, length: Option<u64>, template: &str) -> ProgressBar {
    let is_seen = io::stderr().is_terminal();
    let target = if is_seen { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(length, target).with_message(doing).with_finish(ProgressFinish::AndClear);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

pub(crate) fn report(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let totals = &report.totals;
    let fields = [
        ("log", report.directory.clone()),
        ("id", report.log_id.clone()),
        ("dialect", format!("{}, format {}, epoch {}", report.dialect, report.format_version, report.epoch)),
        ("sequences", retained(report.oldest_sequence, report.next_sequence)),
        ("received", span(totals.received_min, totals.received_max)),
        ("API version", report.api_version.clone().unwrap_or_else(|| "none".to_owned())),
        ("versions seen", or_none(&report.api_versions)),
        ("sources", or_none(&totals.sources)),
        ("events", totals.events.to_string()),
        ("raw", size(totals.bytes_raw)),
        ("stored", format!("{}, {} of raw", size(totals.bytes_stored), ratio(totals.ratio))),
        ("chain", report.chain.clone()),
    ];
    for (name, value) in fields {
        writeln!(out, "{name:<14} {value}")?;
    }
    writeln!(out)?;
    kinds(out, &totals.kinds)?;
    writeln!(out)?;
    table(
        out,
        &["segment", "events", "blocks", "marks", "raw", "stored", "ratio", "level", "gen", "state", "first received"],
        &[
            Align::Left,
            Align::Right,
            Align::Right,
            Align::Right,
            Align::Right,
            Align::Right,
            Align::Right,
            Align::Right,
            Align::Right,
            Align::Left,
            Align::Left,
        ],
        report.segments.iter().map(segment_row),
    )?;
    if !report.marks.newest.is_empty() {
        writeln!(out)?;
        let total: u64 = report.marks.counts.values().sum();
        let shown = report.marks.newest.len();
        if total > shown as u64 {
            writeln!(out, "the newest {shown} of {total} marks:")?;
        }
        table(
            out,
            &["mark", "before", "made", "source", "says"],
            &[Align::Left, Align::Right, Align::Left, Align::Left, Align::Left],
            report.marks.newest.iter().map(|mark| {
                let source = if mark.source.is_empty() { "-".to_owned() } else { mark.source.clone() };
                vec![
                    mark.mark.to_owned(),
                    mark.position.to_string(),
                    time(mark.received),
                    source,
                    shortened(&mark.body),
                ]
            }),
        )?;
    }
    writeln!(out)?;
    for note in &report.notes {
        writeln!(out, "{:<14} {note}", "note")?;
    }
    if report.health.is_empty() {
        let but = report.copy_lacks.map_or_else(String::new, |lacks| format!(", but this copy ends before {lacks}"));
        return writeln!(out, "{:<14} nothing is visibly wrong{but}; `sidecar-log verify` reads everything", "health");
    }
    for finding in &report.health {
        writeln!(out, "{:<14} {finding}", "health")?;
    }
    Ok(())
}

fn segment_row(segment: &SegmentReport) -> Vec<String> {
    vec![
        segment.file.clone(),
        segment.events.to_string(),
        segment.blocks.to_string(),
        segment.marks.to_string(),
        human(segment.bytes_raw),
        human(segment.bytes_stored),
        ratio(segment.ratio),
        segment.rewritten_level.map_or_else(|| "-".to_owned(), |level| level.to_string()),
        segment.generation.to_string(),
        if segment.is_sealed { "sealed" } else { "active" }.to_owned(),
        segment.received_min.map_or_else(|| "-".to_owned(), time),
    ]
}

fn kinds(out: &mut impl Write, kinds: &[KindCount]) -> io::Result<()> {
    table(
        out,
        &["kind", "events"],
        &[Align::Left, Align::Right],
        kinds.iter().map(|kind| vec![kind.kind.clone(), kind.events.to_string()]),
    )
}

pub(crate) fn verification(out: &mut impl Write, verification: &Verification, chain: bool) -> io::Result<()> {
    let fields = [
        ("log", verification.directory.clone()),
        ("sequences", retained(verification.first_sequence, verification.next_sequence)),
        (
            "checked",
            format!(
                "{} events and {} marks in {} blocks of {} segments",
                verification.events, verification.marks, verification.blocks, verification.segments
            ),
        ),
        ("stored", size(verification.bytes_stored)),
        ("raw", size(verification.bytes_raw)),
        ("chain", last_checked(verification)),
    ];
    for (name, value) in fields {
        writeln!(out, "{name:<14} {value}")?;
    }
    if chain {
        stretches(out, verification)?;
    }
    for hole in &verification.holes {
        let events = events(Some(hole.first_sequence), Some(hole.last_sequence));
        writeln!(out, "{:<14} {events}: {}", "marked hole", hole.reason)?;
    }
    for lost in verification.losses.unmarked() {
        writeln!(out, "{:<14} {} events, sequences {lost}, {}", "lost", lost.events(), lost.kind.name())?;
    }
    for note in &verification.notes {
        writeln!(out, "{:<14} {note}", "note")?;
    }
    for problem in &verification.problems {
        let affected = match problem.first_sequence {
            Some(_) => format!(", {}", events(problem.first_sequence, problem.last_sequence)),
            None => String::new(),
        };
        writeln!(out, "{:<14} {} at byte {}{affected}: {}", "problem", problem.file, problem.offset, problem.reason)?;
    }
    let unlisted = verification.problem_count.saturating_sub(verification.problems.len() as u64);
    if unlisted > 0 {
        writeln!(out, "{:<14} {unlisted} more", "problem")?;
    }
    match verification.problem_count {
        0 => writeln!(out, "{:<14} sound", "result"),
        count => writeln!(out, "{:<14} {count} wrong; `sidecar-log repair --dry-run` says what can be done", "result"),
    }
}

/// The chain value that can be compared with `sidecar-log head`, and the event that it stands behind.
fn last_checked(verification: &Verification) -> String {
    let (Some(last), Some(chain)) = (verification.last_checked, &verification.chain) else {
        return "no event was there to be checked".to_owned();
    };
    let is_last = last.saturating_add(1) == verification.next_sequence;
    format!("{chain} after sequence {last}{}", if is_last { "" } else { ", the last that could be checked" })
}

/// The chain in order, with the holes between its stretches.
fn stretches(out: &mut impl Write, verification: &Verification) -> io::Result<()> {
    let log_id = verification.log_id.as_deref().unwrap_or("unknown, no segment has it");
    writeln!(out, "{:<14} {log_id}", "log id")?;
    let mut next = verification.first_sequence;
    for stretch in &verification.stretches {
        hole(out, next, stretch.first_sequence)?;
        let name = if stretch.start == StretchStart::Broken { "broken chain" } else { "chain" };
        let covered = events(Some(stretch.first_sequence), Some(stretch.last_sequence));
        writeln!(out, "{name:<14} {covered}, {}", beginning(stretch))?;
        writeln!(out, "{:<14} {}", "", stretch.chain_after)?;
        next = stretch.last_sequence.saturating_add(1);
    }
    hole(out, next, verification.next_sequence)
}

fn hole(out: &mut impl Write, from: Sequence, to: Sequence) -> io::Result<()> {
    match to.checked_sub(1).filter(|&last| last >= from) {
        Some(last) => writeln!(out, "{:<14} {}", "hole", events(Some(from), Some(last))),
        None => Ok(()),
    }
}

fn beginning(stretch: &ChainStretch) -> String {
    let before = stretch.chain_before.as_deref().unwrap_or("nothing");
    match stretch.start {
        StretchStart::NewLog => "from the first event of the log to".to_owned(),
        StretchStart::OldestSegment => {
            format!("from {before}, which the oldest segment's header says and nothing here proves, to")
        }
        StretchStart::AfterHole => format!("from {before}, which the log says stood at the end of the hole, to"),
        StretchStart::AfterHistory => {
            "from the first event that the log had before history was imported in front of it, to".to_owned()
        }
        StretchStart::Unknown => "from a first block that is taken as it stands, to".to_owned(),
        StretchStart::Broken => format!("do not follow from {before}; they continue to"),
        _ => format!("from {before} to"),
    }
}

pub(crate) fn actions(out: &mut impl Write, actions: &[Action], dry_run: bool) -> io::Result<()> {
    for action in actions {
        writeln!(out, "{}{}", if dry_run { "would " } else { "" }, describe(action))?;
    }
    if actions.is_empty() {
        writeln!(out, "nothing to repair")?;
    }
    Ok(())
}

fn describe(action: &Action) -> String {
    let gone = |first: &Option<Sequence>, last: &Option<Sequence>| match first {
        Some(_) => format!("{} gone and marked", events(*first, *last)),
        None => "no event lost".to_owned(),
    };
    match action {
        Action::Quarantine { file, offset, bytes, first_sequence, last_sequence, kept_as, reason } => {
            let gone = gone(first_sequence, last_sequence);
            format!("quarantine {file} at byte {offset}, {bytes} bytes kept as {kept_as}, {gone}: {reason}")
        }
        Action::SetTailAside { file, offset, bytes, first_sequence, last_sequence, kept_as, reason } => {
            let gone = gone(first_sequence, last_sequence);
            format!(
                "set aside the tail of {file} from byte {offset}, {bytes} bytes kept as {kept_as}, {gone}: {reason}"
            )
        }
        Action::MarkHole { file, first_sequence, last_sequence } => {
            format!("mark a hole in {file}: {} are missing", events(Some(*first_sequence), Some(*last_sequence)))
        }
        Action::RebuildHeader { file, reason } => format!("rebuild the header of {file}: {reason}"),
        Action::RebuildFooter { file, reason } => format!("rebuild the footer of {file}: {reason}"),
        Action::RebuildOldest { reason } => format!("rebuild the file `oldest`: {reason}"),
        Action::Rename { file, renamed_to } => format!("rename {file} to {renamed_to}, which it is by its header"),
        Action::RebuildHead { reason } => format!("rebuild the head: {reason}"),
        Action::Leave { file, offset, reason } => {
            format!("leave {file} at byte {offset} as it is, restore it from a backup: {reason}")
        }
        other => format!("{other:?}"),
    }
}

fn events(first: Option<Sequence>, last: Option<Sequence>) -> String {
    match (first, last) {
        (Some(first), Some(last)) if first < last => format!("sequences {first} to {last}"),
        (Some(first), _) => format!("sequence {first}"),
        _ => "no sequence".to_owned(),
    }
}

fn retained(oldest: Sequence, next: Sequence) -> String {
    if oldest < next { format!("{oldest} to {}", next.saturating_sub(1)) } else { format!("none yet, {next} is next") }
}

fn span(earliest: Option<Timestamp>, latest: Option<Timestamp>) -> String {
    match (earliest, latest) {
        (Some(earliest), Some(latest)) => format!("{} to {}", time(earliest), time(latest)),
        _ => "nothing yet".to_owned(),
    }
}

fn or_none(list: &[String]) -> String {
    if list.is_empty() { "none".to_owned() } else { list.join(", ") }
}

pub(crate) fn human(bytes: u64) -> String {
    BinaryBytes(bytes).to_string()
}

fn size(bytes: u64) -> String {
    format!("{} ({bytes} bytes)", human(bytes))
}

fn ratio(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}"))
}

/// A mark can carry a whole payload; `--json` prints it.
fn shortened(body: &str) -> String {
    const CHARACTERS_MAX: usize = 160;
    match body.char_indices().nth(CHARACTERS_MAX) {
        Some((end, _)) => format!("{}…", body.get(..end).unwrap_or_default()),
        None => body.to_owned(),
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Columns as wide as their widest cell, two spaces apart.
pub(crate) fn table(
    out: &mut impl Write,
    header: &[&str],
    align: &[Align],
    rows: impl Iterator<Item = Vec<String>>,
) -> io::Result<()> {
    let header: Vec<_> = header.iter().map(|&name| name.to_owned()).collect();
    let rows: Vec<_> = std::iter::once(header).chain(rows).collect();
    let widths: Vec<_> = (0..align.len())
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    for row in rows {
        let mut line = String::new();
        for ((cell, &width), align) in row.iter().zip(&widths).zip(align) {
            match align {
                Align::Left => line.push_str(&format!("{cell:<width$}  ")),
                Align::Right => line.push_str(&format!("{cell:>width$}  ")),
            }
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}
