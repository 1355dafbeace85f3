//! Paths and URLs that every reader understands alike, or none at all (attacks.md EP-04).
//!
//! The value is judged as it is forwarded and never repaired: whoever repairs a value decides about another one than
//! the server will see. Only text is looked at; where a symbolic link leads is the sandbox's business.

use std::collections::BTreeSet;

use unicode_normalization::is_nfkc;
use url::{Host, Url};

/// Bytes of a path or URL.
const LONGEST: usize = 4096;
/// Components of a path.
const DEEPEST: usize = 64;

/// Why a text has no one meaning as a path or URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ambiguous {
    /// Empty, over 4096 bytes or over 64 components.
    #[error("it is empty or too long")]
    Size,
    /// Does not start with `/`: what it is relative to is the server's secret.
    #[error("it is not absolute")]
    Relative,
    /// `.`, `..`, or an empty component.
    #[error("it has empty components or dots that lead elsewhere")]
    Dots,
    /// `%41`: some readers decode it, some do not.
    #[error("it is percent-encoded")]
    Percent,
    /// A backslash, a control or invisible character, or one that looks like a separator.
    #[error("it has a character that readers take in different ways")]
    Character,
    /// No URL with a host.
    #[error("it is no URL of a scheme that names a host")]
    Scheme,
    /// `user@host`: who reads only the beginning sees another host.
    #[error("it carries a user name")]
    User,
    /// A host that is written in another way than it is understood: IDN, octal or short addresses, a final dot.
    #[error("its host is not written plainly")]
    Host,
}

/// `path` and everything above it, from `/` down to itself without a final `/`.
///
/// # Errors
/// [`Ambiguous`] unless `path` is absolute and plain.
pub fn ancestors(path: &str) -> Result<Vec<String>, Ambiguous> {
    check_characters(path)?;
    if has_percent_escape(path) {
        return Err(Ambiguous::Percent);
    }
    let below = path.strip_prefix('/').ok_or(Ambiguous::Relative)?;
    let below = below.strip_suffix('/').unwrap_or(below);
    let mut found = vec!["/".to_owned()];
    if below.is_empty() && path.len() == 1 {
        return Ok(found);
    }
    let mut so_far = String::with_capacity(path.len());
    for component in below.split('/') {
        // Some file systems drop dots and spaces at the end of a name.
        let is_plain = !component.is_empty()
            && !component.contains("..")
            && !component.ends_with(['.', ' '])
            && !component.starts_with(' ');
        if !is_plain {
            return Err(Ambiguous::Dots);
        }
        so_far.push('/');
        so_far.push_str(component);
        found.push(so_far.clone());
    }
    if found.len() > DEEPEST { Err(Ambiguous::Size) } else { Ok(found) }
}

/// Where a URL leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// In lower case.
    pub scheme: String,
    /// The exact host, in lower case; an address in its usual form, IPv6 in brackets.
    pub host: String,
    /// The port, the scheme's own if none is written.
    pub port: u16,
}

impl Destination {
    /// The host and every domain above it; of an address only itself.
    pub fn domains(&self) -> BTreeSet<String> {
        domains(&self.host)
    }
}

/// `host` and every domain above it; of an address only itself.
pub fn domains(host: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::from([host.to_owned()]);
    if !is_address(host) {
        let mut rest = host;
        while let Some((_, above)) = rest.split_once('.') {
            found.insert(above.to_owned());
            rest = above;
        }
    }
    found
}

fn is_address(host: &str) -> bool {
    host.starts_with('[') || host.parse::<std::net::IpAddr>().is_ok()
}

/// Reads an `http`, `https`, `ws`, `wss` or `ftp` URL whose host every reader finds in the same place.
///
/// # Errors
/// [`Ambiguous`] for everything else.
pub fn destination(text: &str) -> Result<Destination, Ambiguous> {
    check_characters(text)?;
    let (scheme, rest) = text.split_once("://").ok_or(Ambiguous::Scheme)?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(Ambiguous::User);
    }
    let url = Url::parse(text).map_err(|_| Ambiguous::Scheme)?;
    let known = matches!(url.scheme(), "http" | "https" | "ws" | "wss" | "ftp");
    let port = url.port_or_known_default().filter(|_| known).ok_or(Ambiguous::Scheme)?;
    let host = match url.host().ok_or(Ambiguous::Host)? {
        Host::Domain(name) => name.to_owned(),
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) if address.to_ipv4_mapped().is_some() => return Err(Ambiguous::Host),
        Host::Ipv6(address) => format!("[{address}]"),
    };
    // What the parser understood must be what is written; a reader with other rules then finds the same.
    let written = authority.to_ascii_lowercase();
    let as_written = match written.strip_prefix(host.as_str()) {
        Some("") => true,
        Some(tail) => {
            tail.strip_prefix(':').is_some_and(|p| p.parse() == Ok(port) && !p.starts_with(['+', '0']))
        }
        None => false,
    };
    let is_plain = scheme.eq_ignore_ascii_case(url.scheme()) && as_written && !host.ends_with('.');
    if is_plain {
        Ok(Destination { scheme: url.scheme().to_owned(), host, port })
    } else {
        Err(Ambiguous::Host)
    }
}

