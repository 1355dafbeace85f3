//! What must hold of whatever strangers send, for the fuzzer (`fuzz/`): tokens, redirect URIs, descriptions of clients. Only
//! with the feature `fuzzing`, and in tests, which replay its corpus; a property that does not hold panics.

use url::Url;

use super::{client::Metadata, described, redirect};
use crate::{
    json::Object,
    jws::{KeyFrom, Unverified},
    scope::is_scope,
};

/// A token has one spelling: what is read is read from exactly these bytes, and no neighbour of theirs reads the same.
///
/// # Panics
/// If that does not hold.
pub fn token(bytes: &[u8]) {
    // The object reader alone, as it reads headers, claims, key sets and documents.
    if let Ok(object) = Object::parse(bytes) {
        // Numbers that nothing here has a use for are written as `null`; what is left is written and read the same.
        let written = object.to_json();
        let again = Object::parse(written.as_bytes()).map(|again| again.to_json());
        assert_eq!(again.as_deref(), Ok(written.as_str()));
        assert!(serde_json::from_slice::<serde_json::Value>(bytes).is_ok(), "what is strict is JSON");
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for key_from in [KeyFrom::Issuer, KeyFrom::Header] {
        let Ok(token) = Unverified::parse(text, key_from) else { continue };
        assert_eq!(text.bytes().filter(|byte| *byte == b'.').count(), 2);
        assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')));
        assert!(token.jwk.is_none() || key_from == KeyFrom::Header, "a token brings no key of its own");
        for neighbour in [format!("{text}="), format!("{text}A===="), format!(" {text}"), format!("{text}.")]
        {
            assert!(Unverified::parse(&neighbour, key_from).is_err(), "{neighbour}");
        }
        // What is not signed for is read without harm.
        let _ = (token.issuer(), token.subject());
    }
}

/// Whoever registers one URI is sent to its place and no other, as a browser reads it. The input is two lines: what is
/// registered, and what is asked for.
///
/// # Panics
/// If that does not hold.
pub fn redirect_uri(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (registered, asked) = text.split_once('\n').unwrap_or((text, text));
    if redirect::check(registered).is_err() {
        return;
    }
    assert!(redirect::matches(registered, registered, true));
    let url = Url::parse(registered);
    assert!(url.is_ok(), "what may be registered is a URL");
    let Ok(url) = url else { return };
    assert!(url.scheme() == "https" || redirect::is_loopback(registered), "{registered}");
    assert!(url.username().is_empty() && url.password().is_none() && url.fragment().is_none());
    if redirect::matches(registered, asked, true) {
        assert_eq!(registered, asked, "strictly, it is the same text");
    }
    if !redirect::matches(registered, asked, false) {
        return;
    }
    let there = Url::parse(asked);
    assert!(there.is_ok(), "{asked}");
    let Ok(there) = there else { return };
    assert_eq!(
        (url.scheme(), url.host(), url.path()),
        (there.scheme(), there.host(), there.path()),
        "{asked}"
    );
    assert_eq!(url.query(), there.query(), "{asked}");
    assert!(
        there.username().is_empty() && there.password().is_none() && there.fragment().is_none(),
        "{asked}"
    );
    assert!(url.port() == there.port() || redirect::is_loopback(registered), "{asked}");
}

/// Whatever a document says, the client that comes of it is sent to checked places only, proves itself by keys or not at all,
/// and has a name that can be shown.
///
/// # Panics
/// If that does not hold.
pub fn client_document(bytes: &[u8]) {
    let Ok(text) = Object::parse(bytes) else { return };
    for allowed in [
        described::Allowed { secrets: false, keys_elsewhere: true },
        described::Allowed { secrets: true, keys_elsewhere: false },
    ] {
        let Ok(described) = described::read("https://app.example/client.json", &text, &allowed) else {
            continue;
        };
        let metadata = &described.metadata;
        assert!(!metadata.redirect_uris.is_empty());
        assert!(metadata.redirect_uris.iter().all(|uri| redirect::check(uri).is_ok()));
        assert!(
            metadata.grants.iter().all(|grant| !grant.needs_proof()),
            "only the operator lets a client do more"
        );
        assert!(!metadata.name.trim().is_empty() && !metadata.name.chars().any(char::is_control));
        assert!(metadata.scopes.iter().flatten().all(|scope| is_scope(scope) && scope != "*"));
        assert!(allowed.secrets || !described.wants_secret);
        assert!(allowed.keys_elsewhere || metadata.jwks_url.is_none());
        assert!(metadata.jwks_url.iter().all(|url| url.scheme() == "https" && url.username().is_empty()));
        // What is kept of it is what a person looks at: it reads back the same.
        let kept = serde_json::to_string(metadata).unwrap_or_default();
        let again = serde_json::from_str::<Metadata>(&kept);
        assert!(again.is_ok_and(|again| again == *metadata && again.digest() == metadata.digest()), "{kept}");
    }
}

#[cfg(test)]
mod tests {
    fn replay(target: &str, check: fn(&[u8])) {
        let folder = format!("{}/../../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
        assert!(files.len() > 5, "{target}");
        for file in files {
            println!("{}", file.display());
            check(&std::fs::read(file).unwrap());
        }
    }

    #[test]
    fn the_fuzzers_corpus_holds() {
        replay("token", super::token);
        replay("redirect_uri", super::redirect_uri);
        replay("client_document", super::client_document);
    }
}
