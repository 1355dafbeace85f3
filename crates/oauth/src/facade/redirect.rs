//! Redirect URIs: which there may be, and which is meant (spec.md F-09 to F-11; RFC 8252 §7.3, §8.3; attacks.md AA-07).
//!
//! Texts are compared, never parsed URLs: what two parsers read differently is no redirect URI here to begin with.

use url::Url;

/// The beginnings of loopback URIs, whose port a native client chooses when it starts.
const LOOPBACK: [&str; 3] = ["http://127.0.0.1", "http://[::1]", "http://localhost"];

/// Bytes of the longest one.
const MAX_BYTES: usize = 1024;

/// Whether `uri` may be registered: https, or http on loopback, in the one spelling a URL has.
///
/// # Errors
/// What is wrong with it, as the end of a sentence. Custom schemes are refused: any program can claim one.
pub(crate) fn check(uri: &str) -> Result<(), &'static str> {
    if uri.len() > MAX_BYTES {
        return Err("is too long");
    }
    if !uri.bytes().all(|b| b.is_ascii_graphic() && !b"\"<>\\^`{|}*#".contains(&b)) {
        return Err("has characters that none has: a fragment, a wildcard, a backslash, white space");
    }
    let Ok(url) = Url::parse(uri) else { return Err("is no URL") };
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds a user name");
    }
    match url.scheme() {
        "https" => {}
        "http" if is_loopback(uri) => {}
        _ => return Err("is neither https nor http on loopback"),
    }
    // A text that the URL standard writes in another way (dot segments, capitals in the host, a default port, an
    // internationalised name) could be read as another place by another program.
    let is_canonical = url.as_str() == uri || url.as_str().strip_suffix('/') == Some(uri);
    if is_canonical { Ok(()) } else { Err("is not in its normal form") }
}

/// Whether `uri` is on loopback, where any program on the person's machine may listen.
pub(crate) fn is_loopback(uri: &str) -> bool {
    without_port(uri).is_some()
}

/// Whether a client that registered `registered` may be sent to `asked`: the same text, or, unless `strict`, the same
/// but for the port of a loopback URI.
pub(crate) fn matches(registered: &str, asked: &str, strict: bool) -> bool {
    if registered == asked {
        return true;
    }
    match (without_port(registered), without_port(asked)) {
        (Some(registered), Some(asked)) => !strict && registered == asked,
        _ => false,
    }
}

