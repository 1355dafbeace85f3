//! Certificate-bound access tokens (RFC 8705 §3).

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::Error;

/// Checks that `certificate` (DER) is the one whose SHA-256 thumbprint is `bound_to`. The TLS handshake has shown
/// that the peer holds its key; or a declared proxy has, which passed the certificate on.
///
/// # Errors
/// [`Error::CertificateWrong`], also without a certificate.
pub(crate) fn check(bound_to: &str, certificate: Option<&[u8]>) -> Result<(), Error> {
    let shown = certificate.ok_or(Error::CertificateWrong)?;
    let thumbprint = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, shown));
    if thumbprint == bound_to { Ok(()) } else { Err(Error::CertificateWrong) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_bound_certificate_will_do() {
        // SHA-256 of "certificate".
        let bound = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, b"certificate"));
        assert_eq!(check(&bound, Some(b"certificate")), Ok(()));
        assert_eq!(check(&bound, Some(b"another")), Err(Error::CertificateWrong));
        assert_eq!(check(&bound, None), Err(Error::CertificateWrong));
        assert_eq!(check(&format!("{bound}="), Some(b"certificate")), Err(Error::CertificateWrong));
    }
}
