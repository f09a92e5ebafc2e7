//! Parameters of calls, by name or by position.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::failure::{Code, Failure};

/// For a method without parameters.
pub(super) fn none(params: Option<Value>) -> Result<(), Failure> {
    if is_empty(params.as_ref()) {
        return Ok(());
    }
    let text = "'params' field should be an empty Array '[]', an empty Object '{}' or absent";
    Err(Failure::new(Code::InvalidParams, text))
}

/// For a method whose parameters may be left out, all of them together.
pub(super) fn optional<T: DeserializeOwned>(params: Option<Value>) -> Result<Option<T>, Failure> {
    match params {
        Some(params) if !is_empty(Some(&params)) => read(params).map(Some),
        _ => Ok(None),
    }
}

/// For a method that needs parameters.
pub(super) fn required<T: DeserializeOwned>(params: Option<Value>) -> Result<T, Failure> {
    match params {
        Some(Value::Null) => read(Value::Array(Vec::new())),
        Some(params) => read(params),
        None => Err(Failure::new(Code::InvalidParams, "Missing 'params' field")),
    }
}

fn is_empty(params: Option<&Value>) -> bool {
    match params {
        None | Some(Value::Null) => true,
        Some(Value::Array(values)) => values.is_empty(),
        Some(Value::Object(members)) => members.is_empty(),
        Some(_) => false,
    }
}

fn read<T: DeserializeOwned>(params: Value) -> Result<T, Failure> {
    serde_json::from_value(params)
        .map_err(|error| Failure::new(Code::InvalidParams, format!("Failed to parse 'params' field: {error}")))
}
