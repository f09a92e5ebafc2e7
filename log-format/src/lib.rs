//! An embedded, append-only event log: segmented, checksummed, compressed, and stored in the form in which it is served.
//!
//! One [`Writer`] appends events and commits them; any number of [`Log`] readers, in this and other processes, read from
//! any sequence on. There is no thread, no clock, no network and no async runtime in here: bytes in, bytes out.
//! `FORMAT.md` beside this crate describes every byte on disk and what the log promises.
//!
//! It is not a queue (readers keep their own positions), not a database (nothing is ever changed) and not replicated.

mod backwards;
mod block;
mod buffers;
mod bytes_codec;
mod cache;
mod chain;
mod cursor;
mod decompression;
mod error;
mod estimate;
mod event;
mod examine;
mod form;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod head;
pub mod history;
pub mod inspect;
mod lock;
mod log;
mod loss_mark;
mod losses;
mod maintenance;
mod oldest;
mod pieces;
mod position;
pub mod repair;
mod rewrite;
mod scan;
mod segment;
pub mod storage;
mod time_search;
mod unfolding;
pub mod verify;
mod wire;
mod writer;

pub use block::{Block, Row};
pub use chain::{CHAIN_START, ChainValue, next_chain_value};
pub use cursor::{Cursor, Item, Run};
pub use error::{Error, Operation, Result};
pub use estimate::{Estimate, estimate};
pub use event::{ApiVersion, ApiVersionError, Event, Kind, Mark, MarkKind, Sequence, Timestamp};
pub use log::{LargeEvent, Log, Outline, Read, ReadOptions, StoredBlock};
pub use losses::{LossKind, Losses, LostRange, Missing};
pub use maintenance::{Maintenance, SealedSegment};
pub use position::Head;
pub use rewrite::{Progress, RewriteOptions, Rewritten};
pub use segment::FORMAT_VERSION;
pub use wire::{FrameForm, version_frame};
pub use writer::{Durability, Opened, Recovery, WriteOptions, Writer};
