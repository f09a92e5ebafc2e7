//! Memory for answers that are not small: what all of them may take while they are made and while they are sent.
//!
//! Two pools, so that middling answers never queue behind large ones.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Mutex, MutexGuard};

use super::{Crowded, Pool, Room};

/// Answers up to this size are sent whenever they are made: HTTP takes them at once, and only so many connections are open.
/// A larger one needs [`AnswerMemory`] for as long as its client takes it.
pub const SMALL_BYTES: usize = 64 << 10;
/// The largest middling answer. A server that works on only so many requests at once may make it before it asks for room.
pub const MIDDLING_BYTES: usize = 1 << 20;
/// What answers of more than [`MIDDLING_BYTES`] may take together. Any event of a log fits.
pub const LARGE_ANSWERS_BYTES: usize = 272 << 20;
/// What the others may take together.
const MIDDLING_ANSWERS_BYTES: usize = 48 << 20;
/// The room that an answer has while it is unknown how large it becomes, in the order in which it gets it.
const STEPS_BYTES: [usize; 3] = [MIDDLING_BYTES, 16 << 20, 64 << 20];

/// What answers may take.
#[derive(Debug)]
pub struct AnswerMemory {
    middling: Pool,
    large: Pool,
}

impl Default for AnswerMemory {
    fn default() -> Self {
        AnswerMemory { middling: Pool::of(MIDDLING_ANSWERS_BYTES), large: Pool::of(LARGE_ANSWERS_BYTES) }
    }
}

impl AnswerMemory {
    /// Waits until an answer to `client` may take `bytes`. Meanwhile it has no room, and holds as much of them as is made.
    ///
    /// # Errors
    /// [`Crowded`] when too much waits already, or this did for too long.
    pub async fn room(&self, client: Option<IpAddr>, bytes: usize, made: usize) -> Result<Room, Crowded> {
        let pool = if bytes > MIDDLING_BYTES { &self.large } else { &self.middling };
        pool.room(client, bytes, made).await
    }

    /// The bytes that are left for middling answers, and for large ones.
    #[cfg(test)]
    pub(crate) fn left_bytes(&self) -> [usize; 2] {
        [self.middling.left_bytes(), self.large.left_bytes()]
    }
}

/// An answer that is made of pieces by several tasks at once, and its room.
pub struct GrowingAnswer<'a> {
    memory: &'a AnswerMemory,
    client: Option<IpAddr>,
    /// Bytes that are made.
    made: AtomicUsize,
    /// Bytes that there is room for.
    allowed: AtomicUsize,
    room: Mutex<Result<Option<Room>, Crowded>>,
}

/// Why a piece has no place in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ungrown {
    /// There is no room for it now. The whole answer is to be dropped: nothing has room any more.
    Crowded,
    /// No answer may be as large.
    TooLong,
}

impl From<Crowded> for Ungrown {
    fn from(Crowded: Crowded) -> Self {
        Ungrown::Crowded
    }
}

impl<'a> GrowingAnswer<'a> {
    /// An answer to `client` without a byte.
    #[must_use]
    pub fn new(memory: &'a AnswerMemory, client: Option<IpAddr>) -> Self {
        let (made, allowed) = (AtomicUsize::new(0), AtomicUsize::new(SMALL_BYTES));
        GrowingAnswer { memory, client, made, allowed, room: Mutex::new(Ok(None)) }
    }

    /// Waits until a piece that is made already may stay.
    ///
    /// # Errors
    /// [`Ungrown`]; the piece is not counted then, and is to be dropped.
    pub async fn add(&self, bytes: usize) -> Result<(), Ungrown> {
        let made = self.made.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if made <= self.allowed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let grown = self.grow(bytes).await;
        if grown.is_err() {
            self.made.fetch_sub(bytes, Ordering::Relaxed);
        }
        grown
    }

    async fn grow(&self, piece: usize) -> Result<(), Ungrown> {
        let waiting = match self.room.try_lock() {
            Ok(room) => return self.grow_in(room).await,
            Err(_) => &self.memory.large.waiting,
        };
        // Another piece has the answer wait: this one waits with it.
        let piece = super::permits(super::units_of_waiting(piece));
        let _held = waiting.try_acquire_many(piece).map_err(|_| Ungrown::Crowded)?;
        self.grow_in(self.room.lock().await).await
    }

