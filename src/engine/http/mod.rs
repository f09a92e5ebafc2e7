//! HTTP as all servers have it: connections within limits, requests that take turns, and CORS.
//!
//! A router flows in; requests, HTTP/1.1 or HTTP/2, flow to it. What they mean is the servers' business.
//!
//! - [`front`][]: the listening socket; [`limits`][]: what its clients may take; `places`: how many connections, and whose.
//! - `connection`: one connection; `activity` knows what it does, `body` how its answers get away.
//! - [`counters`][]: what metrics show of connections.
//! - `descriptors`: how many connections fit into the limit of open files.
//! - [`access`][]: a client's address, and a debug line per request.
//! - [`turns`][]: requests that wait in line.
//! - [`query`][]: the parameters of a request; [`weights`][]: how much it wants each form of an answer; [`cors`][]: what pages of other origins may read.
//! - [`episode`][]: log lines about what clients can cause as often as they like.

pub mod access;
mod activity;
mod body;
mod connection;
pub mod cors;
pub mod counters;
mod descriptors;
pub mod episode;
pub mod front;
pub mod limits;
mod places;
pub mod query;
#[cfg(test)]
mod tests;
pub mod turns;
pub mod weights;

pub use places::{counted_client, network_of};

use std::io;
use std::net::SocketAddr;

/// Why a port cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {}", advice(source))]
pub struct BindError {
    /// Address and port.
    pub address: SocketAddr,
    /// The system's answer.
    pub source: io::Error,
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => "the port is taken; stop the program that has it, or set another `port`",
        _ => "set another `port`",
    }
}
