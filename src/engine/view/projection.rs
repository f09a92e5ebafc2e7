//! The projection: a dialect's keys for its events.
//!
//! Owns the seam between the views and a dialect. The dialect hands in a [`Projection`]: its tables, and for each event the
//! keys that it is found by. Everything else follows from the tables: how they are made, appended to and swept.

use sidecar_log_format::Kind;

use super::postings::Postings;
use super::tables::Table;

/// A dialect's tables, and the keys of its events.
pub(crate) trait Projection: Send + Sync + 'static {
    /// Names the tables and the meaning of their keys and tags. Views that another name wrote are rebuilt, so it changes
    /// with either.
    fn form(&self) -> &'static str;

    /// The tables, each at its own place.
    fn tables(&self) -> &'static [&'static dyn Table];

    /// Adds the keys of an event. What `kind` and `payload` say decides alone: a rebuild must find the same.
    fn project(&self, kind: Kind, payload: &str, postings: &mut Postings);
}
