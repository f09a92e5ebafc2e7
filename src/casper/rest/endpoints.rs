//! The endpoints: one table of the paths that are answered.
//!
//! Each says how a request to it is read, what its response times are counted under, and how the OpenAPI document describes
//! it. The server, its counters and the document read the table. Only `/` and the files of the Swagger UI are not in it.

use axum::http::Method;

use super::question::{self, Question, Refusal, Request};
use crate::casper::event::KINDS;
use crate::casper::keys::Stage;

/// A path that is answered.
pub(super) struct Endpoint {
    /// Its segments; one in braces matches any.
    pub(super) path: &'static str,
    /// Whether the reference does not have it. Only there OPTIONS is answered.
    is_own: bool,
    label: Option<Label>,
    /// Its part of the OpenAPI document, if it is there.
    pub(super) operation: Option<Operation>,
    read: for<'a> fn(Given<'a>) -> Result<Request<'a>, Refusal>,
}

/// What a request gives: the segments that are parameters, and the query.
#[derive(Clone, Copy)]
struct Given<'a> {
    parameters: [&'a str; PARAMETERS_MAX],
    query: Option<&'a str>,
}

/// The most parameters that a path has.
const PARAMETERS_MAX: usize = 2;

/// What response times count requests under.
#[derive(Clone, Copy)]
struct Label {
    text: &'static str,
    /// Whether paths that begin with the same segment and are no endpoint's count here too, as they do in the reference.
    has_all_below: bool,
}

impl Label {
    const fn of(text: &'static str) -> Self {
        Label { text, has_all_below: false }
    }

    const fn of_all_below(text: &'static str) -> Self {
        Label { text, has_all_below: true }
    }
}

/// The label of requests that no other is for.
const UNKNOWN: &str = "unknown";
const BLOCK_LABEL: Label = Label::of_all_below("/block/(...)");
const LOGS_LABEL: Label = Label::of_all_below("/logs/(...)");
const EVENTS_LABEL: Label = Label::of_all_below("/events/(...)");

/// How the OpenAPI document describes an endpoint.
pub(super) struct Operation {
    pub(super) id: &'static str,
    /// The first sentence is the summary. Tools show the rest, in Markdown, once the operation is opened.
    pub(super) text: &'static str,
    pub(super) parameters: &'static [Described],
    pub(super) answer: Answer,
    /// A request's target on the recorded network; its answer is the example.
    pub(super) example: &'static str,
    pub(super) found_in: FoundIn,
}

/// Where an answer is found, which decides how it can fail.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum FoundIn {
    LogOrDatabase,
    LogOnly,
    /// In the log that the request names.
    NamedLog,
    /// It is always there.
    Nothing,
}