/// What a resource's URI says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// In lower case.
    pub scheme: String,
    /// Of a `file` URI the path, without its percent signs, and everything above it; of others the URI without query and what its
    /// path lies below.
    pub ancestors: Vec<String>,
    /// The host, where the scheme names one.
    pub host: Option<String>,
}

/// Reads the URI of a resource (RFC 3986) that every reader finds in the same place (attacks.md EP-05).
///
/// # Errors
/// [`Ambiguous`] for URIs with dot segments, encoded separators, a `file` host, or a host not written plainly; for `file` URIs too
/// that are encoded twice, not in UTF-8, or where nobody encodes.
pub fn location(uri: &str) -> Result<Location, Ambiguous> {
    check_characters(uri)?;
    let (scheme, rest) = uri.split_once(':').ok_or(Ambiguous::Scheme)?;
    let starts_well = scheme.starts_with(|c: char| c.is_ascii_lowercase());
    if !starts_well
        || !scheme.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'+' | b'-' | b'.'))
        || uri.contains(' ')
    {
        return Err(Ambiguous::Scheme);
    }
    if scheme == "file" {
        let path = rest.strip_prefix("//").ok_or(Ambiguous::Scheme)?;
        if !path.starts_with('/') {
            return Err(Ambiguous::Host);
        }
        if path.contains(['?', '#']) {
            return Err(Ambiguous::Character);
        }
        return Ok(Location {
            scheme: scheme.to_owned(),
            ancestors: ancestors(&decoded(path)?)?,
            host: None,
        });
    }
    let host = match scheme {
        "http" | "https" | "ws" | "wss" | "ftp" => Some(destination(uri)?.host),
        _ => None,
    };
    let place = uri.split(['?', '#']).next().unwrap_or(uri);
    if has_treacherous_escape(place) {
        return Err(Ambiguous::Percent);
    }
    let start = scheme.len() + 1 + if rest.starts_with("//") { 2 } else { 0 };
    let (head, tail) = place.split_at_checked(start).ok_or(Ambiguous::Scheme)?;
    let mut so_far = head.to_owned();
    let mut found = Vec::new();
    for (i, component) in tail.trim_end_matches('/').split('/').enumerate() {
        if component.contains("..")
            || component == "."
            || (component.is_empty() && i > 0)
            || component.contains('@') && i == 0
        {
            return Err(Ambiguous::Dots);
        }
        if i > 0 {
            so_far.push('/');
        }
        so_far.push_str(component);
        found.push(so_far.clone());
    }
    if found.len() > DEEPEST {
        return Err(Ambiguous::Size);
    }
    Ok(Location { scheme: scheme.to_owned(), ancestors: found, host })
}

/// The path of a `file` URI as its server's file system has it (RFC 8089; RFC 3986 §2.1).
///
/// Only what has to be encoded may be: a letter that is encoded for nothing is there to be read as another. Nor may what parts a
/// URI or a path, which some readers take for the parting once it is decoded.
fn decoded(path: &str) -> Result<String, Ambiguous> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, after @ ..] = rest {
        let (byte, tail) = match (first, after) {
            (b'%', [high, low, tail @ ..]) => (escaped(*high, *low).ok_or(Ambiguous::Percent)?, tail),
            (b'%', _) => return Err(Ambiguous::Percent),
            (byte, tail) => (*byte, tail),
        };
        bytes.push(byte);
        rest = tail;
    }
    String::from_utf8(bytes).map_err(|_| Ambiguous::Percent)
}

/// The byte that two hexadecimal digits stand for, if there is one way to take it.
fn escaped(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let byte = digit(high)? << 4 | digit(low)?;
    let is_needless = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    let parts = matches!(byte, b'/' | b'\\' | b'%' | b'?' | b'#');
    (!is_needless && !parts && !byte.is_ascii_control()).then_some(byte)
}

