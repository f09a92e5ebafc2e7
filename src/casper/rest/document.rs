//! The OpenAPI document: one table of endpoints, and the schemas of their answers.
//!
//! It corrects the reference's: every endpoint is there with its parameters, hashes are hexadecimal, numbers have 64 bits,
//! errors are described, and two paths that differ only in a parameter's name are one. What a node puts inside a block or
//! a transaction is left open, because that is the node's to change; the reference's own schemas do not fit what 2.x nodes
//! send. The examples are answers from the recorded network, so that they work as they stand in `sidecar demo`.

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

use super::question::{PAGE_EVENTS, PAGE_EVENTS_MAX};
use crate::casper::event::KINDS;

/// Where the document is served.
pub const PATH: &str = "/api-doc.json";

/// Answers from the recorded network, by the request's target.
const EXAMPLES: &str = include_str!("../../../resources/openapi/examples.json");

const HASH: &str = "^[0-9a-fA-F]{64}$";
const HASH_OR_NUMBER: &str = "^([0-9a-fA-F]{64}|[0-9]{1,19})$";
const KEY_OR_NUMBER: &str = "^(0[12]([0-9a-fA-F]{64}|[0-9a-fA-F]{66})|[0-9]{1,19})$";
const ACCOUNT: &str = "^(0[12]([0-9a-fA-F]{64}|[0-9a-fA-F]{66})|account-hash-[0-9a-fA-F]{64})$";
const TRANSACTION_TYPE: &str = "^([dD][eE][pP][lL][oO][yY]|[vV][eE][rR][sS][iI][oO][nN]1)$";

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
        let paths = ENDPOINTS
            .iter()
            .fold(PathsBuilder::new(), |paths, endpoint| paths.path(endpoint.path, endpoint.path_item(&examples)));
        let document = OpenApiBuilder::new().info(info).paths(paths).components(Some(components())).build();
        // Strings, numbers and maps with string keys are always JSON.
        Bytes::from(document.to_json().unwrap_or_default())
    });
    &JSON
}

