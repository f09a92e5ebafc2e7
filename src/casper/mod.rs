//! What is Casper's own: a node's events, and how its users ask for them.
//!
//! - [`event`][]: what a payload says, [`dialect`][]: what of it the engine must know, and [`keys`][]: the keys that a stored
//!   one is found by, and its form in answers.
//! - [`events`][]: the event streams, `/events`, `/events/sidecar` and those of 1.x, and [`legacy`][]: the form of the latter.
//! - [`source`][]: the listeners to nodes.
//! - [`view`][]: what stored events are found by.
//! - [`rest`][]: look-ups, from the views and the log or from a database.
//! - [`export`][]: the reference's tables, in SQLite and PostgreSQL; [`import`][]: from there to a log.
//! - [`rpc`][]: the JSON-RPC bridge to a node's binary port; it needs no log, but can answer from one while the node is away.

pub mod dialect;
pub mod event;
pub mod events;
pub mod export;
pub mod import;
pub mod keys;
pub mod legacy;
pub mod rest;
pub mod rpc;
pub mod source;
pub mod view;
