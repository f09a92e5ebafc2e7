//! JSON-RPC 2.0: from a body to calls, and from results to a body.
//!
//! The checks, their order and their words are the reference's. The reference has no batches.

use std::fmt;

use bytes::Bytes;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::failure::{Code, Failure};
use crate::engine::http::memory::Pieces;

/// A body, taken apart.
#[derive(Debug)]
pub(super) enum Body {
    One(Entry),
    Batch(Vec<Entry>),
}

/// One object of a body.
#[derive(Debug)]
pub(super) enum Entry {
    /// A call that is in order.
    Call(Call),
    /// A call without an id, which nothing is answered to and which is not executed.
    Notification,
    /// Something else, and the answer to it.
    Malformed { id: Value, failure: Failure },
}

/// A call.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) id: Value,
    pub(super) method: String,
    /// `null` where the member is null, `None` where it is absent.
    pub(super) params: Option<Value>,
}

/// Takes a body apart. A batch of more than `batch_max` calls is refused as a whole; with 0 every batch is, as one that
/// cannot be parsed.
pub(super) fn parse(body: &[u8], batch_max: usize) -> Body {
    let is_array = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    if is_array && batch_max > 0 {
        return parse_batch(body, batch_max);
    }
    Body::One(match serde_json::from_slice::<Object>(body) {
        Ok(Object(members)) => entry(members),
        Err(error) => malformed(Value::Null, Code::ParseError, error.to_string()),
    })
}

fn parse_batch(body: &[u8], batch_max: usize) -> Body {
    let refused = |code, text: String| Body::One(malformed(Value::Null, code, text));
    let entries: Vec<Value> = match serde_json::from_slice(body) {
        Ok(entries) => entries,
        Err(error) => return refused(Code::ParseError, error.to_string()),
    };
    if entries.is_empty() {
        return refused(Code::InvalidRequest, "a batch must have at least one request".to_owned());
    }
    if entries.len() > batch_max {
        let text = format!("a batch may have at most {batch_max} requests, but has {}", entries.len());
        return refused(Code::InvalidRequest, text);
    }
    let entries = entries.into_iter().map(|value| match value {
        Value::Object(members) => entry(members),
        _ => malformed(Value::Null, Code::InvalidRequest, "a request must be an Object".to_owned()),
    });
    Body::Batch(entries.collect())
}

fn malformed(id: Value, code: Code, text: String) -> Entry {
    Entry::Malformed { id, failure: Failure::new(code, text) }
}

fn entry(mut members: Map<String, Value>) -> Entry {
    let id = members.remove("id");
    match check(&mut members, id.as_ref()) {
        Ok((method, params)) => match id {
            Some(id) => Entry::Call(Call { id, method, params }),
            None => Entry::Notification,
        },
        Err((shown, text)) => {
            let id = if shown == Shown::Id { id.unwrap_or_default() } else { Value::Null };
            malformed(id, Code::InvalidRequest, text)
        }
    }
}

/// Whether the id is in the answer.
#[derive(PartialEq, Eq)]
enum Shown {
    Id,
    Null,
}

fn check(members: &mut Map<String, Value>, id: Option<&Value>) -> Result<(String, Option<Value>), (Shown, String)> {
    let refused = |text: String| (Shown::Id, text);
    match members.get("jsonrpc") {
        Some(Value::String(version)) if version == "2.0" => {}
        Some(Value::String(version)) => {
            return Err(refused(format!("Expected 'jsonrpc' to be '2.0', but got '{version}'")));
        }
        Some(other) => {
            let got = Described(other);
            return Err(refused(format!("Expected 'jsonrpc' to be a String with value '2.0', but got {got}")));
        }
        None => return Err(refused("Missing 'jsonrpc' field".to_owned())),
    }
    let method = match members.remove("method") {
        Some(Value::String(method)) => method,
        Some(_) => return Err(refused("Expected 'method' to be a String".to_owned())),
        None => return Err(refused("Missing 'method' field".to_owned())),
    };
    let params = members.remove("params");
    let kind = match &params {
        None | Some(Value::Null | Value::Array(_) | Value::Object(_)) => None,
        Some(Value::Bool(true)) => Some("'true'"),
        Some(Value::Bool(false)) => Some("'false'"),
        Some(Value::Number(_)) => Some("a Number"),
        Some(Value::String(_)) => Some("a String"),
    };
    if let Some(kind) = kind {
        return Err(refused(format!("If present, 'params' must be an Array or Object, but was {kind}")));
    }
    let refused_id = |text: &str| Err((Shown::Null, text.to_owned()));
    match id {
        None | Some(Value::Null | Value::String(_)) => {}
        Some(Value::Number(number)) if number.is_i64() || number.is_u64() => {}
        Some(Value::Number(_)) => return refused_id("'id' must not contain fractional parts if it is a number"),
        Some(Value::Bool(_) | Value::Array(_) | Value::Object(_)) => {
            return refused_id("'id' should be a string or integer");
        }
    }
    Ok((method, params))
}

