//! Which form of a stream a client wants: what `Accept` says of event streams and of JSON lines.

use axum::http::{HeaderMap, header};

use crate::engine::http::weights::{weighed, weight_of};

const EVENT_STREAM: &str = "text/event-stream";
pub(super) const JSON_LINES: &str = "application/x-ndjson";
const JSON: &str = "application/json";

/// Whether an event stream is wanted; `by_default` where nothing is named that is either form.
pub(super) fn wants_events(headers: &HeaderMap, by_default: bool) -> bool {
    let accepted: Vec<(&str, f32)> = weighed(headers, &header::ACCEPT).collect();
    let named = |names: &[&str]| weight_of(&accepted, names);
    let lines = match (named(&[JSON_LINES]), named(&[JSON])) {
        (Some(lines), Some(json)) => Some(lines.max(json)),
        (lines, json) => lines.or(json),
    };
    match (named(&[EVENT_STREAM]), lines) {
        (Some(events), Some(lines)) => events > 0.0 && events >= lines,
        (Some(events), None) => events > 0.0,
        (None, Some(lines)) => lines <= 0.0 && by_default,
        (None, None) => by_default,
    }
}

/// Whether JSON lines are asked for by their own name.
pub(super) fn names_json_lines(headers: &HeaderMap) -> bool {
    let accepted: Vec<(&str, f32)> = weighed(headers, &header::ACCEPT).collect();
    weight_of(&accepted, &[JSON_LINES]).is_some_and(|weight| weight > 0.0)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn the_form_that_is_named_with_more_weight_is_wanted() {
        for (accept, plain, event_method) in [
            ("text/event-stream", true, true),
            ("text/event-stream;q=0", false, false),
            ("text/event-stream;q=0.5, application/json", false, false),
            ("text/event-stream, application/json;q=0.5", true, true),
            ("application/json", false, false),
            ("application/x-ndjson", false, false),
            ("*/*", false, true),
            ("text/html, */*;q=0.8", false, true),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            let wanted = [false, true].map(|by_default| wants_events(&headers, by_default));
            assert_eq!(wanted, [plain, event_method], "{accept}");
        }
        assert!(!wants_events(&HeaderMap::new(), false) && wants_events(&HeaderMap::new(), true));
    }
}
