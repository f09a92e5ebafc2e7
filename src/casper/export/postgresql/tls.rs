//! TLS to PostgreSQL, as `sslmode` says.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{Options, SslMode};
use crate::casper::export::ExportError;

/// What connects over TLS where the server and the mode want it.
///
/// # Errors
/// When the certificates that it is to trust cannot be read.
pub(crate) fn connector(options: &Options) -> Result<MakeRustlsConnect, ExportError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable("the default", error))?;
    let file = options.ssl_root_certificate.as_deref();
    let roots = match (options.ssl_mode, file) {
        (SslMode::VerifyFull, _) => {
            return Ok(MakeRustlsConnect::new(builder.with_root_certificates(roots(file)?).with_no_client_auth()));
        }
        (SslMode::Require, Some(_)) => Some(roots(file)?),
        (SslMode::Disable | SslMode::Prefer | SslMode::Require, _) => None,
    };
    let verifier = Arc::new(AnyName { provider, roots });
    Ok(MakeRustlsConnect::new(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()))
}

fn unusable(path: impl std::fmt::Display, error: impl std::fmt::Display) -> ExportError {
    ExportError::RootCertificate { path: path.to_string(), reason: error.to_string() }
}

/// The certificates of a file, or those that the system trusts.
fn roots(file: Option<&Path>) -> Result<RootCertStore, ExportError> {
    let mut roots = RootCertStore::empty();
    let Some(file) = file else {
        let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if added == 0 {
            return Err(unusable("the system's store", "it holds no certificate"));
        }
        return Ok(roots);
    };
    let unusable = |error: &dyn std::fmt::Display| unusable(file.display(), error);
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| unusable(&error))? {
        let certificate = certificate.map_err(|error| unusable(&error))?;
        roots.add(certificate).map_err(|error| unusable(&error))?;
    }
    if roots.is_empty() {
        return Err(unusable(&"it holds no certificate"));
    }
    Ok(roots)
}

/// Takes a certificate whatever name is in it, and with no roots any, as `sslmode` below `verify-full` does everywhere:
/// what is sent is hidden, but from whom is not known.
#[derive(Debug)]
struct AnyName {
    provider: Arc<CryptoProvider>,
    /// Who must have signed the certificate.
    roots: Option<RootCertStore>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(roots) = &self.roots {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
