//! What operators see of a running process: log lines on standard output, and what every part counts with.
//!
//! The form of a line is the reference's (config.md section 2): time, level, target, message, then each field as
//! `; key=value`.

mod histogram;

pub use histogram::{Histogram, Snapshot};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format;

/// The bounds of sizes, in bytes; the reference's.
pub const SIZE_BYTES: &[u64] = &[500, 1000, 2000, 5000, 50_000, 500_000, 5_000_000, 50_000_000];

/// The target of the lines about single events.
pub const EVENT_LINES: &str = "sidecar::events";

/// Beside warnings, what Sidecar says of its own life; a line per event, as `enable_logging` wants it, is for who asks.
const DEFAULT_FILTER: &str = "warn,sidecar=info,sidecar::events=warn";

/// Says in its own words what Sidecar then says in better ones.
const NOISE: &str = "eventsource_client";

/// Starts logging to standard output, as `RUST_LOG` says; colours unless `NO_COLOR` is set.
pub fn start_logging() {
    let filter = filter(std::env::var(EnvFilter::DEFAULT_ENV).ok().as_deref());
    let fields = format::debug_fn(|writer, field, value| match field.name() {
        "message" => write!(writer, "{value:?}"),
        name => write!(writer, "{name}={value:?}"),
    })
    .delimited("; ");
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    // Only a second call in one process fails, and the first then stays.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).fmt_fields(fields).with_ansi(!no_colour).try_init();
}

/// What is shown; `wanted` that cannot be parsed is as if nothing were wanted.
fn filter(wanted: Option<&str>) -> EnvFilter {
    let chosen = wanted.and_then(|wanted| EnvFilter::try_new(wanted).ok());
    let filter = chosen.unwrap_or_else(|| EnvFilter::new(DEFAULT_FILTER));
    let is_named = wanted.is_some_and(|wanted| wanted.contains(NOISE));
    match format!("{NOISE}=off").parse() {
        Ok(silence) if !is_named => filter.add_directive(silence),
        _ => filter,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use tracing::{debug, error, info, warn};

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

    /// Which of these lines are shown when `RUST_LOG` is `wanted`.
    fn shown(wanted: Option<&str>) -> Vec<String> {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter(wanted))
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .without_time()
            .with_level(false)
            .with_target(false)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            info!("life");
            debug!("detail");
            info!(target: EVENT_LINES, "event");
            warn!(target: EVENT_LINES, "fault");
            info!(target: "another_crate", "chatter");
            warn!(target: "another_crate", "concern");
            error!(target: "eventsource_client::client", "noise");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn sidecars_own_life_is_shown_and_single_events_only_to_who_asks() {
        assert_eq!(shown(None), ["life", "fault", "concern"]);
        assert_eq!(shown(Some("no=such=filter")), shown(None));
        assert_eq!(shown(Some("info")), ["life", "event", "fault", "chatter", "concern"]);
        assert_eq!(shown(Some("sidecar::events=info")), ["event", "fault"]);
        assert_eq!(shown(Some("warn,eventsource_client=error")), ["fault", "concern", "noise"]);
    }
}
