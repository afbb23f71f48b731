//! TLS to servers: rustls with ring, TLS 1.3.
//!
//! Trusted are the certificate authorities of this machine (`SSL_CERT_FILE` and `SSL_CERT_DIR` name others), read when the
//! first request needs them: most hosts never do.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use provider_api::ProviderError;
use provider_api::http_client::RequestError;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::fault;

/// Name of the provider's setting.
const TLS_CA: &str = "tls-ca";
/// The only protocol that is spoken over the connection.
const ALPN: &[u8] = b"http/1.1";

/// Whom to trust, and how to connect to them.
#[derive(Debug)]
pub(crate) struct Tls {
    /// Trusted besides the authorities of this machine.
    also: Vec<CertificateDer<'static>>,
    config: OnceCell<Arc<ClientConfig>>,
}

impl Tls {
    pub(crate) fn new(also: Option<&Path>) -> Result<Self, ProviderError> {
        let also = also.map(|path| certificates(path).map_err(|reason| ProviderError::setting(TLS_CA, reason)));
        Ok(Self { also: also.transpose()?.unwrap_or_default(), config: OnceCell::new() })
    }

    /// A secure connection over `stream` with the server `name`.
    pub(crate) async fn secure(&self, name: &str, stream: TcpStream) -> Result<TlsStream<TcpStream>, RequestError> {
        let server = ServerName::try_from(name.to_owned()).map_err(|error| RequestError::Tls(format!("`{name}`: {error}")))?;
        let config = self.config.get_or_try_init(|| self.load()).await?;
        TlsConnector::from(config.clone()).connect(server, stream).await.map_err(|error| unsecured(&error))
    }

    async fn load(&self) -> Result<Arc<ClientConfig>, RequestError> {
        let also = self.also.clone();
        let loaded = tokio::task::spawn_blocking(move || config(also)).await;
        loaded.map_err(|error| RequestError::Failed(error.to_string()))?.map(Arc::new)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let fault = |error: &dyn std::fmt::Display| format!("{}: {error}", PathBuf::from(path).display());
    let found = CertificateDer::pem_file_iter(path).map_err(|error| fault(&error))?;
    let found = found.collect::<Result<Vec<_>, _>>().map_err(|error| fault(&error))?;
    let usable = RootCertStore::empty().add_parsable_certificates(found.iter().cloned()).0;
    if usable == 0 { Err(fault(&"holds no certificate")) } else { Ok(found) }
}

fn config(also: Vec<CertificateDer<'static>>) -> Result<ClientConfig, RequestError> {
    let native = rustls_native_certs::load_native_certs();
    let roots = roots(native.certs.into_iter().chain(also), native.errors.first())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| RequestError::Setup(error.to_string()))?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// Whom to trust, of `found` certificates; `trouble` is why there may be none.
fn roots(
    found: impl IntoIterator<Item = CertificateDer<'static>>,
    trouble: Option<&rustls_native_certs::Error>,
) -> Result<RootCertStore, RequestError> {
    let mut roots = RootCertStore::empty();
    // Machines have old certificates that nothing can read; those that can be are what counts.
    roots.add_parsable_certificates(found);
    if roots.is_empty() {
        let why = trouble.map(|error| format!(": {error}")).unwrap_or_default();
        return Err(RequestError::Setup(format!("no certificate authority is known on this machine{why}")));
    }
    Ok(roots)
}

fn unsecured(error: &std::io::Error) -> RequestError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(why)) => RequestError::Certificate(why.to_string()),
        Some(other) => RequestError::Tls(other.to_string()),
        None => RequestError::Tls(fault::chain(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_trusts_nobody_is_said_to_be_one() {
        let unreadable = CertificateDer::from(vec![1, 2, 3]);
        for found in [vec![], vec![unreadable]] {
            let why = roots(found, None).unwrap_err();
            assert_eq!(why, RequestError::Setup("no certificate authority is known on this machine".to_owned()));
        }
    }
}
