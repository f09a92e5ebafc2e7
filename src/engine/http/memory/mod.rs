//! Memory that requests and answers take together: what is not small needs room before it may stay.
//!
//! Every server bounds both in the same way. A body or an answer up to a few KiB is free, since connections are bounded. Any
//! other takes its room from a pool for as long as it is in memory; where nothing is left, it waits, and what all those
//! that wait hold meanwhile is bounded, too.
//!
//! - `bodies`: requests, from their first byte until they are answered.
//! - `answers`: answers, while they are made and until their clients have taken them.
//! - `pieces`: the bytes of an answer, and the body that holds its room until it is sent.

mod answers;
mod bodies;
mod pieces;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

use super::places::counted_client;
use super::turns;

pub use answers::{AnswerMemory, GrowingAnswer, LARGE_ANSWERS_BYTES, MIDDLING_BYTES, SMALL_BYTES, Ungrown};
pub use bodies::{BodyMemory, BodyRoom, FREE_BYTES, NotTaken, Scalars, Shape};
pub use pieces::Pieces;

/// One address of another machine has at most this part of a pool: see [`counted_client`].
const CLIENTS_MIN: usize = 4;
/// What all that waits for one pool may hold meanwhile.
const WAITING_BYTES: usize = 32 << 20;
/// What each of them counts for at least.
const WAITING_BYTES_MIN: usize = 64 << 10;
/// How long anything waits for room.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// The unit in which memory is counted.
const UNIT_BYTES: usize = 1 << 10;
const UNITS_MAX: usize =
    if Semaphore::MAX_PERMITS < u32::MAX as usize { Semaphore::MAX_PERMITS } else { u32::MAX as usize };

/// There is no room, and too much waits for it already, or it has waited for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many large answers wait to be sent; ask again")]
pub struct Crowded;

/// A number of bytes that many share.
#[derive(Debug)]
struct Pool {
    units: usize,
    left: Arc<Semaphore>,
    /// What is left of each client's part; only of those that use it.
    parts: Mutex<HashMap<IpAddr, Weak<Semaphore>>>,
    /// What those that wait may still hold.
    waiting: Semaphore,
}

/// A part of a pool, given back when it is dropped.
#[derive(Debug)]
pub struct Room {
    permit: OwnedSemaphorePermit,
    /// The same of the client's part, as far as it is counted.
    of_client: Option<OwnedSemaphorePermit>,
}

impl Pool {
    fn of(bytes: usize) -> Pool {
        let units = units(bytes);
        Pool {
            units,
            left: Arc::new(Semaphore::new(units)),
            parts: Mutex::default(),
            waiting: Semaphore::new(units_of_waiting(WAITING_BYTES)),
        }
    }

    /// Room for `bytes`, as soon as there is some. Meanwhile `held` bytes are in memory, and nothing may be that has room.
    async fn room(&self, client: Option<IpAddr>, bytes: usize, held: usize) -> Result<Room, Crowded> {
        // Never more than there are, so that nothing waits forever.
        let units = units(bytes).min(self.units);
        let client = client.and_then(counted_client);
        let client = client.map(|client| (self.part_of(client), units.min(self.part_units())));
        match self.try_take(units, client.as_ref()) {
            Ok(room) => return Ok(room),
            Err(TryAcquireError::Closed) => return Err(Crowded),
            Err(TryAcquireError::NoPermits) => {}
        }
        let _held = self.waiting.try_acquire_many(permits(units_of_waiting(held))).map_err(|_| Crowded)?;
        let taking = tokio::time::timeout(WAIT_MAX, self.take(units, client));
        turns::aside(taking).await.map_err(|_| Crowded)?
    }

    fn try_take(&self, units: usize, client: Option<&(Arc<Semaphore>, usize)>) -> Result<Room, TryAcquireError> {
        let of_client = client.map(|(part, units)| Arc::clone(part).try_acquire_many_owned(permits(*units)));
        let of_client = of_client.transpose()?;
        let permit = Arc::clone(&self.left).try_acquire_many_owned(permits(units))?;
        Ok(Room { permit, of_client })
    }

    async fn take(&self, units: usize, client: Option<(Arc<Semaphore>, usize)>) -> Result<Room, Crowded> {
        // In this order, so that a client that waits for its own part keeps nothing from others.
        let of_client = match client {
            Some((part, units)) => Some(part.acquire_many_owned(permits(units)).await.map_err(|_| Crowded)?),
            None => None,
        };
        let permit = Arc::clone(&self.left).acquire_many_owned(permits(units)).await.map_err(|_| Crowded)?;
        Ok(Room { permit, of_client })
    }

