//! The silence monitor: distinguishes a quiet node from a dead connection.
//!
//! Owns the time of a connection's last bytes. Any bytes count, keep-alive comments and unfinished frames too, so it is
//! fed by the transport; the connection asks it at every check.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// One connection's monitor.
#[derive(Debug)]
pub(crate) struct SilenceMonitor {
    connected: Instant,
    /// Microseconds from `connected` to the last bytes, plus one; 0 while there were none.
    last_heard: AtomicU64,
}

impl SilenceMonitor {
    pub(crate) fn new() -> Self {
        Self { connected: Instant::now(), last_heard: AtomicU64::new(0) }
    }

    /// Bytes have arrived, or the stream was not read until now.
    pub(crate) fn heard(&self) {
        let elapsed = u64::try_from(self.connected.elapsed().as_micros()).unwrap_or(u64::MAX - 1);
        self.last_heard.store(elapsed + 1, Ordering::Relaxed);
    }

    /// How long ago the last bytes came; for as long as the connection lasts when there were none.
    pub(crate) fn silent_for(&self) -> Duration {
        let last_heard = self.last_heard.load(Ordering::Relaxed).saturating_sub(1);
        self.connected.elapsed().saturating_sub(Duration::from_micros(last_heard))
    }

    /// Whether nothing was heard for longer than `timeout`. Where nothing was heard at all the clock starts at the first
    /// check.
    pub(crate) fn is_silent(&self, timeout: Duration) -> bool {
        match self.last_heard.load(Ordering::Relaxed).checked_sub(1) {
            Some(_) => self.silent_for() > timeout,
            None => {
                self.heard();
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_is_counted_from_the_last_bytes() {
        let timeout = Duration::from_secs(120);
        let monitor = SilenceMonitor::new();
        tokio::time::advance(Duration::from_secs(100)).await;
        monitor.heard();
        tokio::time::advance(timeout).await;
        assert!(!monitor.is_silent(timeout));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(monitor.is_silent(timeout));
        monitor.heard();
        assert!(!monitor.is_silent(timeout));
    }

    #[tokio::test(start_paused = true)]
    async fn without_any_bytes_the_clock_starts_at_the_first_check() {
        let timeout = Duration::from_secs(120);
        let monitor = SilenceMonitor::new();
        tokio::time::advance(Duration::from_secs(500)).await;
        assert!(!monitor.is_silent(timeout));
        tokio::time::advance(timeout + Duration::from_millis(1)).await;
        assert!(monitor.is_silent(timeout));
    }
}
