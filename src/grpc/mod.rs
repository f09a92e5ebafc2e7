//! gRPC streams over HTTP: a gateway to any gRPC server, and streams of such servers that are recorded into logs.
//!
//! Nothing is generated: an upstream's [`descriptors`] are read at start, and its `google.api.http` rules say which requests
//! lead to which method.
//!
//! - [`descriptors`][] and `reflection`: what an upstream's messages and methods are.
//! - `template`, [`rules`][]: which request is for which method; `binding`: the message that it becomes; `metadata`: headers.
//! - [`upstream`][], `codec`: the call; `gateway`, `answers`, `json`, `status`: what becomes of its answers.
//! - `openapi`: the document of what is served.
//! - [`recorded`][]: streams that are stored; `subscription`: the call that feeds one; `events`: its readers.
//! - [`Server`][]: the port of all of it.

mod answers;
mod binding;
mod codec;
mod counters;
pub mod descriptors;
mod events;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod gateway;
mod json;
mod metadata;
mod openapi;
mod options;
pub mod recorded;
mod reflection;
pub mod rules;
mod server;
mod status;
mod subscription;
mod template;
pub mod upstream;

pub(crate) use codec::DynamicCodec;
pub use counters::{GatewayCounters, StreamCounters, Watch};
pub use events::READER_CLASSES;
#[cfg(any(test, fuzzing))]
pub(crate) use events::check_request as check_events_request;
pub use json::JsonForm;
pub(crate) use json::is_event_name;
pub use options::{DescriptorSource, EventForm, Options, StreamOptions, UpstreamOptions};
pub use server::{RecordedStream, Server, StartError, Upstreams};
