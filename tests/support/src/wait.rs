//! Waiting for what comes by itself.

use std::time::Duration;

/// The longest wait: clients that lost their server reconnect after growing pauses.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until something is so, and panics with its name if that takes too long.
pub async fn until(what: &str, mut is_reached: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !is_reached().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"));
}
