//! The JSON-RPC bridge to a node's binary port.
//!
//! Owns the two JSON-RPC servers and the link to the node that both use. JSON-RPC calls flow in over HTTP, requests of the
//! binary port flow out to the node, its answers flow back and become results. Without the node, calls wait or fail
//! until it is back; where that is switched on, the log answers some of them.
//!
//! - `server`: HTTP. Beside it `cors` and `rate_limit`, `apart` for calls that take long to work on, and `cache` for answers
//!   that never change.
//! - `json_rpc`, `params`, `failure`: JSON-RPC, in the reference's words.
//! - `methods`: what can be called; `bridge`: what a method works with.
//! - `node_link`: the link; `from_log`: what the log answers while there is none.
//! - `counters`: what happened, for the metrics.

mod apart;
mod bridge;
mod cache;
mod cors;
mod counters;
mod failure;
mod from_log;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod json_rpc;
mod methods;
mod node_link;
mod params;
mod rate_limit;
mod server;

use std::sync::{Arc, Mutex, PoisonError};

use crate::engine::http::BindError;
use crate::engine::http::finishing::Finishing;
use crate::engine::http::memory::{AnswerMemory, BodyMemory};

pub use counters::Counters;
pub(crate) use from_log::Event;
pub use from_log::LogAnswers;
pub use node_link::{Backoff, LinkCounters, LinkError, LinkState, NodeLink, NodeLinkOptions};
pub use server::{Role, Server, ServerOptions};

use apart::Apart;
use cache::Cache;

/// What is bridged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcOptions {
    /// The servers.
    pub servers: Vec<ServerOptions>,
    /// The node.
    pub link: NodeLinkOptions,
    /// Bytes of answers that never change to keep; 0 keeps none.
    pub answer_cache_bytes: u64,
}

/// The bound servers, and what they share.
pub struct Rpc {
    /// The servers, in the order of the options.
    pub servers: Vec<Server>,
    /// What can be looked at while they run.
    pub watch: Watch,
}

/// The running bridge, as far as other parts look at it.
#[derive(Clone)]
pub struct Watch {
    /// The link to the node.
    pub link: NodeLink,
    /// What the servers count.
    pub counters: Arc<Counters>,
    /// What is answered from while the node is away.
    pub log: LogSlot,
}

/// The log that calls are answered from while the node is away; none at first.
#[derive(Clone, Default)]
pub struct LogSlot(Arc<Mutex<Option<LogAnswers>>>);

/// What the requests and answers of both servers may take of memory and threads.
struct Memory {
    bodies: BodyMemory,
    answers: AnswerMemory,
    finishing: Finishing,
    apart: Apart,
}

impl LogSlot {
    /// Answers from this log from now on, or from none.
    pub fn set(&self, answers: Option<LogAnswers>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = answers;
    }

    fn get(&self) -> Option<LogAnswers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Rpc {
    /// Takes the ports and begins to connect to the node. Within a Tokio runtime only.
    ///
    /// # Errors
    /// [`BindError`] names the address or the file.
    pub fn bind(options: RpcOptions) -> Result<Rpc, BindError> {
        let RpcOptions { servers, link, answer_cache_bytes } = options;
        let watch = Watch { link: NodeLink::start(link), counters: Arc::default(), log: LogSlot::default() };
        let cache = Arc::new(Cache::new(usize::try_from(answer_cache_bytes).unwrap_or(usize::MAX)));
        let body_bytes_max = servers.iter().map(|server| server.max_body_bytes).max().unwrap_or_default();
        let memory = Arc::new(Memory {
            bodies: BodyMemory::new(usize::try_from(body_bytes_max).unwrap_or(usize::MAX)),
            answers: AnswerMemory::default(),
            finishing: Finishing::default(),
            apart: Apart::default(),
        });
        let bind = |options| Server::bind(options, watch.clone(), Arc::clone(&cache), Arc::clone(&memory));
        let bound = servers.into_iter().map(bind);
        Ok(Rpc { servers: bound.collect::<Result<_, _>>()?, watch })
    }
}
