//! The OpenAPI document of what is served, made of the upstreams' descriptors.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value as Json, json};

use super::rules::{AnswerKind, Binding, BodyRule, Routes};

/// How deep fields of fields are listed as query parameters.
const PARAMETER_DEPTH_MAX: usize = 4;
/// The most query parameters of an operation.
const PARAMETERS_MAX: usize = 500;

/// The document, as JSON.
pub(super) fn document(routes: &Routes, use_proto_names: bool, wraps_results: bool) -> Bytes {
    let mut schemas = Schemas { use_proto_names, known: BTreeMap::new() };
    let mut paths: BTreeMap<String, Map<String, Json>> = BTreeMap::new();
    let mut bindings_of: BTreeMap<&str, usize> = BTreeMap::new();
    for binding in routes.bindings() {
        let number = bindings_of.entry(binding.rpc.method.full_name()).or_default();
        *number += 1;
        let operation = operation(binding, *number, wraps_results, &mut schemas);
        let operations = paths.entry(binding.template.to_string()).or_default();
        operations.insert(binding.method.as_str().to_ascii_lowercase(), operation);
    }
    let error = json!({
        "type": "object",
        "properties": {
            "code": { "type": "integer", "format": "int32" },
            "message": { "type": "string" },
            "details": { "type": "array", "items": { "type": "object" } },
        },
    });
    let mut components: Map<String, Json> =
        schemas.known.into_iter().map(|(name, schema)| (name, schema.unwrap_or_default())).collect();
    components.insert("Error".to_owned(), error);
    let document = json!({
        "openapi": "3.1.0",
        "info": { "title": "Sidecar's gRPC gateway", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
        "components": { "schemas": components },
    });
    document.to_string().into()
}

/// Of a method's binding with this number, counted from 1.
fn operation(binding: &Binding, number: usize, wraps_results: bool, schemas: &mut Schemas) -> Json {
    let method = &binding.rpc.method;
    // An id is one operation's.
    let suffix = if number > 1 { number.to_string() } else { String::new() };
    let mut parameters = Vec::new();
    for variable in binding.template.variables() {
        let name = variable.field.join(".");
        parameters.push(json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }));
    }
    if binding.body != BodyRule::Whole {
        query_parameters(binding, &method.input(), "", 0, schemas, &mut parameters);
    }
    let answer = match (&binding.response_body, binding.rpc.answer) {
        (Some(field), _) => schemas.field(field),
        (None, AnswerKind::Raw) => json!({ "type": "string", "format": "binary" }),
        (None, _) => schemas.message(&method.output()),
    };
    let content = if method.is_server_streaming() {
        let line = match wraps_results {
            true => json!({ "type": "object", "properties": { "result": answer } }),
            false => answer.clone(),
        };
        json!({ "text/event-stream": { "schema": answer }, "application/json": { "schema": line } })
    } else {
        json!({ "application/json": { "schema": answer } })
    };
    let error = json!({ "$ref": "#/components/schemas/Error" });
    let error = json!({ "description": "An error.", "content": { "application/json": { "schema": error } } });
    let mut operation = json!({
        "operationId": format!("{}.{}{suffix}", method.parent_service().full_name(), method.name()),
        "tags": [method.parent_service().full_name()],
        "parameters": parameters,
        "responses": { "200": { "description": "The answer.", "content": content }, "default": error },
    });
    let body = match &binding.body {
        BodyRule::None => None,
        BodyRule::Whole => Some(schemas.message(&method.input())),
        BodyRule::Field(field) => Some(schemas.field(field)),
    };
    if let (Some(body), Some(operation)) = (body, operation.as_object_mut()) {
        let body = json!({ "content": { "application/json": { "schema": body } } });
        operation.insert("requestBody".to_owned(), body);
    }
    operation
}

/// The fields that a query may have: those that neither the path nor the body says.
fn query_parameters(
    binding: &Binding,
    message: &MessageDescriptor,
    prefix: &str,
    depth: usize,
    schemas: &mut Schemas,
    parameters: &mut Vec<Json>,
) {
    for field in message.fields() {
        let is_body = depth == 0 && matches!(&binding.body, BodyRule::Field(body) if *body == field);
        let path = format!("{prefix}{}", field.name());
        let is_in_path = binding.template.variables().iter().any(|variable| variable.field.join(".") == path);
        if is_body || is_in_path || field.is_map() || parameters.len() >= PARAMETERS_MAX {
            continue;
        }
        match field.kind() {
            Kind::Message(inner) if known_type(&inner).is_none() => {
                if !field.is_list() && depth < PARAMETER_DEPTH_MAX {
                    query_parameters(binding, &inner, &format!("{path}."), depth + 1, schemas, parameters);
                }
            }
            _ => {
                let schema = schemas.field(&field);
                parameters.push(json!({ "name": path, "in": "query", "required": false, "schema": schema }));
            }
        }
    }
}

/// The schemas of all messages and enumerations that were named; `None` while one is being made.
struct Schemas {
    use_proto_names: bool,
    known: BTreeMap<String, Option<Json>>,
}

impl Schemas {
    fn message(&mut self, message: &MessageDescriptor) -> Json {
        if let Some(schema) = known_type(message) {
            return schema;
        }
        let name = message.full_name().to_owned();
        if !self.known.contains_key(&name) {
            self.known.insert(name.clone(), None);
            let mut properties = Map::new();
            for field in message.fields() {
                let key = if self.use_proto_names { field.name() } else { field.json_name() }.to_owned();
                properties.insert(key, self.field(&field));
            }
            self.known.insert(name.clone(), Some(json!({ "type": "object", "properties": properties })));
        }
        json!({ "$ref": format!("#/components/schemas/{name}") })
    }

