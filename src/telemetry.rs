//! What operators see of a running process: log lines on standard output.
//!
//! The form of a line is the reference's (config.md section 2): time, level, target, message, then each field as
//! `; key=value`; or JSON. A line goes from the part that reports it into the queue of an [`Output`], whose thread writes it.

mod filter;
mod json;
mod output;
mod recent;

pub use output::Output;
pub use recent::{Warning, recent_warnings};

use std::fmt::{self, Write};
use std::io::{self, IsTerminal};
use std::sync::OnceLock;

use tracing::{Subscriber, warn};
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::{FormatFields, MakeWriter, format};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::{LookupSpan, Registry};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, reload};

/// The target of the lines about single events.
pub const EVENT_LINES: &str = "sidecar::events";

/// Where the lines of this process go, and which, once it logs.
static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    output: Output,
    filter: reload::Handle<EnvFilter, Registry>,
}

/// How log lines look, and which are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// The form of a line.
    pub format: LogFormat,
    /// Which lines are shown without `RUST_LOG`; in the form of that variable.
    pub level: Option<String>,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people: in colour on a terminal, unless `NO_COLOR` is set.
    #[default]
    Text,
    /// For programs: a JSON object.
    Json,
}

/// Writes log lines to `output`, which writes to standard output, in the form and with the filter of `options` and
/// `RUST_LOG`.
pub fn start_logging(output: &Output, options: &LogOptions) {
    let filter::Chosen { filter, complaint, .. } = filter::from_environment(options.level.as_deref());
    let (filter, handle) = reload::Layer::new(filter);
    let lines = output.clone();
    let lines = lines_to(options.format, shows_colour(&io::stdout()), move || lines.clone());
    // Only a second call in one process fails, and the first then stays.
    if tracing_subscriber::registry().with(filter).with(lines).with(recent::KeepWarnings).try_init().is_ok() {
        let _ = LOG.set(Log { output: output.clone(), filter: handle });
    }
    complain(complaint);
}

/// Shows the lines that `level` asks for from now on, unless `RUST_LOG` does. Returns what is shown.
pub fn show_lines(level: Option<&str>) -> String {
    let filter::Chosen { filter, shown, complaint } = filter::from_environment(level);
    if let Some(log) = LOG.get() {
        // It fails only when the process does not log any more.
        let _ = log.filter.reload(filter);
    }
    complain(complaint);
    shown
}

/// Why `level` cannot be used, if it cannot.
#[must_use]
pub fn unusable_level(level: &str) -> Option<String> {
    filter::parse(level).err()
}

/// Whether colours belong there: on a terminal, unless `NO_COLOR` is set.
#[must_use]
pub fn shows_colour(output: &impl IsTerminal) -> bool {
    output.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// How many log lines were never written because standard output did not take them.
#[must_use]
pub fn log_lines_dropped() -> u64 {
    LOG.get().map_or(0, |log| log.output.lines_dropped())
}

fn complain(complaint: Option<String>) {
    if let Some(complaint) = complaint {
        warn!(%complaint, "RUST_LOG is ignored; give a level (off, error, warn, info, debug, trace) or TARGET=LEVEL");
    }
}

/// Writes lines of a form.
fn lines_to<S, W>(format: LogFormat, has_colour: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    match format {
        LogFormat::Text => lines.fmt_fields(text_fields()).with_ansi(has_colour).boxed(),
        LogFormat::Json => lines.with_ansi(false).event_format(json::JsonLine).fmt_fields(json::JsonFields).boxed(),
    }
}

/// Writes the message of a line and its fields after it, `; ` between them.
fn text_fields() -> impl for<'a> FormatFields<'a> + Send + Sync + 'static {
    let fields = format::debug_fn(|writer, field, value| {
        let mut writer = OneLine { writer };
        match field.name() {
            "message" => write!(writer, "{value:?}"),
            name => write!(writer, "{name}={value:?}"),
        }
    });
    fields.delimited("; ")
}

/// `text` with its control characters escaped, as log lines have it.
pub(crate) fn printable(text: &str) -> String {
    let mut printed = String::with_capacity(text.len());
    // A String takes everything.
    let _ = OneLine { writer: &mut printed }.write_str(text);
    printed
}

/// Keeps a line one line, and terminals from acting on it: text of nodes and clients may be in it.
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
mod testing {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines that `write` writes, in this form, as far as the filter shows them.
    pub(super) fn logged(filter: EnvFilter, format: LogFormat, write: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let lines_written = lines_to(format, false, move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(filter).with(lines_written);
        tracing::subscriber::with_default(subscriber, write);
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use tracing::{info, info_span};

    use super::*;

    #[test]
    fn text_of_other_parties_stays_within_its_line() {
        assert_eq!(printable("a\nERROR b\r\u{1b}[31mé\u{9b}"), "a\\nERROR b\\r\\u{1b}[31mé\\u{9b}");
    }

    #[test]
    fn a_line_for_people_has_the_form_of_the_reference() {
        let text = testing::logged(EnvFilter::new("trace"), LogFormat::Text, || {
            let _within = info_span!("log", name = "casper").entered();
            info!(segment = 7, events = "a\nb", "segment sealed");
        });
        let (_time, line) = text.split_once(' ').unwrap();
        let expected =
            " INFO log{name=\"casper\"}: sidecar::telemetry::tests: segment sealed; segment=7; events=\"a\\nb\"\n";
        assert_eq!(line.trim_start(), expected.trim_start());
    }
}