/// A percent-encoded dot, slash, backslash, percent sign or control character.
fn has_treacherous_escape(text: &str) -> bool {
    text.split('%').skip(1).any(|after| {
        let code = after.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        code.is_none_or(|code| code < 0x20 || matches!(code, b'.' | b'/' | b'\\' | b'%' | 0x7f..))
    })
}

fn check_characters(text: &str) -> Result<(), Ambiguous> {
    if text.is_empty() || text.len() > LONGEST {
        return Err(Ambiguous::Size);
    }
    // NFKC turns full-width and ligature forms into the plain ones: who normalises sees another text than who does not.
    if text.chars().any(is_treacherous) || !is_nfkc(text) { Err(Ambiguous::Character) } else { Ok(()) }
}

fn is_treacherous(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\\'
            // separators' look-alikes that no normalisation touches
            | '\u{2044}' | '\u{2215}' | '\u{2216}' | '\u{2571}' | '\u{2572}' | '\u{29f5}' | '\u{29f8}' | '\u{29f9}'
            // spaces other than the one, line ends, joiners, direction marks, variation selectors, tags
            | '\u{00a0}' | '\u{00ad}' | '\u{034f}' | '\u{061c}' | '\u{115f}' | '\u{1160}' | '\u{1680}' | '\u{180b}'..='\u{180f}'
            | '\u{2000}'..='\u{200f}' | '\u{2028}'..='\u{202f}' | '\u{205f}'..='\u{206f}' | '\u{3000}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{ffff}' | '\u{e0000}'..='\u{e0fff}')
}

