//! One consensus client's life: connect, read until the stream ends, and begin again.
//!
//! Owns the parts that are specific to the beacon API: which topics a client knows, which time no client was read for, and
//! how a message becomes an event.
//! What every source of Server-Sent Events needs is in [`sse_client`](crate::sse_client).

use std::sync::Arc;
use std::time::Duration;

use eventsource_client::Event;
use reqwest::StatusCode;
use tokio::sync::mpsc;
use tracing::{debug, error, info, warn};

use super::super::identity;
use super::super::topics::{self, BLOCK, HEAD, named};
use super::ClientOptions;
use super::coverage::{Away, Coverage};
use super::fill::{self, Made};
use super::rest::{Network, RestApi};
use crate::engine::backoff::Backoff;
use crate::engine::dialect::Facts;
use crate::engine::source::watch::{SourceCounters, SourceStatus};
use crate::engine::source::{ApiVersion, Batch, Connection, End, Kind, Received, now};
use crate::sse_client::delivery::{Delivery, DeliveryError, Undelivered};
use crate::sse_client::frames::{DropReason, DroppedFrame};
use crate::sse_client::log_lines::{LineBudget, shown};
use crate::sse_client::stream::{EventStream, StreamError, StreamOptions, http_client, https_client, with_causes};

/// The longest pause between two attempts, unless the first is longer.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// What eventsource-client calls an event without a name.
const UNNAMED: &str = "message";

/// Reads one client and sends what it says to `out`, until there is a reason to [`End`].
///
/// `coverage` is what all clients of the log have together. May be dropped at any moment; what the client says until it is
/// read again is a gap.
pub async fn run(
    client: ClientOptions,
    coverage: Arc<Coverage>,
    out: mpsc::Sender<Batch>,
    counters: Arc<SourceCounters>,
) -> End {
    let reader = Reader { out, counters, lines: Arc::default(), options: client, coverage };
    tokio::select! {
        end = reader.read() => end,
        () = reader.out.closed() => End::ReceiverGone,
    }
}

/// Why an attempt is over.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
    #[error("the client refuses every topic that it is asked for")]
    NoTopics,
    #[error("the client is on network {its}, and the log holds events of {wanted}")]
    OtherNetwork { its: String, wanted: String },
}

struct Reader {
    options: ClientOptions,
    coverage: Arc<Coverage>,
    out: mpsc::Sender<Batch>,
    counters: Arc<SourceCounters>,
    lines: Arc<Lines>,
}

/// What may be written about one client, by kind, so that one kind does not hide another.
#[derive(Default)]
struct Lines {
    connection: LineBudget,
    bad_input: LineBudget,
}

impl Reader {
    fn name(&self) -> &str {
        self.options.endpoint.name()
    }

    async fn read(&self) -> End {
        let ClientOptions { max_attempts, first_pause, .. } = self.options;
        let mut backoff = Backoff::new(first_pause, PAUSE_MAX.max(first_pause));
        let (mut failed, mut known_topics) = (0, None);
        self.counters.status.set(SourceStatus::Connecting);
        loop {
            let (lost, has_delivered) = self.attempt(&mut known_topics).await;
            match lost {
                Lost::Delivery(DeliveryError::ReceiverGone(_)) => return End::ReceiverGone,
                Lost::OtherNetwork { .. } => {
                    self.counters.status.set(SourceStatus::Incompatible);
                    error!(node = self.name(), reason = %lost, "reading a client ends; correct its URL");
                    return End::WrongNetwork;
                }
                _ => self.counters.status.set(SourceStatus::Reconnecting),
            }
            if has_delivered {
                failed = 0;
                backoff.reset();
            } else {
                failed += 1;
            }
            self.lines.connection.spend(self.name(), || {
                let (reason, pause) = (with_causes(&lost), backoff.pause());
                warn!(node = self.name(), reason, ?pause, "the connection to a client is lost; it is tried again");
            });
            if max_attempts.is_some_and(|max| failed >= max) {
                self.counters.status.set(SourceStatus::AttemptsUsedUp);
                error!(node = self.name(), failed, "a client is given up after as many attempts as `max_attempts`");
                return End::AttemptsUsedUp;
            }
            tokio::time::sleep(backoff.take()).await;
            self.counters.reconnects.add(1);
        }
    }

