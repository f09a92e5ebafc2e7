//! What the gateway counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tonic::Code;

use crate::engine::counters::{Count, Flag, Latest};

/// Codes of gRPC: 0 to 16.
const CODES: usize = 17;

/// What the gateway has done.
#[derive(Debug, Default)]
pub struct GatewayCounters {
    /// Calls that were made to upstreams.
    pub calls: Count,
    /// Messages that upstreams have answered.
    pub messages: Count,
    errors: [AtomicU64; CODES],
}

impl GatewayCounters {
    pub(super) fn count_error(&self, code: Code) {
        if let Some(count) = usize::try_from(i32::from(code)).ok().and_then(|code| self.errors.get(code)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many calls have ended with each code but 0.
    pub fn errors(&self) -> impl Iterator<Item = (Code, u64)> {
        let counted = self.errors.iter().enumerate().skip(1);
        counted.map(|(code, count)| {
            (Code::from_i32(i32::try_from(code).unwrap_or_default()), count.load(Ordering::Relaxed))
        })
    }
}

/// What a recorded stream's subscription has done.
#[derive(Debug, Default)]
pub struct StreamCounters {
    /// Whether the upstream is subscribed to.
    pub is_connected: Flag,
    /// Messages that were received.
    pub received: Count,
    /// When the last of them was received, in microseconds since the Unix epoch.
    pub last_received: Latest,
    /// Messages that have no form in which they can be stored.
    pub malformed: Count,
    /// How often the subscription was lost or could not be made.
    pub reconnects: Count,
}

/// What can be looked at of a gateway.
#[derive(Clone, Debug)]
pub struct Watch {
    /// The gateway itself.
    pub gateway: Arc<GatewayCounters>,
    /// The recorded streams, by the names of their logs.
    pub streams: Vec<(Box<str>, Arc<StreamCounters>)>,
}