/// One path.
struct Endpoint {
    path: &'static str,
    operation_id: &'static str,
    summary: &'static str,
    parameters: &'static [Described],
    answer: Answer,
    /// A request's target on the recorded network; its answer is the example.
    example: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// Of this schema.
    One(&'static str),
    /// A list of these.
    List(&'static str),
}

/// A parameter: its name, what it is, how it looks, and an example.
#[derive(Clone, Copy)]
struct Described(&'static str, &'static str, Form, &'static str);

#[derive(Clone, Copy)]
enum Form {
    /// In the path; of this pattern.
    Text(&'static str),
    /// In the path.
    Number,
    /// In the query, 64 bits.
    OptionalNumber,
    /// In the query, how many a page may have.
    Limit,
    /// The same, of the newest.
    Newest,
    /// In the query, RFC 3339.
    Time,
    /// In the query; may come several times.
    Types,
}

const BLOCK: Described = Described(
    "block_hash",
    "The block's hash in hexadecimal.",
    Form::Text(HASH),
    "3d369b7b353d505d13446690b9b494dd107ecff87a1902640bfa81892380064b",
);
const TYPE: Described =
    Described("transaction_type", "`deploy` or `version1`, in any case.", Form::Text(TRANSACTION_TYPE), "deploy");
const TRANSACTION: Described = Described(
    "transaction_hash",
    "The transaction's hash in hexadecimal.",
    Form::Text(HASH),
    "3822d2aaf1254cac416ff7a16728634b7d8b0be8c050ac85e2c91fbfa12800a8",
);
const EXPIRED: Described = Described(
    "transaction_hash",
    "The transaction's hash in hexadecimal.",
    Form::Text(HASH),
    "5a76e2fee5f7e3ca856edc7366a4f458f5d1ee38d1a00dcc3c64fcb44f2e4fb4",
);
const LIMIT: Described = Described("limit", "How many to answer with at most.", Form::Limit, "2");
const NEWEST: Described =
    Described("newest", "The newest first, and how many at most. It takes the place of `limit`.", Form::Newest, "2");

const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        path: "/block",
        operation_id: "latest_block",
        summary: "The block of the greatest height.",
        parameters: &[],
        answer: Answer::One("BlockAddedEnveloped"),
        example: "/block/1",
    },
    Endpoint {
        path: "/block/{block_hash_or_height}",
        operation_id: "block_by_hash_or_height",
        summary: "A block by its hash or its height.",
        parameters: &[Described(
            "block_hash_or_height",
            "The block's hash in hexadecimal, or its height in decimal.",
            Form::Text(HASH_OR_NUMBER),
            "1",
        )],
        answer: Answer::One("BlockAddedEnveloped"),
        example: "/block/1",
    },
    Endpoint {
        path: "/blocks",
        operation_id: "blocks",
        summary: "Blocks in the order of their height; with `newest`, from the greatest height down. To go on, ask with \
                  `next` as `from_height`, or with `newest` as `before_height`, until it is null. Past the last one, the \
                  page is empty.",
        parameters: &[
            Described("from_height", "The least height, 0 if absent.", Form::OptionalNumber, "1"),
            Described("before_height", "Only blocks of lesser heights.", Form::OptionalNumber, "9"),
            LIMIT,
            NEWEST,
        ],
        answer: Answer::One("BlocksPage"),
        example: "/blocks?from_height=1&limit=2",
    },
    Endpoint {
        path: "/transaction/{transaction_type}/{transaction_hash}",
        operation_id: "transaction_by_hash",
        summary: "What is known of an accepted transaction. It changes until the transaction is processed.",
        parameters: &[TYPE, TRANSACTION],
        answer: Answer::One("TransactionAggregate"),
        example: "/transaction/deploy/3822d2aaf1254cac416ff7a16728634b7d8b0be8c050ac85e2c91fbfa12800a8",
    },
    Endpoint {
        path: "/transaction/accepted/{transaction_type}/{transaction_hash}",
        operation_id: "transaction_accepted_by_hash",
        summary: "The transaction as a node accepted it.",
        parameters: &[TYPE, TRANSACTION],
        answer: Answer::One("TransactionAcceptedEnveloped"),
        example: "/transaction/accepted/deploy/3822d2aaf1254cac416ff7a16728634b7d8b0be8c050ac85e2c91fbfa12800a8",
    },
    Endpoint {
        path: "/transaction/processed/{transaction_type}/{transaction_hash}",
        operation_id: "transaction_processed_by_hash",
        summary: "The transaction's execution.",
        parameters: &[TYPE, TRANSACTION],
        answer: Answer::One("TransactionProcessedEnveloped"),
        example: "/transaction/processed/deploy/3822d2aaf1254cac416ff7a16728634b7d8b0be8c050ac85e2c91fbfa12800a8",
    },
    Endpoint {
        path: "/transaction/expired/{transaction_type}/{transaction_hash}",
        operation_id: "transaction_expired_by_hash",
        summary: "That the transaction's time to live ran out.",
        parameters: &[TYPE, EXPIRED],
        answer: Answer::One("TransactionExpiredEnveloped"),
        example: "/transaction/expired/deploy/5a76e2fee5f7e3ca856edc7366a4f458f5d1ee38d1a00dcc3c64fcb44f2e4fb4",
    },
    Endpoint {
        path: "/account/{account}/transactions",
        operation_id: "transactions_by_account",
        summary: "The transactions that an account has initiated, the newest first: of each the first event that is stored. \
                  To go on, ask for those before `next`, until it is null.",
        parameters: &[
            Described(
                "account",
                "A public key in hexadecimal with its algorithm tag, or `account-hash-` and the account's hash.",
                Form::Text(ACCOUNT),
                "01b3feeec1d91c7c2f070052315258eeaaf7c24029a80a1aea285814e9f9a20d36",
            ),
            Described("before", "Only what was stored before this sequence.", Form::OptionalNumber, "3900"),
            LIMIT,
        ],
        answer: Answer::One("TransactionsPage"),
        example: "/account/01b3feeec1d91c7c2f070052315258eeaaf7c24029a80a1aea285814e9f9a20d36/transactions?before=3900&limit=2",
    },
    Endpoint {
        path: "/faults/{public_key_or_era}",
        operation_id: "faults_by_public_key_or_era",
        summary: "The faults of a validator, or of an era.",
        parameters: &[Described(
            "public_key_or_era",
            "A public key in hexadecimal with its algorithm tag, or an era in decimal.",
            Form::Text(KEY_OR_NUMBER),
            "769794",
        )],
        answer: Answer::List("FaultEnveloped"),
        example: "/faults/769794",
    },
    Endpoint {
        path: "/signatures/{block_hash}",
        operation_id: "finality_signatures_by_block",
        summary: "The finality signatures of a block.",
        parameters: &[BLOCK],
        answer: Answer::List("FinalitySignatureEnveloped"),
        example: "/signatures/3d369b7b353d505d13446690b9b494dd107ecff87a1902640bfa81892380064b",
    },
    Endpoint {
        path: "/step/{era_id}",
        operation_id: "step_by_era",
        summary: "The step that ended an era.",
        parameters: &[Described("era_id", "The era.", Form::Number, "1")],
        answer: Answer::One("StepEnveloped"),
        example: "/step/1",
    },
    Endpoint {
        path: "/events",
        operation_id: "events",
        summary: "Stored events in order; with `newest`, the newest first. To go on, ask with `next` as `from`, or with \
                  `newest` as `before`, until it is null; where it is `head`, there is nothing more yet. A page may hold \
                  fewer events than it might, even none, before that.",
        parameters: &[
            Described("from", "The least sequence, 0 if absent.", Form::OptionalNumber, "1"),
            Described(
                "since",
                "Only events from the first one on that was received at this time or later: see `received_at`.",
                Form::Time,
                "2024-01-31T12:00:00Z",
            ),
            Described("before", "Only events of lesser sequences.", Form::OptionalNumber, "9"),
            Described(
                "until_time",
                "Only events before the first one that was received at this time or later.",
                Form::Time,
                "2100-01-31T12:00:00.5+01:00",
            ),
            LIMIT,
            NEWEST,
            Described(
                "types",
                "Only events of these kinds, with commas between. May come several times.",
                Form::Types,
                "BlockAdded,Fault",
            ),
        ],
        answer: Answer::One("EventsPage"),
        example: "/events?from=1&limit=2&types=BlockAdded,Fault",
    },
    Endpoint {
        path: "/events/{sequence}",
        operation_id: "event_by_sequence",
        summary: "A stored event by its sequence, which is its id in the event stream.",
        parameters: &[Described("sequence", "The sequence.", Form::Number, "1")],
        answer: Answer::One("StoredEvent"),
        example: "/events/1",
    },
    Endpoint {
        path: "/status",
        operation_id: "status",
        summary: "The sidecar's version, and the log's ends and how its sources are, or whether the database answers.",
        parameters: &[],
        answer: Answer::One("Status"),
        example: "/status",
    },
];

impl Endpoint {
    fn path_item(&self, examples: &BTreeMap<String, Value>) -> PathItem {
        let schema: RefOr<Schema> = match self.answer {
            Answer::One(name) => Ref::from_schema_name(name).into(),
            Answer::List(name) => ArrayBuilder::new().items(Ref::from_schema_name(name)).into(),
        };
        let content = ContentBuilder::new().schema(Some(schema)).example(examples.get(self.example).cloned());
        let success = ResponseBuilder::new().description("Found.").content("application/json", content.build());
        let operation = OperationBuilder::new()
            .operation_id(Some(self.operation_id))
            .summary(Some(self.summary))
            .tag("event-sidecar")
            .parameters(Some(self.parameters.iter().map(Described::parameter)))
            .response("200", success);
        let only_in_log = matches!(self.path, "/events" | "/events/{sequence}" | "/account/{account}/transactions");
        let operation = match only_in_log {
            true => operation.response("501", error("This server answers from PostgreSQL, which does not hold this.")),
            false => operation,
        };
        // A page continues past what is lost.
        let is_page = matches!(self.path, "/events" | "/blocks" | "/account/{account}/transactions");
        let lost = |operation: OperationBuilder| match is_page {
            true => operation,
            false => operation.response("410", error("The event was stored, and the log has lost it.")),
        };
        let operation = match self.path {
            "/status" => operation,
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
    let connected = text().enum_values(Some(["connected", "unreachable"]));
    let kind = text().enum_values(Some(["missing", "damaged", "marked"]));
    let lost_range = record([
        ("first_sequence", integer().into()),
        ("last_sequence", integer().into()),
        ("kind", kind.into()),
        ("reason", text().into()),
    ]);
    let lost = record([
        ("missing", integer().description(Some("Events that no segment holds.")).into()),
        ("damaged", integer().description(Some("Events in a damaged place, known so far.")).into()),
        ("marked", integer().description(Some("Events that a mark in the log names as lost.")).into()),
        ("ranges", ArrayBuilder::new().items(lost_range).into()),
    ]);
    let log = record([
        ("oldest", integer().description(Some("The oldest retained sequence.")).into()),
        ("next", integer().description(Some("The sequence that the next event will get.")).into()),
        ("api_version", text().into()),
        ("epoch", integer().into()),
        ("lost", lost.into()),
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
                ("kind", text().enum_values(Some(KINDS.map(|(_, name)| name))).into()),
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
            // Of a server that answers from the log, or of one that answers from PostgreSQL.
            record([("version", text().into())])
                .property("log", log)
                .property("views", record([("lag", integer().into())]))
                .property("sources", ArrayBuilder::new().items(source))
                .property("postgresql", record([("status", connected.into())])),
        )
        .schema("Error", record([("code", integer().into()), ("message", text().into())]))
        .build()
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

fn integer_or_null(description: &str) -> RefOr<Schema> {
    let schema_type = SchemaType::from_iter([Type::Integer, Type::Null]);
    ObjectBuilder::new().schema_type(schema_type).description(Some(description)).into()
}

#[cfg(test)]
mod tests {
    use axum::http::Method;

    use super::*;
    use crate::casper::rest::question::parse;

    #[test]
    fn every_endpoint_of_the_table_exists_and_has_an_example() {
        let examples: BTreeMap<String, Value> = serde_json::from_str(EXAMPLES).unwrap();
        for endpoint in ENDPOINTS {
            let (path, query) = endpoint.example.split_once('?').unwrap_or((endpoint.example, ""));
            assert!(parse(&Method::GET, path, Some(query)).is_ok(), "{}", endpoint.example);
            assert!(examples.contains_key(endpoint.example), "{} has no example", endpoint.example);
        }
    }

    #[test]
    fn the_examples_of_the_parameters_make_requests_that_are_understood() {
        for endpoint in ENDPOINTS {
            let in_path = |parameter: &&Described| matches!(parameter.2, Form::Text(_) | Form::Number);
            let (path, query): (Vec<&Described>, Vec<&Described>) = endpoint.parameters.iter().partition(in_path);
            let path = path.iter().fold(endpoint.path.to_owned(), |path, parameter| {
                let place = format!("{{{}}}", parameter.0);
                assert!(path.contains(&place), "{path} lacks {place}");
                path.replace(&place, parameter.3)
            });
            // One by one: not all go together.
            let queries = query.iter().map(|parameter| format!("{}={}", parameter.0, parameter.3.replace('+', "%2B")));
            for query in queries.chain([String::new()]) {
                let request = parse(&Method::GET, &path, Some(&query));
                assert!(request.is_ok(), "{path}?{query}: {request:?}");
            }
        }
    }
}
