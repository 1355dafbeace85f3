//! Metadata in which a stranger describes a client: documents (Client ID Metadata Documents) and registrations
//! (RFC 7591 §2). What is refused here is in no client.

use std::collections::BTreeSet;

use url::Url;

use super::{GrantType, client::Metadata, client::Method, redirect};
use crate::{
    json::{Object, Value},
    key::Key,
    scope::{self, is_scope},
};

/// Redirect URIs, or characters of a name, that an honest client does not reach.
const MAX_REDIRECT_URIS: usize = 20;
const MAX_NAME: usize = 128;

/// Why it is none (RFC 7591 §3.2.2). The text is for whoever wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Metadata(&'static str),
    RedirectUri(&'static str),
}

/// How a client may say it will prove who it is, and the method of one that says nothing.
pub(crate) struct Allowed {
    pub secrets: bool,
    pub keys_elsewhere: bool,
}

/// A description that was read. With `wants_secret` its method is [`Method::Public`] until a secret is made.
pub(crate) struct Described {
    pub metadata: Metadata,
    pub wants_secret: bool,
}

/// Reads a description of the client `id`.
pub(crate) fn read(id: &str, text: &Object, allowed: &Allowed) -> Result<Described, Fault> {
    let bad = Fault::Metadata;
    let words = |name: &'static str| match text.value(name) {
        None => Ok(None),
        Some(value) => value.texts().map(Some).ok_or(bad("a list is not one of strings")),
    };
    let name = text.text("client_name").map_err(|_| bad("`client_name` is no plain text"))?;
    let name = name.unwrap_or(id).trim();
    if name.is_empty() || name.chars().count() > MAX_NAME {
        return Err(bad("`client_name` is empty or too long"));
    }
    // They would turn what stands around the name on the consent page (attacks.md CD-05).
    if name.chars().any(is_invisible) {
        return Err(bad("`client_name` holds characters that change how text is shown"));
    }
    let uris = words("redirect_uris")?.ok_or(Fault::RedirectUri("`redirect_uris` is missing"))?;
    if uris.is_empty() || uris.len() > MAX_REDIRECT_URIS {
        return Err(Fault::RedirectUri("`redirect_uris` is empty or too long"));
    }
    if uris.iter().any(|uri| redirect::check(uri).is_err()) {
        return Err(Fault::RedirectUri(
            "a redirect URI is neither https nor http on loopback, in its normal form",
        ));
    }
    match text.text("application_type") {
        Ok(None | Some("native")) => {}
        Ok(Some("web")) if uris.iter().any(|uri| redirect::is_loopback(uri)) => {
            return Err(Fault::RedirectUri("a web application has no loopback redirect URIs"));
        }
        Ok(Some("web")) => {}
        _ => return Err(bad("`application_type` is `native` or `web`")),
    }
    if words("response_types")?.is_some_and(|types| types != ["code"]) {
        return Err(bad("`response_types` is `code`"));
    }
    let mut grants = BTreeSet::from([GrantType::AuthorizationCode]);
    if let Some(names) = words("grant_types")? {
        let read: Option<BTreeSet<_>> = names.iter().map(|name| GrantType::named(name)).collect();
        grants = read.ok_or(bad("a grant type is not known here"))?;
        if grants.iter().any(|grant| grant.needs_proof()) || !grants.contains(&GrantType::AuthorizationCode) {
            return Err(bad("the grant types are `authorization_code` and `refresh_token`"));
        }
    }
    // Clients that ask for nothing in particular send an empty one: the MCP Inspector does.
    let asks_for_nothing = matches!(text.value("scope"), Some(Value::String(words)) if words.is_empty());
    let scopes = match text.text("scope") {
        _ if asks_for_nothing => None,
        Err(_) => return Err(bad("`scope` is no text")),
        Ok(None) => None,
        Ok(Some(words)) => {
            let scopes = scope::parse(words);
            if scopes.is_empty()
                || scopes.iter().any(|scope| !is_scope(scope) || matches!(scope.as_str(), "*" | "all"))
            {
                return Err(bad("`scope` is no list of scopes"));
            }
            Some(scopes)
        }
    };
    if text.has("client_secret") || text.has("client_secret_expires_at") {
        return Err(bad("secrets are not the client's to choose"));
    }
    let jwks = text.object("jwks").map_err(|_| bad("`jwks` is no JWK set"))?.map(public_keys).transpose()?;
    let jwks_url = match text.text("jwks_uri").map_err(|_| bad("`jwks_uri` is no URL"))? {
        None => None,
        Some(_) if !allowed.keys_elsewhere => return Err(bad("`jwks_uri` is not taken here; send `jwks`")),
        Some(url) => {
            let parsed =
                Url::parse(url).ok().filter(|url| url.scheme() == "https" && url.username().is_empty());
            Some(parsed.ok_or(bad("`jwks_uri` is no https URL"))?)
        }
    };
    if jwks.is_some() && jwks_url.is_some() {
        return Err(bad("`jwks` and `jwks_uri` exclude each other"));
    }
    let has_keys = jwks.is_some() || jwks_url.is_some();
    let (method, wants_secret) = match text.text("token_endpoint_auth_method") {
        Ok(None) => (if has_keys { Method::PrivateKey } else { Method::Public }, false),
        Ok(Some("none")) => (Method::Public, false),
        Ok(Some("private_key_jwt")) if has_keys => (Method::PrivateKey, false),
        Ok(Some("private_key_jwt")) => return Err(bad("`private_key_jwt` needs `jwks` or `jwks_uri`")),
        Ok(Some("client_secret_basic" | "client_secret_post")) if allowed.secrets => (Method::Public, true),
        _ => return Err(bad("`token_endpoint_auth_method` is not one of those taken here")),
    };
    let dpop = match text.value("dpop_bound_access_tokens") {
        None => false,
        Some(Value::Boolean(bound)) => *bound,
        Some(_) => return Err(bad("`dpop_bound_access_tokens` is true or false")),
    };
    let metadata = Metadata {
        id: id.to_owned(),
        name: name.to_owned(),
        redirect_uris: uris.into_iter().map(str::to_owned).collect(),
        grants,
        scopes,
        method,
        jwks,
        jwks_url,
        dpop,
    };
    Ok(Described { metadata, wants_secret })
}