    async fn grow_in(&self, mut room: MutexGuard<'_, Result<Option<Room>, Crowded>>) -> Result<(), Ungrown> {
        let (made, allowed) = (self.made.load(Ordering::Relaxed), self.allowed.load(Ordering::Relaxed));
        if room.is_err() {
            return Err(Ungrown::Crowded);
        }
        if made <= allowed {
            return Ok(());
        }
        let bytes = STEPS_BYTES.into_iter().find(|step| made <= *step).ok_or(Ungrown::TooLong)?;
        // What waits has no room, lest two that grow wait for each other.
        self.allowed.store(0, Ordering::Relaxed);
        *room = Err(Crowded);
        *room = self.memory.room(self.client, bytes, made).await.map(Some);
        room.as_ref().map_err(|crowded| Ungrown::from(*crowded))?;
        self.allowed.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// The room of the finished answer. A small one has none.
    #[must_use]
    pub fn into_room(self) -> Option<Room> {
        self.room.into_inner().ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const MIB: usize = 1 << 20;

    #[tokio::test]
    async fn an_answer_takes_more_room_as_it_grows_and_gives_back_what_it_does_not_need() {
        let memory = AnswerMemory::default();
        let all = memory.left_bytes();
        let answer = GrowingAnswer::new(&memory, None);
        answer.add(SMALL_BYTES).await.unwrap();
        assert_eq!(memory.left_bytes(), all, "what is small is free");
        answer.add(1).await.unwrap();
        assert_eq!(memory.left_bytes(), [all[0] - MIB, all[1]]);
        for _ in 0..15 {
            answer.add(MIB).await.unwrap();
        }
        assert_eq!(memory.left_bytes(), [all[0], all[1] - 16 * MIB]);
        answer.add(MIB).await.unwrap();
        assert_eq!(memory.left_bytes(), [all[0], all[1] - 64 * MIB]);
        assert_eq!(answer.add(48 * MIB).await, Err(Ungrown::TooLong));
        answer.add(40 * MIB).await.unwrap();
        let room = answer.into_room().unwrap().shrunk_to(57 * MIB);
        assert_eq!(memory.left_bytes(), [all[0], all[1] - 57 * MIB]);
        drop(room);
        assert_eq!(memory.left_bytes(), all);
    }

    #[tokio::test]
    async fn answers_that_grow_do_not_wait_for_each_other() {
        let memory = AnswerMemory::default();
        let answers: Vec<_> = (0..17).map(|_| GrowingAnswer::new(&memory, None)).collect();
        for answer in &answers {
            answer.add(10 * MIB).await.unwrap();
        }
        let mut more: Vec<_> = answers.iter().take(3).map(|answer| Box::pin(answer.add(10 * MIB))).collect();
        let grown: Vec<_> = more.iter_mut().map(|more| more.now_or_never()).collect();
        // Only one of them may wait with 20 MiB in memory. The others have lost their room, so that it can have it.
        assert_eq!(grown, [None, Some(Err(Ungrown::Crowded)), Some(Err(Ungrown::Crowded))]);
        assert_eq!(answers[1].add(1).await, Err(Ungrown::Crowded), "it is to be dropped");
        assert_eq!(answers[3].add(50 * MIB).now_or_never(), Some(Err(Ungrown::Crowded)));
        assert_eq!((&mut more[0]).now_or_never(), Some(Ok(())));
    }

    #[tokio::test]
    async fn pieces_of_one_answer_wait_together() {
        let memory = AnswerMemory::default();
        let all = memory.room(None, LARGE_ANSWERS_BYTES, 0).await.unwrap();
        let answer = GrowingAnswer::new(&memory, None);
        let mut pieces: Vec<_> = (0..3).map(|_| Box::pin(answer.add(2 * MIB))).collect();
        assert!(pieces.iter_mut().all(|piece| piece.now_or_never().is_none()));
        drop(all);
        assert!(pieces.iter_mut().all(|piece| piece.now_or_never() == Some(Ok(()))));
    }
}
