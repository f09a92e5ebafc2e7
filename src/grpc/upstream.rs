//! An upstream: one gRPC server, its connections, and its descriptors once they are known.
//!
//! A call flows in, a stream of messages flows out; dropping that cancels the call. Nothing is queued: messages are read from
//! HTTP/2 when they are asked for, and its flow control holds the server back. Streams share connections, but no more of them
//! than a server's usual limit of streams on one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::Uri;
use axum::http::uri::PathAndQuery;
use prost_reflect::DynamicMessage;
use tokio::sync::watch;
use tonic::client::Grpc;
use tonic::metadata::MetadataMap;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Extensions, Request, Response, Status, Streaming};

use super::codec::DynamicCodec;
use super::descriptors::{DescriptorError, Schema};
use super::options::{DescriptorSource, UpstreamOptions};
use super::reflection;
use super::rules::Rpc;
use crate::engine::backoff::Backoff;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often an open connection is asked whether it is alive, and how long it may take to answer.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// So long a connection may be dead before that is noticed.
pub(super) const DEAD_UNNOTICED_MAX: Duration = PING_INTERVAL.saturating_add(PING_TIMEOUT);
/// Calls on one connection: half of what servers usually allow.
const CALLS_PER_CONNECTION: usize = 100;
/// What a stream may have in flight that is not read yet.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
/// The same for a connection: an unread stream must not hold up the others.
const CONNECTION_WINDOW_BYTES: u32 = STREAM_WINDOW_BYTES * (CALLS_PER_CONNECTION as u32 + 1);
/// Pauses between attempts to get the descriptors.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long an upstream may take to describe itself.
const REFLECTION_TIMEOUT: Duration = Duration::from_secs(20);

/// One gRPC server.
pub struct Upstream {
    name: String,
    address: String,
    endpoint: Endpoint,
    connections: Mutex<Vec<Connection>>,
    message_bytes_max: usize,
    schema: watch::Sender<Option<Arc<Schema>>>,
}

/// A connection, and how many hold it.
struct Connection {
    channel: Channel,
    calls: Arc<()>,
}

/// A stream of answers. Dropping it cancels the call.
pub struct Call {
    /// The messages.
    pub messages: Streaming<DynamicMessage>,
    /// What came before them.
    pub metadata: MetadataMap,
    _call: Arc<()>,
}

/// Why there is no upstream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// The address is not one.
    #[error(
        "the address `{address}` of the upstream `{name}` is not usable: {reason}; set it to http://HOST:PORT or https://HOST:PORT"
    )]
    Address {
        /// The upstream.
        name: String,
        /// Its address.
        address: String,
        /// What is wrong.
        reason: String,
    },
    /// The certificate cannot be read.
    #[error("cannot read {path}, the `ca_certificate` of the upstream `{name}`: {source}; name a PEM file")]
    Certificate {
        /// The upstream.
        name: String,
        /// The file.
        path: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Its descriptors cannot be used.
    #[error("the descriptors of the upstream `{name}`: {source}")]
    Descriptors {
        /// The upstream.
        name: String,
        /// What is wrong.
        source: DescriptorError,
    },
}

