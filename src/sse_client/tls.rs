//! TLS to nodes: which certificates are trusted.

use std::sync::{Arc, OnceLock};

use rustls::crypto::ring;
use rustls::{ClientConfig, Error, RootCertStore};
use tracing::warn;

/// For connections without TLS: no authority is trusted.
pub(super) fn without_roots() -> Result<ClientConfig, Error> {
    config(RootCertStore::empty())
}

/// Trusts whom the system trusts, or the file that `SSL_CERT_FILE` names. They are read once.
pub(super) fn with_system_roots() -> Result<ClientConfig, Error> {
    static ROOTS: OnceLock<RootCertStore> = OnceLock::new();
    config(ROOTS.get_or_init(system_roots).clone())
}

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let error = found.errors.first().map(ToString::to_string);
        warn!(
            error,
            "the system's store holds no certificate, so no HTTPS node can be trusted; install the package \
             ca-certificates, or name a file with SSL_CERT_FILE"
        );
    }
    roots
}

fn config(roots: RootCertStore) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    Ok(builder.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth())
}
