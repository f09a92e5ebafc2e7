//! Positions of the open streams, from which their lags are shown.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use sidecar_log_format::Sequence;

/// What kind of stream a client reads, by its name in metrics; lags are counted per class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReaderClass(pub &'static str);

/// The open streams of one class at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassLag {
    /// How many there are.
    pub readers: u64,
    /// How many events the slowest of them still has to be sent.
    pub events_max: u64,
    /// Where the slowest one is, if that is known and it lags at all.
    pub slowest: Option<SocketAddr>,
}

/// Every open stream's position.
#[derive(Debug)]
pub struct Readers {
    classes: &'static [ReaderClass],
    positions: Mutex<Vec<Weak<Position>>>,
}

/// One open stream's position; the stream holds it.
#[derive(Debug)]
pub(super) struct Position {
    class: ReaderClass,
    client: Option<SocketAddr>,
    next: AtomicU64,
}

impl Position {
    pub(super) fn set(&self, next: Sequence) {
        self.next.store(next, Ordering::Relaxed);
    }
}

impl Readers {
    pub(super) fn new(classes: &'static [ReaderClass]) -> Self {
        Readers { classes, positions: Mutex::default() }
    }

    pub(super) fn enter(&self, class: ReaderClass, client: Option<SocketAddr>, next: Sequence) -> Arc<Position> {
        let position = Arc::new(Position { class, client, next: AtomicU64::new(next) });
        let mut positions = self.positions.lock().unwrap_or_else(PoisonError::into_inner);
        if positions.len() == positions.capacity() {
            positions.retain(|position| position.strong_count() > 0);
        }
        positions.push(Arc::downgrade(&position));
        position
    }

    /// Every class, with how far its streams are behind `head`, the sequence that the next event will get.
    pub fn lags(&self, head: Sequence) -> impl Iterator<Item = (ReaderClass, ClassLag)> {
        self.classes.iter().map(move |&class| (class, self.lag(class, head)))
    }

    /// How far the streams of `class` are behind `head`, the sequence that the next event will get.
    #[must_use]
    pub fn lag(&self, class: ReaderClass, head: Sequence) -> ClassLag {
        let positions = self.positions.lock().unwrap_or_else(PoisonError::into_inner);
        let open = positions.iter().filter_map(Weak::upgrade).filter(|position| position.class == class);
        open.fold(ClassLag::default(), |lag, position| {
            let events = head.saturating_sub(position.next.load(Ordering::Relaxed));
            let is_slowest = events > lag.events_max;
            ClassLag {
                readers: lag.readers + 1,
                events_max: lag.events_max.max(events),
                slowest: if is_slowest { position.client } else { lag.slowest },
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_of_a_class_gives_its_lag_and_closed_streams_do_not_count() {
        const WHOLE: ReaderClass = ReaderClass("whole");
        const ZSTD: ReaderClass = ReaderClass("zstd");
        const SIDECAR: ReaderClass = ReaderClass("sidecar");
        let readers = Readers::new(&[WHOLE, ZSTD]);
        let client = |port| Some(SocketAddr::from(([192, 0, 2, 1], port)));
        let slow = readers.enter(WHOLE, client(1), 10);
        let fast = readers.enter(WHOLE, client(2), 10);
        let other = readers.enter(ZSTD, client(3), 0);
        fast.set(100);
        let lag = |class| readers.lag(class, 100);
        assert_eq!(lag(WHOLE), ClassLag { readers: 2, events_max: 90, slowest: client(1) });
        assert_eq!(lag(ZSTD), ClassLag { readers: 1, events_max: 100, slowest: client(3) });
        assert_eq!(lag(SIDECAR), ClassLag::default());
        let all: Vec<_> = readers.lags(100).map(|(class, lag)| (class, lag.events_max)).collect();
        assert_eq!(all, [(WHOLE, 90), (ZSTD, 100)]);
        drop((slow, other));
        assert_eq!(lag(WHOLE), ClassLag { readers: 1, events_max: 0, slowest: None });
        for _ in 0..100 {
            drop(readers.enter(SIDECAR, None, 0));
        }
        assert!(readers.positions.lock().unwrap().len() < 10, "closed streams are forgotten");
    }
}
