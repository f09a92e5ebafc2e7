//! Request mapping: from a path's variables, a query and a body to the message that a method takes.
//!
//! Every text is read by the rules of proto3 JSON for its field's type, so that times, durations and wrappers have one form
//! everywhere. What the path says wins over the body.

use std::collections::HashSet;

use prost_reflect::{
    DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage, Value,
};
use serde_json::Value as Json;

use super::rules::{Binding, BodyRule, Found};

/// Messages within each other that a name may lead through: as many as readers of protobuf take.
const NESTING_MAX: usize = 100;

/// Why a request is not a message. Answered with code 3, INVALID_ARGUMENT.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BindingError {
    /// A value is not one of the field's type.
    #[error("the value of `{field}` is not valid: {reason}")]
    Value {
        /// As the request has it.
        field: String,
        /// What is wrong.
        reason: String,
    },
    /// A field that holds one value was given several.
    #[error("`{0}` is given more than once; it takes one value")]
    Repeated(String),
    /// A field's path leads through something that is not a message.
    #[error("`{0}` leads through a field that is not a single message")]
    NotAMessage(String),
    /// A field's path leads through too many messages.
    #[error("a name leads through more than {NESTING_MAX} messages within each other")]
    TooDeep,
    /// Two members of a oneof were given.
    #[error("`{0}` excludes another parameter: only one of them can be set")]
    Excluded(String),
    /// The body is not JSON, or not the message.
    #[error("the body is not valid: {0}")]
    Body(String),
}

/// The message for `found`, of what the request says.
///
/// # Errors
/// [`BindingError`].
pub(super) fn request_message(
    found: &Found,
    query: Option<&str>,
    body: &[u8],
    ignores_unknown: bool,
) -> Result<DynamicMessage, BindingError> {
    let Found { binding, values, is_form } = found;
    let input = binding.rpc.method.input();
    let options = DeserializeOptions::new().deny_unknown_fields(!ignores_unknown);
    let mut message = match &binding.body {
        _ if *is_form || body.is_empty() => DynamicMessage::new(input),
        BodyRule::None => DynamicMessage::new(input),
        BodyRule::Whole => message_of(&input, body, &options)?,
        BodyRule::Field(field) => {
            let value: Json = serde_json::from_slice(body).map_err(|error| BindingError::Body(error.to_string()))?;
            let whole = Json::from_iter([(field.json_name(), value)]);
            let read = DynamicMessage::deserialize_with_options(input, whole, &options);
            read.map_err(|error| BindingError::Body(error.to_string()))?
        }
    };
    let mut parameters = Parameters { message: &mut message, seen: HashSet::new() };
    let bound = BoundFields::of(binding, *is_form);
    let query = query.filter(|_| binding.body != BodyRule::Whole).unwrap_or_default();
    let form = if *is_form { body } else { &[] };
    for (name, value) in [query.as_bytes(), form].into_iter().flat_map(form_urlencoded::parse) {
        parameters.set(&name, &value, Some(&bound))?;
    }
    for (variable, value) in binding.template.variables().iter().zip(values) {
        let name = variable.field.join(".");
        parameters.seen.remove(&name);
        parameters.set(&name, value, None)?;
    }
    Ok(message)
}

fn message_of(
    input: &MessageDescriptor,
    body: &[u8],
    options: &DeserializeOptions,
) -> Result<DynamicMessage, BindingError> {
    let wrong = |error: serde_json::Error| BindingError::Body(error.to_string());
    let mut json = serde_json::Deserializer::from_slice(body);
    let message = DynamicMessage::deserialize_with_options(input.clone(), &mut json, options).map_err(wrong)?;
    json.end().map_err(wrong)?;
    Ok(message)
}

/// The fields that path and body say: the query cannot.
struct BoundFields(Vec<Vec<String>>);

impl BoundFields {
    fn of(binding: &Binding, is_form: bool) -> Self {
        let mut fields: Vec<_> = binding.template.variables().iter().map(|variable| variable.field.clone()).collect();
        if let BodyRule::Field(field) = &binding.body
            && !is_form
        {
            fields.push(vec![field.name().to_owned()]);
        }
        BoundFields(fields)
    }

    fn has(&self, path: &[FieldDescriptor]) -> bool {
        self.0.iter().any(|bound| bound.len() <= path.len() && bound.iter().zip(path).all(|(a, b)| a == b.name()))
    }
}

/// A message while parameters are put into it.
struct Parameters<'a> {
    message: &'a mut DynamicMessage,
    /// The single fields that were given.
    seen: HashSet<String>,
}

