//! Sidecar: a storage-first event log engine with projection views.
//!
//! The [`engine`] has one log's life in it and knows no chain: a source's events are ordered, de-duplicated and appended
//! durably to the log (crate `sidecar-log-format`), and every consumer is a cursor in that log. A chain's events and the
//! requests of its users are in its dialect's folder: [`casper`], [`beacon`], [`grpc`]. [`sse_client`] is what every source of
//! Server-Sent Events is built on. [`config`] reads what is wanted, [`appliance`] puts it together, [`admin`] shows what it does.

#![deny(clippy::print_stdout, clippy::print_stderr, reason = "they panic when standard output or error is closed")]

pub mod admin;
pub mod appliance;
pub mod beacon;
#[cfg(test)]
mod boundary;
pub mod build_info;
pub mod casper;
pub mod command_line;
pub mod config;
pub mod demo;
pub mod engine;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod grpc;
#[cfg(test)]
mod invariants_page;
pub mod rfc3339;
pub mod sse_client;
pub mod telemetry;
