//! The HTTP front: connections from the moment they are accepted to their end, each within limits.
//!
//! Owns the listening sockets and every connection on them; requests flow to the router that a server hands in, those of
//! clients that are to present a token only with one. Clients may come ten thousand at a time and idle, dawdle over a request's head, ask for more than fits, or stop reading. That costs
//! them their own connection and no other. What a request means, and how many may be answered at a time, is the
//! server's business.

use std::{
    convert::Infallible,
    future::{poll_fn, ready},
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use axum::{Router, middleware};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{
    BindError, ListenOptions,
    activity::Activity,
    connection::{Admission, Connection},
    cors::Origins,
    counters::FrontCounters,
    descriptors::{self, Fit},
    episode::{Episode, Over},
    limits::FrontLimits,
    listen,
    places::Places,
    reload::{self, Current, Reloading},
    tls,
    tokens::{self, Guard, Tokens},
};

/// Pause before the next try when no connection can be accepted, as when no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A bound front.
pub struct Front {
    listeners: Vec<TcpListener>,
    /// Where they listen.
    addresses: Vec<SocketAddr>,
    tls: Option<Reloading<ServerConfig>>,
    tokens: Option<Reloading<Tokens>>,
    origins: Origins,
    open_paths: &'static [&'static str],
    limits: FrontLimits,
    counters: Arc<FrontCounters>,
}

impl Front {
    /// Takes `port`, and reads the files that decide who is let in. Within a Tokio runtime only.
    ///
    /// # Errors
    /// [`BindError`] names the address or the file.
    pub fn bind(
        listen: &ListenOptions,
        port: u16,
        limits: FrontLimits,
        counters: Arc<FrontCounters>,
    ) -> Result<Front, BindError> {
        let tls = listen.tls.clone().map(tls::TlsFiles::load).transpose()?;
        let tokens = listen.tokens.load()?;
        let secrets = listen.tls.iter().map(|tls| &tls.key).chain(&listen.tokens.file);
        secrets.for_each(|file| reload::warn_if_public(file));
        let (listeners, addresses): (Vec<_>, Vec<_>) = listen::bind(&listen.addresses, port)?.into_iter().unzip();
        let limits = fitted(limits, &addresses);
        if tokens.is_some() && tls.is_none() && !listen.addresses.iter().all(IpAddr::is_loopback) {
            tracing::warn!(
                ?addresses,
                "bearer tokens cross the network in the clear; add a `tls` section, or listen on loopback after a proxy with TLS"
            );
        }
        if tls.is_some() || tokens.is_some() {
            let (tls, tokens) = (tls.is_some(), tokens.is_some());
            tracing::info!(?addresses, tls, tokens, "access is limited");
        }
        let origins = listen.origins.clone();
        Ok(Front { listeners, addresses, tls, tokens, origins, open_paths: &[], limits, counters })
    }

    /// Leaves paths open to clients without a token.
    #[must_use]
    pub fn with_open_paths(self, paths: &'static [&'static str]) -> Self {
        Front { open_paths: paths, ..self }
    }

    /// Where it listens; at the first of its addresses, where it has several.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addresses.first().copied().unwrap_or(SocketAddr::new(IpAddr::from([0; 4]), 0))
    }

    /// Everywhere that it listens.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What happens at it.
    #[must_use]
    pub fn counters(&self) -> &Arc<FrontCounters> {
        &self.counters
    }

    /// Hands requests to `router` until `cancel` is done; then every connection is cut, without a message.
    pub async fn serve(mut self, router: Router, cancel: impl Future<Output = ()>) {
        // Dropped with it: the watch over the files, and the connections.
        let mut watches = JoinSet::new();
        let tls = followed(self.tls.take(), &mut watches);
        let router = match followed(self.tokens.take(), &mut watches) {
            None => router,
            Some(tokens) => {
                let guard = Guard {
                    tokens,
                    origins: self.origins.clone(),
                    open_paths: self.open_paths,
                    address: self.local_addr(),
                    counters: Arc::clone(&self.counters),
                    refusals: Episode::default(),
                };
                router.layer(middleware::from_fn_with_state(Arc::new(guard), tokens::require_token))
            }
        };
        let places = Arc::new(Places::new(&self.limits));
        let (refusals, failures) = (Episode::default(), Episode::default());
        let mut cancel = pin!(cancel);
        let mut connections = JoinSet::new();
        let mut first = 0;
        loop {
            let entrance = tokio::select! {
                () = &mut cancel => return,
                entrance = places.entrance() => entrance,
            };
            let accepted = tokio::select! {
                () = &mut cancel => return,
                Some(_) = connections.join_next() => continue,
                accepted = self.accept(first) => accepted,
            };
            first += 1;
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
            let admission = Admission { place, entrance, _client: admitted };
            if connection.prepare(&stream).is_err() {
                continue;
            }
            // Two kinds of tasks, so that a connection in the clear takes no memory for TLS.
            match &tls {
                None => connections.spawn(connection.run(admission, ready(Ok(stream)))),
                Some(tls) => {
                    let opening = tls::accept(tls.get(), stream, self.limits.http1_buffer_bytes);
                    connections.spawn(connection.run(admission, opening))
                }
            };
        }
    }

    /// The next connection at any address. They are looked at from another one each time, so that none is starved.
    async fn accept(&self, first: usize) -> io::Result<(TcpStream, SocketAddr)> {
        let count = self.listeners.len();
        poll_fn(|context| {
            let mut listeners = self.listeners.iter().cycle().skip(first % count.max(1)).take(count);
            let accepted = listeners.find_map(|listener| match listener.poll_accept(context) {
                Poll::Ready(accepted) => Some(accepted),
                Poll::Pending => None,
            });
            accepted.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    fn refuse(&self, refusals: &Episode, client: SocketAddr, why: &'static str) {
        self.counters.refused.add(1);
        let (address, places) = (self.local_addr(), self.limits.connections_max);
        refusals.note(
            || tracing::info!(%address, %client, places, why, "connections are refused"),
            move |Over { times, seconds }| {
                tracing::info!(%address, refused = times, seconds, "connections are not refused any more");
            },
        );
    }

    fn note_failure(&self, failures: &Episode, error: &io::Error) {
        let address = self.local_addr();
        failures.note(
            || tracing::warn!(%address, %error, "connections cannot be accepted; raise the limit of open files"),
            move |Over { times, seconds }| {
                tracing::info!(%address, failures = times, seconds, "connections can be accepted again");
            },
        );
    }
}

/// Has the files be read again when they change; gives what is in use at any time.
fn followed<T: Send + Sync + 'static>(
    reloading: Option<Reloading<T>>,
    watches: &mut JoinSet<Infallible>,
) -> Option<Current<T>> {
    let reloading = reloading?;
    let current = reloading.current();
    watches.spawn(reloading.follow());
    Some(current)
}

/// The limits that the limit of open files leaves room for.
fn fitted(limits: FrontLimits, addresses: &[SocketAddr]) -> FrontLimits {
    let Fit { connections, open_files_max } =
        descriptors::connections(limits.connections_max, limits.descriptors_percent);
    let wanted = limits.connections_max;
    if connections < wanted {
        tracing::warn!(
            ?addresses,
            wanted,
            connections,
            open_files_max,
            "fewer connections fit than configured; raise the limit of open files (LimitNOFILE, ulimit -n)"
        );
    }
    limits.fitted_to(connections)
}