    /// One connection from its beginning to its end: why it is over, and whether it delivered an event. `known_topics` are
    /// those that the client took when it refused the others.
    async fn attempt(&self, known_topics: &mut Option<Vec<Box<str>>>) -> (Lost, bool) {
        let client = match self.client() {
            Ok(client) => client,
            Err(error) => return (error.into(), false),
        };
        let (stream, topics) = match self.open(&client, known_topics).await {
            Ok(opened) => opened,
            Err(lost) => return (lost, false),
        };
        let api = RestApi::new(&client, &self.options.endpoint);
        let network = match self.network(&api).await {
            Ok(network) => network,
            Err(lost) => return (lost, false),
        };
        self.counters.status.set(SourceStatus::Connected);
        info!(node = self.name(), network = network.name, topics = topics.len(), "reading a client's events");
        let connection = Connection {
            source: self.name().to_owned(),
            network: network.name.clone(),
            api_version: ApiVersion::NONE,
            event_lines: None,
        };
        let delivery = Delivery::new(stream, self.out.clone(), connection);
        let connection = Arc::clone(delivery.connection());
        let (covered, away) = self.coverage.begin(&topics);
        let mut live = Live { reader: self, delivery, has_delivered: false };
        let lost = tokio::select! {
            lost = live.read_to_end() => lost,
            // The client's events must not wait for what it is asked meanwhile.
            lost = self.make_up(&api, &network, &topics, connection, away) => lost,
        };
        covered.end(live.delivery.silent_for());
        (lost, live.has_delivered)
    }

    fn client(&self) -> Result<reqwest::Client, StreamError> {
        let ClientOptions { endpoint, timeouts, .. } = &self.options;
        match endpoint.is_https() || !endpoint.headers().is_empty() {
            true => https_client(timeouts.connection, endpoint.headers()),
            false => http_client(timeouts.connection),
        }
    }

    /// The client's stream, and the topics that it has.
    async fn open(
        &self,
        client: &reqwest::Client,
        known_topics: &mut Option<Vec<Box<str>>>,
    ) -> Result<(EventStream, Vec<Box<str>>), Lost> {
        let wanted = &self.options.topics;
        match self.stream(client, wanted).await {
            Ok(stream) => {
                *known_topics = None;
                return Ok((stream, wanted.clone()));
            }
            Err(StreamError::Refused(StatusCode::BAD_REQUEST)) if wanted.len() > 1 => {}
            Err(error) => return Err(error.into()),
        }
        // One topic that the client does not know fails the whole request.
        let known = match known_topics.take() {
            Some(known) => known,
            None => self.probe(client).await?,
        };
        let stream = self.stream(client, &known).await?;
        *known_topics = Some(known.clone());
        Ok((stream, known))
    }

    /// Asks for the topics one by one.
    async fn probe(&self, client: &reqwest::Client) -> Result<Vec<Box<str>>, Lost> {
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for topic in &self.options.topics {
            match self.stream(client, std::slice::from_ref(topic)).await {
                Ok(_) => known.push(topic.clone()),
                Err(StreamError::Refused(StatusCode::BAD_REQUEST)) => unknown.push(&**topic),
                Err(error) => return Err(error.into()),
            }
        }
        if known.is_empty() {
            return Err(Lost::NoTopics);
        }
        let (refused, read) = (unknown.join(","), known.len());
        self.lines.connection.spend(self.name(), || {
            info!(node = self.name(), refused, read, "the client does not know all topics; the others are read");
        });
        Ok(known)
    }

    async fn stream(&self, client: &reqwest::Client, topics: &[Box<str>]) -> Result<EventStream, StreamError> {
        let options = StreamOptions {
            url: self.options.endpoint.events(topics).to_string(),
            event_bytes_max: self.options.event_bytes_max,
            timeouts: self.options.timeouts,
        };
        let (name, counters, lines) = (self.name().to_owned(), Arc::clone(&self.counters), Arc::clone(&self.lines));
        let dropped = move |frame: DroppedFrame| note_dropped(&name, &counters, &lines, &frame);
        let mut stream = EventStream::open(client.clone(), &options, dropped)?;
        stream.opened().await?;
        Ok(stream)
    }

    /// The client's network, which must be that of the log where both tell.
    async fn network(&self, api: &RestApi<'_>) -> Result<Network, Lost> {
        let network = match api.network().await {
            Ok(network) => network,
            Err(error) => {
                debug!(node = self.name(), reason = with_causes(&error), "the client does not tell its network");
                return Ok(Network::unknown());
            }
        };
        if network.name.is_empty() {
            return Ok(network);
        }
        let wanted = self.options.log_network.claim(&network.name);
        if wanted != network.name {
            return Err(Lost::OtherNetwork { wanted: wanted.to_owned(), its: network.name });
        }
        Ok(network)
    }

