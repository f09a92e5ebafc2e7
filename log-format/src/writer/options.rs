//! How a log is written: the options, and the limits that they have to keep.

use crate::{
    Error, ReadOptions, Result, Sequence, Timestamp,
    form::Form,
    segment::{DIALECT_BYTES, SEGMENT_BLOCKS_MAX},
    wire::FrameForm,
};

/// The largest block that may be asked for: a reader holds a whole one in memory.
const BLOCK_BYTES_MAX: usize = 8 << 20;

/// What a commit waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Every commit is synced, then visible.
    #[default]
    Commit,
    /// Commits are written; [`crate::Writer::sync`] makes them durable and visible, at the caller's interval.
    Interval,
    /// Commits are visible once written. After a power cut the newest events may be gone and their sequences come again,
    /// under another epoch.
    Os,
}

/// How a log is written.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// The dialect of the log's source, at most 16 bytes; an existing log must be of the same.
    pub dialect: String,
    /// The dialect's kinds: number (1 to 62) and name.
    pub kinds: Vec<(u8, String)>,
    /// How its events look on the wire; an existing log must have the same.
    pub frame_form: FrameForm,
    /// The id of a new log: 16 random bytes.
    pub new_log_id: [u8; 16],
    /// The first sequence of a new log.
    pub first_sequence: Sequence,
    /// Whether a log is begun where there is none. Without, that is [`Error::LogMissing`].
    pub create_if_missing: bool,
    /// The time of opening, for the header of a segment that is made then.
    pub now: Timestamp,
    /// What a commit waits for.
    pub durability: Durability,
    /// zstd level of the blocks.
    pub compression_level: i32,
    /// Wire bytes after which a block is closed.
    pub block_bytes_max: usize,
    /// Bytes on disk after which a segment is sealed.
    pub segment_bytes_max: u64,
    /// Blocks after which a segment is sealed: opening looks at each block of the unsealed one.
    pub segment_blocks_max: usize,
    /// Microseconds between the first event of a segment and the event that has it sealed.
    pub segment_age_max: u64,
    /// The active segment grows in steps of this many bytes.
    pub allocate_bytes: u64,
    /// It does not grow where fewer bytes than these would then be free on the device: commits fail as on a full one, and
    /// other users of the device can continue.
    pub free_bytes_min: u64,
    /// How it is read.
    pub read: ReadOptions,
}

impl WriteOptions {
    /// The defaults, for a log of this dialect.
    #[must_use]
    pub fn new(dialect: &str, new_log_id: [u8; 16], now: Timestamp) -> Self {
        WriteOptions {
            dialect: dialect.to_owned(),
            kinds: Vec::new(),
            frame_form: FrameForm::default(),
            new_log_id,
            first_sequence: 0,
            create_if_missing: true,
            now,
            durability: Durability::Commit,
            compression_level: 1,
            block_bytes_max: 512 << 10,
            segment_bytes_max: 128 << 20,
            segment_blocks_max: 1 << 15,
            segment_age_max: 24 * 3600 * 1_000_000,
            allocate_bytes: 16 << 20,
            free_bytes_min: 0,
            read: ReadOptions::default(),
        }
    }

    /// The form of the segments that are begun.
    pub(crate) fn form(&self) -> Form {
        Form::new(self.frame_form, self.kinds.clone())
    }

    /// Checks the limits that a segment's header and its readers have.
    pub(super) fn check(&self) -> Result<()> {
        let bad = |option, reason: String| Err(Error::BadOption { option, reason });
        if self.dialect.is_empty() || self.dialect.len() > DIALECT_BYTES || self.dialect.contains('\0') {
            return bad("dialect", format!("{:?} is not a name of 1 to {DIALECT_BYTES} bytes", self.dialect));
        }
        self.form().check()?;
        if !(1..=BLOCK_BYTES_MAX).contains(&self.block_bytes_max) {
            return bad("block_bytes_max", format!("{} is not in 1 to {BLOCK_BYTES_MAX}", self.block_bytes_max));
        }
        if !(1..=SEGMENT_BLOCKS_MAX / 2).contains(&self.segment_blocks_max) {
            let most = SEGMENT_BLOCKS_MAX / 2;
            return bad("segment_blocks_max", format!("{} is not in 1 to {most}", self.segment_blocks_max));
        }
        Ok(())
    }
}
