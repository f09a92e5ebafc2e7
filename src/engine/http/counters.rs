//! What metrics show of connections.

use std::sync::atomic::AtomicUsize;

use hyper::StatusCode;

use crate::engine::counters::Count;

/// What happened at a front, for metrics.
#[derive(Debug, Default)]
pub struct FrontCounters {
    /// Open connections.
    pub connections: AtomicUsize,
    /// Connections ever accepted.
    pub accepted: Count,
    /// Connections closed at once because all others were busy.
    pub refused: Count,
    /// Connections closed because TLS could not be agreed on.
    pub handshakes_failed: Count,
    /// Requests refused because they had no valid token.
    pub unauthorized: Count,
    /// Idle connections closed to make room for others.
    pub displaced: Count,
    /// Connections closed because they asked for nothing in time.
    pub idled_out: Count,
    /// Connections closed because the client took an answer too slowly, or in HTTP/2 nothing in time; of HTTP/1.1 the system
    /// closes those that take nothing.
    pub stalled: Count,
    /// Requests that were answered with an error.
    pub refused_requests: RefusedRequests,
}

/// Requests that were answered with an error, by the reason that its status gives.
#[derive(Debug, Default)]
pub struct RefusedRequests([Count; REASONS.len()]);

/// The reasons, as metrics name them. The status of an answer leads to one; see [`reason`].
const REASONS: [&str; 10] = [
    "invalid",
    "unauthorized",
    "forbidden",
    "not_found",
    "method",
    "timed_out",
    "too_large",
    "rate_limited",
    "unavailable",
    "failed",
];

impl RefusedRequests {
    /// Counts an answer, if it is an error.
    pub(super) fn note(&self, status: StatusCode) {
        let reason = reason(status);
        if let Some((_, count)) = self.by_reason().find(|(known, _)| Some(*known) == reason) {
            count.add(1);
        }
    }

    /// Every reason with its count.
    pub fn by_reason(&self) -> impl Iterator<Item = (&'static str, &Count)> {
        REASONS.into_iter().zip(&self.0)
    }
}

/// Which of [`REASONS`] a status gives; an error of another kind is an invalid request, or a failure.
fn reason(status: StatusCode) -> Option<&'static str> {
    match status {
        StatusCode::UNAUTHORIZED => Some("unauthorized"),
        StatusCode::FORBIDDEN => Some("forbidden"),
        StatusCode::NOT_FOUND => Some("not_found"),
        StatusCode::METHOD_NOT_ALLOWED => Some("method"),
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => Some("timed_out"),
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::URI_TOO_LONG | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            Some("too_large")
        }
        StatusCode::TOO_MANY_REQUESTS => Some("rate_limited"),
        StatusCode::SERVICE_UNAVAILABLE => Some("unavailable"),
        _ if status.is_client_error() => Some("invalid"),
        _ if status.is_server_error() => Some("failed"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_counts_for_the_reason_that_its_status_gives_and_other_answers_for_none() {
        let refused = RefusedRequests::default();
        for status in (100..600).filter_map(|status| StatusCode::from_u16(status).ok()) {
            refused.note(status);
        }
        let counts: Vec<u64> = refused.by_reason().map(|(_, count)| count.get()).collect();
        assert_eq!(counts.iter().sum::<u64>(), 200, "{counts:?}");
        let one_status = |reason: &str| refused.by_reason().any(|(name, count)| name == reason && count.get() == 1);
        for reason in ["unauthorized", "forbidden", "not_found", "method", "rate_limited", "unavailable"] {
            assert!(one_status(reason), "{reason}: {counts:?}");
        }
        let refused = RefusedRequests::default();
        for status in [StatusCode::CONFLICT, StatusCode::UNPROCESSABLE_ENTITY, StatusCode::INTERNAL_SERVER_ERROR] {
            refused.note(status);
        }
        let named: Vec<_> =
            refused.by_reason().map(|(name, count)| (name, count.get())).filter(|(_, count)| *count > 0).collect();
        assert_eq!(named, [("invalid", 2), ("failed", 1)]);
    }
}
