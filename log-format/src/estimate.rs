//! What a compaction would win: samples of a log's events, cut and compressed as a rewrite would do it.
//!
//! A [`Log`] goes in, an [`Estimate`] per segment that is due comes out. Nothing is written and no lock is taken, so it
//! works while the log is written.

use std::sync::Arc;

use serde::Serialize;

use crate::{
    Error, Log, Result, RewriteOptions, Sequence,
    block::{Block, BlockBuilder, BlockType, Encoder},
    error::{Operation, storage_error},
    rewrite::{Cutter, is_due, is_recompressed, sealed_footer},
    segment::{BlockEntry, Footer, SegmentFile},
    verify::Progress,
};

/// Samples of a segment are taken at this many places, spread evenly.
const SAMPLES: usize = 3;

/// What a rewrite of one segment would come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Estimate {
    /// The segment's file, relative to the log's directory.
    pub file: String,
    /// Its first sequence.
    pub first_sequence: Sequence,
    /// Wire bytes of its events.
    pub bytes_raw: u64,
    /// Bytes of the file now.
    pub bytes_before: u64,
    /// Bytes of the file after, about.
    pub bytes_after: u64,
    /// Wire bytes that were compressed to find out.
    pub bytes_sampled: u64,
}

/// Estimates what a rewrite would make of every sealed segment that it would change, as
/// [`Maintenance::segments_to_compact`](crate::Maintenance::segments_to_compact) lists them. Reports progress in wire
/// bytes.
///
/// # Errors
/// What the storage answers. Damaged segments are left out: they would not be rewritten either.
pub fn estimate(log: &Log, options: RewriteOptions, progress: &mut dyn FnMut(Progress)) -> Result<Vec<Estimate>> {
    let storage = log.shared.storage.as_ref();
    let mut encoder = Encoder::new(options.level).map_err(storage_error(Operation::SetUp, "zstd"))?;
    let mut due = Vec::new();
    for first in log.shared.sealed_list() {
        match sealed_footer(storage, first) {
            Ok((file, footer)) if is_due(&file, &footer, options) => due.push((first, footer.payload_raw)),
            Ok(_) => {}
            Err(error) => skip_damaged(error)?,
        }
    }
    let bytes_total = due.iter().map(|(_, bytes)| bytes).sum();
    let (mut estimates, mut bytes) = (Vec::new(), 0);
    for (first, bytes_raw) in due {
        progress(Progress { bytes, bytes_total });
        match estimate_segment(log, first, options, &mut encoder) {
            Ok(estimate) => estimates.push(estimate),
            Err(error) => skip_damaged(error)?,
        }
        bytes += bytes_raw;
    }
    Ok(estimates)
}

/// Damage is left to repair, and what retention dropped is not counted.
fn skip_damaged(error: Error) -> Result<()> {
    if error.is_damage() || error.is_gone() { Ok(()) } else { Err(error) }
}

fn estimate_segment(
    log: &Log,
    first_sequence: Sequence,
    options: RewriteOptions,
    encoder: &mut Encoder,
) -> Result<Estimate> {
    let (file, footer) = sealed_footer(log.shared.storage.as_ref(), first_sequence)?;
    let file = Arc::new(file);
    let bytes_before = file.file.len().map_err(storage_error(Operation::Read, &file.name))?;
    let (sampled, stored) = sample(&file, &footer, options, encoder)?;
    let compressed = |raw: u64| (raw as f64 * stored as f64 / sampled.max(1) as f64) as u64;
    let (mut raw, mut kept) = (0, file.blocks_start);
    for entry in &footer.blocks {
        if is_recompressed(entry) {
            raw += u64::from(entry.payload_raw);
        } else {
            kept += u64::from(entry.stored_bytes);
        }
    }
    Ok(Estimate {
        file: file.name.clone(),
        first_sequence,
        bytes_raw: footer.payload_raw,
        bytes_before,
        bytes_after: compressed(raw) + kept,
        bytes_sampled: sampled,
    })
}

/// Compresses some blocks of the new size; returns their wire bytes, and their bytes on disk.
fn sample(file: &SegmentFile, footer: &Footer, options: RewriteOptions, encoder: &mut Encoder) -> Result<(u64, u64)> {
    let blocks: Vec<&BlockEntry> = footer.blocks.iter().filter(|entry| is_recompressed(entry)).collect();
    let (mut sampled, mut stored, mut taken_up_to) = (0, 0, 0);
    let mut out = Vec::new();
    for place in 0..SAMPLES {
        let mut at = (blocks.len() * (2 * place + 1) / (2 * SAMPLES)).max(taken_up_to);
        let before = match at.checked_sub(1).and_then(|before| blocks.get(before)) {
            Some(before) => file.read_header(before.offset)?.map(|header| header.chain_after),
            None => None,
        };
        let mut cutter =
            Cutter::new(file.header.form.clone(), options.block_bytes, before.unwrap_or(file.header.chain_before));
        let mut full: Option<BlockBuilder> = None;
        while let Some(entry) = blocks.get(at).filter(|_| full.is_none()) {
            let block = file.load(entry, Block::decode)?;
            cutter.push(&block, &mut |builder| {
                full.get_or_insert(builder);
                Ok(())
            })?;
            at += 1;
        }
        taken_up_to = at;
        if let Some(builder) = full.or_else(|| cutter.finish()) {
            out.clear();
            let built = builder
                .finish(BlockType::EVENTS, encoder, &mut out)
                .map_err(storage_error(Operation::Compress, &file.name))?;
            sampled += u64::from(built.header.payload_raw);
            stored += built.header.stored_bytes();
        }
    }
    Ok((sampled, stored))
}
