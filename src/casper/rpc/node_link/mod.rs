//! The link to a node's binary port, which all requests share.
//!
//! Owns the connection to the node: making it, keeping it alive, and making it again when it is lost. Requests flow in from
//! any number of tasks; answers flow back. Losing the node costs the requests that were on their way, and nothing else.
//!
//! - `request`, `answer`: what is asked and answered, and its bytes.
//! - `node_error`: what the node's error codes say.
//! - `shown`: how much memory an answer takes as JSON.
//! - `frame`: where one message ends and the next begins.
//! - `connection`: one TCP connection, many requests at once.
//! - `counters`: what happened, for the metrics.
//!
//! A request whose connection is lost is sent again on the next one. The request that the node was working on may be why the
//! connection ended, as when its answer is too large: it is sent again once. A transaction to be accepted is never sent again:
//! the node may have it already.

mod answer;
mod connection;
mod counters;
mod frame;
mod node_error;
mod request;
mod shown;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use casper_binary_port::InformationRequestTag;
use casper_types::bytesrepr;
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tracing::{debug, error, info, warn};

#[cfg(any(test, fuzzing))]
pub(crate) use answer::decode_anything;
pub(crate) use answer::{
    Answer, Balance, FoundAccount, FoundContract, FoundDictionaryItem, FoundEntity, FoundTransaction, NodeStatus,
    NodeValue, Proofs, Proven, Reward, SpeculativeExecution, StateItem, Transfers, Trie, ValidatorChanges,
};
pub use counters::LinkCounters;
pub(crate) use counters::TIME_MICROSECONDS;
pub(crate) use request::{
    DictionaryItem, EntityIdentifier, EntityItems, EraIdentifier, PackageIdentifier, Purse, Request,
};

use crate::engine::backoff;
use connection::{Connection, Unanswered};

/// Where the node is, and how it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeLinkOptions {
    /// The node's binary port.
    pub address: SocketAddr,
    /// The chain that the node must be of, if that matters.
    pub network_name: Option<String>,
    /// The largest message in either direction.
    pub message_bytes_max: u32,
    /// How long sending a request may take, and then its answer.
    pub message_timeout: Duration,
    /// How long a request may wait for its turn and for the connection.
    pub access_timeout: Duration,
    /// How often the node is sent something, so that it keeps the connection.
    pub keepalive_interval: Duration,
    /// How to come back to a lost node.
    pub backoff: Backoff,
    /// Requests that are sent and not answered, at most.
    pub request_limit: u32,
    /// Requests that wait for their turn to be sent, at most; further ones are refused.
    pub request_buffer_size: u32,
}

/// The pauses between attempts to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first pause.
    pub initial_delay: Duration,
    /// The longest pause.
    pub max_delay: Duration,
    /// What a pause is multiplied with to get the next one.
    pub coefficient: u32,
    /// Failed attempts after which requests are not kept waiting any more.
    pub max_attempts: u32,
}

/// Why a request has no answer that can be used. The texts are the reference's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// There is no connection, or it ended before the answer came.
    #[error("connection to node lost")]
    Lost,
    /// The request could not be sent, or nothing more can be read.
    #[error("request error: {0}")]
    Request(String),
    /// A message is larger than is allowed.
    #[error("request error: Request too large: allowed {allowed} bytes, got {got} bytes")]
    TooLarge {
        /// The most.
        allowed: u32,
        /// What it has.
        got: u32,
    },
    /// Too many requests wait already.
    #[error("too many requests wait for the node")]
    Busy,
    /// The node answered something else than was asked, again and again.
    #[error("failed to get a response with correct id 100 times, giving up")]
    Mismatches,
    /// A frame of the node is not an answer.
    #[error("{0}")]
    Envelope(String),
    /// A value is not what it says.
    #[error("failed to deserialize a response: {0}")]
    Undecodable(String),
    /// A value is not what was asked for.
    #[error("unexpected payload variant received in the response: {0}")]
    UnexpectedKind(u8),
    /// There is no value where there always is one.
    #[error("unexpectedly received an empty envelope")]
    NoValue,
    /// The node's own error.
    #[error("{}", node_error::text(*.0))]
    Node(u16),
}

impl From<bytesrepr::Error> for LinkError {
    fn from(error: bytesrepr::Error) -> Self {
        LinkError::Undecodable(error.to_string())
    }
}

/// Where the link is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// The first attempts to connect, or the first ones after a loss, are being made.
    Connecting,
    /// Requests are answered.
    Connected,
    /// As many attempts in a row have failed as are configured. More are made, but no request waits for them.
    Away,
}

#[derive(Clone)]
enum Standing {
    Connecting,
    Connected(Connection),
    Away,
}

