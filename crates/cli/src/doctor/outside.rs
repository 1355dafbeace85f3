//! What others answer: issuers that can be asked for keys, servers that must not be reachable without us.

use std::{path::Path, time::Duration};

use bartizan_egress::{Egress, Error, Peer, TlsOptions};
use bartizan_oauth::IssuerConfig;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::Value;
use url::Url;

use super::Check;
use crate::{
    config::{Config, Upstream},
    endpoints,
    identity::Mode,
};

const WITHIN: Duration = Duration::from_secs(10);
const BYTES: usize = 256 * 1024;

/// Asks issuers and servers, one after another.
pub async fn checks(config: &Config, base: &Path) -> Vec<Check> {
    let egress = endpoints::egress(config);
    let mut found = Vec::new();
    if config.identity.mode != Mode::Local {
        for issuer in &config.identity.resource_server.issuers {
            found.push(issuer_answers(&egress, issuer, base).await);
        }
    }
    for server in &config.servers {
        if let Some(url) = &server.url {
            found.push(guarded(&egress, server, url, base).await);
        }
    }
    found
}

/// Whether an issuer's metadata can be had, and is its own.
async fn issuer_answers(egress: &Egress, issuer: &IssuerConfig, base: &Path) -> Check {
    let name = issuer.authorization_server();
    let id = format!("issuer {name}");
    let ca = match issuer {
        IssuerConfig::Entra(entra) => &entra.ca,
        IssuerConfig::Oidc(oidc) => &oidc.ca,
    };
    let tls = TlsOptions { ca: ca.as_ref().map(|ca| base.join(ca)), ..TlsOptions::default() };
    let Ok(url) = Url::parse(&name) else {
        return Check::fail(id, "it is no URL", "correct `issuer`");
    };
    let path = url.path().trim_end_matches('/').to_owned();
    let places = [
        format!("{path}/.well-known/openid-configuration"),
        format!("/.well-known/oauth-authorization-server{path}"),
    ];
    let mut last = String::new();
    for place in places {
        let mut url = url.clone();
        url.set_path(&place);
        match get(egress, &url, &tls).await {
            Ok((200, body)) => {
                let said = serde_json::from_slice::<Value>(&body).unwrap_or_default();
                let said = said.get("issuer").and_then(Value::as_str).unwrap_or_default();
                return if said == name {
                    Check::pass(id, format!("{url} answers and names it"))
                } else {
                    Check::fail(
                        id,
                        format!("{url} names the issuer `{}` instead", said.escape_debug()),
                        "write `issuer` exactly as its metadata does",
                    )
                };
            }
            Ok((status, _)) => last = format!("{url} answers {status}"),
            Err(error) => last = format!("{url}: {error}"),
        }
    }
    Check::fail(id, last, "until it answers, nobody whose keys are not known yet comes in")
}

async fn get(egress: &Egress, url: &Url, tls: &TlsOptions) -> Result<(u16, Vec<u8>), Error> {
    let peer = Peer { url: url.clone(), tls: tls.clone(), dangerous_plaintext: false };
    let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static("application/json"))]);
    let response = egress.endpoint(&peer)?.send(Method::GET, headers, Bytes::new(), WITHIN).await?;
    let status = response.status().as_u16();
    Ok((status, response.into_body().collect_within(BYTES, WITHIN).await?))
}

/// Whether a server turns away whoever comes without the gate, as far as can be seen from here.
async fn guarded(egress: &Egress, server: &Upstream, url: &Url, base: &Path) -> Check {
    let id = format!("server {}", server.name);
    // Without our certificate: what a stranger could do.
    let tls = TlsOptions { ca: server.tls.ca.as_ref().map(|ca| base.join(ca)), ..TlsOptions::default() };
    let peer = Peer { url: url.clone(), tls, dangerous_plaintext: server.dangerous_plaintext };
    let body = br#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bartizan-doctor","version":"1"}}}"#;
    let headers = HeaderMap::from_iter([
        (header::ACCEPT, HeaderValue::from_static("application/json, text/event-stream")),
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
    ]);
    let asked = async {
        let endpoint = egress.endpoint(&peer)?;
        endpoint.send(Method::POST, headers, Bytes::from_static(body), WITHIN).await
    };
    match asked.await {
        Err(error) => not_answered(id, &error),
        Ok(response) if matches!(response.status().as_u16(), 401 | 403) => {
            Check::pass(id, format!("a stranger is turned away ({})", response.status().as_u16()))
        }
        Ok(response) if is_loopback(url) => Check::warn(
            id,
            format!("{url} answers whoever is on this machine ({})", response.status().as_u16()),
            "let the server demand a credential that only the gate has, or run it by `command`",
        ),
        Ok(response) => Check::fail(
            id,
            format!("{url} answers a stranger ({}): the gate can be gone round", response.status().as_u16()),
            "let the server demand a credential or a client certificate that only the gate has, or close the network to all but the gate",
        ),
    }
}

/// What no answer says: that a stranger was turned away, or nothing. A server that is down, or that we cannot find, guards nothing.
fn not_answered(id: String, error: &Error) -> Check {
    let is_turned_away = match error {
        // It wants a certificate: it says so in the handshake, or by ending it (RFC 8446 §4.4.2.4).
        Error::Tls(words) => words.contains("received fatal alert"),
        Error::Broken(_) | Error::Redirected | Error::Redirects => true,
        Error::Url(_)
        | Error::Plaintext
        | Error::Resolve(_)
        | Error::ForbiddenAddress
        | Error::Connect(_)
        | Error::ConnectTimeout
        | Error::Proxy(_)
        | Error::Timeout
        | Error::TooLong => false,
    };
    if is_turned_away {
        Check::pass(id, format!("a stranger gets nowhere: {error}"))
    } else {
        Check::unknown(
            id,
            format!("nobody knows what a stranger would get: {error}"),
            "ask again from this machine while the server runs, and where the gate reaches it",
        )
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn a_server_that_is_down_is_not_said_to_be_guarded() {
        let verdict = |error| not_answered("server a".to_owned(), &error).verdict;
        for error in [
            Error::Connect(ErrorKind::ConnectionRefused),
            Error::Resolve(ErrorKind::NotFound),
            Error::ConnectTimeout,
            Error::Timeout,
            Error::ForbiddenAddress,
            Error::Tls("invalid peer certificate: UnknownIssuer".to_owned()),
        ] {
            assert_eq!(verdict(error), Verdict::Unknown);
        }
        for error in [
            Error::Tls("received fatal alert: HandshakeFailure".to_owned()),
            Error::Broken("received fatal alert: CertificateRequired".to_owned()),
        ] {
            assert_eq!(verdict(error), Verdict::Pass);
        }
    }
}
