//! The OpenAPI document: what the table of endpoints says, and the schemas of their answers.
//!
//! It corrects the reference's: every endpoint is there with its parameters, hashes are hexadecimal, numbers have 64 bits,
//! errors are described, and two paths that differ only in a parameter's name are one. What a node puts inside a block or
//! a transaction is left open, because that is the node's to change; the reference's own schemas do not fit what 2.x nodes
//! send. The examples are answers from the recorded network, so that they work unchanged in `sidecar demo`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use bytes::Bytes;
use serde_json::Value;
use utoipa::openapi::path::{OperationBuilder, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ArrayBuilder, Components, ComponentsBuilder, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::{
    ContentBuilder, HttpMethod, InfoBuilder, KnownFormat, LicenseBuilder, OpenApiBuilder, PathItem, PathsBuilder, Ref,
    RefOr, Required, Response, ResponseBuilder, SchemaFormat,
};

use super::endpoints::{Answer, Described, ENDPOINTS, Form, FoundIn, HASH, Operation};
use super::question::{PAGE_EVENTS, PAGE_EVENTS_MAX};
use crate::casper::event::KINDS;

/// Where the document is served.
pub const PATH: &str = "/api-doc.json";

/// Answers from the recorded network, by the request's target.
const EXAMPLES: &str = include_str!("../../../resources/openapi/examples.json");

/// The document as it is served.
#[must_use]
pub fn json() -> &'static Bytes {
    static JSON: LazyLock<Bytes> = LazyLock::new(|| {
        let examples: BTreeMap<String, Value> = serde_json::from_str(EXAMPLES).unwrap_or_default();
        let info = InfoBuilder::new()
            .title("casper-event-sidecar")
            .version(env!("CARGO_PKG_VERSION"))
            .description(Some("Stores the events of Casper nodes and answers for them."))
            .license(Some(LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build()));
        let operations = ENDPOINTS.iter().filter_map(|endpoint| Some((endpoint.path, endpoint.operation.as_ref()?)));
        let paths = operations
            .fold(PathsBuilder::new(), |paths, (path, operation)| paths.path(path, operation.path_item(&examples)));
        let document = OpenApiBuilder::new().info(info).paths(paths).components(Some(components())).build();
        // Strings, numbers and maps with string keys are always JSON.
        Bytes::from(document.to_json().unwrap_or_default())
    });
    &JSON
}

impl Operation {
    fn path_item(&self, examples: &BTreeMap<String, Value>) -> PathItem {
        let schema: RefOr<Schema> = match self.answer {
            Answer::One(name) | Answer::Page(name) => Ref::from_schema_name(name).into(),
            Answer::List(name) => ArrayBuilder::new().items(Ref::from_schema_name(name)).into(),
        };
        let content = ContentBuilder::new().schema(Some(schema)).example(examples.get(self.example).cloned());
        let success = ResponseBuilder::new().description("Found.").content("application/json", content.build());
        let (summary, description) = self.text.split_once(". ").unzip();
        let operation = OperationBuilder::new()
            .operation_id(Some(self.id))
            .summary(Some(summary.unwrap_or(self.text).trim_end_matches('.')))
            .description(description)
            .tag("event-sidecar")
            .parameters(Some(self.parameters.iter().map(Described::parameter)))
            .response("200", success);
        let operation = match self.found_in {
            FoundIn::LogOnly => {
                operation.response("501", error("This server answers from a database, which does not hold this."))
            }
            FoundIn::LogOrDatabase | FoundIn::NamedLog | FoundIn::Nothing => operation,
        };
        let lost = |operation: OperationBuilder| match self.answer {
            Answer::Page(_) => operation,
            _ => operation.response("410", error("The event was stored, and the log has lost it.")),
        };
        let operation = match self.found_in {
            FoundIn::Nothing => operation,
            _ => lost(operation)
                .response("304", ResponseBuilder::new().description("Not changed since `If-None-Match`."))
                .response("400", error("The path or a parameter is not valid."))
                .response("404", error("Nothing is found."))
                .response("500", error("The storage cannot be read."))
                .response("503", error("The look-up is not possible yet; ask again.")),
        };
        PathItem::new(HttpMethod::Get, operation)
    }
}