/// The link, for as many tasks as want to use it. It ends when the last one is dropped.
#[derive(Clone)]
pub struct NodeLink {
    shared: Arc<Shared>,
    _keeper: Arc<JoinSet<()>>,
}

struct Shared {
    options: NodeLinkOptions,
    counters: Arc<LinkCounters>,
    standing: watch::Sender<Standing>,
    /// For requests that are sent.
    places: Arc<Semaphore>,
    /// For requests that wait for one of the `places`.
    waiting: Semaphore,
    /// A request has failed because the node is away.
    wanted: Notify,
}

impl NodeLink {
    /// Begins to connect. Within a Tokio runtime only.
    #[must_use]
    pub fn start(options: NodeLinkOptions) -> NodeLink {
        let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let shared = Arc::new(Shared {
            counters: Arc::default(),
            standing: watch::Sender::new(Standing::Connecting),
            places: Arc::new(Semaphore::new(count(options.request_limit.max(1)))),
            waiting: Semaphore::new(count(options.request_buffer_size)),
            wanted: Notify::new(),
            options,
        });
        let mut keeper = JoinSet::new();
        keeper.spawn({
            let shared = Arc::clone(&shared);
            async move { shared.keep_connected().await }
        });
        NodeLink { shared, _keeper: Arc::new(keeper) }
    }

    /// Where the link is in its life.
    #[must_use]
    pub fn state(&self) -> LinkState {
        match *self.shared.standing.borrow() {
            Standing::Connecting => LinkState::Connecting,
            Standing::Connected(_) => LinkState::Connected,
            Standing::Away => LinkState::Away,
        }
    }

    /// Where the node is.
    #[must_use]
    pub fn node(&self) -> SocketAddr {
        self.shared.options.address
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> &Arc<LinkCounters> {
        &self.shared.counters
    }

    /// Requests that are sent and not answered.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        let places = u64::from(self.shared.options.request_limit.max(1));
        places.saturating_sub(self.shared.places.available_permits() as u64)
    }

    /// Has the node answer a request.
    pub(crate) async fn ask(&self, request: &Request) -> Result<Answer, LinkError> {
        self.shared.ask(request).await
    }
}

impl Shared {
    async fn ask(&self, request: &Request) -> Result<Answer, LinkError> {
        let (got, allowed) = (request.payload_bytes(), self.options.message_bytes_max);
        if got > allowed {
            return Err(LinkError::TooLarge { allowed, got });
        }
        let mut deadline = Instant::now() + self.options.access_timeout;
        let (mut losses, mut was_suspected) = (0, false);
        loop {
            let access = async { (self.place().await, self.connection().await) };
            let (place, connection) = match timeout_at(deadline, access).await {
                Ok((place, connection)) => (place?, connection?),
                Err(_) => {
                    let counters = &self.counters;
                    let counter = if losses > 0 { &counters.reconnect_timeouts } else { &counters.access_timeouts };
                    counter.add(1);
                    return Err(LinkError::Lost);
                }
            };
            match connection.ask(request, Some(place)).await {
                Ok(answer) => return Ok(answer),
                Err(Unanswered::TimedOut) => return Err(LinkError::Lost),
                Err(Unanswered::NotSent) => {}
                Err(Unanswered::Lost { reason, was_current }) => {
                    losses += 1;
                    // An answer that is too large will not be smaller.
                    let is_too_large = matches!(reason, LinkError::TooLarge { .. });
                    let is_the_cause = was_current && (was_suspected || is_too_large);
                    if is_the_cause || losses > SENT_AGAIN_MAX || !request.may_be_sent_twice() {
                        return Err(reason);
                    }
                    was_suspected |= was_current;
                    deadline = Instant::now() + self.options.access_timeout;
                    self.counters.sent_again.add(1);
                }
            }
        }
    }

