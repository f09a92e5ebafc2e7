//! What can be asked: segments of a path and the query in, parts of a [`Request`] or a [`Refusal`] out.
//!
//! Owns what they mean; which paths there are is in the table of endpoints. Only the endpoints that the reference does not
//! have look at the query, and their refusal names what is wrong with it.

use sidecar_log_format::{Kind, Sequence, Timestamp};

use crate::casper::keys::{Stage, TransactionType};
use crate::engine::http::query::{Parameters, Repeated};
use crate::rfc3339;

/// How many events or blocks a page has when nothing is said.
pub(super) const PAGE_EVENTS: usize = 100;
/// How many it may have.
pub(super) const PAGE_EVENTS_MAX: usize = 1000;

/// A block's or transaction's hash.
pub(super) type Hash = [u8; 32];

/// Something to look for among the stored events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// The block of the greatest height.
    LatestBlock,
    /// A block by its hash.
    BlockByHash(Hash),
    /// A block by its height.
    BlockByHeight(u64),
    /// What is known of a transaction at one stage.
    Transaction(Stage, TransactionType, Hash),
    /// The faults of a validator, by its public key with the algorithm tag.
    FaultsByKey(Vec<u8>),
    /// The faults of an era.
    FaultsByEra(u64),
    /// The finality signatures of a block.
    Signatures(Hash),
    /// The step that ended an era.
    Step(u64),
    /// Transactions of an account, the newest first.
    TransactionsOf {
        /// A public key with its algorithm tag, or the 32 bytes of an account hash.
        account: Vec<u8>,
        /// Only those stored before this sequence.
        before: Option<Sequence>,
        /// How many at most.
        limit: usize,
    },
}

impl Question {
    /// Whether one event that answers it is all there will ever be.
    pub(super) fn is_settled_by_one(&self) -> bool {
        matches!(
            self,
            Question::BlockByHash(_) | Question::BlockByHeight(_) | Question::Transaction(..) | Question::Step(_)
        )
    }

    /// Whether it names one event by a hash, and so has the same answer whenever and wherever it is asked.
    pub(super) fn is_by_hash(&self) -> bool {
        matches!(self, Question::BlockByHash(_) | Question::Transaction(..))
    }
}

/// In which order a page has what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    OldestFirst,
    NewestFirst,
}

/// A page of the log: events of some kinds in a range, from its lower or its upper end on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageOfEvents {
    /// The least sequence.
    pub(super) from: Sequence,
    /// Only from the block of this height on, or of the next greater one that there is.
    pub(super) from_height: Option<u64>,
    /// What is less than the first event received then or later is not in the range.
    pub(super) since: Option<Timestamp>,
    /// Only what is stored before this sequence.
    pub(super) before: Option<Sequence>,
    /// Only what is stored before the first event that was received then or later.
    pub(super) until: Option<Timestamp>,
    pub(super) order: Order,
    pub(super) limit: usize,
    /// Bits of the kinds wanted (see [`sidecar_log_format::Kind::bit`]).
    pub(super) kinds: u64,
}

/// A page of blocks: those of a range of heights, from its lower or its upper end on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageOfBlocks {
    pub(super) from_height: u64,
    pub(super) before_height: Option<u64>,
    pub(super) order: Order,
    pub(super) limit: usize,
}

