//! The client's side of TLS: a certificate of the server's, and a tunnel to it for clients without TLS.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A server's certificate and key in files. A clone is for the same files, and trusts only what they held then.
#[derive(Clone)]
pub(crate) struct Identity {
    folder: Arc<TempDir>,
    certificate: String,
}

impl Identity {
    pub(crate) fn new() -> Identity {
        let mut identity = Identity { folder: Arc::new(tempfile::tempdir().unwrap()), certificate: String::new() };
        identity.renew();
        identity
    }

    /// Puts another certificate and its key into the files.
    pub(crate) fn renew(&mut self) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        self.certificate = made.cert.pem();
        std::fs::write(self.certificates(), &self.certificate).unwrap();
        std::fs::write(self.key(), made.signing_key.serialize_pem()).unwrap();
    }

    pub(crate) fn certificates(&self) -> PathBuf {
        self.folder.path().join("chain.pem")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }

    /// Shakes hands with a server that must have this very certificate.
    pub(crate) async fn connect(&self, address: SocketAddr, protocols: &[&str]) -> io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TcpStream::connect(address).await?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}

/// A port in the clear that leads to a server's port with TLS.
pub(crate) struct Tunnel {
    address: SocketAddr,
    running: JoinHandle<()>,
}

impl Tunnel {
    pub(crate) async fn to(server: SocketAddr, identity: &Identity) -> Tunnel {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (address, identity) = (listener.local_addr().unwrap(), identity.clone());
        let running = tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let identity = identity.clone();
                tokio::spawn(async move {
                    if let Ok(mut tls) = identity.connect(server, &["http/1.1"]).await {
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut tls).await;
                    }
                });
            }
        });
        Tunnel { address, running }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.running.abort();
    }
}