impl Described {
    fn parameter(&self) -> Parameter {
        let Described(name, description, form, example) = *self;
        // What 64 bits hold.
        let number = || integer().minimum(Some(0)).maximum(Some(usize::MAX));
        let parameter = ParameterBuilder::new().name(name).description(Some(description));
        let text_example = Value::from(example);
        let number_example = example.parse::<u64>().map_or(Value::Null, Value::from);
        let (place, required) = match form {
            Form::Text(_) | Form::Number => (ParameterIn::Path, Required::True),
            _ => (ParameterIn::Query, Required::False),
        };
        let (schema, example) = match form {
            Form::Text(pattern) => (text().pattern(Some(pattern)).into(), text_example),
            Form::Number | Form::OptionalNumber => (Schema::from(number()), number_example),
            Form::Limit => {
                let limit = integer().minimum(Some(1)).maximum(Some(PAGE_EVENTS_MAX as f64));
                (limit.default(Some(Value::from(PAGE_EVENTS))).into(), number_example)
            }
            Form::Newest => {
                let newest = integer().minimum(Some(1)).maximum(Some(PAGE_EVENTS_MAX as f64));
                (newest.into(), number_example)
            }
            Form::Time => (text().format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime))).into(), text_example),
            Form::AnyTypes => (text().pattern(Some("^[^,]+(,[^,]+)*$")).into(), text_example),
            Form::Types => {
                let names = KINDS.map(|(_, name)| name).join("|");
                (text().pattern(Some(format!("^({names})(,({names}))*$"))).into(), text_example)
            }
        };
        parameter.parameter_in(place).required(required).schema(Some(schema)).example(Some(example)).build()
    }
}

fn error(description: &str) -> Response {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Error")));
    ResponseBuilder::new().description(description).content("application/json", content.build()).build()
}

fn components() -> Components {
    let hash = || text().pattern(Some(HASH));
    let named = |name: &str| RefOr::<Schema>::Ref(Ref::from_schema_name(name));
    let list_of = |name: &str| ArrayBuilder::new().items(Ref::from_schema_name(name));
    let envelope_header = record([
        ("api_version", text().description(Some("The API version that the node had announced.")).into()),
        ("network_name", text().description(Some("The node's network.")).into()),
    ]);
    let enveloped = |payload: ObjectBuilder| record([("header", named("EnvelopeHeader")), ("payload", payload.into())]);
    let processed = record([
        ("transaction_hash", open().into()),
        ("execution_result", open().into()),
        ("block_hash", hash().into()),
    ]);
    let missing = |description: &str| {
        let range = record([("from", integer().into()), ("to", integer().into()), ("why", text().into())]);
        RefOr::<Schema>::from(ArrayBuilder::new().items(range).description(Some(description)))
    };
    let source = record([("source", text().into()), ("status", text().into()), ("reconnects", integer().into())]);
    let database = || record([("status", text().enum_values(Some(["connected", "unreachable"])).into())]);
    let log = record([
        ("oldest", integer().description(Some("The oldest retained sequence.")).into()),
        ("next", integer().description(Some("The sequence that the next event will get.")).into()),
        ("api_version", text().into()),
        ("epoch", integer().into()),
        ("lost", lost().into()),
    ]);
    ComponentsBuilder::new()
        .schema("EnvelopeHeader", envelope_header)
        .schema("BlockAddedEnveloped", enveloped(record([("block_hash", hash().into()), ("block", open().into())])))
        .schema("TransactionAcceptedEnveloped", enveloped(record([("transaction", open().into())])))
        .schema("TransactionProcessedEnveloped", enveloped(processed))
        .schema("TransactionExpiredEnveloped", enveloped(record([("transaction_hash", open().into())])))
        .schema(
            "FaultEnveloped",
            enveloped(record([
                ("era_id", integer().into()),
                ("public_key", text().into()),
                ("timestamp", text().into()),
            ])),
        )
        .schema("FinalitySignatureEnveloped", enveloped(open()))
        .schema(
            "StepEnveloped",
            enveloped(record([
                ("era_id", integer().into()),
                ("execution_effect", ObjectBuilder::new().schema_type(SchemaType::AnyValue).into()),
            ])),
        )
        .schema(
            "TransactionAggregate",
            record([
                ("transaction_hash", hash().into()),
                ("transaction_accepted", named("TransactionAcceptedEnveloped")),
                (
                    "transaction_processed",
                    utoipa::openapi::schema::OneOfBuilder::new()
                        .item(Ref::from_schema_name("TransactionProcessedEnveloped"))
                        .item(ObjectBuilder::new().schema_type(Type::Null))
                        .into(),
                ),
                ("transaction_expired", ObjectBuilder::new().schema_type(Type::Boolean).into()),
            ]),
        )
        .schema(
            "StoredEvent",
            record([
                ("sequence", integer().into()),
                ("kind", text().description(Some("What the event is called in its log.")).into()),
                ("source", text().description(Some("The node that said it, as HOST:SSE_PORT.")).into()),
                (
                    "received_at",
                    text()
                        .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
                        .description(Some("When the sidecar received it, in UTC, with microseconds."))
                        .into(),
                ),
                ("header", named("EnvelopeHeader")),
                (
                    "payload",
                    ObjectBuilder::new()
                        .schema_type(SchemaType::AnyValue)
                        .description(Some("Byte for byte what the event stream has as data."))
                        .into(),
                ),
            ]),
        )
        .schema(
            "EventsPage",
            record([
                ("events", list_of("StoredEvent").into()),
                ("missing", missing("Sequences in the page's range that hold no event any more.")),
                ("next", integer_or_null("The `from` of the next page; with `newest`, its `before`.")),
                ("head", integer().description(Some("The sequence that the next event will get.")).into()),
            ]),
        )
        .schema("Log", of_any_log())
        .schema("Logs", record([("logs", list_of("Log").into())]))
        .schema(
            "BlocksPage",
            record([
                ("blocks", list_of("BlockAddedEnveloped").into()),
                ("missing", missing("Sequences of blocks of the page that were stored and are lost.")),
                ("next", integer_or_null("The `from_height` of the next page; with `newest`, its `before_height`.")),
            ]),
        )
        .schema(
            "TransactionsPage",
            record([
                ("transactions", list_of("StoredEvent").into()),
                ("missing", missing("Sequences of events of the page that were stored and are lost.")),
                ("next", integer_or_null("The `before` of the next page.")),
            ]),
        )
        .schema(
            "Status",
            // Of a server that answers from the log, or of one that answers from a database.
            record([("version", text().into())])
                .property("log", log)
                .property("views", record([("lag", integer().into())]))
                .property("sources", ArrayBuilder::new().items(source))
                .property("postgresql", database())
                .property("sqlite", database()),
        )
        .schema("Error", record([("code", integer().into()), ("message", text().into())]))
        .build()
}