    fn field(&mut self, field: &FieldDescriptor) -> Json {
        match field.kind() {
            Kind::Message(entry) if field.is_map() => {
                let values = self.kind(&entry.map_entry_value_field().kind());
                json!({ "type": "object", "additionalProperties": values })
            }
            kind if field.is_list() => json!({ "type": "array", "items": self.kind(&kind) }),
            kind => self.kind(&kind),
        }
    }

    fn kind(&mut self, kind: &Kind) -> Json {
        match kind {
            Kind::Double => json!({ "type": "number", "format": "double" }),
            Kind::Float => json!({ "type": "number", "format": "float" }),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!({ "type": "integer", "format": "int32" }),
            Kind::Uint32 | Kind::Fixed32 => json!({ "type": "integer", "format": "int64" }),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => json!({ "type": "string", "format": "int64" }),
            Kind::Uint64 | Kind::Fixed64 => json!({ "type": "string", "format": "uint64" }),
            Kind::Bool => json!({ "type": "boolean" }),
            Kind::String => json!({ "type": "string" }),
            Kind::Bytes => json!({ "type": "string", "format": "byte" }),
            Kind::Message(message) => self.message(message),
            Kind::Enum(values) => self.enumeration(values),
        }
    }

    fn enumeration(&mut self, values: &EnumDescriptor) -> Json {
        let name = values.full_name().to_owned();
        let names: Vec<String> = values.values().map(|value| value.name().to_owned()).collect();
        self.known.insert(name.clone(), Some(json!({ "type": "string", "enum": names })));
        json!({ "$ref": format!("#/components/schemas/{name}") })
    }
}

/// The schema of a type that has a JSON form of its own.
fn known_type(message: &MessageDescriptor) -> Option<Json> {
    let name = message.full_name().strip_prefix("google.protobuf.")?;
    Some(match name {
        "Timestamp" => json!({ "type": "string", "format": "date-time" }),
        "Duration" | "FieldMask" | "StringValue" => json!({ "type": "string" }),
        "Int64Value" | "UInt64Value" => json!({ "type": "string", "format": "int64" }),
        "Int32Value" | "UInt32Value" => json!({ "type": "integer" }),
        "DoubleValue" | "FloatValue" => json!({ "type": "number" }),
        "BoolValue" => json!({ "type": "boolean" }),
        "BytesValue" => json!({ "type": "string", "format": "byte" }),
        "Any" | "Struct" | "Empty" => json!({ "type": "object" }),
        "ListValue" => json!({ "type": "array", "items": {} }),
        "Value" => json!({}),
        "NullValue" => json!({ "type": "null" }),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::fuzzing::schema;
    use super::super::rules::bindings;
    use super::*;

    #[test]
    fn every_binding_is_an_operation_and_every_type_a_schema() {
        let schema = schema(
            r#"syntax = "proto3"; package test; import "google/api/annotations.proto";
               import "google/protobuf/timestamp.proto";
               enum Colour { NONE = 0; RED = 1; }
               message Tree { string name = 1; repeated Tree children = 2; int64 big = 3; Colour colour = 4;
                              google.protobuf.Timestamp at = 5; map<string, Tree> named = 6; Tree parent = 7; }
               service S {
                   rpc Watch(Tree) returns (stream Tree) { option (google.api.http) = {
                       get: "/watch/{name}" additional_bindings { get: "/watch" } }; }
                   rpc Put(Tree) returns (Tree) { option (google.api.http) = { put: "/tree" body: "*" }; }
               }"#,
        );
        let mut routes = Routes::default();
        routes.add(bindings(0, &schema, false).unwrap()).unwrap();
        let of = |wraps_results| serde_json::from_slice::<Json>(&document(&routes, false, wraps_results)).unwrap();
        let document = of(true);
        let watch = &document["paths"]["/watch/{name}"]["get"];
        assert_eq!(watch["operationId"], "test.S.Watch");
        assert_eq!(document["paths"]["/watch"]["get"]["operationId"], "test.S.Watch2");
        let line = |document: &Json| {
            let content = &document["paths"]["/watch"]["get"]["responses"]["200"]["content"];
            content["application/json"]["schema"].clone()
        };
        let tree = json!({ "$ref": "#/components/schemas/test.Tree" });
        assert_eq!((&line(&document)["properties"]["result"], &line(&of(false))), (&tree, &tree));
        let names: Vec<&str> =
            watch["parameters"].as_array().unwrap().iter().map(|known| known["name"].as_str().unwrap()).collect();
        assert!(names.starts_with(&["name", "big", "colour", "at", "parent.name"]), "{names:?}");
        assert!(watch["responses"]["200"]["content"]["text/event-stream"].is_object());
        let body = &document["paths"]["/tree"]["put"]["requestBody"]["content"]["application/json"]["schema"];
        assert_eq!(body["$ref"], "#/components/schemas/test.Tree");
        let tree = &document["components"]["schemas"]["test.Tree"]["properties"];
        assert_eq!(tree["at"]["format"], "date-time");
        assert_eq!(tree["big"]["type"], "string");
        assert_eq!(document["components"]["schemas"]["test.Colour"]["enum"][1], "RED");
    }
}
