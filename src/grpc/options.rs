//! What the gateway is asked to do.

use std::path::PathBuf;
use std::time::Duration;

use super::json::JsonForm;
use crate::engine::stream::PortOptions;

/// The gateway and its upstreams.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The port, and what is granted there.
    pub port: PortOptions,
    /// The gRPC servers.
    pub upstreams: Vec<UpstreamOptions>,
    /// The streams that are recorded.
    pub streams: Vec<StreamOptions>,
    /// Whether methods without a rule are served as `POST /package.Service/Method`.
    pub generate_unbound_methods: bool,
    /// Whether JSON with unknown fields is taken.
    pub discard_unknown: bool,
    /// How messages are written.
    pub json: JsonForm,
    /// Whether a line of JSON has the message as its `result`, or is the message.
    pub wraps_results: bool,
    /// How the events of a `gateway.EventSource` are framed.
    pub event_form: EventForm,
    /// Whether a POST of a form is answered as a GET with its fields as parameters, or as the method in the header
    /// `X-HTTP-Method-Override`.
    pub takes_forms: bool,
    /// The largest message that an upstream may send, and the largest body of a request.
    pub message_bytes_max: usize,
    /// How long a call without a stream may take, unless the client wants it shorter.
    pub call_timeout: Duration,
}

impl Options {
    /// The gateway to these servers, with everything else as it is by default.
    #[must_use]
    pub fn new(port: PortOptions, upstreams: Vec<UpstreamOptions>) -> Options {
        Options {
            port,
            upstreams,
            streams: Vec::new(),
            generate_unbound_methods: false,
            discard_unknown: true,
            json: JsonForm::default(),
            wraps_results: true,
            event_form: EventForm::default(),
            takes_forms: true,
            message_bytes_max: 4 << 20,
            call_timeout: Duration::from_secs(60),
        }
    }
}

/// How the events of a `gateway.EventSource` are framed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventForm {
    /// In the standard form of event streams.
    #[default]
    Standard,
    /// In the bytes of the fork prysmaticlabs/grpc-gateway: a space at the end of each line, data with its `@type`, no
    /// comment before the first event and nothing at the end. Where `Accept` is `text/event-stream`, an error is an event
    /// even before the first message.
    Fork,
}

/// One gRPC server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamOptions {
    /// Its name in the configuration and in log lines.
    pub name: String,
    /// Its address; `https` asks for TLS.
    pub address: String,
    /// A file with the certificates of the authorities that are trusted instead of the system's.
    pub ca_certificate: Option<PathBuf>,
    /// Where the descriptors come from.
    pub descriptors: DescriptorSource,
}

/// Where an upstream's descriptors come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DescriptorSource {
    /// A file with a descriptor set.
    Set(PathBuf),
    /// `.proto` files, which are compiled at start.
    Protos {
        /// The files.
        files: Vec<PathBuf>,
        /// Where their imports are looked for; without any, beside them.
        include_paths: Vec<PathBuf>,
    },
    /// The upstream itself.
    Reflection,
}

/// A stream that is recorded into a log of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamOptions {
    /// The log's name.
    pub name: String,
    /// The upstream's name.
    pub upstream: String,
    /// `package.Service/Method`.
    pub method: String,
    /// The request message, as JSON.
    pub request: serde_json::Value,
    /// Where the log is served.
    pub path: String,
    /// The field that has the event's name.
    pub event_field: Option<String>,
    /// Names of events that have numbers, so that readers can select by them.
    pub event_names: Vec<String>,
    /// The fields that make a message what it is; with none, every message is a new event.
    pub identity_fields: Vec<String>,
}
