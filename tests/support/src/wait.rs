//! Waits that end when something is so, or fail the test.

use std::time::Duration;

/// Waits until something is so, and panics with its name if that takes longer than `patience`.
pub async fn until(patience: Duration, what: &str, mut is_reached: impl AsyncFnMut() -> bool) {
    find(patience, what, async || is_reached().await.then_some(())).await;
}

/// Waits until `look` finds something, and returns that; panics with its name if that takes longer than `patience`.
pub async fn find<T>(patience: Duration, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(patience, looking).await.unwrap_or_else(|_| panic!("not within {patience:?}: {what}"))
}
