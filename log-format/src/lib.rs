//! An embedded, append-only event log: segmented, checksummed, compressed, and stored in the form in which it is served.
//!
//! One [`Writer`] appends events and commits them; any number of [`Log`] readers, in this and other processes, read from
//! any sequence on. There is no thread, no clock, no network and no async runtime in here: bytes in, bytes out.
//!
//! # Writing a log and following it
//!
//! ```
//! use std::sync::Arc;
//! use sidecar_log_format::{
//!     Cursor, Event, Item, Kind, Log, Opened, ReadOptions, WriteOptions, Writer, storage::Directory,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("my-log");
//! let storage = Arc::new(Directory::create(&path)?);
//! // The kinds of events that the source has, by number; the id of a new log is 16 random bytes.
//! let options = WriteOptions {
//!     kinds: vec![(1, "Tick".to_owned())],
//!     ..WriteOptions::new("example", *b"16 random bytes!", 0)
//! };
//! let Opened { mut writer, log, .. } = Writer::open(storage, options)?;
//!
//! let tick = Event { source: "clock", ..Event::new(Kind(1), 1_700_000_000_000_000, r#"{"tick":1}"#) };
//! assert_eq!(writer.append(&tick)?, 0);
//! assert_eq!(log.head().next_sequence, 0, "nothing is visible before it is durable");
//! writer.commit()?;
//!
//! // A cursor is a position; damage and lost sequences come as items.
//! let mut cursor = Cursor::new(&log, 0);
//! let run = cursor.next_run()?.expect("an event was committed");
//! for item in run.items() {
//!     match item {
//!         Item::Event(row, payload) => assert_eq!((row.name(), &*payload), ("Tick", &br#"{"tick":1}"#[..])),
//!         Item::Missing(range, why) => eprintln!("{range:?} are missing: {why}"),
//!     }
//! }
//! assert!(cursor.next_run()?.is_none(), "nothing more for now");
//!
//! // A reader in another process takes no lock, and looks again when it wants to.
//! let elsewhere = Log::open(Arc::new(Directory::at(&path)), ReadOptions::default())?;
//! writer.append(&Event { payload: r#"{"tick":2}"#, ..tick })?;
//! writer.commit()?;
//! assert_eq!(elsewhere.refresh()?.next_sequence, 2);
//! assert!(cursor.next_run()?.is_some());
//! writer.close()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Where to continue
//!
//! - [`Writer`], [`WriteOptions`] and [`Durability`]: what a commit promises. [`Writer::reopen`]: after a failure.
//! - [`Cursor`]: reading in order. [`Log`]: reading one event, the stored blocks, marks, chain values, losses.
//! - [`Maintenance`]: compacting and dropping sealed segments while the log is written.
//! - [`verify`], [`repair`], [`inspect`]: looking after a log. [`history`]: putting older events in front.
//! - [`storage`]: what the log needs of a disk; a test can put another one there.
//! - [`mod@format`]: every byte on disk, all limits, and what is promised for each failure.
//! - The folder `examples`: `follow` and `range`.
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
#[doc = include_str!("../FORMAT.md")]
pub mod format {}
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
pub use form::{KIND_NAME_BYTES_MAX, KINDS_MAX};
pub use log::{LargeEvent, Log, MarkCursor, Outline, Read, ReadOptions, StoredBlock};
pub use losses::{LossKind, Losses, LostRange, Missing};
pub use maintenance::{Maintenance, SealedSegment, SegmentPart};
pub use position::Head;
pub use rewrite::{Progress, RewriteOptions, Rewritten};
pub use segment::FORMAT_VERSION;
pub use wire::{FrameForm, version_frame};
pub use writer::{Durability, Opened, Recovery, WriteOptions, Writer};
