//! Where a server listens, and whom it lets in: addresses, TLS, tokens and origins of web pages.
//!
//! Options flow in; bound sockets flow out, or a [`BindError`] that names what to change.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

use super::{cors::Origins, reload::UnusableFile, tls::TlsFiles, tokens::TokenOptions};

/// Connections that the system holds ready to be accepted.
const BACKLOG: u32 = 1024;

/// Where a server listens, and whom it lets in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// The addresses, of IPv4 or IPv6; at least one.
    pub addresses: Vec<IpAddr>,
    /// The certificate and its key; without, connections are not encrypted.
    pub tls: Option<TlsFiles>,
    /// What clients must present.
    pub tokens: TokenOptions,
    /// Which web pages may read the answers.
    pub origins: Origins,
}

impl ListenOptions {
    /// One address, open to every client and to pages of every origin.
    pub fn on(address: impl Into<IpAddr>) -> Self {
        ListenOptions {
            addresses: vec![address.into()],
            tls: None,
            tokens: TokenOptions::default(),
            origins: Origins::Any,
        }
    }
}

/// All of this machine's IPv4 addresses, as the reference listens.
impl Default for ListenOptions {
    fn default() -> Self {
        Self::on(Ipv4Addr::UNSPECIFIED)
    }
}

/// Why a server cannot listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The address or its port cannot be had.
    #[error("cannot listen on {address}: {}", advice(source))]
    Address {
        /// Address and port.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// A file that decides who is let in cannot be used.
    #[error(transparent)]
    File(#[from] UnusableFile),
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => "the port is taken; stop the program that has it, or set another `port`",
        io::ErrorKind::AddrNotAvailable => {
            "this machine does not have that address; set `ip_address` to one of those that `ip address` lists, or leave it \
             out to listen on all"
        }
        io::ErrorKind::PermissionDenied => {
            "the user that runs Sidecar may not take that port; set a `port` of 1024 or more, or grant the capability \
             CAP_NET_BIND_SERVICE"
        }
        _ if source.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) => {
            "IPv6 is switched off on this machine; set `ip_address` to an IPv4 address"
        }
        _ => "set another `port` or `ip_address`",
    }
}

/// Takes `port` on all `addresses`: with 0, the same free port on each.
pub(super) fn bind(addresses: &[IpAddr], port: u16) -> Result<Vec<(TcpListener, SocketAddr)>, BindError> {
    let mut port = port;
    let mut listeners = Vec::with_capacity(addresses.len());
    // Alone, `::` takes IPv4 connections too, and would leave that port to no other socket.
    let has_ipv4 = addresses.iter().any(IpAddr::is_ipv4);
    for &address in addresses {
        let address = SocketAddr::new(address, port);
        let failed = |source| BindError::Address { address, source };
        let listener = listen(address, has_ipv4).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        port = address.port();
        listeners.push((listener, address));
    }
    Ok(listeners)
}

fn listen(address: SocketAddr, only_ipv6: bool) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if only_ipv6 && address.is_ipv6() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    // A restart must not wait for the last connections of the process before it.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn several_addresses_of_both_families_share_one_free_port() {
        let wanted: Vec<IpAddr> = ["127.0.0.1", "127.0.0.2", "::1"].map(|address| address.parse().unwrap()).into();
        let bound = bind(&wanted, 0).unwrap();
        let port = bound[0].1.port();
        assert!(port != 0);
        let expected: Vec<SocketAddr> = wanted.iter().map(|address| SocketAddr::new(*address, port)).collect();
        assert_eq!(bound.iter().map(|(_, address)| *address).collect::<Vec<_>>(), expected);
        let all: Vec<IpAddr> = ["0.0.0.0", "::"].map(|address| address.parse().unwrap()).into();
        assert_eq!(bind(&all, 0).unwrap().len(), 2, "`::` is for IPv6 alone beside an IPv4 address");
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_refused_with_the_way_out() {
        // Of a network that is kept for documentation.
        let error = bind(&["192.0.2.1".parse().unwrap()], 0).unwrap_err().to_string();
        assert!(error.starts_with("cannot listen on 192.0.2.1:0: this machine does not have that address"), "{error}");
        assert!(error.contains("`ip_address`"), "{error}");
    }
}