    /// Waits for a place among the requests that are sent.
    async fn place(&self) -> Result<OwnedSemaphorePermit, LinkError> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(place);
        }
        let Ok(_waiting) = self.waiting.try_acquire() else {
            self.counters.refused.add(1);
            return Err(LinkError::Busy);
        };
        Arc::clone(&self.places).acquire_owned().await.map_err(|_| LinkError::Lost)
    }

    /// Waits for a connection, unless the node is known to be away.
    async fn connection(&self) -> Result<Connection, LinkError> {
        let mut standing = self.standing.subscribe();
        let settled = standing.wait_for(|standing| match standing {
            Standing::Connecting => false,
            Standing::Connected(connection) => !connection.has_ended(),
            Standing::Away => true,
        });
        match settled.await.as_deref() {
            Ok(Standing::Connected(connection)) => Ok(connection.clone()),
            _ => {
                self.wanted.notify_one();
                Err(LinkError::Lost)
            }
        }
    }

    /// Connects, and connects again whenever the connection is lost.
    async fn keep_connected(&self) {
        let node = self.options.address;
        let mut lost_at = None;
        loop {
            let connection = self.connect().await;
            info!(%node, "connected to the node's binary port");
            let since = Instant::now();
            if let Some(lost_at) = lost_at {
                let time = since.saturating_duration_since(lost_at);
                self.counters.reconnects.observe_time(time);
            }
            self.standing.send_replace(Standing::Connected(connection.clone()));
            let reason = tokio::select! {
                reason = connection.ended() => reason,
                () = connection.keep_alive() => connection.ended().await,
            };
            self.counters.disconnects.add(1);
            self.standing.send_replace(Standing::Connecting);
            warn!(%node, %reason, "the connection to the node's binary port is lost; it is made again");
            lost_at = Some(Instant::now());
            // A node that keeps closing its connections is not connected to without a pause.
            if since.elapsed() < self.options.backoff.initial_delay {
                sleep(self.options.backoff.initial_delay).await;
            }
        }
    }

    /// Makes a connection that answers, however long that takes.
    async fn connect(&self) -> Connection {
        let Backoff { initial_delay, max_delay, coefficient, max_attempts } = self.options.backoff;
        let mut backoff = backoff::Backoff::new(initial_delay, max_delay).with_factor(coefficient);
        let mut failed = 0_u32;
        loop {
            let reason = match self.try_to_connect().await {
                Ok(connection) => return connection,
                Err(reason) => reason,
            };
            self.counters.failed_attempts.add(1);
            failed = failed.saturating_add(1);
            let node = self.options.address;
            let pause = backoff.take();
            if failed == max_attempts {
                error!(
                    %node, attempts = failed, %reason,
                    "the node's binary port cannot be reached; requests fail at once until it can; check that the node \
                     runs and that `[rpc_server.node_client]` names its binary port"
                );
                self.standing.send_replace(Standing::Away);
            } else if failed < max_attempts {
                warn!(%node, attempts = failed, %reason, pause = ?pause, "cannot connect to the node's binary port");
            } else {
                debug!(%node, attempts = failed, %reason, pause = ?pause, "cannot connect to the node's binary port");
            }
            self.pause(pause, failed >= max_attempts).await;
        }
    }

    /// Waits before the next attempt. Where requests fail at once, one of them ends the wait after the first pause's time.
    async fn pause(&self, pause: Duration, is_away: bool) {
        let due = Instant::now() + pause;
        sleep(pause.min(self.options.backoff.initial_delay).max(PAUSE_MIN)).await;
        tokio::select! {
            () = sleep_until(due) => {}
            () = self.wanted.notified(), if is_away => {}
        }
    }

    async fn try_to_connect(&self) -> Result<Connection, ConnectError> {
        let limit = self.options.access_timeout;
        let stream = timeout(limit, TcpStream::connect(self.options.address)).await;
        let stream = stream.map_err(|_| ConnectError::TooSlow)??;
        let connection = Connection::start(stream, self.options.clone(), Arc::clone(&self.counters));
        let tag = match self.options.network_name {
            Some(_) => InformationRequestTag::NodeStatus,
            None => InformationRequestTag::ProtocolVersion,
        };
        let request = Request::plain_information(tag).map_err(LinkError::from)?;
        let answer = connection.ask(&request, None).await.map_err(|unanswered| match unanswered {
            Unanswered::Lost { reason, .. } => ConnectError::Link(reason),
            Unanswered::NotSent => ConnectError::Link(LinkError::Lost),
            Unanswered::TimedOut => ConnectError::TooSlow,
        })?;
        if let Some(configured) = &self.options.network_name {
            let node = answer.required::<NodeStatus>()?.chainspec_name;
            if node != *configured {
                return Err(ConnectError::OtherNetwork { node, configured: configured.clone() });
            }
        } else if let Err(error) = answer.found() {
            warn!(node = %self.options.address, %error, "the node answers its first request with an error");
        }
        Ok(connection)
    }
}

/// How often a request is sent again at most, because connections ended while the node was working on others.
const SENT_AGAIN_MAX: u32 = 8;

/// The pause after a failed attempt is never shorter, whatever the configuration says.
const PAUSE_MIN: Duration = Duration::from_millis(10);

/// Why a connection was not made.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("it does not answer in time")]
    TooSlow,
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("Network name {node} does't match name {configured} configured for node RPC connection")]
    OtherNetwork { node: String, configured: String },
}