impl PageOfBlocks {
    /// The height with which the next page begins, or below which it is; `None` when there is no next one.
    pub(super) fn next(&self, last: Option<u64>, is_last_page: bool) -> Option<u64> {
        match self.order {
            // At the end there is nothing more yet, unless the page has an end of its own.
            Order::OldestFirst => {
                let next = last.map_or(self.from_height, |last| last.saturating_add(1));
                self.before_height.is_none_or(|before| next < before).then_some(next)
            }
            Order::NewestFirst => last.filter(|last| !is_last_page && *last > self.from_height),
        }
    }
}

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request<'a> {
    /// The one event that answers.
    One(Question),
    /// All events that answer.
    All(Question),
    /// All that is known of a transaction; its hash as it was given.
    Aggregate(TransactionType, Hash, &'a str),
    /// A page of `/blocks`.
    Blocks(PageOfBlocks),
    /// A page of [`Question::TransactionsOf`].
    Transactions(Question),
    /// One event by its sequence.
    Event(Sequence),
    /// A page of `/events`.
    Events(PageOfEvents),
    /// The logs that there are.
    Logs,
    /// A page of a log's events: its name, and the query.
    EventsOf(&'a str, Option<&'a str>),
    /// One event of a log by its sequence.
    EventOf(&'a str, Sequence),
    /// How a log is.
    StatusOf(&'a str),
    /// `/`: what is there.
    Contents,
    /// The methods that a path of our own takes.
    Methods,
    /// How the sidecar is.
    Status,
    /// The OpenAPI document.
    Document,
    /// `/swagger-ui`.
    SwaggerUi,
    /// A file below `/swagger-ui/`.
    SwaggerFile(&'a str),
}

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No such path, or not with this method or these parameters.
    Path,
    /// The path begins with an empty segment.
    EmptySegment,
    /// The query, and what is wrong with it.
    Query(String),
}

pub(super) fn hash(text: &str) -> Option<Hash> {
    let mut hash = Hash::default();
    hex::decode_to_slice(text, &mut hash).ok()?;
    Some(hash)
}

/// As the reference reads it: decimal, and a plus may stand before.
pub(super) fn number(text: &str) -> Option<u64> {
    text.parse().ok()
}

/// As the reference reads a public key: by its length alone. A tag that no key has finds nothing.
pub(super) fn tagged_key(text: &str) -> Option<Vec<u8>> {
    hex::decode(text).ok().filter(|key| matches!(key.len(), 33 | 34))
}

fn public_key(text: &str) -> Option<Vec<u8>> {
    tagged_key(text).filter(|key| matches!(key.first(), Some(1 | 2)))
}

pub(super) fn account(text: &str) -> Option<Vec<u8>> {
    let account_hash = text.strip_prefix("account-hash-").and_then(hash);
    account_hash.map(|hash| hash.to_vec()).or_else(|| public_key(text))
}

pub(super) fn transaction_type(text: &str) -> Option<TransactionType> {
    if text.eq_ignore_ascii_case("deploy") {
        return Some(TransactionType::Deploy);
    }
    text.eq_ignore_ascii_case("version1").then_some(TransactionType::Version1)
}

/// `kinds` are the numbers and names that `types` may have.
pub(super) fn page_of_events(query: Option<&str>, kinds: &[(u8, &str)]) -> Result<PageOfEvents, Refusal> {
    let query = Parameters::parse(query);
    only(&query, &["from", "from_height", "since", "before", "until_time", "newest", "limit", "types"])?;
    let (order, limit) = order_and_limit(&query)?;
    Ok(PageOfEvents {
        from: decimal(&query, "from")?.unwrap_or_default(),
        from_height: decimal(&query, "from_height")?,
        since: time(&query, "since")?,
        before: decimal(&query, "before")?,
        until: time(&query, "until_time")?,
        order,
        limit,
        kinds: kinds_named(&query, kinds)?,
    })
}

pub(super) fn page_of_blocks(query: Option<&str>) -> Result<PageOfBlocks, Refusal> {
    let query = Parameters::parse(query);
    only(&query, &["from_height", "before_height", "newest", "limit"])?;
    let (order, limit) = order_and_limit(&query)?;
    let from_height = decimal(&query, "from_height")?.unwrap_or_default();
    Ok(PageOfBlocks { from_height, before_height: decimal(&query, "before_height")?, order, limit })
}

pub(super) fn page_of_transactions(account: Vec<u8>, query: Option<&str>) -> Result<Request<'static>, Refusal> {
    let query = Parameters::parse(query);
    only(&query, &["before", "limit"])?;
    let before = decimal(&query, "before")?;
    let limit = number_of_events(&query, "limit")?.unwrap_or(PAGE_EVENTS);
    Ok(Request::Transactions(Question::TransactionsOf { account, before, limit }))
}

fn only(query: &Parameters<'_>, known: &[&str]) -> Result<(), Refusal> {
    match query.unknown(known) {
        Some(name) => {
            let known = known.join(", ");
            Err(Refusal::Query(format!("unknown parameter `{name}`, expected any of {known}")))
        }
        None => Ok(()),
    }
}

fn order_and_limit(query: &Parameters<'_>) -> Result<(Order, usize), Refusal> {
    match (number_of_events(query, "newest")?, number_of_events(query, "limit")?) {
        (Some(newest), limit) => Ok((Order::NewestFirst, limit.map_or(newest, |limit| newest.min(limit)))),
        (None, limit) => Ok((Order::OldestFirst, limit.unwrap_or(PAGE_EVENTS))),
    }
}

impl From<Repeated> for Refusal {
    fn from(repeated: Repeated) -> Self {
        Refusal::Query(repeated.to_string())
    }
}

fn decimal(query: &Parameters<'_>, name: &'static str) -> Result<Option<u64>, Refusal> {
    let number_in = |value: &str| {
        let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        let number = value.parse().ok().filter(|_| digits);
        number.ok_or_else(|| Refusal::Query(format!("`{name}` is a decimal number up to 2^64-1, received: {value}")))
    };
    query.single(name)?.map(number_in).transpose()
}

fn number_of_events(query: &Parameters<'_>, name: &'static str) -> Result<Option<usize>, Refusal> {
    let Some(value) = query.single(name)? else { return Ok(None) };
    let number = decimal(query, name).ok().flatten().and_then(|number| usize::try_from(number).ok());
    let in_range = number.filter(|number| (1..=PAGE_EVENTS_MAX).contains(number));
    let refusal =
        || Refusal::Query(format!("`{name}` is a decimal number from 1 to {PAGE_EVENTS_MAX}, received: {value}"));
    in_range.map(Some).ok_or_else(refusal)
}

fn time(query: &Parameters<'_>, name: &'static str) -> Result<Option<Timestamp>, Refusal> {
    let time_in = |value: &str| {
        let example = "as RFC 3339 writes it, like 2026-01-31T12:00:00Z";
        rfc3339::parse(value).ok_or_else(|| Refusal::Query(format!("`{name}` is a time {example}, received: {value}")))
    };
    query.single(name)?.map(time_in).transpose()
}

/// The bits of the kinds that `types` names.
fn kinds_named(query: &Parameters<'_>, kinds: &[(u8, &str)]) -> Result<u64, Refusal> {
    let Some(names) = query.list("types") else { return Ok(u64::MAX) };
    let mut bits = 0;
    for name in names {
        let Some((kind, _)) = kinds.iter().find(|(_, known)| *known == name) else {
            let known: Vec<&str> = kinds.iter().map(|(_, name)| *name).collect();
            let known = known.join(", ");
            return Err(Refusal::Query(format!("`types` is a comma-separated list of {known}, received: {name}")));
        };
        bits |= Kind(*kind).bit();
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::super::endpoints::parse;
    use super::*;
    use axum::http::Method;
    use proptest::prelude::*;

    const HASH: &str = "d59359690ca5a251b513185da0767f744e77645adec82bb6ff785a89edc7591c";
    const KEY: &str = "01522ef6c89038019cb7af05c340623804392dd2bb1f4dab5e4a9c3ab752fc0179";

    fn get(target: &str) -> Result<Request<'_>, Refusal> {
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        parse(&Method::GET, path, query)
    }

    #[test]
    fn every_path_of_the_reference_is_understood() {
        let bytes = hash(HASH).unwrap();
        let version1 = TransactionType::Version1;
        let expected = [
            ("/block".to_owned(), Request::One(Question::LatestBlock)),
            (format!("/block/{HASH}"), Request::One(Question::BlockByHash(bytes))),
            (format!("/block/{}", HASH.to_uppercase()), Request::One(Question::BlockByHash(bytes))),
            ("/block/0".to_owned(), Request::One(Question::BlockByHeight(0))),
            ("/block/18446744073709551615".to_owned(), Request::One(Question::BlockByHeight(u64::MAX))),
            (format!("/transaction/VERSION1/{HASH}"), Request::Aggregate(version1, bytes, HASH)),
            (
                format!("/transaction/processed/Version1/{HASH}"),
                Request::One(Question::Transaction(Stage::Processed, version1, bytes)),
            ),
            (
                format!("/transaction/expired/deploy/{HASH}"),
                Request::One(Question::Transaction(Stage::Expired, TransactionType::Deploy, bytes)),
            ),
            (format!("/faults/{KEY}"), Request::All(Question::FaultsByKey(hex::decode(KEY).unwrap()))),
            (format!("/faults/00{}", &KEY[2..]), {
                let unknown_tag = hex::decode(format!("00{}", &KEY[2..])).unwrap();
                Request::All(Question::FaultsByKey(unknown_tag))
            }),
            ("/faults/7".to_owned(), Request::All(Question::FaultsByEra(7))),
            (format!("/signatures/{HASH}"), Request::All(Question::Signatures(bytes))),
            ("/step/9".to_owned(), Request::One(Question::Step(9))),
            ("/status".to_owned(), Request::Status),
            ("/api-doc.json".to_owned(), Request::Document),
            ("/swagger-ui".to_owned(), Request::SwaggerUi),
        ];
        assert_eq!(get("/"), Ok(Request::Contents));
        assert_eq!(get("/?any=query"), Ok(Request::Contents));
        for (path, request) in expected {
            assert_eq!(get(&path).as_ref(), Ok(&request), "{path}");
            if path != "/swagger-ui" {
                assert_eq!(get(&format!("{path}/?any=query")), Ok(request), "{path}/");
            }
        }
    }

    #[test]
    fn everything_else_is_an_invalid_path() {
        let short = &HASH[1..];
        for path in [
            "/other".to_owned(),
            "/Block".to_owned(),
            "/block//".to_owned(),
            format!("/block//{HASH}"),
            format!("/block/{short}"),
            format!("/block/{HASH}0"),
            format!("/block/{HASH}/x"),
            "/block/-1".to_owned(),
            "/block/18446744073709551616".to_owned(),
            "/block/%31".to_owned(),
            format!("/transaction/{HASH}"),
            format!("/transaction/deploy2/{HASH}"),
            format!("/transaction/Accepted/deploy/{HASH}"),
            format!("/transaction/deploy/{short}"),
            "/faults".to_owned(),
            format!("/faults/{}", &KEY[2..]),
            format!("/faults/{KEY}0"),
            format!("/faults/{KEY}0000"),
            format!("/faults/0x{}", &KEY[2..]),
            format!("/account/03{}/transactions", &KEY[2..]),
            "/signatures/1".to_owned(),
            format!("/step/{HASH}"),
            "/status/x".to_owned(),
            "/events/x".to_owned(),
            "/blocks/1".to_owned(),
            format!("/account/{KEY}"),
            format!("/account/{short}/transactions"),
        ] {
            assert_eq!(get(&path), Err(Refusal::Path), "{path}");
        }
        assert_eq!(parse(&Method::HEAD, "/block", None), get("/block"));
        for method in [Method::POST, Method::OPTIONS, Method::DELETE] {
            assert_eq!(parse(&method, "/block", None), Err(Refusal::Path));
        }
        for path in ["/", "/blocks", "/blocks/", "/events", "/events/7", "/account/x/transactions", "/status"] {
            assert_eq!(parse(&Method::OPTIONS, path, Some("any=query")), Ok(Request::Methods), "{path}");
            assert_eq!(parse(&Method::POST, path, None), Err(Refusal::Path), "{path}");
        }
        for path in ["/blocks/7", "/events/7/8", "/account/x", "/swagger-ui", "/step/1", "/nothing"] {
            assert_eq!(parse(&Method::OPTIONS, path, None), Err(Refusal::Path), "{path}");
        }
        assert_eq!(get("//block"), Err(Refusal::EmptySegment));
    }

    const EVENTS: PageOfEvents = PageOfEvents {
        from: 0,
        from_height: None,
        since: None,
        before: None,
        until: None,
        order: Order::OldestFirst,
        limit: 100,
        kinds: u64::MAX,
    };
    const BLOCKS: PageOfBlocks =
        PageOfBlocks { from_height: 0, before_height: None, order: Order::OldestFirst, limit: 100 };

    #[test]
    fn pages_have_defaults_and_take_other_values() {
        assert_eq!(get("/events"), Ok(Request::Events(EVENTS)));
        let kinds = Kind(5).bit() | Kind(7).bit();
        let fifth = PageOfEvents { from: 5, limit: 1000, kinds, ..EVENTS };
        assert_eq!(get("/events/?from=5&limit=1000&types=Fault,Step"), Ok(Request::Events(fifth)));
        assert_eq!(get("/events/?from=5&limit=1000&types=Fault&types=Step"), Ok(Request::Events(fifth)));
        let newest = PageOfEvents { before: Some(9), order: Order::NewestFirst, limit: 3, ..EVENTS };
        assert_eq!(get("/events?newest=3&before=9"), Ok(Request::Events(newest)));
        for both in ["/events?newest=3&limit=9&before=9", "/events?newest=9&limit=3&before=9"] {
            assert_eq!(get(both), Ok(Request::Events(newest)), "{both}");
        }
        let at_height = PageOfEvents { from_height: Some(7), ..EVENTS };
        assert_eq!(get("/events?from_height=7"), Ok(Request::Events(at_height)));
        let (since, until) = (Some(1_767_225_600_000_000), Some(1_767_225_601_500_000));
        let of_a_time = PageOfEvents { since, until, ..EVENTS };
        let target = "/events?since=2026-01-01T00:00:00Z&until_time=2026-01-01T01:00:01.5%2B01:00";
        assert_eq!(get(target), Ok(Request::Events(of_a_time)));
        let third = PageOfBlocks { from_height: 3, limit: 1, ..BLOCKS };
        assert_eq!(get("/blocks?from_height=3&limit=1"), Ok(Request::Blocks(third)));
        let newest = PageOfBlocks { before_height: Some(8), order: Order::NewestFirst, limit: 2, ..BLOCKS };
        assert_eq!(get("/blocks?newest=2&before_height=8"), Ok(Request::Blocks(newest)));
        let account = hex::decode(KEY).unwrap();
        let transactions = Request::Transactions(Question::TransactionsOf { account, before: Some(8), limit: 100 });
        assert_eq!(get(&format!("/account/{KEY}/transactions?before=8")), Ok(transactions));
        let question = Question::TransactionsOf { account: hex::decode(HASH).unwrap(), before: None, limit: 100 };
        let transactions = Request::Transactions(question);
        assert_eq!(get(&format!("/account/account-hash-{HASH}/transactions")), Ok(transactions));
    }

    #[test]
    fn a_wrong_query_of_a_page_is_refused_with_the_reason() {
        for (target, words) in [
            ("/events?from=-1", "`from` is a decimal number up to 2^64-1, received: -1"),
            ("/events?from=+1", "`from` is"),
            ("/events?from=", "`from` is"),
            ("/events?limit=0", "`limit` is a decimal number from 1 to 1000, received: 0"),
            ("/events?limit=1001", "from 1 to 1000"),
            ("/events?from=1&from=2", "`from` is given more than once; give it once"),
            ("/events?limit=2&limit=2", "`limit` is given more than once"),
            ("/events?newest=0", "`newest` is a decimal number from 1 to 1000, received: 0"),
            (
                "/events?since=yesterday",
                "`since` is a time as RFC 3339 writes it, like 2026-01-31T12:00:00Z, received: yesterday",
            ),
            ("/events?until_time=", "`until_time` is a time"),
            // The event stream takes an id by that name.
            ("/events?until=5", "unknown parameter `until`"),
            ("/events?types=", "`types` is a comma-separated list"),
            ("/events?types=Step&types=Steps", "received: Steps"),
            ("/blocks?newest=1001", "from 1 to 1000"),
            ("/events?types=Faults", "`types` is a comma-separated list of BlockAdded, TransactionAccepted, "),
            (
                "/events?type=Fault",
                "unknown parameter `type`, expected any of from, from_height, since, before, until_time, newest, limit, types",
            ),
            ("/blocks?from=1", "expected any of from_height, before_height, newest, limit"),
        ] {
            let Err(Refusal::Query(text)) = get(target) else { panic!("{target} is taken") };
            assert!(text.contains(words), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_request_makes_the_parser_panic(path in "(/[a-z0-9/%-]{0,20}){0,5}", query in proptest::option::of(".{0,40}")) {
            let _ = parse(&Method::GET, &path, query.as_deref());
        }
    }
}