/// What an answer holds; the name is that of a schema.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    One(&'static str),
    /// A list of these.
    List(&'static str),
    /// A page, which continues past what is lost.
    Page(&'static str),
}

/// A parameter: its name, what it is, how it looks, and an example.
#[derive(Clone, Copy)]
pub(super) struct Described(pub(super) &'static str, pub(super) &'static str, pub(super) Form, pub(super) &'static str);

/// How a parameter looks.
#[derive(Clone, Copy)]
pub(super) enum Form {
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
    /// The same, of any log's kinds.
    AnyTypes,
}

/// The pattern of a hash.
pub(super) const HASH: &str = "^[0-9a-fA-F]{64}$";
const HASH_OR_NUMBER: &str = "^([0-9a-fA-F]{64}|[0-9]{1,19})$";
const KEY_OR_NUMBER: &str = "^(0[12]([0-9a-fA-F]{64}|[0-9a-fA-F]{66})|[0-9]{1,19})$";
const ACCOUNT: &str = "^(0[12]([0-9a-fA-F]{64}|[0-9a-fA-F]{66})|account-hash-[0-9a-fA-F]{64})$";
const TRANSACTION_TYPE: &str = "^([dD][eE][pP][lL][oO][yY]|[vV][eE][rR][sS][iI][oO][nN]1)$";

/// Reads a request. Which paths are taken, and how the others are refused, is the reference's: paths are matched as they
/// come, nothing is decoded, one slash may follow, and a wrong path, method or parameter is all the same. HEAD is understood
/// as GET, and OPTIONS on paths of our own.
pub(super) fn parse<'a>(method: &Method, path: &'a str, query: Option<&'a str>) -> Result<Request<'a>, Refusal> {
    let path = path.strip_prefix('/').ok_or(Refusal::Path)?;
    if path.starts_with('/') {
        return Err(Refusal::EmptySegment);
    }
    match *method {
        Method::GET | Method::HEAD => {}
        Method::OPTIONS if is_own(path) => return Ok(Request::Methods),
        _ => return Err(Refusal::Path),
    }
    if path.is_empty() {
        return Ok(Request::Contents);
    }
    if let Some(file) = path.strip_prefix("swagger-ui/") {
        return Ok(Request::SwaggerFile(file));
    }
    read(path.strip_suffix('/').unwrap_or(path), query)
}

/// Whether a path without its first slash is one that the reference does not have.
fn is_own(path: &str) -> bool {
    let path = path.strip_suffix('/').unwrap_or(path);
    let mut own = ENDPOINTS.iter().filter(|endpoint| endpoint.is_own);
    path.is_empty() || own.any(|endpoint| endpoint.parameters(path.split('/')).is_some())
}

/// Reads a path without its first and last slash, and the query.
fn read<'a>(path: &'a str, query: Option<&'a str>) -> Result<Request<'a>, Refusal> {
    let fits = |endpoint: &'static Endpoint| Some((endpoint, endpoint.parameters(path.split('/'))?));
    let (endpoint, parameters) = ENDPOINTS.iter().find_map(fits).ok_or(Refusal::Path)?;
    (endpoint.read)(Given { parameters, query })
}

/// What response times count a path under: of what the table has, or [`UNKNOWN`]. Empty segments do not count.
pub(super) fn label(path: &str) -> &'static str {
    let segments = || path.split('/').filter(|segment| !segment.is_empty());
    let is_its = |endpoint: &&Endpoint| endpoint.parameters(segments()).is_some();
    let is_below = |endpoint: &&Endpoint| {
        endpoint.label.is_some_and(|label| label.has_all_below) && endpoint.segments().next() == segments().next()
    };
    let endpoint = ENDPOINTS.iter().find(is_its).or_else(|| ENDPOINTS.iter().find(is_below));
    endpoint.and_then(|endpoint| endpoint.label).map_or(UNKNOWN, |label| label.text)
}

/// Every label that [`label`] returns, once.
pub(super) fn labels() -> Vec<&'static str> {
    let mut labels: Vec<_> = ENDPOINTS.iter().filter_map(|endpoint| endpoint.label).map(|label| label.text).collect();
    // Those of one label are neighbours.
    labels.dedup();
    labels.push(UNKNOWN);
    labels
}

impl Endpoint {
    fn segments(&self) -> impl Iterator<Item = &'static str> {
        self.path.trim_start_matches('/').split('/')
    }

    /// The segments that are parameters; `None` if these are not of this path.
    fn parameters<'a>(&self, segments: impl Iterator<Item = &'a str>) -> Option<[&'a str; PARAMETERS_MAX]> {
        let (mut segments, mut parameters) = (segments, [""; PARAMETERS_MAX]);
        let mut places = parameters.iter_mut();
        for expected in self.segments() {
            let segment = segments.next()?;
            if expected.starts_with('{') {
                *places.next()? = segment;
            } else if segment != expected {
                return None;
            }
        }
        segments.next().is_none().then_some(parameters)
    }
}

