//! The engine: one log's life, and its readers. It knows no chain, no configuration file, no SQL and no metric's name.
//!
//! What it must know of a chain is behind the trait [`dialect::Dialect`]. Data flows one way: what a [`source`] hands over is
//! ordered and de-duplicated by [`ingest`], which appends it durably to the log. The event streams ([`stream`]), the views
//! ([`view`]) and whatever a dialect adds are cursors in that log.
//!
//! [`http`] is what all servers stand on, [`counters`] what every part counts with, `backoff` how long one waits before
//! another attempt. [`storage_folder`] says where a log's files are, `derived` opens those that can be rebuilt from the log,
//! and `losses` reports events that were stored and are lost.

pub(crate) mod backoff;
pub mod counters;
pub(crate) mod derived;
pub mod dialect;
#[cfg(test)]
pub(crate) mod failing_reads;
pub mod http;
pub mod ingest;
mod log_life;
pub mod log_set;
pub(crate) mod losses;
pub mod source;
pub mod storage_folder;
pub mod stream;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod thread;
pub mod view;