/// A value by its type, as messages name it.
struct Described<'a>(&'a Value);

impl fmt::Display for Described<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Number(value) => write!(formatter, "a Number '{value}'"),
            other => write!(formatter, "'{other}'"),
        }
    }
}

/// An object, of whose repeated members the last counts.
struct Object(Map<String, Value>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Object;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Object, A::Error> {
                let mut members = Map::new();
                while let Some((name, value)) = access.next_entry()? {
                    members.insert(name, value);
                }
                Ok(Object(members))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

/// Adds the answer to a call: its id, and the result, which is JSON already, or the failure.
pub(super) fn write_answer(id: &Value, outcome: Result<Bytes, &Failure>, body: &mut Pieces) {
    let (member, value) = match outcome {
        Ok(result) => (",\"result\":", result),
        Err(failure) => (",\"error\":", Bytes::from(to_json(failure))),
    };
    body.reserve_beside(&value, 64);
    body.extend(b"{\"jsonrpc\":\"2.0\",\"id\":");
    body.extend(&to_json(id));
    body.extend(member.as_bytes());
    body.push(value);
    body.extend(b"}");
}

/// What cannot fail to be JSON, as JSON.
fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_else(|_| b"null".to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is answered to a body that is not a call.
    fn answer(body: &str) -> String {
        match parse(body.as_bytes(), 3) {
            Body::One(Entry::Malformed { id, failure }) => {
                let mut answer = Pieces::default();
                write_answer(&id, Err(&failure), &mut answer);
                String::from_utf8(answer.iter().flatten().copied().collect()).unwrap()
            }
            other => panic!("{body} is {other:?}"),
        }
    }

    fn refused(code: i64, message: &str, data: &str, id: &str) -> String {
        let data = serde_json::to_string(data).unwrap();
        format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":"{message}","data":{data}}}}}"#)
    }

    fn call(body: &str) -> Call {
        match parse(body.as_bytes(), 3) {
            Body::One(Entry::Call(call)) => call,
            other => panic!("{body} is {other:?}"),
        }
    }

    #[test]
    fn what_is_not_one_json_object_is_a_parse_error() {
        for (body, data) in [
            ("", "EOF while parsing a value at line 1 column 0"),
            ("1", "invalid type: integer `1`, expected a map at line 1 column 1"),
            (r#"{"jsonrpc":"2.0""#, "EOF while parsing an object at line 1 column 16"),
            (r#"{"a":1} {"#, "trailing characters at line 1 column 9"),
            ("[1", "EOF while parsing a list at line 1 column 2"),
        ] {
            assert_eq!(answer(body), refused(-32700, "Parse error", data, "null"), "{body}");
        }
        let deep =
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{}1{}}}"#, "[".repeat(200), "]".repeat(200));
        assert!(
            answer(&deep).contains("-32700") && answer(&deep).contains("recursion limit exceeded"),
            "{}",
            answer(&deep)
        );
        assert!(answer(&"[".repeat(100_000)).contains("recursion limit exceeded"));
    }

    #[test]
    fn where_batches_are_off_an_array_is_the_references_parse_error() {
        let Body::One(Entry::Malformed { failure, .. }) = parse(b"[1]", 0) else { panic!() };
        let data = "invalid type: sequence, expected a map at line 1 column 0";
        assert!(serde_json::to_string(&failure).unwrap().contains(data));
    }

    #[test]
    fn the_members_are_checked_in_the_references_order_and_words() {
        let invalid = |data: &str, id: &str| refused(-32600, "Invalid Request", data, id);
        for (body, data, id) in [
            ("{}", "Missing 'jsonrpc' field", "null"),
            (r#"{"id":true}"#, "Missing 'jsonrpc' field", "true"),
            (r#"{"jsonrpc":"1.0","id":[1]}"#, "Expected 'jsonrpc' to be '2.0', but got '1.0'", "[1]"),
            (
                r#"{"jsonrpc":2.0,"id":1}"#,
                "Expected 'jsonrpc' to be a String with value '2.0', but got a Number '2.0'",
                "1",
            ),
            (r#"{"jsonrpc":null,"id":1}"#, "Expected 'jsonrpc' to be a String with value '2.0', but got 'null'", "1"),
            (r#"{"jsonrpc":[2]}"#, "Expected 'jsonrpc' to be a String with value '2.0', but got '[2]'", "null"),
            (r#"{"jsonrpc":"2.0","id":"a"}"#, "Missing 'method' field", "\"a\""),
            (r#"{"jsonrpc":"2.0","method":1,"id":-1}"#, "Expected 'method' to be a String", "-1"),
            (
                r#"{"jsonrpc":"2.0","method":"m","params":1,"id":1.0}"#,
                "If present, 'params' must be an Array or Object, but was a Number",
                "1.0",
            ),
            (
                r#"{"jsonrpc":"2.0","method":"m","params":"s","id":1}"#,
                "If present, 'params' must be an Array or Object, but was a String",
                "1",
            ),
            (
                r#"{"jsonrpc":"2.0","method":"m","params":true,"id":1}"#,
                "If present, 'params' must be an Array or Object, but was 'true'",
                "1",
            ),
            (
                r#"{"jsonrpc":"2.0","method":"m","id":1.0}"#,
                "'id' must not contain fractional parts if it is a number",
                "null",
            ),
            (r#"{"jsonrpc":"2.0","method":"m","id":{}}"#, "'id' should be a string or integer", "null"),
        ] {
            assert_eq!(answer(body), invalid(data, id), "{body}");
        }
    }

    #[test]
    fn a_call_may_have_any_id_and_the_last_of_repeated_members_counts() {
        for id in ["null", "\"\"", "-5", "18446744073709551615"] {
            let call = call(&format!(r#"{{"jsonrpc":"2.0","method":"a","method":"b","x":1,"id":{id}}}"#));
            assert_eq!((call.id.to_string().as_str(), call.method.as_str(), call.params), (id, "b", None));
        }
        let call = call(r#"{"jsonrpc":"2.0","method":"m","id":1,"params":null}"#);
        assert_eq!(call.params, Some(Value::Null));
    }

    #[test]
    fn a_call_without_an_id_is_a_notification() {
        let body = parse(br#"{"jsonrpc":"2.0","method":"m"}"#, 3);
        assert!(matches!(body, Body::One(Entry::Notification)), "{body:?}");
    }

    #[test]
    fn a_batch_is_taken_apart_within_its_limit() {
        let Body::Batch(entries) =
            parse(br#" [{"jsonrpc":"2.0","method":"m","id":1},{"jsonrpc":"2.0","method":"n"},7]"#, 3)
        else {
            panic!()
        };
        assert!(matches!(entries.as_slice(), [Entry::Call(_), Entry::Notification, Entry::Malformed { .. }]));
        let invalid = |data| refused(-32600, "Invalid Request", data, "null");
        assert_eq!(answer("[]"), invalid("a batch must have at least one request"));
        assert_eq!(answer("[1,2,3,4]"), invalid("a batch may have at most 3 requests, but has 4"));
    }

    #[test]
    fn an_answer_has_its_members_in_order() {
        let mut body = Pieces::default();
        write_answer(&Value::from("x"), Ok(Bytes::from_static(br#"{"a":1}"#)), &mut body);
        let body = body.iter().flatten().copied().collect();
        assert_eq!(String::from_utf8(body).unwrap(), r#"{"jsonrpc":"2.0","id":"x","result":{"a":1}}"#);
    }
}
