//! What the clients of one server may take: places, times, rates and buffers.

use std::time::Duration;

/// What a client takes at least of a large answer, per second.
pub const BYTES_PER_SECOND_MIN: u64 = 64 << 10;

/// What the clients of one server may take.
#[derive(Clone, Copy, Debug)]
pub struct FrontLimits {
    /// Open connections. One more takes the place of the connection that has been idle for longest.
    pub connections_max: usize,
    /// Whether further connections wait, with the system, while all are busy, and a new one keeps its place until it has had
    /// time to ask. Without, the newest is closed at once: for streams, which may never end.
    pub waits_for_places: bool,
    /// Of these, connections from one address of another machine. A proxy on this machine may have all.
    pub connections_per_client_max: usize,
    /// How much of the descriptors that are left for connections this server may use, in percent.
    pub descriptors_percent: u64,
    /// How long the head of the first request may take, from the connection's start on.
    pub header_timeout: Duration,
    /// How long a connection may stay open without a request; one counts once its head is complete.
    pub idle_timeout: Duration,
    /// How long a client may leave what it is sent untouched. A slow one that takes a little now and then is not cut for it.
    pub write_stall_timeout: Duration,
    /// Bytes per second that a client takes at least of a body that has an end, once the write-stall timeout has passed:
    /// what it leaves is kept in memory. At least 1. In HTTP/1.1 only bodies that do not fit into the buffers count.
    pub bytes_per_second_min: u64,
    /// Bytes of HTTP/1.1's buffer: of the head of a request, and of what is written at a time. At least 8192.
    pub http1_buffer_bytes: usize,
    /// Bytes of an HTTP/2 stream that wait to be sent, and of the head of a request.
    pub http2_buffer_bytes: usize,
    /// Whether HTTP/1.1 keeps the pieces of a body until they are taken, and writes them from where they are. Without, it
    /// copies each into its buffer at once: then many small chunks leave in one write, and no piece is held.
    pub http1_vectored: bool,
}

impl FrontLimits {
    /// The same for fewer connections; one client keeps its share of them.
    #[must_use]
    pub(super) fn fitted_to(self, connections: usize) -> Self {
        let share = self.connections_per_client_max.saturating_mul(connections);
        FrontLimits {
            connections_max: connections,
            connections_per_client_max: share.div_ceil(self.connections_max.max(1)).max(1),
            ..self
        }
    }

    /// For a server of short answers.
    #[must_use]
    pub fn of_answers(connections_max: usize) -> Self {
        FrontLimits {
            connections_max,
            waits_for_places: true,
            connections_per_client_max: connections_max.div_ceil(2),
            descriptors_percent: 30,
            header_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(90),
            write_stall_timeout: Duration::from_secs(15),
            bytes_per_second_min: BYTES_PER_SECOND_MIN,
            http1_buffer_bytes: 64 << 10,
            http2_buffer_bytes: 64 << 10,
            http1_vectored: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_keeps_its_share_where_fewer_connections_fit() {
        let half = FrontLimits::of_answers(512);
        let all = FrontLimits { connections_per_client_max: 512, ..half };
        let fitted = |limits: FrontLimits, connections| {
            let fitted = limits.fitted_to(connections);
            (fitted.connections_max, fitted.connections_per_client_max)
        };
        assert_eq!([512, 89, 2, 1].map(|fit| fitted(half, fit)), [(512, 256), (89, 45), (2, 1), (1, 1)]);
        assert_eq!([512, 89, 2].map(|fit| fitted(all, fit)), [(512, 512), (89, 89), (2, 2)]);
    }
}
