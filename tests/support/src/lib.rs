//! What Sidecar's end-to-end tests and benchmarks are built on: a simulated Casper node and the clients that watch Sidecar.
//!
//! It owns made and recorded events, a node-like server in a scriptable and in a fast form, a raw event stream
//! client, and the running of the built binary. It knows nothing of Sidecar's inside: everything goes over sockets,
//! files and signals, as for a user.

pub mod beacon;
pub mod binary_port;
pub mod browser;
pub mod chromium;
pub mod client;
pub mod disk;
pub mod documentation;
pub mod fast;
pub mod http;
pub mod installed;
pub mod node;
pub mod ping_pong;
pub mod port;
pub mod postgresql;
pub mod process;
pub mod recordings;
pub mod story;
pub mod wait;

use std::path::{Path, PathBuf};

/// The version that crate casper-binary-port has, in which the simulated node makes its answers.
pub use casper_types;

/// The folder of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}
