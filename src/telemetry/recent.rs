//! The last warnings and errors of this process, for the admin server.
//!
//! Owns copies of the last [`WARNINGS_MAX`] of them, each cut at [`TEXT_BYTES_MAX`]. They are those that are logged: what is
//! filtered out of the log is not here either.

use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::layer::Context;

use super::text_fields;
use crate::engine::source::now;
use crate::rfc3339;

const WARNINGS_MAX: usize = 50;
const TEXT_BYTES_MAX: usize = 1 << 10;

/// The warnings of this process.
static RECENT: Mutex<Kept> = Mutex::new(Kept { warnings: VecDeque::new(), count: 0 });

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// Its number since the start of the process, from 1 on.
    pub number: u64,
    /// When it was logged, as RFC 3339 has it.
    pub at: String,
    /// `WARN` or `ERROR`.
    pub level: &'static str,
    /// The part that logged it.
    pub target: String,
    /// The message, and its fields after it, as in the log's text form.
    pub text: String,
}

/// The last warnings and errors, the oldest first.
#[must_use]
pub fn recent_warnings() -> Vec<Warning> {
    RECENT.lock().unwrap_or_else(PoisonError::into_inner).warnings.iter().cloned().collect()
}

/// Keeps what is logged as a warning or an error.
pub(super) struct KeepWarnings;

impl<S: Subscriber> Layer<S> for KeepWarnings {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let metadata = event.metadata();
        if *metadata.level() > Level::WARN {
            return;
        }
        let mut text = String::new();
        // A text that is full takes no more; that is not a failure.
        let _ = text_fields().format_fields(Writer::new(&mut Cut(&mut text)), event);
        let at = rfc3339::format(now()).to_string();
        let mut kept = RECENT.lock().unwrap_or_else(PoisonError::into_inner);
        kept.count += 1;
        let warning = Warning {
            number: kept.count,
            at,
            level: metadata.level().as_str(),
            target: metadata.target().to_owned(),
            text,
        };
        if kept.warnings.len() == WARNINGS_MAX {
            kept.warnings.pop_front();
        }
        kept.warnings.push_back(warning);
    }
}

struct Kept {
    warnings: VecDeque<Warning>,
    count: u64,
}

/// Takes no more than [`TEXT_BYTES_MAX`].
struct Cut<'a>(&'a mut String);

impl Write for Cut<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = TEXT_BYTES_MAX.saturating_sub(self.0.len());
        let taken = text.get(..text.floor_char_boundary(room)).unwrap_or_default();
        self.0.push_str(taken);
        if taken.len() < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use tracing::{error, info, warn};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// What is kept of what was logged here, whatever other tests log.
    fn kept(mark: &str) -> Vec<(&'static str, String)> {
        let warnings = recent_warnings().into_iter().filter(|warning| warning.text.contains(mark));
        warnings.map(|warning| (warning.level, warning.text)).collect()
    }

    #[test]
    fn warnings_and_errors_are_kept_with_their_fields_up_to_a_bound() {
        let subscriber = tracing_subscriber::registry().with(KeepWarnings);
        tracing::subscriber::with_default(subscriber, || {
            info!("only a report of xyzzy");
            warn!(segment = 7, "a warning of xyzzy");
            error!(reason = %"a failure", "an error of xyzzy");
            let expected =
                [("WARN", "a warning of xyzzy; segment=7"), ("ERROR", "an error of xyzzy; reason=a failure")];
            assert_eq!(kept("xyzzy"), expected.map(|(level, text)| (level, text.to_owned())));
            warn!(long = "é".repeat(TEXT_BYTES_MAX), "plugh");
            assert!(kept("plugh")[0].1.len() <= TEXT_BYTES_MAX);
            warn!("two\nlines of waldo");
            assert_eq!(kept("waldo")[0].1, r"two\nlines of waldo");
            for number in 0..2 * WARNINGS_MAX {
                warn!("number {number} of plover");
            }
            let kept = kept("plover");
            assert_eq!(kept.len(), WARNINGS_MAX);
            assert_eq!(kept[0].1, format!("number {WARNINGS_MAX} of plover"));
        });
    }
}