    fn part_units(&self) -> usize {
        self.units / CLIENTS_MIN
    }

    /// What a client may have at most.
    fn part_bytes(&self, client: Option<IpAddr>) -> usize {
        let is_counted = client.and_then(counted_client).is_some();
        UNIT_BYTES * if is_counted { self.part_units() } else { self.units }
    }

    fn part_of(&self, client: IpAddr) -> Arc<Semaphore> {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = parts.get(&client).and_then(Weak::upgrade) {
            return part;
        }
        if parts.len() == parts.capacity() {
            parts.retain(|_, part| part.strong_count() > 0);
        }
        let part = Arc::new(Semaphore::new(self.part_units()));
        parts.insert(client, Arc::downgrade(&part));
        part
    }

    #[cfg(test)]
    fn left_bytes(&self) -> usize {
        self.left.available_permits() * UNIT_BYTES
    }
}

impl Room {
    /// How much it is.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.permit.num_permits() * UNIT_BYTES
    }

    /// Gives back what is not needed for `bytes`.
    #[must_use]
    pub fn shrunk_to(mut self, bytes: usize) -> Room {
        let superfluous = self.permit.num_permits().saturating_sub(units(bytes));
        drop(self.permit.split(superfluous));
        if let Some(of_client) = &mut self.of_client {
            let superfluous = of_client.num_permits().saturating_sub(self.permit.num_permits());
            drop(of_client.split(superfluous));
        }
        self
    }
}

/// What `bytes` count.
fn units(bytes: usize) -> usize {
    bytes.div_ceil(UNIT_BYTES).min(UNITS_MAX)
}

/// The same for what waits, which is never more than may wait: one thing of any size can.
fn units_of_waiting(bytes: usize) -> usize {
    units(bytes.clamp(WAITING_BYTES_MIN, WAITING_BYTES))
}

fn permits(units: usize) -> u32 {
    u32::try_from(units).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use futures_util::FutureExt;

    use super::*;

    const MIB: usize = 1 << 20;

    #[tokio::test]
    async fn one_address_cannot_take_all_of_a_pool_and_this_machine_can() {
        let pool = Pool::of(272 * MIB);
        let ask_from = |address: [u8; 4], bytes| pool.room(Some(address.into()), bytes, 0).now_or_never();
        let ask = |last: u8, bytes| ask_from([192, 0, 2, last], bytes);
        let mut taken = Vec::new();
        while let Some(room) = ask(1, 4 * MIB) {
            taken.push(room.unwrap());
        }
        assert_eq!(taken.len(), 17);
        assert!(ask(2, 64 * MIB).is_some());
        // Larger than a part, but alone.
        assert!(ask(3, 100 * MIB).is_some());
        drop(taken);
        assert!(ask(1, 64 * MIB).is_some());
        for last in 0..=255 {
            ask(last, 2 * MIB).unwrap().unwrap();
        }
        assert!(pool.parts.lock().unwrap().len() < 50, "clients that are gone are forgotten");
        let mut taken = Vec::new();
        while let Some(room) = ask_from(Ipv4Addr::LOCALHOST.octets(), 4 * MIB) {
            taken.push(room.unwrap());
        }
        assert_eq!(taken.len(), 4 * 17);
    }

    #[tokio::test]
    async fn what_waits_holds_only_so_much_and_is_refused_beyond_that() {
        let pool = Pool::of(64 * MIB);
        let _all = pool.room(None, 64 * MIB, 0).await.unwrap();
        let wait = |held| Box::pin(pool.room(None, MIB, held));
        let mut waiting: Vec<_> = (0..31).map(|_| wait(MIB)).collect();
        assert!(waiting.iter_mut().all(|room| room.now_or_never().is_none()));
        assert_eq!(wait(2 * MIB).await.unwrap_err(), Crowded);
        let mut last = wait(MIB);
        assert!((&mut last).now_or_never().is_none());
        assert_eq!(wait(1).await.unwrap_err(), Crowded);
        drop((waiting, last));
        // Alone, something of any size may wait.
        assert!(wait(1000 * MIB).now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_waits_for_room_forever() {
        let pool = Pool::of(MIB);
        let _all = pool.room(None, 2 * MIB, 0).await.unwrap();
        let begun = tokio::time::Instant::now();
        assert_eq!(pool.room(None, 1, 1).await.unwrap_err(), Crowded);
        assert_eq!(begun.elapsed(), WAIT_MAX);
    }
}
