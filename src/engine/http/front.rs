//! The HTTP front: connections from the moment they are accepted to their end, each within limits.
//!
//! Owns a listening socket and every connection on it; requests flow to the router that a server hands in. Clients may
//! come ten thousand at a time and idle, dawdle over a request's head, ask for more than fits, or stop reading. That costs
//! them their own connection and no other. What a request means, and how many may be answered at a time, is the
//! server's business.

use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinSet,
};

use super::{
    BindError,
    activity::Activity,
    connection::Connection,
    counters::FrontCounters,
    descriptors::{self, Fit},
    episode::{Episode, Over},
    limits::FrontLimits,
    places::Places,
};

/// Connections that the system holds ready to be accepted.
const BACKLOG: u32 = 1024;
/// Pause before the next try when no connection can be accepted, as when no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A bound front.
pub struct Front {
    listener: TcpListener,
    local_address: SocketAddr,
    limits: FrontLimits,
    counters: Arc<FrontCounters>,
}

impl Front {
    /// Takes the port. Within a Tokio runtime only.
    ///
    /// # Errors
    /// [`BindError`] names the address.
    pub fn bind(address: SocketAddr, limits: FrontLimits, counters: Arc<FrontCounters>) -> Result<Front, BindError> {
        let Fit { connections, open_files_max } =
            descriptors::connections(limits.connections_max, limits.descriptors_percent);
        let wanted = limits.connections_max;
        if connections < wanted {
            tracing::warn!(
                %address, wanted, connections, open_files_max,
                "fewer connections fit than configured; raise the limit of open files (LimitNOFILE, ulimit -n)"
            );
        }
        let limits = limits.fitted_to(connections);
        let listener = listen(address).map_err(|source| BindError { address, source })?;
        let local_address = listener.local_addr().map_err(|source| BindError { address, source })?;
        Ok(Front { listener, local_address, limits, counters })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_address
    }

    /// Hands requests to `router` until `cancel` is done; then every connection is cut, without a message.
    pub async fn serve(self, router: Router, cancel: impl Future<Output = ()>) {
        let places = Arc::new(Places::new(&self.limits));
        let (refusals, failures) = (Episode::default(), Episode::default());
        let mut cancel = pin!(cancel);
        // Dropped with it: the connections.
        let mut connections = JoinSet::new();
        loop {
            let entrance = tokio::select! {
                () = &mut cancel => return,
                entrance = places.entrance() => entrance,
            };
            let accepted = tokio::select! {
                () = &mut cancel => return,
                Some(_) = connections.join_next() => continue,
                accepted = self.listener.accept() => accepted,
            };
            let (stream, client) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.note_failure(&failures, &error);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            self.counters.accepted.add(1);
            let Some(admitted) = places.admit(client.ip()) else {
                self.refuse(&refusals, client, "its address has as many connections as it may have");
                continue;
            };
            let waits = self.limits.waits_for_places;
            let mut place = places.try_take();
            if place.is_none() && !places.idle.displace_longest(waits) {
                if !waits {
                    self.refuse(&refusals, client, "all places are taken");
                    continue;
                }
                // The others wait with the system until this one has a place.
                place = tokio::select! {
                    () = &mut cancel => return,
                    place = places.take() => place,
                };
                places.idle.stop_displacing();
            }
            let connection = Connection {
                client,
                router: router.clone(),
                limits: self.limits,
                counters: Arc::clone(&self.counters),
                activity: Arc::new(Activity::new(Arc::clone(&places), waits)),
                places: Arc::clone(&places),
            };
            connections.spawn(async move {
                // A displaced connection leaves its place in a moment.
                let place = match place {
                    Some(place) => Some(place),
                    None => connection.places.take().await,
                };
                drop(entrance);
                if let Some(place) = place {
                    connection.serve(stream, place).await;
                }
                drop(admitted);
            });
        }
    }

    fn refuse(&self, refusals: &Episode, client: SocketAddr, why: &'static str) {
        self.counters.refused.add(1);
        let (address, places) = (self.local_address, self.limits.connections_max);
        refusals.note(
            || tracing::info!(%address, %client, places, why, "connections are refused"),
            move |Over { times, seconds }| {
                tracing::info!(%address, refused = times, seconds, "connections are not refused any more");
            },
        );
    }

    fn note_failure(&self, failures: &Episode, error: &io::Error) {
        let address = self.local_address;
        failures.note(
            || tracing::warn!(%address, %error, "connections cannot be accepted; raise the limit of open files"),
            move |Over { times, seconds }| {
                tracing::info!(%address, failures = times, seconds, "connections can be accepted again");
            },
        );
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart must not wait for the last connections of the process before it.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
