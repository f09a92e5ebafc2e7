//! `log_format` and `log_level`, at the top of the file.

use crate::config::{error::ConfigError, section::Section};
use crate::telemetry::{LogFormat, LogOptions, unusable_level};

pub(in crate::config) fn check(
    format: Option<LogFormat>,
    level: Option<String>,
    section: &Section<'_>,
) -> Result<LogOptions, ConfigError> {
    if let Some((level, reason)) = level.as_deref().and_then(|level| Some((level, unusable_level(level)?))) {
        let fix = format!(
            "the text {reason}; give off, error, warn, info, debug, trace, or TARGET=LEVEL with commas between"
        );
        return Err(section.invalid("log_level", level, &fix));
    }
    Ok(LogOptions { format: format.unwrap_or_default(), level })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::samples::{DEFAULT_SSE_ONLY, loaded, refused};

    #[test]
    fn the_form_of_log_lines_and_which_are_shown_can_be_set() {
        let logging = |lines: &str| loaded(&format!("{lines}\n{DEFAULT_SSE_ONLY}")).config.logging;
        assert_eq!(logging(""), LogOptions::default());
        let set = logging("log_format = \"json\"\nlog_level = \"warn,sidecar=debug\"");
        assert_eq!(set, LogOptions { format: LogFormat::Json, level: Some("warn,sidecar=debug".to_owned()) });
    }

    #[test]
    fn a_level_that_cannot_be_understood_is_refused_with_what_is_wrong() {
        let error = refused(&format!("log_level = \"inof\"\n{DEFAULT_SSE_ONLY}"));
        assert!(error.contains("`log_level`") && error.contains("`inof`"), "{error}");
    }
}
