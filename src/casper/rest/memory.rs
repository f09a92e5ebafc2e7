//! Memory for answers that are not small: what all of them may take while they are made and while they are sent.
//!
//! Two pools, so that middling answers never queue behind large ones. One address of another machine has at most a quarter
//! of each, or one answer. An answer that finds nothing left waits without keeping others from their turns, and only so many
//! wait.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, TryAcquireError};

use super::failure::Failure;
use crate::engine::http::{counted_client, turns};

/// Answers are made up to this size whenever they are asked for: only so many requests are worked on at once. One that
/// grows larger needs [`Memory`]. A page ends before it does, unless its only event is larger.
pub(super) const FREE_BYTES: usize = 1 << 20;
/// What answers of more than [`FREE_BYTES`] may take together. Any event of a log fits.
pub(super) const LARGE_ANSWERS_BYTES: usize = 272 << 20;
/// What the others may take together.
const MIDDLING_ANSWERS_BYTES: usize = 48 << 20;
/// One address of another machine has at most this part of a pool: see [`counted_client`].
const CLIENTS_MIN: usize = 4;
/// Answers that wait for one pool. Each may hold up to [`FREE_BYTES`] already.
const WAITING_MAX: usize = 32;
/// The unit in which memory is counted.
const UNIT_BYTES: usize = 1 << 10;

/// What answers may take.
#[derive(Debug)]
pub(super) struct Memory {
    middling: Pool,
    large: Pool,
}

impl Default for Memory {
    fn default() -> Self {
        Memory { middling: Pool::of(MIDDLING_ANSWERS_BYTES), large: Pool::of(LARGE_ANSWERS_BYTES) }
    }
}

impl Memory {
    /// Waits until an answer may take `bytes`.
    pub(super) async fn room(&self, bytes: usize) -> Result<Room, Failure> {
        let pool = if bytes > FREE_BYTES { &self.large } else { &self.middling };
        pool.room(bytes).await
    }

    #[cfg(test)]
    pub(super) fn left_bytes(&self) -> [usize; 2] {
        [&self.middling, &self.large].map(|pool| pool.left.available_permits() * UNIT_BYTES)
    }
}

#[derive(Debug)]
struct Pool {
    units: usize,
    left: Arc<Semaphore>,
    /// What is left of each client's part; only of those that use it.
    parts: Mutex<HashMap<IpAddr, Weak<Semaphore>>>,
    waiting: Semaphore,
}

/// A part of [`Memory`], given back when it is dropped.
#[derive(Debug)]
pub(super) struct Room {
    permit: OwnedSemaphorePermit,
    /// The same of the client's part, as far as it is counted.
    of_client: Option<OwnedSemaphorePermit>,
}

impl Pool {
    fn of(bytes: usize) -> Pool {
        let units = bytes / UNIT_BYTES;
        Pool {
            units,
            left: Arc::new(Semaphore::new(units)),
            parts: Mutex::default(),
            waiting: Semaphore::new(WAITING_MAX),
        }
    }

    async fn room(&self, bytes: usize) -> Result<Room, Failure> {
        // Never more than there are, so that no answer waits forever.
        let units = bytes.div_ceil(UNIT_BYTES).min(self.units);
        let client = turns::client().and_then(counted_client);
        let client = client.map(|client| (self.part_of(client), units.min(self.part_units())));
        match self.try_take(units, client.as_ref()) {
            Ok(room) => return Ok(room),
            Err(TryAcquireError::Closed) => return Err(closed()),
            Err(TryAcquireError::NoPermits) => {}
        }
        let _place = self.waiting.try_acquire().map_err(|_| Failure::Crowded)?;
        turns::aside(self.take(units, client)).await.map_err(|_| closed())
    }

    fn try_take(&self, units: usize, client: Option<&(Arc<Semaphore>, usize)>) -> Result<Room, TryAcquireError> {
        let of_client = client.map(|(part, units)| Arc::clone(part).try_acquire_many_owned(permits(*units)));
        let of_client = of_client.transpose()?;
        let permit = Arc::clone(&self.left).try_acquire_many_owned(permits(units))?;
        Ok(Room { permit, of_client })
    }

    async fn take(&self, units: usize, client: Option<(Arc<Semaphore>, usize)>) -> Result<Room, AcquireError> {
        // In this order, so that a client that waits for its own part keeps nothing from others.
        let of_client = match client {
            Some((part, units)) => Some(part.acquire_many_owned(permits(units)).await?),
            None => None,
        };
        let permit = Arc::clone(&self.left).acquire_many_owned(permits(units)).await?;
        Ok(Room { permit, of_client })
    }

    fn part_units(&self) -> usize {
        self.units / CLIENTS_MIN
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
}

impl Room {
    pub(super) fn bytes(&self) -> usize {
        self.permit.num_permits() * UNIT_BYTES
    }

    /// Gives back what is not needed for `bytes`.
    pub(super) fn shrunk_to(mut self, bytes: usize) -> Room {
        let superfluous = self.permit.num_permits().saturating_sub(bytes.div_ceil(UNIT_BYTES));
        drop(self.permit.split(superfluous));
        if let Some(of_client) = &mut self.of_client {
            let superfluous = of_client.num_permits().saturating_sub(self.permit.num_permits());
            drop(of_client.split(superfluous));
        }
        self
    }
}

fn permits(units: usize) -> u32 {
    u32::try_from(units).unwrap_or(u32::MAX)
}

fn closed() -> Failure {
    Failure::Storage("the memory for answers is closed".to_owned())
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::engine::http::turns::Limits;

    #[tokio::test]
    async fn one_address_cannot_take_all_the_memory_and_this_machine_can() {
        let (memory, limits) = (Memory::default(), Limits::new(100, 1000));
        let ask_from = async |address: [u8; 4], bytes| {
            let turn = limits.turn(Some(address.into())).await;
            turn.work(async { memory.room(bytes).now_or_never() }).await
        };
        let ask = async |last: u8, bytes| ask_from([192, 0, 2, last], bytes).await;
        let mut taken = Vec::new();
        while let Some(room) = ask(1, 4 << 20).await {
            taken.push(room.unwrap());
        }
        assert_eq!(taken.len(), 17);
        assert!(ask(2, 64 << 20).await.is_some());
        // Larger than a part, but alone.
        assert!(ask(3, 100 << 20).await.is_some());
        drop(taken);
        assert!(ask(1, 64 << 20).await.is_some());
        for last in 0..=255 {
            ask(last, 2 << 20).await.unwrap().unwrap();
        }
        assert!(memory.large.parts.lock().unwrap().len() < 50, "clients that are gone are forgotten");
        let mut taken = Vec::new();
        while let Some(room) = ask_from([127, 0, 0, 1], 4 << 20).await {
            taken.push(room.unwrap());
        }
        assert_eq!(taken.len(), 4 * 17);
    }

    #[tokio::test]
    async fn only_so_many_answers_wait() {
        let memory = Memory::default();
        let _all = memory.room(LARGE_ANSWERS_BYTES).await.unwrap();
        let mut waiting: Vec<_> = (0..WAITING_MAX).map(|_| Box::pin(memory.room(2 << 20))).collect();
        assert!(waiting.iter_mut().all(|room| room.now_or_never().is_none()));
        assert!(matches!(memory.room(2 << 20).await, Err(Failure::Crowded)));
    }
}
