//! Sidecar: a storage-first event log engine with projection views.
//!
//! Data flows one way: a [`source`] reads a node's stream, [`ingest`] orders and de-duplicates it and appends it
//! durably to the log (crate `sidecar-log-format`), and every consumer — the SSE server in [`stream`] first of all —
//! is a cursor in that log. A module on the left of that line never imports one on its right.

pub mod appliance;
pub mod config;
pub mod demo;
pub mod front;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod ingest;
pub mod source;
pub mod stream;
pub mod telemetry;
