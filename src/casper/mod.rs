//! What is Casper's own.
//!
//! - [`rpc`][]: the JSON-RPC bridge to a node's binary port.

pub mod rpc;