/// Characters that are not seen and change how others are: joiners, marks of direction, fillers.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// A JWK set of public keys, all of which can be used, as text.
fn public_keys(jwks: &Object) -> Result<String, Fault> {
    let Some(Value::Array(keys)) = jwks.value("keys") else {
        return Err(Fault::Metadata("`jwks` has no `keys`"));
    };
    let is_public = |key: &Value| matches!(key, Value::Object(jwk) if Key::from_jwk(jwk).is_ok());
    if keys.is_empty() || !keys.iter().all(is_public) {
        return Err(Fault::Metadata("`jwks` holds what is no public key for signatures"));
    }
    Ok(jwks.to_json())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STRICT: Allowed = Allowed { secrets: false, keys_elsewhere: true };

    proptest! {
        /// Whatever a document says, the client that comes of it can be sent to checked places only and proves itself
        /// by keys or not at all.
        #[test]
        fn no_document_makes_a_client_that_is_not_safe(
            uris in prop::collection::vec("(https://[a-z.@*]{1,8}/[a-z#]{0,4}|http://(localhost|127.0.0.1|x)(:[0-9]{1,5})?/|[a-z]{2,6}:x)", 0..4),
            method in prop::option::of("none|private_key_jwt|client_secret_basic|client_secret_jwt"),
            grants in prop::option::of(prop::collection::vec("authorization_code|refresh_token|client_credentials|password|implicit", 0..3)),
            scope in prop::option::of("[a-z*: ]{0,12}"),
            name in ".{0,200}",
        ) {
            let mut document = serde_json::json!({ "client_name": name, "redirect_uris": uris });
            for (member, value) in [
                ("token_endpoint_auth_method", method.map(Into::into)),
                ("grant_types", grants.map(Into::into)),
                ("scope", scope.map(Into::into)),
            ] {
                if let Some(value) = value {
                    document[member] = value;
                }
            }
            let text = Object::parse(document.to_string().as_bytes()).unwrap();
            if let Ok(Described { metadata, wants_secret }) = read("id", &text, &STRICT) {
                prop_assert!(!metadata.redirect_uris.is_empty());
                prop_assert!(metadata.redirect_uris.iter().all(|uri| redirect::check(uri).is_ok()));
                prop_assert!(!wants_secret && metadata.method == Method::Public);
                prop_assert!(metadata.grants.iter().all(|grant| !grant.needs_proof()));
                prop_assert!(!metadata.name.is_empty() && !metadata.name.chars().any(char::is_control));
                prop_assert!(metadata.scopes.is_none_or(|scopes| !scopes.contains("*")));
            }
        }

        #[test]
        fn no_bytes_bring_the_reader_down(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(text) = Object::parse(&bytes) {
                let _ = read("id", &text, &STRICT);
            }
        }
    }
}