fn known(request: Option<Request<'_>>) -> Result<Request<'_>, Refusal> {
    request.ok_or(Refusal::Path)
}

fn transaction_at(stage: Stage, given: Given<'_>) -> Result<Request<'_>, Refusal> {
    let [form, hash] = given.parameters;
    let transaction = question::transaction_type(form).zip(question::hash(hash));
    known(transaction.map(|(form, hash)| Request::One(Question::Transaction(stage, form, hash))))
}

/// Casper's kinds, with their numbers.
fn kinds() -> [(u8, &'static str); KINDS.len()] {
    KINDS.map(|(kind, name)| (kind.0, name))
}

const LOG: Described = Described("log", "The log's name, as `/logs` has it.", Form::Text("^[a-z0-9._-]+$"), "casper");
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
const FROM: Described = Described("from", "The least sequence, 0 if absent.", Form::OptionalNumber, "1");
const FROM_HEIGHT: Described = Described(
    "from_height",
    "Only from the block of this height on, or of the next greater one.",
    Form::OptionalNumber,
    "1",
);
const SINCE: Described = Described(
    "since",
    "Only events from the first one on that was received at this time or later: see `received_at`.",
    Form::Time,
    "2024-01-31T12:00:00Z",
);
const BEFORE: Described = Described("before", "Only events of lesser sequences.", Form::OptionalNumber, "9");
const UNTIL_TIME: Described = Described(
    "until_time",
    "Only events before the first one that was received at this time or later.",
    Form::Time,
    "2100-01-31T12:00:00.5+01:00",
);
const LIMIT: Described = Described("limit", "How many to answer with at most.", Form::Limit, "2");
const NEWEST: Described = Described(
    "newest",
    "The newest first, and how many at most. Beside `limit` the smaller one counts.",
    Form::Newest,
    "2",
);

/// The table. Endpoints of one label are neighbours.
pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        path: "/block",
        is_own: false,
        label: Some(BLOCK_LABEL),
        operation: Some(Operation {
            id: "latest_block",
            text: "The block of the greatest height.",
            parameters: &[],
            answer: Answer::One("BlockAddedEnveloped"),
            example: "/block/1",
            found_in: FoundIn::LogOrDatabase,
        }),
        read: |_| Ok(Request::One(Question::LatestBlock)),
    },
    Endpoint {
        path: "/block/{block_hash_or_height}",
        is_own: false,
        label: Some(BLOCK_LABEL),
        operation: Some(Operation {
            id: "block_by_hash_or_height",
            text: "A block by its hash or its height.",
            parameters: &[Described(
                "block_hash_or_height",
                "The block's hash in hexadecimal, or its height in decimal.",
                Form::Text(HASH_OR_NUMBER),
                "1",
            )],
            answer: Answer::One("BlockAddedEnveloped"),
            example: "/block/1",
            found_in: FoundIn::LogOrDatabase,
        }),
        read: |Given { parameters: [id, _], .. }| {
            let by_hash = question::hash(id).map(Question::BlockByHash);
            known(by_hash.or_else(|| question::number(id).map(Question::BlockByHeight)).map(Request::One))
        },
    },
    Endpoint {
        path: "/blocks",
        is_own: true,
        label: Some(Label::of("/blocks")),
        operation: Some(Operation {
            id: "blocks",
            text: "Blocks in the order of their height. With `newest`, from the greatest height down. To continue, ask with \
                   `next` as `from_height`, or with `newest` as `before_height`, until it is null. Past the last one, the \
                   page is empty.",
            parameters: &[
                Described("from_height", "The least height, 0 if absent.", Form::OptionalNumber, "1"),
                Described("before_height", "Only blocks of lesser heights.", Form::OptionalNumber, "9"),
                LIMIT,
                NEWEST,
            ],
            answer: Answer::Page("BlocksPage"),
            example: "/blocks?from_height=1&limit=2",
            found_in: FoundIn::LogOrDatabase,
        }),
        read: |given| question::page_of_blocks(given.query).map(Request::Blocks),
    },
    Endpoint {
        path: "/transaction/{transaction_type}/{transaction_hash}",
        is_own: false,
        label: Some(Label::of("/transaction/(...)")),
        operation: Some(Operation {
            id: "transaction_by_hash",
            text: "What is known of an accepted transaction. It changes until the transaction is processed.",
            parameters: &[TYPE, TRANSACTION],
            answer: Answer::One("TransactionAggregate"),
            example: "/transaction/deploy/3822d2aaf1254cac416ff7a16728634b7d8b0be8c050ac85e2c91fbfa12800a8",
            found_in: FoundIn::LogOrDatabase,
        }),
        read: |Given { parameters: [form, hash], .. }| {
            let transaction = question::transaction_type(form).zip(question::hash(hash));
            known(transaction.map(|(transaction_type, bytes)| Request::Aggregate(transaction_type, bytes, hash)))
        },
    },
    Endpoint {
        path: "/transaction/accepted/{transaction_type}/{transaction_hash}",
        is_own: false,
        label: Some(Label::of("/transaction/accepted/(...)")),
        operation: Some(Operation {
            id: "transaction_accepted_by_hash",
            text: "The transaction as a node accepted it.",
            parameters: &[TYPE, TRANSACTION],
            answer: Answer::One("TransactionAcceptedEnveloped"),
            example: "/transaction/accepted/deploy/3822d2aaf1254cac416ff7a16728634b7d8b0be8c050ac85e2c91fbfa12800a8",
            found_in: FoundIn::LogOrDatabase,
        }),
        read: |given| transaction_at(Stage::Accepted, given),
    },
    Endpoint {
        path: "/transaction/processed/{transaction_type}/{transaction_hash}",
        is_own: false,
        label: Some(Label::of("/transaction/processed/(...)")),
        operation: Some(Operation {
            id: "transaction_processed_by_hash",
            text: "The transaction's execution.",
            parameters: &[TYPE, TRANSACTION],
            answer: Answer::One("TransactionProcessedEnveloped"),
            example: "/transaction/processed/deploy/3822d2aaf1254cac416ff7a16728634b7d8b0be8c050ac85e2c91fbfa12800a8",
            found_in: FoundIn::LogOrDatabase,
        }),
        read: |given| transaction_at(Stage::Processed, given),
    },
    Endpoint {
        path: "/transaction/expired/{transaction_type}/{transaction_hash}",
        is_own: false,
        label: Some(Label::of("/transaction/expired/(...)")),
        operation: Some(Operation {
            id: "transaction_expired_by_hash",
            text: "The transaction's expiry, once its time to live has run out.",
            parameters: &[TYPE, EXPIRED],
            answer: Answer::One("TransactionExpiredEnveloped"),
            example: "/transaction/expired/deploy/5a76e2fee5f7e3ca856edc7366a4f458f5d1ee38d1a00dcc3c64fcb44f2e4fb4",
            found_in: FoundIn::LogOrDatabase,
        }),
        read: |given| transaction_at(Stage::Expired, given),
    },
    Endpoint {
        path: "/account/{account}/transactions",
        is_own: true,
        label: Some(Label::of_all_below("/account/(...)")),
        operation: Some(Operation {
            id: "transactions_by_account",
            text: "The transactions that an account has initiated, the newest first. Each comes with the first event that is \
                   stored of it. To continue, ask for those before `next`, until it is null.",
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
            answer: Answer::Page("TransactionsPage"),
            example: "/account/01b3feeec1d91c7c2f070052315258eeaaf7c24029a80a1aea285814e9f9a20d36/transactions?before=3900&limit=2",
            found_in: FoundIn::LogOnly,
        }),
        read: |Given { parameters: [account, _], query }| match question::account(account) {
            Some(account) => question::page_of_transactions(account, query),
            None => Err(Refusal::Path),
        },
    },
    Endpoint {
        path: "/faults/{public_key_or_era}",
        is_own: false,
        label: Some(Label::of_all_below("/faults/(...)")),
        operation: Some(Operation {
            id: "faults_by_public_key_or_era",
            text: "The faults of a validator, or of an era.",
            parameters: &[Described(
                "public_key_or_era",
                "A public key in hexadecimal with its algorithm tag, or an era in decimal.",
                Form::Text(KEY_OR_NUMBER),
                "769794",
            )],
            answer: Answer::List("FaultEnveloped"),
            example: "/faults/769794",
            found_in: FoundIn::LogOrDatabase,
        }),
        read: |Given { parameters: [id, _], .. }| {
            let by_key = question::tagged_key(id).map(Question::FaultsByKey);
            known(by_key.or_else(|| question::number(id).map(Question::FaultsByEra)).map(Request::All))
        },
    },
    Endpoint {
        path: "/signatures/{block_hash}",
        is_own: false,
        label: Some(Label::of_all_below("/signatures/(...)")),
        operation: Some(Operation {
            id: "finality_signatures_by_block",
            text: "The finality signatures of a block.",
            parameters: &[BLOCK],
            answer: Answer::List("FinalitySignatureEnveloped"),
            example: "/signatures/3d369b7b353d505d13446690b9b494dd107ecff87a1902640bfa81892380064b",
            found_in: FoundIn::LogOrDatabase,
        }),
        read: |Given { parameters: [block, _], .. }| {
            known(question::hash(block).map(Question::Signatures).map(Request::All))
        },
    },
    Endpoint {
        path: "/step/{era_id}",
        is_own: false,
        label: Some(Label::of_all_below("/step/(...)")),
        operation: Some(Operation {
            id: "step_by_era",
            text: "The step that ended an era.",
            parameters: &[Described("era_id", "The era.", Form::Number, "1")],
            answer: Answer::One("StepEnveloped"),
            example: "/step/1",
            found_in: FoundIn::LogOrDatabase,
        }),
        read: |Given { parameters: [era, _], .. }| known(question::number(era).map(Question::Step).map(Request::One)),
    },
    Endpoint {
        path: "/events",
        is_own: true,
        label: Some(EVENTS_LABEL),
        operation: Some(Operation {
            id: "events",
            text: "Stored events in order. With `newest`, the newest first. To continue, ask with `next` as `from`, or with \
                   `newest` as `before`, until it is null. Where `next` equals `head`, there is nothing more yet. Before \
                   that, a page may hold fewer events than `limit`, even none.",
            parameters: &[
                FROM,
                FROM_HEIGHT,
                SINCE,
                BEFORE,
                UNTIL_TIME,
                LIMIT,
                NEWEST,
                Described(
                    "types",
                    "Only events of these kinds, with commas between. May come several times.",
                    Form::Types,
                    "BlockAdded,Fault",
                ),
            ],
            answer: Answer::Page("EventsPage"),
            example: "/events?from=1&limit=2&types=BlockAdded,Fault",
            found_in: FoundIn::LogOnly,
        }),
        read: |given| question::page_of_events(given.query, &kinds()).map(Request::Events),
    },
    Endpoint {
        path: "/events/{sequence}",
        is_own: true,
        label: Some(EVENTS_LABEL),
        operation: Some(Operation {
            id: "event_by_sequence",
            text: "A stored event by its sequence, which is its id in the event stream.",
            parameters: &[Described("sequence", "The sequence.", Form::Number, "1")],
            answer: Answer::One("StoredEvent"),
            example: "/events/1",
            found_in: FoundIn::LogOnly,
        }),
        read: |Given { parameters: [sequence, _], .. }| known(question::number(sequence).map(Request::Event)),
    },
    Endpoint {
        path: "/logs",
        is_own: true,
        label: Some(LOGS_LABEL),
        operation: Some(Operation {
            id: "logs",
            text: "The logs that there are, of every dialect, with their ends and what their kinds are called.",
            parameters: &[],
            answer: Answer::One("Logs"),
            example: "/logs",
            found_in: FoundIn::Nothing,
        }),
        read: |_| Ok(Request::Logs),
    },
    Endpoint {
        path: "/logs/{log}/status",
        is_own: true,
        label: Some(LOGS_LABEL),
        operation: Some(Operation {
            id: "log_status",
            text: "The ends of a log, and what its kinds are called.",
            parameters: &[LOG],
            answer: Answer::One("Log"),
            example: "/logs/casper/status",
            found_in: FoundIn::NamedLog,
        }),
        read: |Given { parameters: [log, _], .. }| Ok(Request::StatusOf(log)),
    },
    Endpoint {
        path: "/logs/{log}/events",
        is_own: true,
        label: Some(LOGS_LABEL),
        operation: Some(Operation {
            id: "events_of_log",
            text: "Stored events of a log in order. The parameters and the pages are those of `/events`.",
            parameters: &[
                LOG,
                FROM,
                FROM_HEIGHT,
                SINCE,
                BEFORE,
                UNTIL_TIME,
                LIMIT,
                NEWEST,
                Described(
                    "types",
                    "Only events of these kinds of the log, with commas between. May come several times.",
                    Form::AnyTypes,
                    "BlockAdded,Fault",
                ),
            ],
            answer: Answer::Page("EventsPage"),
            example: "/logs/casper/events?from=1&limit=2&types=BlockAdded,Fault",
            found_in: FoundIn::NamedLog,
        }),
        read: |Given { parameters: [log, _], query }| Ok(Request::EventsOf(log, query)),
    },
    Endpoint {
        path: "/logs/{log}/events/{sequence}",
        is_own: true,
        label: Some(LOGS_LABEL),
        operation: Some(Operation {
            id: "event_of_log_by_sequence",
            text: "A stored event of a log by its sequence, which is its id in the event stream.",
            parameters: &[LOG, Described("sequence", "The sequence.", Form::Number, "1")],
            answer: Answer::One("StoredEvent"),
            example: "/logs/casper/events/1",
            found_in: FoundIn::NamedLog,
        }),
        read: |Given { parameters: [log, sequence], .. }| {
            known(question::number(sequence).map(|sequence| Request::EventOf(log, sequence)))
        },
    },
    Endpoint {
        path: "/status",
        is_own: true,
        label: Some(Label::of("/status")),
        operation: Some(Operation {
            id: "status",
            text: "The version, the log's ends and how its sources are, or whether the database answers.",
            parameters: &[],
            answer: Answer::One("Status"),
            example: "/status",
            found_in: FoundIn::Nothing,
        }),
        read: |_| Ok(Request::Status),
    },
    Endpoint { path: "/api-doc.json", is_own: false, label: None, operation: None, read: |_| Ok(Request::Document) },
    Endpoint { path: "/swagger-ui", is_own: false, label: None, operation: None, read: |_| Ok(Request::SwaggerUi) },
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn labels_are_the_references_and_of_a_bounded_number() {
        for (path, expected) in [
            ("/block/(...)", "/block/(...)"),
            ("//block//x/", "/block/(...)"),
            ("/block/x/y/z", "/block/(...)"),
            ("/step", "/step/(...)"),
            ("/transaction/a/b", "/transaction/(...)"),
            ("/transaction/expired/a/b", "/transaction/expired/(...)"),
            ("/transaction/anything/a/b", "unknown"),
            ("/transaction/a", "unknown"),
            ("/status/", "/status"),
            ("/status/x", "unknown"),
            ("/blocks/x", "unknown"),
            ("/events/1", "/events/(...)"),
            ("/account/x", "/account/(...)"),
            ("/swagger-ui/", "unknown"),
            ("/", "unknown"),
        ] {
            assert_eq!(label(path), expected, "{path}");
        }
        let known = labels();
        assert_eq!(known.len(), 14);
        assert!(known.iter().enumerate().all(|(place, label)| !known[..place].contains(label)), "{known:?}");
    }

    #[test]
    fn the_examples_of_the_parameters_make_requests_that_are_understood() {
        for Endpoint { path, operation, .. } in ENDPOINTS {
            let Some(operation) = operation else { continue };
            let (target, query) = operation.example.split_once('?').unwrap_or((operation.example, ""));
            assert!(parse(&Method::GET, target, Some(query)).is_ok(), "{}", operation.example);
            let in_path = |parameter: &&Described| matches!(parameter.2, Form::Text(_) | Form::Number);
            let (of_path, of_query): (Vec<&Described>, Vec<&Described>) =
                operation.parameters.iter().partition(in_path);
            let path = of_path.iter().fold((*path).to_owned(), |path, parameter| {
                let place = format!("{{{}}}", parameter.0);
                assert!(path.contains(&place), "{path} lacks {place}");
                path.replace(&place, parameter.3)
            });
            // One by one: not all go together.
            let queries =
                of_query.iter().map(|parameter| format!("{}={}", parameter.0, parameter.3.replace('+', "%2B")));
            for query in queries.chain([String::new()]) {
                let request = parse(&Method::GET, &path, Some(&query));
                assert!(request.is_ok(), "{path}?{query}: {request:?}");
            }
        }
    }

    #[test]
    fn options_are_answered_on_every_path_of_our_own_and_on_no_other() {
        for Endpoint { path, is_own, .. } in ENDPOINTS {
            let path = path.replace(['{', '}'], "");
            let request = parse(&Method::OPTIONS, &path, None);
            assert_eq!(matches!(request, Ok(Request::Methods)), *is_own, "{path}");
        }
        let own = |path: &str| ENDPOINTS.iter().find(|endpoint| endpoint.path == path).unwrap().is_own;
        assert!(own("/logs") && own("/logs/{log}/events") && own("/account/{account}/transactions") && !own("/block"));
    }

    proptest! {
        #[test]
        fn every_path_has_one_of_the_labels(path in "(/[a-z0-9/%-]{0,20}){0,5}") {
            prop_assert!(labels().contains(&label(&path)));
        }
    }
}
