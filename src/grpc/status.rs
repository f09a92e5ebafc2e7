//! gRPC's statuses as HTTP has them: status codes, JSON bodies, and errors within a stream.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use prost_reflect::{DescriptorPool, DynamicMessage, Value};
use serde::Serialize;
use serde_json::Value as Json;
use tokio::time::Instant;
use tonic::{Code, Status};

/// Seconds after which a client may ask again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

/// Bytes of a message that are shown.
const MESSAGE_BYTES_MAX: usize = 1 << 10;

/// The HTTP status of a code.
pub(super) fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The time of a call is over.
pub(super) fn late() -> Status {
    Status::deadline_exceeded("the time that the call was given is over")
}

/// `error`, as an answer to a call with this deadline: many upstreams, and the client side of `tonic`, report a deadline that
/// has passed as a cancelled call.
pub(super) fn of_deadline(error: Status, deadline: Option<Instant>) -> Status {
    let is_late = deadline.is_some_and(|deadline| deadline <= Instant::now());
    if error.code() == Code::Cancelled && is_late { late() } else { error }
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    code: i32,
    message: &'a str,
    details: Vec<Json>,
}

/// `{"code":5,"message":"Not Found","details":[]}`; details are those of `google.rpc.Status`, as far as `pool` knows them.
pub(super) fn body(status: &Status, pool: Option<&DescriptorPool>) -> String {
    let details = pool.and_then(|pool| details(status, pool)).unwrap_or_default();
    let body = ErrorBody { code: status.code().into(), message: status.message(), details };
    serde_json::to_string(&body).unwrap_or_default()
}

/// The last line of a stream of JSON lines that ends with an error.
pub(super) fn last_line(status: &Status, pool: Option<&DescriptorPool>) -> String {
    format!("{{\"error\":{}}}\n", body(status, pool))
}

/// The answer that an error is before anything was sent. In the form of `lines` it is under `error`.
pub(super) fn answer(status: &Status, pool: Option<&DescriptorPool>, lines: bool) -> Response {
    let text = if lines { last_line(status, pool) } else { body(status, pool) };
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = http_status(status.code());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    match status.code() {
        Code::Unavailable => _ = headers.insert(header::RETRY_AFTER, RETRY_AFTER),
        Code::Unauthenticated => {
            if let Ok(challenge) = HeaderValue::from_str(status.message()) {
                headers.insert(header::WWW_AUTHENTICATE, challenge);
            }
        }
        _ => {}
    }
    response
}

/// A status whose message, which may repeat what a client has sent, is not long.
pub(super) fn shortened(status: Status) -> Status {
    let message = status.message();
    if message.len() <= MESSAGE_BYTES_MAX {
        return status;
    }
    let shown = message.get(..message.floor_char_boundary(MESSAGE_BYTES_MAX)).unwrap_or_default();
    Status::new(status.code(), format!("{shown} ..."))
}

/// Adds `Retry-After` where the server could not answer now.
pub(super) fn ask_later(response: &mut Response) {
    if response.status() == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
    }
}

fn details(status: &Status, pool: &DescriptorPool) -> Option<Vec<Json>> {
    if status.details().is_empty() {
        return None;
    }
    let message = DynamicMessage::decode(pool.get_message_by_name("google.rpc.Status")?, status.details()).ok()?;
    let details = message.get_field_by_name("details")?;
    let to_json = |detail: &Value| serde_json::to_value(detail.as_message()?).ok();
    Some(details.as_list()?.iter().filter_map(to_json).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_the_http_status_that_gateways_give_it() {
        let statuses =
            [200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401].into_iter();
        for (code, status) in (0..).zip(statuses) {
            assert_eq!(http_status(Code::from_i32(code)).as_u16(), status, "{code}");
        }
    }

    #[test]
    fn a_message_that_repeats_a_long_name_is_cut() {
        let long = shortened(Status::invalid_argument("é".repeat(MESSAGE_BYTES_MAX)));
        assert_eq!((long.code(), long.message().len()), (Code::InvalidArgument, MESSAGE_BYTES_MAX + 4));
        assert_eq!(shortened(Status::not_found("x")).message(), "x");
    }

    #[test]
    fn a_call_that_is_cancelled_at_its_deadline_was_late() {
        let now = Instant::now();
        let later = now.checked_add(std::time::Duration::from_secs(3_600));
        let code = |error, deadline| of_deadline(error, deadline).code();
        assert_eq!(code(Status::cancelled("Timeout expired"), Some(now)), Code::DeadlineExceeded);
        assert_eq!(code(Status::cancelled("by the server"), later), Code::Cancelled);
        assert_eq!(code(Status::cancelled("by the server"), None), Code::Cancelled);
        assert_eq!(code(Status::not_found("x"), Some(now)), Code::NotFound);
    }

    #[test]
    fn an_error_is_an_answer_with_the_headers_that_its_code_asks_for() {
        let refused = answer(&Status::unavailable("gone"), None, false);
        assert_eq!((refused.status().as_u16(), &refused.headers()[header::RETRY_AFTER]), (503, &RETRY_AFTER));
        let unknown = answer(&Status::unauthenticated("Bearer"), None, true);
        assert_eq!(unknown.headers()[header::WWW_AUTHENTICATE], "Bearer");
        assert_eq!(body(&Status::not_found("x"), None), r#"{"code":5,"message":"x","details":[]}"#);
    }
}