/// A loopback URI as what stands before its port and what stands after; `None` for any other URI.
fn without_port(uri: &str) -> Option<(&str, &str)> {
    let (start, rest) = LOOPBACK.iter().find_map(|start| Some((*start, uri.strip_prefix(start)?)))?;
    let rest = match rest.strip_prefix(':') {
        None => rest,
        Some(rest) => {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (port, rest) = rest.split_at_checked(digits)?;
            // One spelling for each port.
            let is_port = port.parse::<u16>().is_ok_and(|number| number > 0) && !port.starts_with('0');
            if !is_port {
                return None;
            }
            rest
        }
    };
    // Else the host goes on: `127.0.0.1.example`, `localhost@example`.
    (rest.is_empty() || rest.starts_with(['/', '?'])).then_some((start, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn aa_07_only_the_registered_text_matches() {
        let registered = "https://c.example/cb";
        for other in [
            "https://c.example/cb/",
            "https://c.example/cb?x=1",
            "https://c.example/CB",
            "https://c.example/cb/../e",
            "https://c.example/cb%2f..",
            "https://c.example.evil/cb",
            "https://c.example@evil/cb",
            "https://evil\\@c.example/cb",
            "http://c.example/cb",
            "https://c.example:443/cb",
            "https://c.example/cb#f",
            "https://с.example/cb",
            "HTTPS://c.example/cb",
            "https://c.example/cb ",
            "",
        ] {
            assert!(!matches(registered, other, false), "{other}");
        }
        assert!(matches(registered, registered, true));
    }

    #[test]
    fn the_port_of_a_loopback_uri_may_differ_and_nothing_else() {
        for host in ["127.0.0.1", "[::1]", "localhost"] {
            let registered = format!("http://{host}/cb?a=b");
            for port in ["", ":1", ":8080", ":65535"] {
                let asked = format!("http://{host}{port}/cb?a=b");
                assert!(matches(&registered, &asked, false), "{asked}");
                assert_eq!(matches(&registered, &asked, true), port.is_empty(), "{asked}");
            }
            for other in [
                ":0",
                ":65536",
                ":",
                ":080",
                ":+80",
                ":8 0",
                ".evil.example",
                ".nip.io:80",
                "@evil",
                ":80@evil",
            ] {
                let asked = format!("http://{host}{other}/cb?a=b");
                assert!(!matches(&registered, &asked, false), "{asked}");
            }
            for other in ["/cb", "/cb?a=c", "/cb/?a=b", "/?a=b", ""] {
                let asked = format!("http://{host}:80{other}");
                assert!(!matches(&registered, &asked, false), "{asked}");
            }
            assert!(!matches(&registered, &format!("https://{host}:1/cb?a=b"), false));
        }
        assert!(!matches("http://127.0.0.1/cb", "http://localhost/cb", false));
        assert!(!matches("http://127.0.0.1/cb", "http://127.1/cb", false));
        assert!(!matches("https://c.example:1/cb", "https://c.example:2/cb", false));
    }

    #[test]
    fn f_11_only_https_and_loopback_can_be_registered() {
        for good in [
            "https://c.example/cb",
            "https://c.example/",
            "https://c.example",
            "https://c.example:8443/cb?x=y",
            "http://127.0.0.1/cb",
            "http://127.0.0.1:3334/oauth/callback",
            "http://[::1]:1/",
            "http://localhost:6274/oauth/callback/debug",
            "http://localhost",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "/cb",
            "http://example.com/cb",
            "http://127.0.0.1.nip.io/cb",
            "http://localhost.evil/cb",
            "http://127.1/cb",
            "http://0.0.0.0/cb",
            "javascript:alert(1)",
            "data:text/html,x",
            "file:///etc/passwd",
            "vbscript:x",
            "cursor://cb",
            "myapp:cb",
            "https://*.example/cb",
            "https://c.example/*",
            "https://u@c.example/cb",
            "https://u:p@c.example/cb",
            "https://c.example/cb#f",
            "https://c.example/a/../cb",
            "https://c.example/a/%2e%2e/cb",
            "https://c.example:443/cb",
            "https://C.example/cb",
            "https://bücher.example/cb",
            "https://c.example/c b",
            "https://c.example\\cb",
            " https://c.example/cb",
            "https:c.example/cb",
            "https:///c.example/cb",
            "https://",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert!(check(&format!("https://c.example/{}", "x".repeat(1024))).is_err());
    }

    proptest! {
        /// Whatever is asked for, it leads to the registered place: browser and matcher never disagree.
        #[test]
        fn a_match_is_the_same_place_to_a_browser(
            start in prop::sample::select(vec![
                "http://127.0.0.1", "http://[::1]", "http://localhost", "https://c.example", "http://", "https://",
            ]),
            middle in "[a-z0-9:@./\\\\?#%-]{0,16}",
            end in "[a-z/?#@:]{0,8}",
        ) {
            let asked = format!("{start}{middle}{end}");
            for registered in ["http://127.0.0.1/cb", "http://[::1]:1/", "http://localhost", "https://c.example/cb"] {
                if matches(registered, &asked, false) {
                    let (of, to) = (Url::parse(registered).unwrap(), Url::parse(&asked).unwrap());
                    prop_assert_eq!(of.scheme(), to.scheme());
                    prop_assert_eq!(of.host(), to.host());
                    prop_assert_eq!(of.path(), to.path());
                    prop_assert_eq!(of.query(), to.query());
                    prop_assert!(to.username().is_empty() && to.fragment().is_none());
                }
            }
        }

        #[test]
        fn what_may_be_registered_matches_itself_and_reads_in_one_way(uri in "(https|http)://[a-z0-9.@:\\[\\]]{1,16}/?[a-z./%?]{0,12}") {
            if check(&uri).is_ok() {
                prop_assert!(matches(&uri, &uri, true));
                let url = Url::parse(&uri).unwrap();
                let host = url.host_str().unwrap();
                prop_assert!(uri.split('/').nth(2).unwrap().starts_with(host), "{}", uri);
            }
        }
    }
}