/// The ends of a log of any dialect.
fn of_any_log() -> ObjectBuilder {
    record([
        ("name", text().into()),
        ("dialect", text().into()),
        ("id", text().description(Some("As the header sidecar-log of its event stream has it.")).into()),
        ("epoch", integer().into()),
        ("oldest", integer().description(Some("The oldest retained sequence.")).into()),
        ("next", integer().description(Some("The sequence that the next event will get.")).into()),
        ("lost", lost().into()),
        ("kinds", ArrayBuilder::new().items(text()).description(Some("What `types` may name.")).into()),
        ("has_heights", boolean().description(Some("Whether `from_height` finds blocks.")).into()),
    ])
}

/// What a log has lost.
fn lost() -> ObjectBuilder {
    let kind = text().enum_values(Some(["missing", "damaged", "marked"]));
    let lost_range = record([
        ("first_sequence", integer().into()),
        ("last_sequence", integer().into()),
        ("kind", kind.into()),
        ("reason", text().into()),
    ]);
    record([
        ("missing", integer().description(Some("Events that no segment holds.")).into()),
        ("damaged", integer().description(Some("Events in a damaged place, known so far.")).into()),
        ("marked", integer().description(Some("Events that a mark in the log names as lost.")).into()),
        ("ranges", ArrayBuilder::new().items(lost_range).into()),
    ])
}

/// An object with these members, which are always there; there may be others.
fn record<const N: usize>(members: [(&str, RefOr<Schema>); N]) -> ObjectBuilder {
    members.into_iter().fold(open(), |object, (name, schema)| object.property(name, schema).required(name))
}

/// An object of any members.
fn open() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Object)
}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn integer() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Integer)
}

fn boolean() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Boolean)
}

fn integer_or_null(description: &str) -> RefOr<Schema> {
    let schema_type = SchemaType::from_iter([Type::Integer, Type::Null]);
    ObjectBuilder::new().schema_type(schema_type).description(Some(description)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_an_example() {
        let examples: BTreeMap<String, Value> = serde_json::from_str(EXAMPLES).unwrap();
        for Operation { example, .. } in ENDPOINTS.iter().filter_map(|endpoint| endpoint.operation.as_ref()) {
            assert!(examples.contains_key(*example), "{example} has no example");
        }
    }
}
