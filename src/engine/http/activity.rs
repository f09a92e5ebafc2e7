//! What a connection is doing: whether it is new, busy or idle, and whether its client takes what it is sent.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use hyper::Version;
use tokio::sync::Notify;

use super::places::Places;

/// What is going on in a connection.
pub(super) struct Activity {
    standing: Mutex<Standing>,
    pub(super) is_http2: AtomicBool,
    pub(super) has_asked: AtomicBool,
    /// A request was begun since the last look.
    pub(super) has_been_busy: AtomicBool,
    /// Bodies with something for the client to take. Others are quiet, or not begun while their requests wait their turns.
    pub(super) sending: AtomicUsize,
    /// Some body began, or was asked for more, since the last look: the client has taken what came before.
    pub(super) has_moved: AtomicBool,
    /// A body has been on its way for too long.
    pub(super) overdue: Arc<Notify>,
    /// Another connection needs the place.
    pub(super) displaced: Arc<Notify>,
    places: Arc<Places>,
}

/// Whether a connection may be displaced.
#[derive(Clone, Copy)]
enum Standing {
    /// Its first request may be here already.
    New,
    /// Requests that are being answered, the bodies of their responses included.
    Busy(usize),
    /// Its number among the idle ones.
    Idle(u64),
}

impl Activity {
    pub(super) fn new(places: Arc<Places>, is_new: bool) -> Self {
        let displaced = Arc::new(Notify::new());
        let standing = if is_new { Standing::New } else { Standing::Idle(places.idle.enter(&displaced)) };
        Activity {
            standing: Mutex::new(standing),
            is_http2: AtomicBool::new(false),
            has_asked: AtomicBool::new(false),
            has_been_busy: AtomicBool::new(false),
            sending: AtomicUsize::new(0),
            has_moved: AtomicBool::new(false),
            overdue: Arc::default(),
            displaced,
            places,
        }
    }

    /// From now on it counts as idle while it asks for nothing.
    pub(super) fn settle(&self) {
        let mut standing = self.standing();
        if let Standing::New = *standing {
            *standing = Standing::Idle(self.places.idle.enter(&self.displaced));
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        matches!(*self.standing(), Standing::Busy(_))
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        if let Standing::Idle(number) = *self.standing() {
            self.places.idle.leave(number);
        }
    }
}

/// A request from its head to the end of its response's body.
pub(super) struct Busy(Arc<Activity>);

impl Busy {
    pub(super) fn begin(activity: &Arc<Activity>, version: Version) -> Self {
        let mut standing = activity.standing();
        *standing = match *standing {
            Standing::New => Standing::Busy(1),
            Standing::Busy(requests) => Standing::Busy(requests + 1),
            Standing::Idle(number) => {
                activity.places.idle.leave(number);
                Standing::Busy(1)
            }
        };
        activity.is_http2.store(version == Version::HTTP_2, Ordering::Relaxed);
        activity.has_asked.store(true, Ordering::Relaxed);
        activity.has_been_busy.store(true, Ordering::Relaxed);
        Busy(Arc::clone(activity))
    }
}

impl Busy {
    pub(super) fn activity(&self) -> &Activity {
        &self.0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut standing = self.0.standing();
        *standing = match *standing {
            Standing::Busy(requests) if requests > 1 => Standing::Busy(requests - 1),
            Standing::Busy(_) => Standing::Idle(self.0.places.idle.enter(&self.0.displaced)),
            other => other,
        };
    }
}
