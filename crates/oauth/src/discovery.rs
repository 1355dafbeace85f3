//! Finding an issuer's keys by its metadata (RFC 8414 §3, OpenID Connect Discovery 1.0 §4).

use url::Url;

use crate::{
    fetch::{Document, Fetch, NamedBy},
    json::Object,
};

/// Where the keys of an issuer are found.
#[derive(Clone, Debug)]
pub(crate) enum KeyPlace {
    /// At this address; no metadata is asked for.
    Keys(Url),
    /// In the metadata at one of these addresses, the first that has any.
    Metadata(Vec<Url>),
}

/// Why metadata or keys were not to be had. For the operator: it may name addresses of the internal network.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("{url}: {source}")]
    Fetch { url: Url, source: bartizan_egress::Error },
    #[error("{url} answered {status}")]
    Status { url: Url, status: u16 },
    #[error("there is no address to ask")]
    NoPlace,
    #[error("no answer came in time")]
    Slow,
    #[error("{url}: {what}")]
    Document { url: Url, what: String },
}

impl KeyPlace {
    /// The metadata addresses of an issuer, in the order MCP clients use too: RFC 8414's, then OpenID's in both forms.
    pub fn of_issuer(issuer: &Url) -> Self {
        let path = issuer.path().trim_end_matches('/');
        let at = |path: String| {
            let mut url = issuer.clone();
            url.set_path(&path);
            url
        };
        let mut places = vec![
            at(format!("/.well-known/oauth-authorization-server{path}")),
            at(format!("{path}/.well-known/openid-configuration")),
        ];
        if !path.is_empty() {
            places.push(at(format!("/.well-known/openid-configuration{path}")));
        }
        Self::Metadata(places)
    }

    /// Fetches the JWK set of `issuer`.
    pub async fn fetch_keys(&self, issuer: &str, fetch: &dyn Fetch) -> Result<(Url, Vec<u8>), Fault> {
        let (url, named_by) = match self {
            Self::Keys(url) => (url.clone(), NamedBy::Operator),
            Self::Metadata(places) => keys_url(issuer, places, fetch).await?,
        };
        let document = get(fetch, &url, named_by).await?;
        match document.status {
            200 => Ok((url, document.body)),
            status => Err(Fault::Status { url, status }),
        }
    }
}

async fn keys_url(issuer: &str, places: &[Url], fetch: &dyn Fetch) -> Result<(Url, NamedBy), Fault> {
    let mut missed = Fault::NoPlace;
    for place in places {
        let document = get(fetch, place, NamedBy::Operator).await?;
        if document.status != 200 {
            missed = Fault::Status { url: place.clone(), status: document.status };
            continue;
        }
        let bad = |what: &str| Fault::Document { url: place.clone(), what: what.to_owned() };
        let metadata = Object::parse(&document.body).map_err(|_| bad("it is no JSON object"))?;
        // Byte for byte (RFC 8414 §3.3; attacks.md AA-34): metadata that speaks for another is not asked further.
        if metadata.text("issuer") != Ok(Some(issuer)) {
            return Err(bad("its `issuer` is not the configured one"));
        }
        let keys = metadata.text("jwks_uri").ok().flatten().and_then(|text| Url::parse(text).ok());
        let keys = keys.ok_or_else(|| bad("it has no usable `jwks_uri`"))?;
        let is_beside = keys.origin() == place.origin();
        return Ok((keys, if is_beside { NamedBy::Operator } else { NamedBy::Issuer }));
    }
    Err(missed)
}

async fn get(fetch: &dyn Fetch, url: &Url, named_by: NamedBy) -> Result<Document, Fault> {
    fetch.get(url, named_by).await.map_err(|source| Fault::Fetch { url: url.clone(), source })
}

/// Whether a URL stays on this machine, by what it says.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}
