//! TLS on a server's connections: a certificate and its key from files, read again when they change.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::reload::{Reloading, UnusableFile};

/// How every message of a handshake begins; a request in the clear begins with a letter.
const HANDSHAKE: u8 = 0x16;
/// The answer to a client that does not speak TLS.
const NOT_TLS: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n\r\n\
    this port takes TLS only: begin the address with https://\n";

/// Where the certificate and its key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM: the server's certificate first, then those that lead to a root.
    pub certificates: PathBuf,
    /// PEM: the private key of the first certificate.
    pub key: PathBuf,
}

impl TlsFiles {
    pub(super) fn load(self) -> Result<Reloading<ServerConfig>, UnusableFile> {
        let files = [self.certificates.clone(), self.key.clone()];
        Reloading::load(files, move |contents| match contents {
            [certificates, key] => self.configuration(certificates, key),
            _ => Err(UnusableFile::new(&self.certificates, "it was not read")),
        })
    }

    fn configuration(&self, certificates: &[u8], key: &[u8]) -> Result<ServerConfig, UnusableFile> {
        let chain = CertificateDer::pem_slice_iter(certificates).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| self.unusable_certificates(error))?;
        if chain.is_empty() {
            return Err(self.unusable_certificates("it holds none"));
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| {
            let fix = "it holds no private key in PEM; name the key that belongs to the certificate";
            UnusableFile::new(&self.key, fix)
        })?;
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| self.unusable_certificates(error))?.with_no_client_auth();
        let mut configuration = builder.with_single_cert(chain, key).map_err(|error| {
            let fix = format!("{error}; name the private key that belongs to {}", self.certificates.display());
            UnusableFile::new(&self.key, fix)
        })?;
        configuration.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(configuration)
    }

    fn unusable_certificates(&self, error: impl fmt::Display) -> UnusableFile {
        let fix = "name a file of certificates in PEM, the server's own first";
        UnusableFile::new(&self.certificates, format!("{error}; {fix}"))
    }
}

/// Shakes hands with a client. At most `buffer_bytes` wait for it to take them.
pub(super) async fn accept(
    configuration: Arc<ServerConfig>,
    mut stream: TcpStream,
    buffer_bytes: usize,
) -> io::Result<TlsStream<TcpStream>> {
    let mut first = [HANDSHAKE];
    stream.peek(&mut first).await?;
    if first != [HANDSHAKE] {
        // What is not read makes the system take back what was written.
        stream.read_buf(&mut Vec::<u8>::with_capacity(4096)).await?;
        stream.write_all(NOT_TLS).await?;
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the client does not speak TLS"));
    }
    let acceptor = TlsAcceptor::from(configuration);
    acceptor.accept_with(stream, |connection| connection.set_buffer_limit(Some(buffer_bytes))).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &tempfile::TempDir) -> TlsFiles {
        TlsFiles { certificates: folder.path().join("chain.pem"), key: folder.path().join("key.pem") }
    }

    #[test]
    fn a_certificate_without_its_key_is_refused_without_showing_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(&folder);
        let [own, other] = [(); 2].map(|()| rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap());
        let refusal = |certificates: &str, key: &str| {
            std::fs::write(&files.certificates, certificates).unwrap();
            std::fs::write(&files.key, key).unwrap();
            files.clone().load().err().map(|error| error.to_string())
        };
        let (certificate, key) = (own.cert.pem(), own.signing_key.serialize_pem());
        assert_eq!(refusal(&certificate, &key), None);
        let other = other.signing_key.serialize_pem();
        for (certificates, wrong, part) in [
            (certificate.as_str(), other.as_str(), "name the private key that belongs to "),
            (&certificate, &certificate, "it holds no private key in PEM"),
            (&certificate, "", "it holds no private key in PEM"),
            ("", &key, "it holds none; name a file of certificates in PEM"),
            (&key, &key, "it holds none; name a file of certificates in PEM"),
        ] {
            let refusal = refusal(certificates, wrong).expect(part);
            assert!(refusal.contains(part) && refusal.contains(".pem: "), "{refusal}");
            let body = |pem: &str| pem.lines().nth(1).unwrap().to_owned();
            assert!(!refusal.contains(&body(&key)) && !refusal.contains(&body(&other)), "{refusal}");
        }
    }
}
