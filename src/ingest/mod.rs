//! Ingest: from what the sources say to what the log holds.
//!
//! Owns the order of events and the decision which of them are new. Batches of a source flow in, appends to the log flow
//! out.

pub mod identity;
