//! HTTP as all servers have it: connections within limits, requests that take turns, and CORS.
//!
//! A router flows in; requests, HTTP/1.1 or HTTP/2, flow to it. What they mean is the servers' business.
//!
//! - [`cors`][]: what pages of other origins may read.
//! - [`front`][]: the listening socket and its connections.
//! - [`query`][]: the parameters of a request.
//! - [`turns`][]: requests that wait in line.

pub mod cors;
pub mod front;
pub mod query;
pub mod turns;

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
