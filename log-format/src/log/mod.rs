//! Reading a log: [`Log`] finds the block that holds an event, through one shared cache.
//!
//! Sequences go in, [`Read`]s come out. A reader holds a position and nothing else; files are opened and indexes loaded
//! when a reader needs them, so that opening a log costs the same whatever its size. The writer of the same process
//! publishes what it has made durable; in another process [`Log::refresh`] looks at the disk again.
//!
//! - [`reader`][]: the log itself.
//! - [`state`][]: what all clones of a log share; [`locate`][]: where in it an event is.
//! - [`following`][]: the unsealed segment of a log that another process writes.
//! - [`large`][]: events that are read in pieces.
//! - [`marks`][], [`chain`][]: what else can be read of a log.
//! - [`survey`][]: what is lost, and why.

mod chain;
mod following;
mod large;
mod locate;
mod marks;
mod reader;
mod state;
mod survey;

pub use large::LargeEvent;
pub use marks::MarkCursor;
pub use reader::{Log, Outline, Read, ReadOptions, StoredBlock};
pub(crate) use state::{Active, Reading, Sealed, Shared};
