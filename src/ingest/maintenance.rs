//! Sealed segments made small: one thread beside the committer.
//!
//! A quiet node's events are committed one by one, in blocks of their own that compress badly. Once their segment is
//! sealed, this thread merges them into large blocks, while the committer goes on and readers read. Segments that were
//! filled at speed are left alone.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use sidecar_log_format::{Maintenance, RewriteOptions, Sequence};
use tracing::{info, warn};

/// How often newly sealed segments are looked for.
const PERIOD: Duration = Duration::from_secs(30);

/// The running thread; it ends, and lets go of the log, when this is dropped.
pub(super) struct Merging {
    /// Hung up to end the thread.
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Merging {
    /// Starts the thread.
    pub(super) fn start(maintenance: Maintenance, options: RewriteOptions) -> std::io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("maintenance".to_owned())
            .spawn(move || merge_until_stopped(&maintenance, options, &stopped))?;
        Ok(Merging { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Merging {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has told of its failures itself.
            let _ = thread.join();
        }
    }
}

fn merge_until_stopped(maintenance: &Maintenance, options: RewriteOptions, stopped: &mpsc::Receiver<()>) {
    let mut looked_at = 0;
    while stopped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
        // Asked for before the look, so that a segment sealed meanwhile is looked at the next time.
        let next = maintenance.unsealed_segment();
        let found = maintenance.segments_with_small_blocks(looked_at, options.block_bytes);
        for segment in found.unwrap_or_else(|error| complain(looked_at, &error)) {
            merge(maintenance, segment, options);
            if stopped.try_recv() == Err(mpsc::TryRecvError::Disconnected) {
                return;
            }
        }
        looked_at = next.unwrap_or(looked_at);
    }
}

fn merge(maintenance: &Maintenance, segment: Sequence, options: RewriteOptions) {
    match maintenance.rewrite(segment, options) {
        Ok(Some(done)) => {
            info!("merged the blocks of segment {segment}: {} bytes became {}", done.bytes_before, done.bytes_after);
        }
        Ok(None) => {}
        Err(error) => {
            complain(segment, &error);
        }
    }
}

/// A segment that cannot be merged stays as it is: nothing is lost but room.
fn complain(segment: Sequence, error: &sidecar_log_format::Error) -> Vec<Sequence> {
    warn!("the blocks of segment {segment} are not merged: {error}");
    Vec::new()
}
