//! Waiting for what comes by itself.

use std::time::Duration;

/// Waits until something is so, and panics with its name if that takes longer than `patience`.
pub async fn until(patience: Duration, what: &str, mut is_reached: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !is_reached().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(patience, waiting).await.unwrap_or_else(|_| panic!("not within {patience:?}: {what}"));
}
