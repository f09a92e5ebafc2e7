//! Which log lines are shown, by `RUST_LOG` or the configuration.

use std::env::{self, VarError};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{Directive, LevelFilter};

/// Warnings, and what Sidecar reports of its own life; a line per event, as `enable_logging` wants it, only when asked for.
const DEFAULT_FILTER: &str = "warn,sidecar=info,sidecar::events=warn";

/// A target whose lines Sidecar replaces by clearer ones.
const NOISE: &str = "eventsource_client";

/// A filter, and why the requested one is not used.
pub(super) struct Chosen {
    pub(super) filter: EnvFilter,
    /// The same as it was asked for.
    pub(super) shown: String,
    pub(super) complaint: Option<String>,
}

/// The filter that `RUST_LOG` asks for, or `configured`. A value that cannot be understood is
/// reported and not used.
pub(super) fn from_environment(configured: Option<&str>) -> Chosen {
    let configured = configured.unwrap_or(DEFAULT_FILTER);
    match env::var(EnvFilter::DEFAULT_ENV) {
        Ok(wanted) => choose(Some(&wanted), configured),
        Err(VarError::NotPresent) => choose(None, configured),
        Err(VarError::NotUnicode(_)) => {
            Chosen { complaint: Some("RUST_LOG is not UTF-8".to_owned()), ..choose(None, configured) }
        }
    }
}

fn choose(wanted: Option<&str>, configured: &str) -> Chosen {
    let (used, complaint) = match wanted.map(|wanted| parse(wanted).map(|_| wanted)) {
        Some(Ok(wanted)) => (wanted, None),
        Some(Err(reason)) => (configured, Some(format!("RUST_LOG {reason}"))),
        None => (configured, None),
    };
    let filter = parse(used).unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let is_named = used.contains(NOISE);
    let filter = match format!("{NOISE}=off").parse() {
        Ok(silence) if !is_named => filter.add_directive(silence),
        _ => filter,
    };
    Chosen { filter, shown: used.to_owned(), complaint }
}

/// The filter that a text asks for; or what is wrong with the text, to be read after its name.
pub(super) fn parse(wanted: &str) -> Result<EnvFilter, String> {
    // The filter's own parser takes a space for a part of a target.
    let directives: Vec<&str> = wanted.split(',').map(str::trim).filter(|directive| !directive.is_empty()).collect();
    if directives.is_empty() {
        return Err("is empty".to_owned());
    }
    let is_wrong = |directive: &&str| is_level_mistyped(directive) || directive.parse::<Directive>().is_err();
    match directives.iter().copied().find(is_wrong) {
        Some(wrong) => Err(format!("has `{wrong}`, which is neither a level nor TARGET=LEVEL")),
        None => Ok(EnvFilter::new(directives.join(","))),
    }
}

/// Whether a directive is one word that is not a level. The filter would take it for a target, all of whose lines are
/// wanted and no others; only Sidecar's own targets are asked for like that.
fn is_level_mistyped(directive: &str) -> bool {
    let is_word = !directive.contains(['=', '[', ':']);
    is_word && directive.parse::<LevelFilter>().is_err() && !directive.starts_with("sidecar")
}

#[cfg(test)]
mod tests {
    use tracing::{debug, error, info, warn};

    use super::super::{EVENT_LINES, LogFormat, testing};
    use super::*;

    /// Which of these lines are shown when `RUST_LOG` is `wanted`.
    fn shown(wanted: Option<&str>) -> Vec<String> {
        let text = testing::logged(choose(wanted, DEFAULT_FILTER).filter, LogFormat::Text, || {
            info!("life");
            debug!("detail");
            info!(target: EVENT_LINES, "event");
            warn!(target: EVENT_LINES, "fault");
            info!(target: "another_crate", "chatter");
            warn!(target: "another_crate", "concern");
            error!(target: "eventsource_client::client", "noise");
        });
        text.lines().filter_map(|line| line.split(' ').next_back()).map(str::to_owned).collect()
    }

    #[test]
    fn sidecars_own_life_is_shown_and_single_events_only_when_asked_for() {
        assert_eq!(shown(None), ["life", "fault", "concern"]);
        assert_eq!(shown(Some("info")), ["life", "event", "fault", "chatter", "concern"]);
        assert_eq!(shown(Some("sidecar::events=info")), ["event", "fault"]);
        assert_eq!(shown(Some("warn,eventsource_client=error")), ["fault", "concern", "noise"]);
        assert_eq!(shown(Some("off")), Vec::<String>::new());
        assert_eq!(shown(Some(" warn , sidecar::events ")), ["event", "fault", "concern"]);
    }

    #[test]
    fn a_value_that_cannot_be_understood_is_named_and_leaves_the_default() {
        let mistakes = [
            ("", "RUST_LOG is empty"),
            (" ", "RUST_LOG is empty"),
            ("no=such=filter", "`no=such=filter`"),
            ("warn,sidecar=inof", "`sidecar=inof`"),
            ("inof", "`inof`"),
            ("sidecar=info,warning", "`warning`"),
            ("sidecar[{a=1", "`sidecar[{a=1`"),
        ];
        for (wanted, part) in mistakes {
            let complaint = choose(Some(wanted), DEFAULT_FILTER).complaint.unwrap_or_default();
            assert!(complaint.contains(part), "{wanted}: {complaint}");
            assert_eq!(shown(Some(wanted)), shown(None), "{wanted}");
        }
        for wanted in ["INFO", "3", "hyper=debug,warn", "sidecar", "sidecar[serve{client=1}]=debug"] {
            assert_eq!(choose(Some(wanted), DEFAULT_FILTER).complaint, None, "{wanted}");
        }
    }

    #[test]
    fn the_configured_filter_is_used_unless_the_environment_has_a_usable_one() {
        let shown = |wanted| choose(wanted, "debug").shown;
        assert_eq!([None, Some("inof"), Some("error")].map(shown), ["debug", "debug", "error"]);
    }
}
