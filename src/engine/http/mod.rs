//! HTTP as all servers have it: addresses, TLS and tokens, connections within limits, requests that take turns, and CORS.
//!
//! A router flows in; requests, HTTP/1.1 or HTTP/2, flow to it. What they mean is the servers' business.
//!
//! - `listen`: where a server listens, and whom it lets in: `tls`, `tokens`, and [`cors`][] for web pages; `reload`: the files
//!   of these, read again when they change.
//! - [`front`][]: the listening sockets; [`limits`][]: what its clients may take; `places`: how many connections, and whose.
//! - `connection`: one connection; `activity` knows what it does, `body` how its answers get away.
//! - [`counters`][]: what metrics show of connections.
//! - `descriptors`: how many connections fit into the limit of open files.
//! - [`about`][]: what a server answers about itself.
//! - [`access`][]: a client's address, and a debug line per request; `mistake`: a request whose handler panicked.
//! - [`turns`][]: requests that wait in line; [`memory`][]: what requests and answers take while they are here.
//! - [`coding`][]: compressed answers; [`finishing`][]: work on whole answers, a few at a time.
//! - [`query`][]: the parameters of a request; [`weights`][]: how much it wants each form of an answer;
//!   [`tags`][]: which one it has already.
//! - [`episode`][]: log lines about what clients can cause as often as they like.

pub mod about;
pub mod access;
mod activity;
mod body;
pub mod coding;
mod connection;
pub mod cors;
pub mod counters;
mod descriptors;
pub mod episode;
pub mod finishing;
pub mod front;
pub mod limits;
mod listen;
pub mod memory;
mod mistake;
mod places;
pub mod query;
mod reload;
pub mod tags;
#[cfg(test)]
mod tests;
mod tls;
mod tokens;
pub mod turns;
pub mod weights;

pub use listen::{BindError, ListenOptions};
pub use places::{counted_client, network_of};
pub use reload::UnusableFile;
pub use tls::TlsFiles;
pub use tokens::{BadToken, Token, TokenOptions};
