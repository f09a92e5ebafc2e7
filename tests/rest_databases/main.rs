//! REST from a database: a sidecar without nodes and log gives the answers of the one that fills the database, byte for byte,
//! from the reference's database too, and copes with a database that is slow, away, or not the right one.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

mod postgresql;
mod questions;
mod sqlite;
