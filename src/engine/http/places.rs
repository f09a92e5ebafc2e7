//! Places for connections: how many there are, how many one client may have, and which idle connection gives its place up.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::limits::FrontLimits;

/// Displaced connections at a time that may still finish what is on its way. More are cut at once: each keeps a place that
/// another connection waits for.
const LEAVING_MAX: usize = 8;

/// The places of one front.
pub(super) struct Places {
    free: Arc<Semaphore>,
    /// Connections that were accepted and wait until a displaced one has left.
    entrances: Arc<Semaphore>,
    leaving: Semaphore,
    pub(super) idle: IdleConnections,
    clients: Arc<Clients>,
}

impl Places {
    pub(super) fn new(limits: &FrontLimits) -> Places {
        Places {
            free: Arc::new(Semaphore::new(limits.connections_max)),
            entrances: Arc::new(Semaphore::new((limits.connections_max / 8).clamp(1, 2 * LEAVING_MAX))),
            leaving: Semaphore::new(LEAVING_MAX),
            idle: IdleConnections::default(),
            clients: Arc::new(Clients { each_max: limits.connections_per_client_max, open: Mutex::default() }),
        }
    }

    /// Waits until one more connection may be accepted. Dropped once it has its place.
    pub(super) async fn entrance(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.entrances).acquire_owned().await.ok()
    }

    /// Counts a connection of this address; `None` when the address has as many as it may have.
    pub(super) fn admit(&self, address: IpAddr) -> Option<Admitted> {
        Clients::admit(&self.clients, address)
    }

    pub(super) fn try_take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_owned().ok()
    }

    pub(super) async fn take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).acquire_owned().await.ok()
    }

    /// Leave to finish what is on its way, if not too many have it.
    pub(super) fn may_finish(&self) -> Option<SemaphorePermit<'_>> {
        self.leaving.try_acquire().ok()
    }
}

/// How many connections each address of another machine has.
struct Clients {
    each_max: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// A connection that counts for its address until it is dropped.
pub(super) struct Admitted {
    clients: Arc<Clients>,
    /// Not there for this machine's own.
    key: Option<IpAddr>,
}

impl Clients {
    fn admit(clients: &Arc<Clients>, address: IpAddr) -> Option<Admitted> {
        let key = counted_client(address);
        if let Some(key) = key {
            let mut open = clients.open();
            let count = open.get(&key).copied().unwrap_or_default();
            if count >= clients.each_max {
                return None;
            }
            open.insert(key, count + 1);
        }
        Some(Admitted { clients: Arc::clone(clients), key })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        if let Entry::Occupied(mut count) = self.clients.open().entry(key) {
            match *count.get() {
                0 | 1 => _ = count.remove(),
                more => *count.get_mut() = more - 1,
            }
        }
    }
}

/// What counts as one client: an IPv4 address, or the 64 bits of an IPv6 address that a client cannot choose freely.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

/// The same; `None` for this machine's own: behind a proxy here, all clients have that address, and it may take everything.
pub fn counted_client(address: IpAddr) -> Option<IpAddr> {
    (!address.to_canonical().is_loopback()).then(|| network_of(address))
}

/// The connections without a request, in the order in which they fell idle.
#[derive(Default)]
pub(super) struct IdleConnections(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    next_number: u64,
    waiting: BTreeMap<u64, Arc<Notify>>,
    /// The next connection that falls idle is displaced at once.
    is_next_displaced: bool,
}

impl IdleConnections {
    pub(super) fn enter(&self, displaced: &Arc<Notify>) -> u64 {
        let mut queue = self.queue();
        let number = queue.next_number;
        queue.next_number += 1;
        if std::mem::take(&mut queue.is_next_displaced) {
            displaced.notify_one();
        } else {
            queue.waiting.insert(number, Arc::clone(displaced));
        }
        number
    }

    pub(super) fn leave(&self, number: u64) {
        self.queue().waiting.remove(&number);
    }

    /// Has the one that has been idle for longest give up its place; `false` where none is idle. Then it may be the next one
    /// that falls idle, until [`stop_displacing`](Self::stop_displacing).
    pub(super) fn displace_longest(&self, or_next: bool) -> bool {
        let mut queue = self.queue();
        let longest = queue.waiting.pop_first();
        queue.is_next_displaced = or_next && longest.is_none();
        longest.map(|(_, displaced)| displaced.notify_one()).is_some()
    }

    pub(super) fn stop_displacing(&self) {
        self.queue().is_next_displaced = false;
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_only_so_many_places_and_this_machine_has_all() {
        let limits = FrontLimits { connections_per_client_max: 2, ..FrontLimits::of_answers(10) };
        let places = Places::new(&limits);
        let admit = |address: &str| places.admit(address.parse().unwrap());
        let first = [admit("192.0.2.1"), admit("::ffff:192.0.2.1")];
        assert!(first.iter().all(Option::is_some));
        assert!(admit("192.0.2.1").is_none());
        assert!(admit("192.0.2.2").is_some());
        let neighbours = [admit("2001:db8::1"), admit("2001:db8::2:1")];
        assert!(neighbours.iter().all(Option::is_some) && admit("2001:db8::3").is_none());
        assert!(admit("2001:db8:0:1::1").is_some());
        let own: Vec<_> = (0..10).map(|_| admit("127.0.0.1")).collect();
        assert!(own.iter().all(Option::is_some) && admit("::1").is_some());
        drop(first);
        assert!(admit("192.0.2.1").is_some());
        drop((neighbours, own));
        assert!(places.clients.open().is_empty());
    }
}
