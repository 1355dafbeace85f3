//! Finding out who grants access to a server: protected resource metadata (RFC 9728), then the authorization server's own
//! (RFC 8414, OpenID Connect Discovery 1.0). Whatever is read here is the word of a stranger.

use url::Url;

use super::challenge::Challenge;
use crate::{
    discovery::is_loopback,
    fetch::{Document, Fetch, NamedBy},
    json::{Object, Value},
};

/// Why no authorization server was found. For the operator.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("{url}: {source}")]
    Fetch { url: Url, source: bartizan_egress::Error },
    #[error("{url}: {what}")]
    Document { url: Url, what: &'static str },
    #[error("{0}")]
    Refused(String),
}

/// Who grants access to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resource {
    /// What tokens are asked for (RFC 8707): the server's identifier.
    pub identifier: String,
    /// The issuer of the authorization server.
    pub issuer: String,
}

/// What a server may call itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// Its URL, byte for byte (RFC 9728 §3.3).
    Exact,
    /// Or a path above it, at its origin: the operator says that it may.
    OrAbove,
}

/// What an authorization server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AuthorizationServer {
    pub issuer: String,
    pub authorization_endpoint: Option<Url>,
    pub token_endpoint: Url,
    pub token_named_by: NamedBy,
    pub registration_endpoint: Option<(Url, NamedBy)>,
    /// RFC 7009
    pub revocation_endpoint: Option<(Url, NamedBy)>,
    pub auth_methods: Vec<String>,
    pub scopes_supported: Vec<String>,
    /// `client_id_metadata_document_supported`
    pub takes_client_documents: bool,
    /// `authorization_response_iss_parameter_supported` (RFC 9207 §3)
    pub says_iss: bool,
    /// Whether it checks PKCE by S256.
    pub has_s256: bool,
}

impl AuthorizationServer {
    /// A server of which nothing is known but where its tokens come from: the operator said so.
    pub fn bare(issuer: String, token_endpoint: Url) -> Self {
        Self {
            issuer,
            authorization_endpoint: None,
            token_endpoint,
            token_named_by: NamedBy::Operator,
            registration_endpoint: None,
            revocation_endpoint: None,
            auth_methods: Vec::new(),
            scopes_supported: Vec::new(),
            takes_client_documents: false,
            says_iss: false,
            has_s256: false,
        }
    }
}

/// Asks `server` itself who grants access to it (spec.md C-50, C-51).
///
/// `ask` reaches the server: its addresses are the operator's, and so are those of its origin.
pub(super) async fn resource(
    server: &Url,
    challenge: Option<&Challenge>,
    wanted_issuer: Option<&str>,
    identity: Identity,
    ask: &dyn Fetch,
) -> Result<Resource, Fault> {
    let places = match challenge.and_then(|c| c.resource_metadata.as_deref()) {
        Some(named) => {
            let url = Url::parse(named)
                .map_err(|_| Fault::Refused("the server's `resource_metadata` is no URL".into()))?;
            vec![url]
        }
        None => well_known(server),
    };
    for place in &places {
        let document = get(ask, place, named_by(place, server)).await?;
        // Not there, or a page for people (RFC 9728 §3.2).
        if document.status != 200 {
            continue;
        }
        let bad = |what| Fault::Document { url: place.clone(), what };
        let metadata = Object::parse(&document.body).map_err(|_| bad("it is no JSON object"))?;
        let identifier = metadata.needed_text("resource").map_err(|_| bad("it has no usable `resource`"))?;
        if !is_of(identifier, server, identity) && !speaks_for_all(place, identifier, server) {
            return Err(match is_of(identifier, server, Identity::OrAbove) {
                true => {
                    bad("its `resource` is above this server: what it says is about more than this one; \
                     `dangerous_parent_resource = true` takes it, or `resource` for `client-credentials`")
                }
                false => bad("its `resource` is not this server: what it says is about another"),
            });
        }
        let servers = metadata.value("authorization_servers").and_then(Value::texts).unwrap_or_default();
        let issuer = match wanted_issuer {
            Some(wanted) => servers.iter().find(|s| **s == wanted).copied(),
            None => servers.first().copied(),
        };
        let issuer = issuer.ok_or_else(|| match wanted_issuer {
            Some(_) => bad("its `authorization_servers` do not name the configured `issuer`"),
            None => bad("it names no `authorization_servers`"),
        })?;
        return Ok(Resource { identifier: identifier.to_owned(), issuer: issuer.to_owned() });
    }
    match wanted_issuer {
        // A server without metadata; the operator knows better.
        Some(issuer) => Ok(Resource { identifier: canonical(server), issuer: issuer.to_owned() }),
        None => Err(Fault::Refused(
            "the server has no protected resource metadata (RFC 9728); set `issuer` to its authorization server".into(),
        )),
    }
}

/// RFC 9728 §3.1: with the path, then at the root.
fn well_known(server: &Url) -> Vec<Url> {
    let path = server.path().trim_end_matches('/');
    let at = |path: String| {
        let mut url = server.clone();
        url.set_query(None);
        url.set_path(&path);
        url
    };
    let mut places = vec![at(format!("{}{path}", crate::resource::WELL_KNOWN))];
    if !path.is_empty() {
        places.push(at(crate::resource::WELL_KNOWN.to_owned()));
    }
    places
}

