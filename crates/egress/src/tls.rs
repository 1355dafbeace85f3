//! TLS towards servers. There is no way to skip verification.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use rustls::{ClientConfig, RootCertStore, crypto::CryptoProvider};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls_platform_verifier::Verifier;

use crate::Error;

/// Whom to trust and who we are, as PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// Our certificate chain; needs `key`.
    pub client_cert: Option<PathBuf>,
    /// Our private key; needs `client_cert`.
    pub key: Option<PathBuf>,
    /// The only authorities to trust; without it, the platform's.
    pub ca: Option<PathBuf>,
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())))
}

/// The platform's authorities, loaded when the first peer needs them and shared by all: they cost about a megabyte,
/// which plain peers need not spend.
#[derive(Default)]
pub(crate) struct Platform(OnceLock<Arc<Verifier>>);

impl Platform {
    fn verifier(&self) -> Result<Arc<Verifier>, Error> {
        if let Some(verifier) = self.0.get() {
            return Ok(Arc::clone(verifier));
        }
        let verifier = Verifier::new(provider()).map_err(|error| Error::Tls(error.to_string()))?;
        // Two at once load twice and keep one.
        Ok(Arc::clone(self.0.get_or_init(|| Arc::new(verifier))))
    }
}

/// HTTP/2 in ALPN (RFC 9113 §3.1).
pub(crate) const H2: &[u8] = b"h2";

/// HTTP/1.1 in ALPN (RFC 7301 §6).
pub(crate) const HTTP_1: &[u8] = b"http/1.1";

/// A client configuration. `is_used` is false for plain peers, which never read it; `alpn` is what we offer to speak.
pub(crate) fn client(
    options: &TlsOptions,
    platform: &Platform,
    is_used: bool,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, Error> {
    let refused = |error: rustls::Error| Error::Tls(error.to_string());
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(refused)?;
    let builder = match &options.ca {
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(ca)? {
                roots.add(certificate).map_err(refused)?;
            }
            builder.with_root_certificates(roots)
        }
        None if !is_used => builder.with_root_certificates(RootCertStore::empty()),
        None => builder.dangerous().with_custom_certificate_verifier(platform.verifier()?),
    };
    let mut config = match (&options.client_cert, &options.key) {
        (Some(chain), Some(key)) => {
            let key_error = |e: rustls_pki_types::pem::Error| Error::Tls(format!("{}: {e}", key.display()));
            let key = PrivateKeyDer::from_pem_file(key).map_err(key_error)?;
            builder.with_client_auth_cert(certificates(chain)?, key).map_err(refused)?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => return Err(Error::Tls("`client_cert` and `key` belong together".into())),
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let named = |e: rustls_pki_types::pem::Error| Error::Tls(format!("{}: {e}", path.display()));
    let found: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(named)?.collect::<Result<_, _>>().map_err(named)?;
    if found.is_empty() {
        return Err(Error::Tls(format!("{} holds no certificate", path.display())));
    }
    Ok(found)
}
