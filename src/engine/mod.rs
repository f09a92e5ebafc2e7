//! The engine: one log's life, and its readers. It knows no chain, no configuration file, no SQL and no metric's name.
//!
//! Data flows one way: what a [`source`] hands over is ordered and de-duplicated by [`ingest`], which appends it durably to
//! the log; the event streams ([`stream`]), the views ([`view`]) and whatever a dialect adds are cursors in that log.
//! [`http`] is what all servers stand on, `derived` the files that can be made anew from the log, and `losses` tells the
//! operator of events that are stored and lost.

pub(crate) mod derived;
#[cfg(test)]
pub(crate) mod failing_reads;
pub mod http;
pub mod ingest;
mod log_life;
pub mod log_set;
pub(crate) mod losses;
pub mod source;
pub mod stream;
pub mod view;