    /// Marks the gap of the time in which no client was read, and asks the client's REST API for what it can still answer.
    /// Returns only when ingest has ended.
    async fn make_up(
        &self,
        api: &RestApi<'_>,
        network: &Network,
        topics: &[Box<str>],
        connection: Arc<Connection>,
        away: Option<Away>,
    ) -> Lost {
        let Some(Away { from, to, newest_slot }) = away else { return std::future::pending().await };
        let gap = Batch::Gap { connection: Arc::clone(&connection), of: "time", from, to };
        if self.out.send(gap).await.is_err() {
            return DeliveryError::ReceiverGone(Undelivered::Events).into();
        }
        let Some(newest_slot) = newest_slot.filter(|_| fill::is_of_use(topics)) else {
            return std::future::pending().await;
        };
        match fill::missed(api, network, topics, newest_slot).await {
            Ok(made) => {
                info!(node = self.name(), after_slot = newest_slot, events = made.len(), "asked for missed events");
                let events: Vec<Received> = made.into_iter().filter_map(|made| self.made(made)).collect();
                if !events.is_empty() && self.out.send(Batch::Events { connection, events }).await.is_err() {
                    return DeliveryError::ReceiverGone(Undelivered::Events).into();
                }
            }
            Err(error) => {
                let reason = with_causes(&error);
                warn!(node = self.name(), reason, "missed blocks and checkpoints cannot be asked for");
            }
        }
        std::future::pending().await
    }

    fn made(&self, made: Made) -> Option<Received> {
        let kind = named(made.topic)?.kind;
        let identity = identity::read(kind, "", &made.payload).ok()?.identity;
        self.note_slot(kind, identity.time);
        Some(Received {
            payload: made.payload,
            kind,
            name: Box::default(),
            facts: Facts { identity, richness: 0, ordinal: None },
            upstream_id: None,
            received_at: now(),
            line: None,
        })
    }

    fn note_slot(&self, kind: Kind, slot: u64) {
        if matches!(kind, HEAD | BLOCK) {
            self.coverage.note_slot(slot);
        }
    }
}

/// Counts and logs a frame that was taken out of a client's stream.
fn note_dropped(name: &str, counters: &SourceCounters, lines: &Lines, frame: &DroppedFrame) {
    match frame.reason {
        DropReason::NotUtf8 => counters.malformed.add(1),
        DropReason::Oversized { .. } => counters.oversized.add(1),
    }
    lines.bad_input.spend(name, || {
        error!(node = name, reason = %frame.reason, begins = shown(&frame.first_bytes), "dropped a frame");
    });
}

/// A connection whose stream is open.
struct Live<'a> {
    reader: &'a Reader,
    delivery: Delivery,
    has_delivered: bool,
}

impl Live<'_> {
    /// Reads until the connection is over; returns why.
    async fn read_to_end(&mut self) -> Lost {
        loop {
            match self.delivery.next().await {
                Ok(message) => self.take(message),
                Err(lost) => return lost.into(),
            }
        }
    }

    /// Takes what one message says.
    fn take(&mut self, message: Event) {
        let Reader { counters, lines, options, .. } = self.reader;
        let name = self.reader.name();
        let Event { event_type, data, id, .. } = message;
        // Consumers read one line; in a JSON value a line break is only white space.
        let payload = if data.contains('\n') { data.replace('\n', " ") } else { data };
        counters.received.add(1);
        let topic = if event_type == UNNAMED { "" } else { &*event_type };
        let kind = options.dialect.kind(topic);
        let known = match identity::read(kind, topic, &payload) {
            Ok(known) => known,
            Err(malformed) => {
                counters.malformed.add(1);
                lines.bad_input.spend(name, || {
                    let begins = shown(payload.as_bytes());
                    error!(node = name, topic, reason = %malformed, begins, "dropped an event");
                });
                return;
            }
        };
        if known.is_unclassified {
            counters.unclassified.add(1);
            debug!(node = name, topic, begins = shown(payload.as_bytes()), "event of an unknown topic or shape");
        } else {
            self.reader.note_slot(kind, known.identity.time);
        }
        let upstream_id = id.and_then(|id| id.parse().ok());
        let own_name = if kind == Kind::OTHER { topic.into() } else { Box::default() };
        self.delivery.push(|received_at| {
            counters.last_received.set(received_at);
            let identity = match topics::is_news_each_time(kind) {
                true => identity::of_bytes(kind, &[name.as_bytes(), &received_at.to_le_bytes(), payload.as_bytes()]),
                false => known.identity,
            };
            let facts = Facts { identity, richness: 0, ordinal: None };
            Received { payload, kind, name: own_name, facts, upstream_id, received_at, line: None }
        });
        self.has_delivered = true;
    }
}