fn has_percent_escape(text: &str) -> bool {
    text.as_bytes()
        .windows(3)
        .any(|w| matches!(w, [b'%', a, b] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_path_has_its_ancestors() {
        assert_eq!(ancestors("/srv/docs/a b.txt").unwrap(), ["/", "/srv", "/srv/docs", "/srv/docs/a b.txt"]);
        assert_eq!(ancestors("/srv/").unwrap(), ["/", "/srv"]);
        assert_eq!(ancestors("/").unwrap(), ["/"]);
        assert_eq!(ancestors("/srv/100%/é").unwrap().len(), 4);
    }

    #[test]
    fn a_path_with_two_readings_has_none() {
        for (path, why) in [
            ("", Ambiguous::Size),
            ("data/a", Ambiguous::Relative),
            ("~/a", Ambiguous::Relative),
            ("C:/a", Ambiguous::Relative),
            ("file:///etc/passwd", Ambiguous::Relative),
            ("／etc", Ambiguous::Character),
            ("/data／..／etc", Ambiguous::Character),
            ("/data/\u{2025}/etc", Ambiguous::Character),
            ("/data∕etc", Ambiguous::Character),
            ("/data/../etc/passwd", Ambiguous::Dots),
            ("/data/..", Ambiguous::Dots),
            ("/data/./a", Ambiguous::Dots),
            ("/data/a..", Ambiguous::Dots),
            ("/data/.. /etc", Ambiguous::Dots),
            ("/data/...", Ambiguous::Dots),
            ("//etc", Ambiguous::Dots),
            ("//", Ambiguous::Dots),
            ("/data//a", Ambiguous::Dots),
            ("/data%2f..", Ambiguous::Percent),
            ("/work%2F..%2Fetc", Ambiguous::Percent),
            ("/data/%2e%2e/etc", Ambiguous::Percent),
            ("/data\\..\\etc", Ambiguous::Character),
            ("/data/a\0", Ambiguous::Character),
            ("/data/a\n", Ambiguous::Character),
            ("/data/\u{200b}a", Ambiguous::Character),
            ("/data/\u{202e}a", Ambiguous::Character),
            ("/data/e\u{301}", Ambiguous::Character),
        ] {
            assert_eq!(ancestors(path), Err(why), "{path:?}");
        }
        assert_eq!(ancestors(&"/a".repeat(65)), Err(Ambiguous::Size));
        assert_eq!(ancestors(&format!("/{}", "a".repeat(5000))), Err(Ambiguous::Size));
    }

    #[test]
    fn a_plain_url_has_its_host_and_domains() {
        let found = destination("HTTPS://API.Example.com/a/../b?q=http://evil.test#x").unwrap();
        assert_eq!(
            (found.scheme.as_str(), found.host.as_str(), found.port),
            ("https", "api.example.com", 443)
        );
        assert!(found.domains().contains("example.com") && found.domains().contains("com"));
        assert_eq!(destination("http://127.0.0.1:8080").unwrap().port, 8080);
        assert_eq!(destination("http://127.0.0.1/").unwrap().domains().len(), 1);
        assert_eq!(destination("http://[::1]/").unwrap().host, "[::1]");
        assert_eq!(destination("https://xn--bcher-kva.example/").unwrap().host, "xn--bcher-kva.example");
    }

    #[test]
    fn a_resource_lies_below_its_folders() {
        let of = |uri: &str| location(uri).map(|l| l.ancestors);
        assert_eq!(of("file:///srv/a").unwrap(), ["/", "/srv", "/srv/a"]);
        assert_eq!(of("file:///srv/a%20b.txt").unwrap(), ["/", "/srv", "/srv/a b.txt"]);
        assert_eq!(of("file:///c%3A/%28Gr%C3%BC%c3%9Fe%29/x").unwrap().last().unwrap(), "/c:/(Grüße)/x");
        assert_eq!(
            of("repo://owner/x/y?q=1").unwrap(),
            ["repo://owner", "repo://owner/x", "repo://owner/x/y"]
        );
        assert_eq!(of("https://a.test/x%20y/").unwrap(), ["https://a.test", "https://a.test/x%20y"]);
        assert_eq!(of("memo:today").unwrap(), ["memo:today"]);
        assert_eq!(location("https://a.test/x").unwrap().host.as_deref(), Some("a.test"));
        for uri in [
            "",
            "no-scheme",
            "File:///srv",
            "file:/etc/passwd",
            "file://localhost/etc/passwd",
            "file:///srv/../etc",
            "file:///srv/%2e%2e/etc",
            "file:///srv/.%2e/etc",
            "file:///srv%2f..%2fetc",
            "file:///srv%2Fetc",
            "file:///srv%5cetc",
            "file:///srv/a%00.txt",
            "file:///srv/a%0a",
            "file:///srv/a%7f",
            "file:///srv/%252e%252e/etc",
            "file:///srv/a%2520b",
            "file:///srv/%73ecret",
            "file:///srv/a%3Fb",
            "file:///srv/a%23b",
            "file:///srv/100%",
            "file:///srv/100%2",
            "file:///srv/%zz",
            "file:///srv/%+1a",
            "file:///srv/%C0%AE%C0%AE/etc",
            "file:///srv/%C0%AFetc",
            "file:///srv/%e9",
            "file:///srv/%ED%A0%80",
            "file:///srv/%C2%85",
            "file:///srv/%E2%80%AEx",
            "file:///srv/%EF%BC%8Fetc",
            "file:///srv/e%CC%81",
            "file:///srv/a%20",
            "file:///srv/%20/a",
            "file:///%2e",
            "file://%2fetc",
            "file:///srv?x",
            "repo://owner/../other",
            "repo://owner/%2E%2e/other",
            "repo://owner/a%2fb",
            "repo://owner/a%",
            "repo://owner//x",
            "repo://user@owner/x",
            "https://a.test@evil.test/x",
            "http://2130706433/x",
            "memo:a b",
        ] {
            assert!(location(uri).is_err(), "{uri:?} was {:?}", location(uri));
        }
    }

    #[test]
    fn a_url_with_two_readings_has_none() {
        for url in [
            "",
            "example.com",
            "//example.com/",
            "https:example.com",
            "https:/example.com",
            "https:///example.com",
            "https://example.com@evil.test/",
            "https://user:pw@example.com/",
            "https://@example.com/",
            "https://example.com\\@evil.test/",
            "https:\\\\example.com",
            "https://bücher.example/",
            "https://ｅxample.com/",
            "https://example。com/",
            "https://exa\u{ad}mple.com/",
            "https://exa\tmple.com/",
            " https://example.com/",
            "https://example.com./",
            "https://example%2ecom/",
            "https://%65xample.com/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://127.1/",
            "http://0177.0.0.1/",
            "http://[::ffff:127.0.0.1]/",
            "http://example.com:080/",
            "http://example.com:/",
            "http://example.com:99999/",
            "file:///etc/passwd",
            "javascript:alert(1)",
            "data:text/html,x",
            "mailto:a@example.com",
            "gopher://example.com/",
        ] {
            assert!(destination(url).is_err(), "{url:?} was {:?}", destination(url));
        }
    }
}