impl Parameters<'_> {
    /// Puts one parameter in. A name that is unknown is passed over, and so is one that `bound` has.
    fn set(&mut self, name: &str, text: &str, bound: Option<&BoundFields>) -> Result<(), BindingError> {
        let (path, key) = match name.strip_suffix(']').and_then(|name| name.split_once('[')) {
            Some((path, key)) => (path, Some(key)),
            None => (name, None),
        };
        let Some(fields) = resolve(&self.message.descriptor(), path)? else { return Ok(()) };
        let Some((field, parents)) = fields.split_last() else { return Ok(()) };
        if bound.is_some_and(|bound| bound.has(&fields)) {
            return Ok(());
        }
        let full_name = fields.iter().map(FieldDescriptor::name).collect::<Vec<_>>().join(".");
        let is_single = !field.is_list() && !field.is_map();
        if is_single && !self.seen.insert(full_name) {
            return Err(BindingError::Repeated(name.to_owned()));
        }
        let mut message = &mut *self.message;
        for parent in parents {
            exclude_others(message, parent, name)?;
            let inner = message.get_field_mut(parent).as_message_mut();
            message = inner.ok_or_else(|| BindingError::NotAMessage(name.to_owned()))?;
        }
        exclude_others(message, field, name)?;
        let invalid = |reason: String| BindingError::Value { field: name.to_owned(), reason };
        let mut read = value(field, key, text).map_err(invalid)?;
        match (message.get_field_mut(field), &mut read) {
            (Value::List(values), Value::List(more)) => values.append(more),
            (Value::Map(entries), Value::Map(more)) => {
                let same = |key: &MapKey| entries.contains_key(key);
                if more.keys().any(same) {
                    return Err(BindingError::Repeated(name.to_owned()));
                }
                entries.extend(more.drain());
            }
            (place, _) => *place = read,
        }
        Ok(())
    }
}

/// The fields on a path of proto names or JSON names; `None` where one is unknown.
fn resolve(message: &MessageDescriptor, path: &str) -> Result<Option<Vec<FieldDescriptor>>, BindingError> {
    let mut fields: Vec<FieldDescriptor> = Vec::new();
    let mut message = message.clone();
    for name in path.split('.') {
        if fields.len() > NESTING_MAX {
            return Err(BindingError::TooDeep);
        }
        if let Some(parent) = fields.last() {
            match parent.kind() {
                Kind::Message(inner) if !parent.is_list() && !parent.is_map() => message = inner,
                _ => return Err(BindingError::NotAMessage(path.to_owned())),
            }
        }
        let field = message.get_field_by_name(name).or_else(|| message.get_field_by_json_name(name));
        let Some(field) = field else { return Ok(None) };
        fields.push(field);
    }
    Ok(Some(fields))
}

fn exclude_others(message: &DynamicMessage, field: &FieldDescriptor, name: &str) -> Result<(), BindingError> {
    let Some(oneof) = field.containing_oneof() else { return Ok(()) };
    let is_other_set = oneof.fields().any(|other| other != *field && message.has_field(&other));
    if is_other_set { Err(BindingError::Excluded(name.to_owned())) } else { Ok(()) }
}

/// What a text means for a field, as a list or a map where the field is one.
fn value(field: &FieldDescriptor, key: Option<&str>, text: &str) -> Result<Value, String> {
    let kind = match field.kind() {
        Kind::Message(entry) if field.is_map() => entry.map_entry_value_field().kind(),
        kind => kind,
    };
    let json = json(&kind, text)?;
    let json = match (key, field.is_map(), field.is_list()) {
        (Some(key), true, _) => Json::from_iter([(key, json)]),
        (None, true, _) => return Err("a map takes `name[key]=value`".to_owned()),
        (Some(_), false, _) => return Err("it is not a map".to_owned()),
        (None, false, true) => Json::Array(vec![json]),
        (None, false, false) => json,
    };
    let whole = Json::from_iter([(field.json_name(), json)]);
    let read = DynamicMessage::deserialize(field.parent_message().clone(), whole);
    let mut message = read.map_err(|error| error.to_string())?;
    message.take_field(field).ok_or_else(|| "it is empty".to_owned()).or_else(|empty| {
        // A field without presence that holds its default counts as not there.
        if field.supports_presence() { Err(empty) } else { Ok(Value::default_value_for_field(field)) }
    })
}