impl Upstream {
    /// Reads its descriptors, unless they come by reflection. Nothing is connected yet. Within a Tokio runtime only.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub fn open(options: &UpstreamOptions, message_bytes_max: usize) -> Result<Upstream, UpstreamError> {
        let name = options.name.clone();
        let schema = match &options.descriptors {
            DescriptorSource::Set(file) => Some(Schema::read(file)),
            DescriptorSource::Protos { files, include_paths } => Some(Schema::compile(files, include_paths)),
            DescriptorSource::Reflection => None,
        };
        let described = |source| UpstreamError::Descriptors { name: name.clone(), source };
        let schema = schema.transpose().map_err(described)?.map(Arc::new);
        let endpoint = endpoint(options)?;
        Ok(Upstream {
            name,
            address: options.address.clone(),
            endpoint,
            connections: Mutex::default(),
            message_bytes_max,
            schema: watch::Sender::new(schema),
        })
    }

    /// Its name in the configuration.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its descriptors, once they are known.
    #[must_use]
    pub fn schema(&self) -> watch::Receiver<Option<Arc<Schema>>> {
        self.schema.subscribe()
    }

    /// Calls a method. Its messages are read as the answer is.
    ///
    /// # Errors
    /// What the upstream answers, or that it does not.
    pub async fn call(
        &self,
        rpc: &Rpc,
        message: DynamicMessage,
        metadata: MetadataMap,
        time: Option<Duration>,
    ) -> Result<Call, Status> {
        let path = PathAndQuery::try_from(rpc.path()).map_err(|error| Status::internal(error.to_string()))?;
        let (channel, call) = self.connection();
        let mut client = Grpc::new(channel).max_decoding_message_size(self.message_bytes_max);
        let mut request = Request::from_parts(metadata, Extensions::default(), message);
        if let Some(time) = time {
            request.set_timeout(time);
        }
        client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let codec = DynamicCodec { decoded: rpc.method.output() };
        let answer: Response<Streaming<DynamicMessage>> = client.server_streaming(request, path, codec).await?;
        let (metadata, messages, _) = answer.into_parts();
        Ok(Call { messages, metadata, _call: call })
    }

    /// Gets the descriptors by reflection, until that succeeds.
    pub(super) async fn describe(&self) {
        let mut backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
        let mut reason = None;
        loop {
            let (channel, _call) = self.connection();
            let described = tokio::time::timeout(REFLECTION_TIMEOUT, reflection::schema(channel)).await;
            let failure = match described {
                Ok(Ok(schema)) => {
                    let services = schema.pool().services().len();
                    tracing::info!(upstream = self.name, services, "the upstream has described its services");
                    self.schema.send_replace(Some(Arc::new(schema)));
                    return;
                }
                Ok(Err(failure)) => failure.to_string(),
                Err(_) => format!("it has not answered within {REFLECTION_TIMEOUT:?}"),
            };
            if reason.as_ref() != Some(&failure) {
                let (upstream, address) = (&self.name, &self.address);
                tracing::warn!(upstream, address, reason = failure, "the upstream does not describe its services yet");
                reason = Some(failure);
            }
            tokio::time::sleep(backoff.take()).await;
        }
    }

    /// A connection with room for a call. It is connected when it is used, and again after it has failed.
    fn connection(&self) -> (Channel, Arc<()>) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        // Unused connections are closed, but for one.
        let mut is_first = true;
        connections.retain(|connection| std::mem::take(&mut is_first) || Arc::strong_count(&connection.calls) > 1);
        let has_room = |connection: &&Connection| Arc::strong_count(&connection.calls) <= CALLS_PER_CONNECTION;
        if let Some(connection) = connections.iter().find(has_room) {
            return (connection.channel.clone(), Arc::clone(&connection.calls));
        }
        let connection = Connection { channel: self.endpoint.connect_lazy(), calls: Arc::default() };
        let given = (connection.channel.clone(), Arc::clone(&connection.calls));
        connections.push(connection);
        given
    }
}

fn endpoint(options: &UpstreamOptions) -> Result<Endpoint, UpstreamError> {
    let UpstreamOptions { name, address, ca_certificate, .. } = options;
    let unusable = |reason: String| UpstreamError::Address { name: name.clone(), address: address.clone(), reason };
    let uri: Uri = address.parse().map_err(|error: axum::http::uri::InvalidUri| unusable(error.to_string()))?;
    let is_tls = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(unusable("it has no scheme".to_owned())),
    };
    let endpoint = Endpoint::from(uri)
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    if !is_tls {
        return Ok(endpoint);
    }
    let tls = match ca_certificate {
        None => ClientTlsConfig::new().with_native_roots(),
        Some(path) => {
            let pem = std::fs::read(path).map_err(|source| UpstreamError::Certificate {
                name: name.clone(),
                path: path.display().to_string(),
                source,
            })?;
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))
        }
    };
    endpoint.tls_config(tls).map_err(|error| unusable(error.to_string()))
}
