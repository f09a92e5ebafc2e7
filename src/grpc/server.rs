//! The gateway's port: recorded streams at their paths, and everything else to the upstreams.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use sidecar_log_format::Log;
use tokio::task::JoinSet;

use super::counters::{GatewayCounters, StreamCounters};
use super::events::Events;
use super::gateway::Gateway;
use super::options::{DescriptorSource, Options, StreamOptions};
use super::recorded::{Recorded, RecordingError, subscription};
use super::rules::{AnswerKind, RuleError};
use super::subscription::Subscription;
use super::upstream::{Upstream, UpstreamError};
use crate::engine::dialect::stored_kinds;
use crate::engine::http::BindError;
use crate::engine::http::cors::PageMethods;
use crate::engine::http::front::Front;
use crate::engine::log_set::Sources;
use crate::engine::stream::{Hub, Port, PortCounters};

/// The upstreams of a configuration, with the descriptors that are known without them.
pub struct Upstreams {
    options: Options,
    all: Vec<Arc<Upstream>>,
}

/// Why the gateway cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An upstream.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// A rule.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// A recorded stream.
    #[error("the recorded stream `{name}`: {source}")]
    Stream {
        /// Its name.
        name: String,
        /// What is wrong.
        source: RecordingError,
    },
    /// A recorded stream's upstream.
    #[error(
        "the recorded stream `{name}` names the upstream `{upstream}`, which is not there; add it to `[[grpc.upstreams]]`"
    )]
    NoUpstream {
        /// Its name.
        name: String,
        /// As configured.
        upstream: String,
    },
    /// The port.
    #[error(transparent)]
    Bind(#[from] BindError),
}

/// A recorded stream, before its log is open.
pub struct RecordedStream {
    options: StreamOptions,
    upstream: Arc<Upstream>,
    place: usize,
    is_event_source: bool,
    counters: Arc<StreamCounters>,
}

impl Upstreams {
    /// Reads what can be read without the upstreams. Within a Tokio runtime only.
    ///
    /// # Errors
    /// [`StartError::Upstream`].
    pub fn open(options: Options) -> Result<Upstreams, StartError> {
        let open = |upstream| Upstream::open(upstream, options.message_bytes_max).map(Arc::new);
        let all = options.upstreams.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Upstreams { options, all })
    }

    /// The streams to record, as far as they can be checked now.
    ///
    /// # Errors
    /// [`StartError::Stream`] and [`StartError::NoUpstream`].
    pub fn streams(&self) -> Result<Vec<RecordedStream>, StartError> {
        self.options.streams.iter().map(|options| self.stream(options)).collect()
    }

    fn stream(&self, options: &StreamOptions) -> Result<RecordedStream, StartError> {
        let name = || options.name.clone();
        let named = self.all.iter().position(|upstream| upstream.name() == options.upstream);
        let no_upstream = || StartError::NoUpstream { name: name(), upstream: options.upstream.clone() };
        let place = named.ok_or_else(no_upstream)?;
        let upstream = self.all.get(place).ok_or_else(no_upstream)?;
        let wrong = |source| StartError::Stream { name: name(), source };
        // Without descriptors only an event field can tell that the message is not an event itself.
        let is_event_source = match &*upstream.schema().borrow() {
            Some(schema) => {
                let (rpc, _) = subscription(options, place, schema.method(&options.method)).map_err(wrong)?;
                rpc.answer == AnswerKind::Event
            }
            None => options.event_field.is_none(),
        };
        Ok(RecordedStream {
            is_event_source,
            options: options.clone(),
            upstream: Arc::clone(upstream),
            place,
            counters: Arc::default(),
        })
    }
}

impl RecordedStream {
    /// The name of its log.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// The dialect of its log, which is in `directory`, or will be.
    #[must_use]
    pub fn dialect(&self, directory: &Path) -> Recorded {
        Recorded::new(&self.options, self.is_event_source, stored_kinds(directory))
    }

    /// What its subscription counts.
    #[must_use]
    pub fn counters(&self) -> &Arc<StreamCounters> {
        &self.counters
    }

    /// Subscribes whenever the log is ready for what comes.
    #[must_use]
    pub fn sources(&self, upstreams: &Upstreams, log: &Log, dialect: Arc<Recorded>) -> Sources {
        let subscription = Arc::new(Subscription {
            options: self.options.clone(),
            upstream: Arc::clone(&self.upstream),
            place: self.place,
            recorded: dialect,
            json: upstreams.options.json,
            counters: Arc::clone(&self.counters),
            log: log.clone(),
        });
        Box::new(move |batches| {
            let (subscription, batches) = (Arc::clone(&subscription), batches.clone());
            let mut sources = JoinSet::new();
            sources.spawn(async move { subscription.run(batches).await });
            sources
        })
    }
}

/// A bound server.
pub struct Server {
    port: Port,
    shared: Arc<Shared>,
    upstreams: Vec<(Arc<Upstream>, DescriptorSource)>,
    counters: Arc<GatewayCounters>,
}

struct Shared {
    gateway: Gateway,
    recorded: HashMap<String, Events>,
}

impl Server {
    /// Takes the port. `recorded` are the recorded streams with the hubs of their logs. Within a Tokio runtime only.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn bind<'a>(
        upstreams: Upstreams,
        recorded: impl IntoIterator<Item = (&'a RecordedStream, Arc<Hub>)>,
    ) -> Result<Server, StartError> {
        let Upstreams { options, all } = upstreams;
        // Any method can be a rule's.
        let port = Port::bind(&options.port)?.with_page_methods(PageMethods::Any);
        let counters: Arc<GatewayCounters> = Arc::default();
        let (open_streams, delivery) = (port.open_streams(), port.delivery());
        let events = |(stream, hub): (&RecordedStream, Arc<Hub>)| {
            (stream.options.path.clone(), Events::new(hub, open_streams.clone(), delivery))
        };
        let recorded = recorded.into_iter().map(events).collect();
        let sources = options.upstreams.iter().map(|upstream| upstream.descriptors.clone());
        let described = all.iter().cloned().zip(sources).collect();
        let gateway = Gateway::new(options, all, open_streams, Arc::clone(&counters))?;
        Ok(Server { port, shared: Arc::new(Shared { gateway, recorded }), upstreams: described, counters })
    }

    /// Where it listens, and what it counts of connections and requests.
    #[must_use]
    pub fn front(&self) -> &Front {
        self.port.front()
    }

    /// What its port has done so far.
    #[must_use]
    pub fn port_counters(&self) -> Arc<PortCounters> {
        Arc::clone(self.port.open_streams().counters())
    }

    /// What the gateway has done so far.
    #[must_use]
    pub fn counters(&self) -> &Arc<GatewayCounters> {
        &self.counters
    }

    /// Serves until `cancel` is done; then every connection is cut, without a message.
    pub async fn run(self, cancel: impl Future<Output = ()>) {
        let mut describing = JoinSet::new();
        for (upstream, source) in self.upstreams {
            if source == DescriptorSource::Reflection {
                let shared = Arc::clone(&self.shared);
                describing.spawn(async move { shared.gateway.describe(&upstream).await });
            }
        }
        let router = Router::new().fallback(respond).with_state(self.shared);
        self.port.serve(router, cancel).await;
    }
}

async fn respond(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    match shared.recorded.get(request.uri().path()) {
        Some(events) => events.answer(request),
        None => shared.gateway.answer(request).await,
    }
}
