//! What can be asked: method, path and query of a request in, a [`Request`] or a [`Refusal`] out.
//!
//! Which paths are taken, and what the others are told, is the reference's: paths are matched as they come, nothing is
//! decoded, one slash may follow, and a wrong path, method or parameter is all the same. Only the endpoints that it does
//! not have look at the query, and say what is wrong with it.

use axum::http::Method;
use sidecar_log_format::{Kind, Sequence};

use super::counters::Label;
use crate::source::casper::event::KINDS;
use crate::source::casper::keys::{Stage, TransactionType};

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

/// A page of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageOfEvents {
    pub(super) from: Sequence,
    pub(super) limit: usize,
    /// Bits of the kinds wanted (see [`Kind::bit`]).
    pub(super) kinds: u64,
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
    Blocks { from_height: u64, limit: usize },
    /// A page of [`Question::TransactionsOf`].
    Transactions(Question),
    /// One event by its sequence.
    Event(Sequence),
    /// A page of `/events`.
    Events(PageOfEvents),
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

/// Reads a request.
pub(super) fn parse<'a>(method: &Method, path: &'a str, query: Option<&str>) -> Result<Request<'a>, Refusal> {
    let path = path.strip_prefix('/').ok_or(Refusal::Path)?;
    if path.starts_with('/') {
        return Err(Refusal::EmptySegment);
    }
    if method != Method::GET {
        return Err(Refusal::Path);
    }
    if let Some(file) = path.strip_prefix("swagger-ui/") {
        return Ok(Request::SwaggerFile(file));
    }
    let mut segments = path.strip_suffix('/').unwrap_or(path).split('/');
    let mut next = || segments.next();
    let request = match (next(), next(), next(), next(), next()) {
        (Some("block"), None, ..) => Some(Request::One(Question::LatestBlock)),
        (Some("block"), Some(id), None, ..) => {
            let by_hash = hash(id).map(Question::BlockByHash);
            by_hash.or_else(|| number(id).map(Question::BlockByHeight)).map(Request::One)
        }
        (Some("transaction"), Some(form), Some(given), None, _) => transaction_type(form)
            .zip(hash(given))
            .map(|(transaction_type, hash)| Request::Aggregate(transaction_type, hash, given)),
        (Some("transaction"), Some(reached), Some(form), Some(given), None) => stage(reached)
            .zip(transaction_type(form))
            .zip(hash(given))
            .map(|((stage, form), hash)| Request::One(Question::Transaction(stage, form, hash))),
        (Some("faults"), Some(id), None, ..) => {
            let by_key = tagged_key(id).map(Question::FaultsByKey);
            by_key.or_else(|| number(id).map(Question::FaultsByEra)).map(Request::All)
        }
        (Some("signatures"), Some(id), None, ..) => hash(id).map(Question::Signatures).map(Request::All),
        (Some("step"), Some(era), None, ..) => number(era).map(Question::Step).map(Request::One),
        (Some("status"), None, ..) => Some(Request::Status),
        (Some("api-doc.json"), None, ..) => Some(Request::Document),
        (Some("swagger-ui"), None, ..) => Some(Request::SwaggerUi),
        (Some("events"), None, ..) => return page_of_events(query).map(Request::Events),
        (Some("events"), Some(sequence), None, ..) => number(sequence).map(Request::Event),
        (Some("blocks"), None, ..) => return page_of_blocks(query),
        (Some("account"), Some(id), Some("transactions"), None, _) => match account(id) {
            Some(account) => return page_of_transactions(account, query),
            None => None,
        },
        _ => None,
    };
    request.ok_or(Refusal::Path)
}

/// What response times count a path under.
pub(super) fn label(path: &str) -> Label {
    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    let mut next = || segments.next();
    match (next(), next(), next(), next(), next()) {
        (Some("block"), ..) => Label::Block,
        (Some("step"), ..) => Label::Step,
        (Some("faults"), ..) => Label::Faults,
        (Some("signatures"), ..) => Label::Signatures,
        (Some("transaction"), Some(_), Some(_), None, _) => Label::Transaction,
        (Some("transaction"), Some("accepted"), Some(_), Some(_), None) => Label::TransactionAccepted,
        (Some("transaction"), Some("processed"), Some(_), Some(_), None) => Label::TransactionProcessed,
        (Some("transaction"), Some("expired"), Some(_), Some(_), None) => Label::TransactionExpired,
        (Some("status"), None, ..) => Label::Status,
        (Some("events"), ..) => Label::Events,
        (Some("blocks"), None, ..) => Label::Blocks,
        (Some("account"), ..) => Label::Account,
        _ => Label::Unknown,
    }
}

