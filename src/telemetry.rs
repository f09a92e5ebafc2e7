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

const DEFAULT_FILTER: &str = "warn,sidecar=info";

/// Starts logging to standard output, as `RUST_LOG` says; colours unless `NO_COLOR` is set.
pub fn start_logging() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let fields = format::debug_fn(|writer, field, value| match field.name() {
        "message" => write!(writer, "{value:?}"),
        name => write!(writer, "{name}={value:?}"),
    })
    .delimited("; ");
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    // Only a second call in one process fails, and the first then stays.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).fmt_fields(fields).with_ansi(!no_colour).try_init();
}
