//! Sidecar: a storage-first event log engine with projection views.
//!
//! Data flows one way: a [`source`] reads a node's stream, [`ingest`] orders and de-duplicates it and appends it
//! durably to the log (crate `sidecar-log-format`), and every consumer — the SSE server in [`stream`] first of all, the
//! views in [`view`] that [`rest`] asks, the exporters in [`export`] — is a cursor in that log. A module never imports one
//! that comes after it on that way. Beside that way is [`casper::rpc`], which bridges JSON-RPC to a node and reads no log.

#![deny(clippy::print_stdout, clippy::print_stderr, reason = "they panic when nobody takes the text")]

pub mod admin;
pub mod appliance;
pub mod casper;
pub mod config;
pub mod demo;
mod derived;
pub mod export;
#[cfg(test)]
mod failing_reads;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod http;
pub mod ingest;
mod losses;
pub mod rest;
pub mod rfc3339;
pub mod source;
pub mod stream;
pub mod telemetry;
pub mod view;