fn hash(text: &str) -> Option<Hash> {
    let mut hash = Hash::default();
    hex::decode_to_slice(text, &mut hash).ok()?;
    Some(hash)
}

/// As the reference reads it: decimal, and a plus may stand before.
fn number(text: &str) -> Option<u64> {
    text.parse().ok()
}

/// As the reference reads a public key: by its length alone. A tag that no key has finds nothing.
fn tagged_key(text: &str) -> Option<Vec<u8>> {
    hex::decode(text).ok().filter(|key| matches!(key.len(), 33 | 34))
}

fn public_key(text: &str) -> Option<Vec<u8>> {
    tagged_key(text).filter(|key| matches!(key.first(), Some(1 | 2)))
}

fn account(text: &str) -> Option<Vec<u8>> {
    let account_hash = text.strip_prefix("account-hash-").and_then(hash);
    account_hash.map(|hash| hash.to_vec()).or_else(|| public_key(text))
}

fn stage(text: &str) -> Option<Stage> {
    match text {
        "accepted" => Some(Stage::Accepted),
        "processed" => Some(Stage::Processed),
        "expired" => Some(Stage::Expired),
        _ => None,
    }
}

fn transaction_type(text: &str) -> Option<TransactionType> {
    if text.eq_ignore_ascii_case("deploy") {
        return Some(TransactionType::Deploy);
    }
    text.eq_ignore_ascii_case("version1").then_some(TransactionType::Version1)
}

fn page_of_events(query: Option<&str>) -> Result<PageOfEvents, Refusal> {
    let mut page = PageOfEvents { from: 0, limit: PAGE_EVENTS, kinds: u64::MAX };
    for (key, value) in parameters(query) {
        match key.as_ref() {
            "from" => page.from = decimal("from", &value)?,
            "limit" => page.limit = limit(&value)?,
            "types" => page.kinds = kinds(&value)?,
            _ => return Err(unknown_parameter(&key, "from, limit, types")),
        }
    }
    Ok(page)
}

fn page_of_blocks(query: Option<&str>) -> Result<Request<'static>, Refusal> {
    let (mut from_height, mut limit_of_page) = (0, PAGE_EVENTS);
    for (key, value) in parameters(query) {
        match key.as_ref() {
            "from_height" => from_height = decimal("from_height", &value)?,
            "limit" => limit_of_page = limit(&value)?,
            _ => return Err(unknown_parameter(&key, "from_height, limit")),
        }
    }
    Ok(Request::Blocks { from_height, limit: limit_of_page })
}

fn page_of_transactions(account: Vec<u8>, query: Option<&str>) -> Result<Request<'static>, Refusal> {
    let (mut before, mut limit_of_page) = (None, PAGE_EVENTS);
    for (key, value) in parameters(query) {
        match key.as_ref() {
            "before" => before = Some(decimal("before", &value)?),
            "limit" => limit_of_page = limit(&value)?,
            _ => return Err(unknown_parameter(&key, "before, limit")),
        }
    }
    Ok(Request::Transactions(Question::TransactionsOf { account, before, limit: limit_of_page }))
}

fn parameters(query: Option<&str>) -> form_urlencoded::Parse<'_> {
    form_urlencoded::parse(query.unwrap_or_default().as_bytes())
}

fn unknown_parameter(name: &str, known: &str) -> Refusal {
    Refusal::Query(format!("unknown parameter `{name}`, expected any of {known}"))
}

fn decimal(name: &str, value: &str) -> Result<u64, Refusal> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let number = value.parse().ok().filter(|_| digits);
    number.ok_or_else(|| Refusal::Query(format!("`{name}` is a decimal number up to 2^64-1, received: {value}")))
}