/// The canonical URI of a server (26/auth; spec.md C-55): no query, no fragment, no needless slash.
pub(super) fn canonical(server: &Url) -> String {
    let mut url = server.clone();
    url.set_query(None);
    url.set_fragment(None);
    let text = url.as_str();
    if url.path() == "/" { text.trim_end_matches('/').to_owned() } else { text.to_owned() }
}

/// Whether `resource` identifies the server at `url`. A token for what is above it would be good at its neighbours, too, and is
/// shown to it.
fn is_of(resource: &str, url: &Url, identity: Identity) -> bool {
    // With or without the one slash that means nothing.
    let is_exact = resource == canonical(url) || resource == url.as_str();
    is_exact || (identity == Identity::OrAbove && is_above(resource, url))
}

/// Whether `resource` is the origin of `server`, and `place` where the owner of an origin says who grants access to all of it
/// (RFC 9728 §3.1, §3.3): no neighbour of the server's writes there.
fn speaks_for_all(place: &Url, resource: &str, server: &Url) -> bool {
    let mut origin = server.clone();
    origin.set_query(None);
    origin.set_path("/");
    let is_root = place.origin() == server.origin()
        && place.path() == crate::resource::WELL_KNOWN
        && place.query().is_none();
    is_root && is_of(resource, &origin, Identity::Exact)
}

/// Whether `resource` is `url`, or a path above it at the same origin.
fn is_above(resource: &str, url: &Url) -> bool {
    let Ok(resource) = Url::parse(resource) else { return false };
    let above = resource.path().trim_end_matches('/');
    let under = url.path().strip_prefix(above);
    resource.origin() == url.origin()
        && resource.fragment().is_none()
        && under.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What the authorization server `issuer` says of itself (spec.md C-52, C-53). `operators` are URLs the operator wrote.
pub(super) async fn authorization_server(
    issuer: &str,
    operators: &[&Url],
    ask: &dyn Fetch,
) -> Result<AuthorizationServer, Fault> {
    let url = Url::parse(issuer).map_err(|_| Fault::Refused("the issuer is no URL".into()))?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err(Fault::Refused("the issuer has a query or fragment (RFC 8414 §2)".into()));
    }
    let trusted = |url: &Url| match operators.iter().any(|o| o.origin() == url.origin()) {
        true => NamedBy::Operator,
        false => NamedBy::Issuer,
    };
    for place in places(&url) {
        let document = get(ask, &place, trusted(&place)).await?;
        if document.status != 200 {
            continue;
        }
        return read(issuer, &place, &document.body, &trusted);
    }
    Err(Fault::Refused(format!("the authorization server {url} has no metadata (RFC 8414)")))
}

/// RFC 8414 §3.1 and OpenID's two forms, in the order of 26/authdisc.
fn places(issuer: &Url) -> Vec<Url> {
    let path = issuer.path().trim_end_matches('/');
    let at = |path: String| {
        let mut url = issuer.clone();
        url.set_path(&path);
        url
    };
    let mut places = vec![
        at(format!("/.well-known/oauth-authorization-server{path}")),
        at(format!("/.well-known/openid-configuration{path}")),
    ];
    if !path.is_empty() {
        places.push(at(format!("{path}/.well-known/openid-configuration")));
    }
    places
}

fn read(
    issuer: &str,
    place: &Url,
    body: &[u8],
    trusted: &dyn Fn(&Url) -> NamedBy,
) -> Result<AuthorizationServer, Fault> {
    let bad = |what| Fault::Document { url: place.clone(), what };
    let metadata = Object::parse(body).map_err(|_| bad("it is no JSON object"))?;
    // Byte for byte (RFC 8414 §3.3): metadata that speaks for another is not asked further.
    if metadata.text("issuer") != Ok(Some(issuer)) {
        return Err(bad("its `issuer` is another"));
    }
    let texts = |name: &str| {
        let texts = metadata.value(name).and_then(Value::texts).unwrap_or_default();
        texts.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let endpoint = |name: &'static str| match metadata.text(name) {
        Ok(None) => Ok(None),
        Ok(Some(text)) => Url::parse(text)
            .ok()
            .filter(is_endpoint)
            .map(Some)
            .ok_or_else(|| bad("an endpoint of its cannot be used")),
        Err(_) => Err(bad("an endpoint of its is no text")),
    };
    let token_endpoint = endpoint("token_endpoint")?.ok_or_else(|| bad("it has no `token_endpoint`"))?;
    let says = |name: &str| metadata.value(name) == Some(&Value::Boolean(true));
    Ok(AuthorizationServer {
        issuer: issuer.to_owned(),
        authorization_endpoint: endpoint("authorization_endpoint")?,
        token_named_by: trusted(&token_endpoint),
        token_endpoint,
        registration_endpoint: endpoint("registration_endpoint")?.map(|url| {
            let by = trusted(&url);
            (url, by)
        }),
        revocation_endpoint: endpoint("revocation_endpoint")?.map(|url| {
            let by = trusted(&url);
            (url, by)
        }),
        auth_methods: texts("token_endpoint_auth_methods_supported"),
        scopes_supported: texts("scopes_supported"),
        takes_client_documents: says("client_id_metadata_document_supported"),
        says_iss: says("authorization_response_iss_parameter_supported"),
        has_s256: texts("code_challenge_methods_supported").iter().any(|m| m == "S256"),
    })
}

