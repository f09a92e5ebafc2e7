//! Ports on loopback that no other process takes.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

/// A free port that stays ours while this lives, also while nothing listens on it.
///
/// The socket is bound and never listens: the system gives the port to no process that asks for any port, connecting to it
/// is refused, and a server that sets `SO_REUSEADDR` (as tokio does) can bind it by its number.
#[derive(Debug)]
pub struct ReservedPort {
    port: u16,
    _bound: TcpSocket,
}

impl ReservedPort {
    /// Reserves any free port.
    pub fn new() -> Self {
        let socket = reusable_socket();
        socket.bind((Ipv4Addr::UNSPECIFIED, 0).into()).unwrap();
        Self { port: socket.local_addr().unwrap().port(), _bound: socket }
    }

    /// The number of the port.
    pub fn number(&self) -> u16 {
        self.port
    }

    /// The port on loopback.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Listens on the port; needs a tokio runtime around it.
    pub(crate) fn listen(&self) -> TcpListener {
        let socket = reusable_socket();
        socket.bind(self.address()).unwrap();
        socket.listen(1024).unwrap()
    }
}

impl Default for ReservedPort {
    fn default() -> Self {
        Self::new()
    }
}

fn reusable_socket() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket
}