fn limit(value: &str) -> Result<usize, Refusal> {
    let limit = decimal("limit", value).ok().and_then(|limit| usize::try_from(limit).ok());
    let in_range = limit.filter(|limit| (1..=PAGE_EVENTS_MAX).contains(limit));
    in_range.ok_or_else(|| {
        Refusal::Query(format!("`limit` is a decimal number from 1 to {PAGE_EVENTS_MAX}, received: {value}"))
    })
}

fn kinds(value: &str) -> Result<u64, Refusal> {
    let kind_of = |name: &str| KINDS.iter().find(|(_, known)| *known == name).map(|(kind, _)| *kind);
    let bits = value.split(',').try_fold(0, |bits, name| Some(bits | kind_of(name).map(Kind::bit)?));
    bits.ok_or_else(|| {
        let known: Vec<&str> = KINDS.iter().map(|(_, name)| *name).collect();
        Refusal::Query(format!("`types` is a comma-separated list of {}, received: {value}", known.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
            "/".to_owned(),
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
        for method in [Method::HEAD, Method::POST, Method::OPTIONS, Method::DELETE] {
            assert_eq!(parse(&method, "/block", None), Err(Refusal::Path));
        }
        assert_eq!(get("//block"), Err(Refusal::EmptySegment));
    }

    #[test]
    fn pages_have_defaults_and_take_what_they_are_told() {
        let page = |from, limit, kinds| Ok(Request::Events(PageOfEvents { from, limit, kinds }));
        assert_eq!(get("/events"), page(0, 100, u64::MAX));
        let faults_and_steps = Kind(5).bit() | Kind(7).bit();
        assert_eq!(get("/events/?from=5&limit=1000&types=Fault,Step"), page(5, 1000, faults_and_steps));
        assert_eq!(get("/blocks?from_height=3&limit=1"), Ok(Request::Blocks { from_height: 3, limit: 1 }));
        let account = hex::decode(KEY).unwrap();
        let transactions = Request::Transactions(Question::TransactionsOf { account, before: Some(8), limit: 100 });
        assert_eq!(get(&format!("/account/{KEY}/transactions?before=8")), Ok(transactions));
        let question = Question::TransactionsOf { account: hex::decode(HASH).unwrap(), before: None, limit: 100 };
        let transactions = Request::Transactions(question);
        assert_eq!(get(&format!("/account/account-hash-{HASH}/transactions")), Ok(transactions));
    }

    #[test]
    fn a_wrong_query_of_a_page_is_told_what_is_wrong() {
        for (target, words) in [
            ("/events?from=-1", "`from` is a decimal number up to 2^64-1, received: -1"),
            ("/events?from=+1", "`from` is"),
            ("/events?from=", "`from` is"),
            ("/events?limit=0", "`limit` is a decimal number from 1 to 1000, received: 0"),
            ("/events?limit=1001", "from 1 to 1000"),
            ("/events?types=Faults", "`types` is a comma-separated list of BlockAdded, TransactionAccepted, "),
            ("/events?type=Fault", "unknown parameter `type`, expected any of from, limit, types"),
            ("/blocks?from=1", "expected any of from_height, limit"),
        ] {
            let Err(Refusal::Query(text)) = get(target) else { panic!("{target} is taken") };
            assert!(text.contains(words), "{text}");
        }
    }

    #[test]
    fn labels_are_the_references_and_of_a_bounded_number() {
        for (path, label_of_path) in [
            ("/block", Label::Block),
            ("//block//x/", Label::Block),
            ("/transaction/a/b", Label::Transaction),
            ("/transaction/expired/a/b", Label::TransactionExpired),
            ("/transaction/anything/a/b", Label::Unknown),
            ("/status/", Label::Status),
            ("/swagger-ui/", Label::Unknown),
            ("/", Label::Unknown),
        ] {
            assert_eq!(label(path), label_of_path, "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_request_makes_the_parser_panic(path in "(/[a-z0-9/%-]{0,20}){0,5}", query in proptest::option::of(".{0,40}")) {
            let _ = parse(&Method::GET, &path, query.as_deref());
            let _ = label(&path);
        }
    }
}
