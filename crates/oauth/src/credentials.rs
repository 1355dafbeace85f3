//! What a request shows: one token, in one place (RFC 6750 §2.1, RFC 9449 §7.1; attacks.md AA-23).

use http::{HeaderMap, header};

use crate::Error;

/// The credentials of a request. They hold the token, so they neither print nor leave the crate.
pub(crate) struct Credentials<'a> {
    pub token: &'a str,
    /// The proof beside the token; present exactly with the scheme `DPoP`.
    pub proof: Option<&'a str>,
}

impl<'a> Credentials<'a> {
    /// Reads the one `Authorization` line; nowhere else is looked, so a token in a query, form or cookie is none.
    ///
    /// # Errors
    /// [`Error::CredentialsMissing`] for none, or a scheme that is not ours; [`Error::CredentialsMalformed`].
    pub fn read(headers: &'a HeaderMap) -> Result<Self, Error> {
        let line = one(headers, header::AUTHORIZATION.as_str())?.ok_or(Error::CredentialsMissing)?;
        // A scheme alone is a credential that broke off, not a request without one.
        let (scheme, token) = line.split_once(' ').unwrap_or((line, ""));
        let is_dpop = scheme.eq_ignore_ascii_case("dpop");
        if !is_dpop && !scheme.eq_ignore_ascii_case("bearer") {
            let is_scheme =
                !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            return Err(if is_scheme { Error::CredentialsMissing } else { Error::CredentialsMalformed });
        }
        if !is_token68(token) {
            return Err(Error::CredentialsMalformed);
        }
        let proof = one(headers, "dpop")?;
        match (is_dpop, proof) {
            (true, None) => Err(Error::ProofMissing),
            (true, proof) => Ok(Self { token, proof }),
            // A proof beside a bearer token proves nothing; a bound token is refused for its scheme.
            (false, _) => Ok(Self { token, proof: None }),
        }
    }
}

fn one<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Error> {
    let mut lines = headers.get_all(name).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(Error::CredentialsMalformed);
    }
    line.to_str().map(Some).map_err(|_| Error::CredentialsMalformed)
}

/// `token68` (RFC 9110 §11.2), which is `b64token` (RFC 6750 §2.1).
fn is_token68(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/".contains(&b);
    !body.is_empty() && body.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn read(lines: &[(&str, &[u8])]) -> Result<(String, Option<String>), Error> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        let read = Credentials::read(&headers);
        read.map(|c| (c.token.to_owned(), c.proof.map(str::to_owned)))
    }

    #[test]
    fn aa_23_takes_one_token_from_one_header_and_nothing_else() {
        for good in ["Bearer a.b-c", "bearer a.b-c", "BEARER a.b-c"] {
            assert_eq!(read(&[("authorization", good.as_bytes())]), Ok(("a.b-c".into(), None)), "{good}");
        }
        let malformed: [&[u8]; 13] = [
            b"",
            b"Bearer",
            b"Bearer ",
            b"Bearer  x",
            b"Bearer\tx",
            b"Bearer x ",
            b"Bearer x, Bearer y",
            b"Bearer x y",
            b"Bearer =",
            b"Bearer x=y",
            b"Bearer \xc3\xa4",
            b"DPoP",
            b"Bearer,x",
        ];
        for line in malformed {
            assert_eq!(read(&[("authorization", line)]), Err(Error::CredentialsMalformed), "{line:?}");
        }
        for (first, second) in [("Bearer good", "Bearer bad"), ("Bearer bad", "Bearer good")] {
            let lines = [("authorization", first.as_bytes()), ("authorization", second.as_bytes())];
            assert_eq!(read(&lines), Err(Error::CredentialsMalformed));
        }
        assert_eq!(read(&[]), Err(Error::CredentialsMissing));
        assert_eq!(
            read(&[("cookie", b"access_token=x"), ("x-access-token", b"x")]),
            Err(Error::CredentialsMissing)
        );
        assert_eq!(read(&[("authorization", b"Basic eDp5")]), Err(Error::CredentialsMissing));
    }

    #[test]
    fn the_dpop_scheme_comes_with_exactly_one_proof() {
        let both: [(&str, &[u8]); 2] = [("authorization", b"DPoP t"), ("dpop", b"p")];
        assert_eq!(read(&both), Ok(("t".into(), Some("p".into()))));
        assert_eq!(read(&[("authorization", b"DPoP t")]), Err(Error::ProofMissing));
        let twice: [(&str, &[u8]); 3] = [("authorization", b"DPoP t"), ("dpop", b"p"), ("dpop", b"p")];
        assert_eq!(read(&twice), Err(Error::CredentialsMalformed));
    }
}
