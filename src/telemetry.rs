//! What operators see of a running process: log lines on standard output.
//!
//! The form of a line is the reference's (config.md section 2): time, level, target, message, then each field as
//! `; key=value`. A line goes from the part that reports it into the queue of an [`Output`], whose thread writes it.

mod filter;
mod output;

pub use output::Output;

use std::fmt::{self, Write};
use std::io::{self, IsTerminal};
use std::sync::OnceLock;

use tracing::warn;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format;

/// The target of the lines about single events.
pub const EVENT_LINES: &str = "sidecar::events";

/// Where the lines of this process go, once it logs.
static LOG: OnceLock<Output> = OnceLock::new();

/// Starts logging to standard output, as `RUST_LOG` says, in colour on a terminal unless `NO_COLOR` is set. What it
/// returns writes to the same place.
///
/// # Errors
/// When the system has no thread for it.
pub fn start_logging() -> io::Result<Output> {
    let output = Output::start(io::stdout())?;
    let filter::Chosen { filter, complaint } = filter::from_environment();
    let fields = format::debug_fn(|writer, field, value| {
        let mut writer = OneLine { writer };
        match field.name() {
            "message" => write!(writer, "{value:?}"),
            name => write!(writer, "{name}={value:?}"),
        }
    })
    .delimited("; ");
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let lines = output.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .fmt_fields(fields)
        .with_ansi(io::stdout().is_terminal() && !no_colour)
        .with_writer(move || lines.clone());
    // Only a second call in one process fails, and the first then stays.
    if subscriber.try_init().is_ok() {
        let _ = LOG.set(output.clone());
    }
    if let Some(complaint) = complaint {
        warn!(%complaint, "the default is used; give a level (off, error, warn, info, debug, trace) or TARGET=LEVEL");
    }
    Ok(output)
}

/// How many log lines were never written because standard output did not take them.
#[must_use]
pub fn log_lines_dropped() -> u64 {
    LOG.get().map_or(0, Output::lines_dropped)
}

/// Keeps a line one line, and terminals from acting on it: what a node or client says may be in it.
struct OneLine<W> {
    writer: W,
}

impl<W: Write> Write for OneLine<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive(char::is_control) {
            match part.char_indices().next_back() {
                Some((at, last)) if last.is_control() => {
                    self.writer.write_str(part.get(..at).unwrap_or_default())?;
                    write!(self.writer, "{}", last.escape_default())?;
                }
                _ => self.writer.write_str(part)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_stays_within_its_line() {
        let mut line = String::new();
        OneLine { writer: &mut line }.write_str("a\nERROR b\r\u{1b}[31mé\u{9b}").unwrap();
        assert_eq!(line, "a\\nERROR b\\r\\u{1b}[31mé\\u{9b}");
    }
}