/// A text in the JSON form of a type.
fn json(kind: &Kind, text: &str) -> Result<Json, String> {
    let is_bool = match kind {
        Kind::Bool => true,
        Kind::Message(message) => message.full_name() == "google.protobuf.BoolValue",
        _ => false,
    };
    if is_bool {
        return text.parse().map(Json::Bool).map_err(|_| format!("expected true or false, not `{text}`"));
    }
    match (kind, text.parse::<i32>()) {
        (Kind::Enum(_), Ok(number)) => Ok(Json::from(number)),
        _ => Ok(Json::String(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Method;

    use super::super::fuzzing::ROUTES;
    use super::*;

    fn bound(method: Method, target: &str, body: &str) -> Result<Json, BindingError> {
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let found = ROUTES.find(&method, path, method == Method::POST).unwrap();
        let message = request_message(&found, query, body.as_bytes(), true)?;
        Ok(serde_json::to_value(message).unwrap())
    }

    fn got(query: &str) -> Result<Json, BindingError> {
        bound(Method::GET, &format!("/get/x?{query}"), "").map(|mut json| {
            json.as_object_mut().unwrap().remove("name");
            json
        })
    }

    #[test]
    fn every_type_of_field_is_read_from_a_query_in_its_json_form() {
        for (query, json) in [
            ("pageSize=9007199254740993", r#"{"pageSize":"9007199254740993"}"#),
            ("page_size=-1", r#"{"pageSize":"-1"}"#),
            ("inner.text=a%20b&inner.number=7", r#"{"inner":{"text":"a b","number":7}}"#),
            ("tags=a&tags=b,c", r#"{"tags":["a","b,c"]}"#),
            ("counts[a]=1&counts%5Bb%5D=2", r#"{"counts":{"a":1,"b":2}}"#),
            ("colour=RED&colours=1&colours=NONE", r#"{"colour":"RED","colours":["RED","NONE"]}"#),
            ("colour=1", r#"{"colour":"RED"}"#),
            ("data=-_8", r#"{"data":"+/8="}"#),
            ("data=%2B/8=", r#"{"data":"+/8="}"#),
            ("flag=true&ratio=0.5", r#"{"flag":true,"ratio":0.5}"#),
            ("flag=false", "{}"),
            ("ratio=NaN", r#"{"ratio":"NaN"}"#),
            ("at=2026-01-02T03:04:05Z&wait=1.5s", r#"{"at":"2026-01-02T03:04:05Z","wait":"1.500s"}"#),
            ("limit=5&sure=false&mask=a,bC", r#"{"limit":"5","sure":false,"mask":"a,bC"}"#),
            ("left=a", r#"{"left":"a"}"#),
            ("maybe=0", r#"{"maybe":0}"#),
            ("absent=1&inner.absent=2&name=other", "{}"),
        ] {
            assert_eq!(got(query).unwrap(), serde_json::from_str::<Json>(json).unwrap(), "{query}");
        }
    }

    #[test]
    fn a_name_leads_through_only_so_many_messages() {
        let deep = |times: usize| got(&format!("inner.{}number=1", "deeper.".repeat(times)));
        assert!(deep(NESTING_MAX - 1).is_ok());
        assert_eq!(deep(NESTING_MAX), Err(BindingError::TooDeep));
        assert_eq!(deep(1_000_000), Err(BindingError::TooDeep), "whatever its length");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for query in [
            "page_size=x",
            "page_size=1&page_size=2",
            "pageSize=1&page_size=1",
            "name.x=1",
            "tags.x=1",
            "inners.text=1",
            "inner=x",
            "counts=1",
            "counts[a]=x",
            "counts[a]=1&counts[a]=2",
            "tags[a]=1",
            "colour=BLUE",
            "flag=yes",
            "at=yesterday",
            "left=a&right=b",
            "data=%25",
            "inner.number=99999999999",
        ] {
            assert!(got(query).is_err(), "{query}: {:?}", got(query));
        }
    }

    #[test]
    fn a_body_is_the_message_or_one_field_of_it_and_the_path_wins() {
        let json = |text: &str| serde_json::from_str::<Json>(text).unwrap();
        let all = bound(Method::POST, "/all/x?flag=true", r#"{"name":"y","tags":["a"],"absent":1}"#).unwrap();
        assert_eq!(all, json(r#"{"name":"x","tags":["a"]}"#));
        assert_eq!(bound(Method::POST, "/all/x", "").unwrap(), json(r#"{"name":"x"}"#));
        let part = bound(Method::POST, "/part?flag=true&inner.number=9", r#"{"text":"t"}"#).unwrap();
        assert_eq!(part, json(r#"{"inner":{"text":"t"},"flag":true}"#));
        let form = bound(Method::POST, "/get/x?flag=true", "tags=a&tags=b").unwrap();
        assert_eq!(form, json(r#"{"name":"x","flag":true,"tags":["a","b"]}"#));
        let form = bound(Method::POST, "/part?flag=true", "inner.text=t").unwrap_err();
        assert!(matches!(form, BindingError::Body(_)), "only what is declared to be a form is one");
        for body in ["{", "[]", "{} {}", r#"{"tags":1}"#, "null x"] {
            let error = bound(Method::POST, "/all/x", body).unwrap_err();
            assert!(matches!(error, BindingError::Body(_)), "{body}: {error}");
        }
        let deep = "[".repeat(100_000);
        assert!(bound(Method::POST, "/part", &deep).is_err());
    }
}
