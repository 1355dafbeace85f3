//! What a server says when it refuses: `WWW-Authenticate` (RFC 9110 §11.6.1, RFC 6750 §3, RFC 9728 §5.1).

use std::collections::BTreeMap;

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::{HeaderMap, header};

use super::token::is_claims;

/// Bytes of all challenges together; more is not read.
const MAX_BYTES: usize = 8 * 1024;
/// Base64 with or without padding.
const STANDARD_NO_PAD_OR_NOT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The `Bearer` challenge of an answer; nothing in it is more than a server's word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Challenge {
    /// Where the server's metadata is (RFC 9728 §5.1).
    pub resource_metadata: Option<String>,
    /// The scopes this request needs, in order.
    pub scopes: Vec<String>,
    /// `error`
    pub error: Option<String>,
    /// What the next token is to show: Entra's `claims`, out of its Base64.
    pub claims: Option<String>,
}

impl Challenge {
    /// The first `Bearer` challenge in an answer's header lines.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut bytes = 0;
        let lines = headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|line| line.to_str().ok());
        let mut lines = lines.take_while(|line| {
            bytes += line.len();
            bytes <= MAX_BYTES
        });
        lines.find_map(Self::read)
    }

    fn read(line: &str) -> Option<Self> {
        let (_, parameters) =
            challenges(line).into_iter().find(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))?;
        let text = |name: &str| parameters.get(name).filter(|v| !v.chars().any(char::is_control)).cloned();
        let scopes = text("scope").unwrap_or_default();
        Some(Self {
            resource_metadata: text("resource_metadata"),
            scopes: scopes.split(' ').filter(|s| !s.is_empty()).map(str::to_owned).collect(),
            error: text("error"),
            claims: text("claims").and_then(|encoded| {
                let decoded = STANDARD_NO_PAD_OR_NOT.decode(encoded).ok()?;
                String::from_utf8(decoded).ok().filter(|text| is_claims(text))
            }),
        })
    }
}

type Parameters = BTreeMap<String, String>;

/// The challenges of one line, each a scheme and its parameters. Of a parameter that stands twice, the first counts. What
/// breaks the grammar ends the reading.
fn challenges(line: &str) -> Vec<(String, Parameters)> {
    let mut found: Vec<(String, Parameters)> = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = split_token(rest);
        if word.is_empty() {
            return found;
        }
        let value = after.trim_start_matches([' ', '\t']).strip_prefix('=');
        match (value, found.last_mut()) {
            // `=` at the end, or twice, is the padding of a token68.
            (Some(value), Some((_, parameters))) if !value.starts_with(['=', ',']) && !value.is_empty() => {
                let Some((value, after)) = value_of(value.trim_start_matches([' ', '\t'])) else {
                    return found;
                };
                parameters.entry(word.to_ascii_lowercase()).or_insert(value);
                rest = after;
            }
            (Some(padding), Some(_)) => rest = padding.trim_start_matches('='),
            (Some(_), None) => return found,
            (None, _) => {
                found.push((word.to_owned(), Parameters::new()));
                rest = after;
            }
        }
    }
}

fn split_token(text: &str) -> (&str, &str) {
    // `/` occurs in a token68 only.
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(&b);
    let end = text.bytes().position(|b| !is_token(b)).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

/// A token or a quoted string at the beginning of `text`, and what follows it.
fn value_of(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (word, after) = split_token(text);
        return (!word.is_empty()).then(|| (word.to_owned(), after));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return quoted.get(at + 1..).map(|after| (value, after)),
            '\\' => value.push(characters.next()?.1),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn read(lines: &[&str]) -> Option<Challenge> {
        let lines = lines.iter().map(|l| (header::WWW_AUTHENTICATE, HeaderValue::from_str(l).unwrap()));
        let mut headers = HeaderMap::new();
        lines.for_each(|(name, line)| {
            headers.append(name, line);
        });
        Challenge::of(&headers)
    }

    fn with(metadata: &str, scopes: &[&str], error: Option<&str>) -> Option<Challenge> {
        Some(Challenge {
            resource_metadata: Some(metadata.to_owned()),
            scopes: scopes.iter().map(|s| (*s).to_owned()).collect(),
            error: error.map(str::to_owned),
            claims: None,
        })
    }

    #[test]
    fn the_bearer_challenge_is_found_among_others() {
        let plain = r#"Bearer error="insufficient_scope", scope="a b", resource_metadata="https://m""#;
        assert_eq!(read(&[plain]), with("https://m", &["a", "b"], Some("insufficient_scope")));
        assert_eq!(read(&["Negotiate abc==", "bearer resource_metadata=\"u\""]), with("u", &[], None));
        let several = r#"Basic realm="a, Bearer scope=\"x\"", DPoP algs="ES256", BEARER resource_metadata="u" , scope = s"#;
        assert_eq!(read(&[several]), with("u", &["s"], None));
        assert_eq!(read(&["Negotiate, Bearer resource_metadata=u"]), with("u", &[], None));
        assert_eq!(read(&["Bearer"]), Some(Challenge::default()));
    }

    #[test]
    fn the_claims_of_a_challenge_are_json_or_nothing() {
        let claims = r#"{"access_token":{"acrs":{"essential":true,"value":"c1"}}}"#;
        let encoded = "eyJhY2Nlc3NfdG9rZW4iOnsiYWNycyI6eyJlc3NlbnRpYWwiOnRydWUsInZhbHVlIjoiYzEifX19";
        let line = format!(r#"Bearer error="insufficient_claims", claims="{encoded}""#);
        assert_eq!(read(&[&line]).unwrap().claims.as_deref(), Some(claims));
        for bad in ["", "%%%", "W10=", "bm90IGpzb24="] {
            let line = format!(r#"Bearer error="insufficient_claims", claims="{bad}""#);
            assert_eq!(read(&[&line]).unwrap().claims, None, "{bad}");
        }
    }

    #[test]
    fn what_breaks_the_grammar_counts_for_nothing() {
        for line in
            ["", "=", "scope=\"x\"", "Basic realm=\"unclosed, Bearer scope=x", "Basic realm=\"Bearer\"", ","]
        {
            assert_eq!(read(&[line]), None, "{line}");
        }
        let twice = read(&[r#"Bearer resource_metadata="first", resource_metadata="second""#]);
        assert_eq!(twice, with("first", &[], None));
        let long = format!("Basic realm=\"{}\"", "x".repeat(MAX_BYTES));
        assert_eq!(read(&[&long, "Bearer scope=x"]), None);
        assert_eq!(read(&["Bearer scope=\"unclosed"]), Some(Challenge::default()));
    }
}