/// An address a browser or we may be sent to: https, or http on loopback (spec.md G-38; attacks.md CD-11).
fn is_endpoint(url: &Url) -> bool {
    let is_protected = url.scheme() == "https" || (url.scheme() == "http" && is_loopback(url));
    is_protected
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.fragment().is_none()
}

fn named_by(url: &Url, server: &Url) -> NamedBy {
    if url.origin() == server.origin() { NamedBy::Operator } else { NamedBy::Issuer }
}

async fn get(ask: &dyn Fetch, url: &Url, named_by: NamedBy) -> Result<Document, Fault> {
    ask.get(url, named_by).await.map_err(|source| Fault::Fetch { url: url.clone(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_is_the_server_byte_for_byte_unless_the_operator_lets_it_be_above() {
        let server: Url = "https://up.example/mcp/a".parse().unwrap();
        assert!(is_of("https://up.example/mcp/a", &server, Identity::Exact));
        let root: Url = "https://up.example".parse().unwrap();
        for same in ["https://up.example", "https://up.example/"] {
            assert!(is_of(same, &root, Identity::Exact), "{same}");
        }
        for above in [
            "https://up.example/mcp/",
            "https://up.example/mcp",
            "https://up.example",
            "https://UP.example:443/mcp/a",
        ] {
            assert!(!is_of(above, &server, Identity::Exact), "{above}");
            assert!(is_of(above, &server, Identity::OrAbove), "{above}");
        }
        let bad = [
            "https://evil.example/mcp/a",
            "http://up.example/mcp/a",
            "https://up.example:444/mcp/a",
            "https://up.example/mcp/ab",
            "https://up.example/mcp/a/b",
            "https://up.example/m",
            "https://up.example/mcp/a#x",
            "up.example",
        ];
        for bad in bad {
            for identity in [Identity::Exact, Identity::OrAbove] {
                assert!(!is_of(bad, &server, identity), "{bad}");
            }
        }
    }

    #[test]
    fn only_the_document_at_the_root_speaks_for_the_origin() {
        let server: Url = "https://up.example/evil/mcp?tenant=a".parse().unwrap();
        let at = |place: &str, resource: &str| speaks_for_all(&place.parse().unwrap(), resource, &server);
        let root = "https://up.example/.well-known/oauth-protected-resource";
        assert!(at(root, "https://up.example") && at(root, "https://up.example/"));
        for resource in ["https://up.example/evil", "https://up.example/other", "https://else.example"] {
            assert!(!at(root, resource), "{resource}");
        }
        for place in [
            "https://up.example/.well-known/oauth-protected-resource/evil/mcp",
            "https://up.example/evil/.well-known/oauth-protected-resource",
            "https://up.example/.well-known/oauth-protected-resource?tenant=a",
            "https://else.example/.well-known/oauth-protected-resource",
        ] {
            assert!(!at(place, "https://up.example"), "{place}");
        }
    }

    #[test]
    fn addresses_are_asked_in_the_order_of_the_specification() {
        let shown = |urls: Vec<Url>| urls.into_iter().map(String::from).collect::<Vec<_>>();
        assert_eq!(
            shown(places(&"https://as.example/t".parse().unwrap())),
            [
                "https://as.example/.well-known/oauth-authorization-server/t",
                "https://as.example/.well-known/openid-configuration/t",
                "https://as.example/t/.well-known/openid-configuration",
            ]
        );
        assert_eq!(places(&"https://as.example".parse().unwrap()).len(), 2);
        assert_eq!(
            shown(well_known(&"https://up.example/mcp?x=1".parse().unwrap())),
            [
                "https://up.example/.well-known/oauth-protected-resource/mcp",
                "https://up.example/.well-known/oauth-protected-resource",
            ]
        );
        assert_eq!(canonical(&"https://up.example/".parse().unwrap()), "https://up.example");
        assert_eq!(canonical(&"https://up.example/mcp?x=1".parse().unwrap()), "https://up.example/mcp");
    }

    #[test]
    fn no_browser_is_sent_where_it_would_run_something() {
        for bad in [
            "javascript:alert(1)",
            "file:///etc/passwd",
            "http://as.example/",
            "https://u:p@as.example/",
            "data:text/html,x",
        ] {
            assert!(!is_endpoint(&bad.parse().unwrap()), "{bad}");
        }
        assert!(is_endpoint(&"https://as.example/authorize?tenant=a".parse().unwrap()));
        assert!(is_endpoint(&"http://127.0.0.1:9/authorize".parse().unwrap()));
    }
}
