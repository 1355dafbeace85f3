//! TLS towards servers. There is no way to skip verification.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use aws_lc_rs::digest;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
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
    /// SHA-256 of the public keys (SubjectPublicKeyInfo, RFC 7469 §2.4) one of which the peer must have, beside a certificate
    /// that is good; without any, every key will do.
    pub pins: Vec<[u8; 32]>,
}

/// Asks for one of the pinned keys, of a certificate that is good already.
#[derive(Debug)]
struct Pinning {
    inner: Arc<dyn ServerCertVerifier>,
    pins: Vec<[u8; 32]>,
}

impl ServerCertVerifier for Pinning {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let good =
            self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        let key = ParsedCertificate::try_from(end_entity)?.subject_public_key_info();
        let digest = digest::digest(&digest::SHA256, key.as_ref());
        if self.pins.iter().any(|pin| pin == digest.as_ref()) {
            Ok(good)
        } else {
            Err(rustls::Error::General("its key is none of the pinned ones".to_owned()))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
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
    let verifier: Option<Arc<dyn ServerCertVerifier>> = match &options.ca {
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(ca)? {
                roots.add(certificate).map_err(refused)?;
            }
            let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
            Some(built.map_err(|error| Error::Tls(error.to_string()))?)
        }
        None if !is_used => None,
        None => Some(platform.verifier()?),
    };
    let builder = match verifier {
        None => builder.with_root_certificates(RootCertStore::empty()),
        Some(verifier) if options.pins.is_empty() => {
            builder.dangerous().with_custom_certificate_verifier(verifier)
        }
        Some(inner) => {
            let pinning = Pinning { inner, pins: options.pins.clone() };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(pinning))
        }
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
