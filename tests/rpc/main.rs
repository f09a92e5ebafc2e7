//! The JSON-RPC bridge in front of a simulated node: every method, HTTP and JSON-RPC in the reference's words, and the
//! process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise"
)]

mod bridge;
mod http;
mod memory;
mod methods;
mod process;
