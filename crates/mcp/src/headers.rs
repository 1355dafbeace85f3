//! The HTTP headers that mirror a modern request's body (26/http; spec.md A-26…A-37, C-02, C-05).

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::json::{Kind, Value};

/// `MCP-Protocol-Version`
pub const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// `Mcp-Session-Id` (legacy)
pub const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
/// `Mcp-Method`
pub const METHOD: HeaderName = HeaderName::from_static("mcp-method");
/// `Mcp-Name`
pub const NAME: HeaderName = HeaderName::from_static("mcp-name");
/// `Last-Event-ID` (legacy)
pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// What `Mcp-Param-{Name}` begins with.
pub const PARAM_PREFIX: &str = "mcp-param-";

/// The longest mirrored value that is decoded, in bytes as sent (spec.md A-15).
const LONGEST: usize = 16 * 1024;

/// Why a header is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Two lines of the same name: readers differ in which one counts.
    #[error("the header {0} is sent more than once")]
    Repeated(String),
    /// Not visible ASCII, spaces and tabs.
    #[error("the header {0} has characters a header cannot hold; encode the value as =?base64?…?=")]
    Characters(String),
    /// Between `=?base64?` and `?=` stands no Base64 of UTF-8 text (RFC 4648 §4, padded).
    #[error("the header {0} is marked as Base64 and is not")]
    Base64(String),
    /// Longer than 16 KiB.
    #[error("the header {0} is too long")]
    TooLong(String),
}

/// The one value of the header `name`, white space around it cut off, sentinel decoded; `None` if it is not sent.
///
/// # Errors
/// [`Fault`] if the header is repeated or cannot be read.
pub fn read(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, Fault> {
    let mut lines = headers.get_all(name).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(Fault::Repeated(name.to_string()));
    }
    decode(name.as_str(), line.as_bytes()).map(Some)
}

/// The value that a mirrored header stands for; `name` is for the fault.
///
/// # Errors
/// [`Fault`] if the value cannot be read.
pub fn decode(name: &str, value: &[u8]) -> Result<String, Fault> {
    if value.len() > LONGEST {
        return Err(Fault::TooLong(name.to_owned()));
    }
    let characters = || Fault::Characters(name.to_owned());
    let text = std::str::from_utf8(value).map_err(|_| characters())?.trim_matches([' ', '\t']);
    if !text.bytes().all(|b| b == b'\t' || (0x20..0x7f).contains(&b)) {
        return Err(characters());
    }
    let Some(inside) = text.strip_prefix("=?base64?").and_then(|t| t.strip_suffix("?=")) else {
        return Ok(text.to_owned());
    };
    let bytes = STANDARD.decode(inside).map_err(|_| Fault::Base64(name.to_owned()))?;
    String::from_utf8(bytes).map_err(|_| Fault::Base64(name.to_owned()))
}

/// `value` as a header value: as it is where a header can hold it, else inside the Base64 sentinel (C-05).
pub fn encode(value: &str) -> HeaderValue {
    let looks_encoded = value.starts_with("=?base64?") && value.ends_with("?=");
    let is_trimmed = !value.starts_with(' ') && !value.ends_with(' ');
    let is_printable = value.bytes().all(|b| (0x20..0x7f).contains(&b));
    let plain =
        if is_printable && is_trimmed && !looks_encoded { HeaderValue::from_str(value).ok() } else { None };
    plain.unwrap_or_else(|| {
        let encoded = format!("=?base64?{}?=", STANDARD.encode(value));
        // Base64 and the sentinel are visible ASCII.
        HeaderValue::from_str(&encoded).unwrap_or_else(|_| HeaderValue::from_static(""))
    })
}

/// A parameter as the text its header mirrors: strings as they are, integers in decimal, booleans as words.
///
/// `None` for null (no header) and for what no annotation may name.
pub fn mirrored(value: Value<'_>) -> Option<String> {
    match value.kind() {
        Kind::String => value.as_str().map(Into::into),
        Kind::Boolean => Some(value.text().to_owned()),
        Kind::Number => {
            Some(integer(value.text()).map_or_else(|| value.text().to_owned(), |n| n.to_string()))
        }
        _ => None,
    }
}

/// Whether a decoded header value and a parameter say the same; numbers are compared as numbers.
pub fn matches(header: &str, value: Value<'_>) -> bool {
    match value.kind() {
        Kind::String => value.as_str().as_deref() == Some(header),
        Kind::Boolean => value.text() == header,
        Kind::Number => {
            header == value.text() || integer(header).is_some_and(|h| Some(h) == integer(value.text()))
        }
        _ => false,
    }
}

/// A decimal text as an integer, `42.0` and `4.2e1` included, if a double can hold it exactly (±2^53−1).
fn integer(text: &str) -> Option<i64> {
    const SAFE: i64 = (1 << 53) - 1;
    if !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')) {
        return None;
    }
    let number = match text.parse::<i64>() {
        Ok(number) => number,
        Err(_) => {
            let float = text
                .parse::<f64>()
                .ok()
                .filter(|f| f.fract() == 0.0 && f.abs() <= 9_007_199_254_740_991.0)?;
            format!("{float:.0}").parse().ok()?
        }
    };
    (-SAFE..=SAFE).contains(&number).then_some(number)
}

/// Whether `name` is an RFC 9110 §5.1 field name.
pub fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Whether a `Content-Type` value is `application/json`, charset UTF-8 at most beside it.
pub fn is_json(headers: &HeaderMap) -> bool {
    media_type(headers, "application/json")
}

/// Whether a `Content-Type` value is `text/event-stream`.
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    media_type(headers, "text/event-stream")
}

fn media_type(headers: &HeaderMap, wanted: &str) -> bool {
    let mut lines = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return false };
    let Ok(line) = line.to_str() else { return false };
    let mut parts = line.split(';').map(str::trim);
    parts.next().is_some_and(|t| t.eq_ignore_ascii_case(wanted))
        && parts
            .all(|p| p.eq_ignore_ascii_case("charset=utf-8") || p.eq_ignore_ascii_case("charset=\"utf-8\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value<'_> {
        Value::of_checked(text)
    }

    #[test]
    fn decodes_the_sentinel_and_nothing_else() {
        let read = |v: &str| decode("Mcp-Name", v.as_bytes());
        assert_eq!(read("=?base64?SGVsbG8=?=").unwrap(), "Hello");
        assert_eq!(read("  foo\t").unwrap(), "foo");
        assert_eq!(read("=?base64??=").unwrap(), "");
        for literal in ["SGVsbG8=", "=?BASE64?SGVsbG8=?=", "=?base64?SGVsbG8=", "SGVsbG8=?="] {
            assert_eq!(read(literal).unwrap(), literal);
        }
        for bad in ["=?base64?SGVsbG8?=", "=?base64?SGVs!!!bG8=?=", "=?base64?SGVsbG8-?=", "=?base64?/w==?="]
        {
            assert_eq!(read(bad), Err(Fault::Base64("Mcp-Name".into())), "{bad}");
        }
        assert!(matches!(decode("x", b"caf\xc3\xa9"), Err(Fault::Characters(_))));
        assert!(matches!(decode("x", b"a\x01"), Err(Fault::Characters(_))));
        assert!(matches!(decode("x", &[b'a'; 20_000]), Err(Fault::TooLong(_))));
    }

    #[test]
    fn refuses_repeated_headers() {
        let mut headers = HeaderMap::new();
        headers.append(NAME, "a".parse().unwrap());
        assert_eq!(read(&headers, &NAME).unwrap().as_deref(), Some("a"));
        headers.append(NAME, "a".parse().unwrap());
        assert!(matches!(read(&headers, &NAME), Err(Fault::Repeated(_))));
    }

    #[test]
    fn encodes_only_what_must_be() {
        assert_eq!(encode("plain value"), "plain value");
        assert_eq!(encode(""), "");
        for text in [" lead", "trail ", "caf\u{e9}", "a\nb", "=?base64?eA==?=", "tab\there"] {
            let encoded = encode(text);
            assert!(encoded.to_str().unwrap().starts_with("=?base64?"), "{text}");
            assert_eq!(decode("x", encoded.as_bytes()).unwrap(), text);
        }
    }

    #[test]
    fn compares_values_by_type() {
        assert!(
            matches("42.0", value("42")) && matches("42", value("42.0")) && matches("42", value("4.2e1"))
        );
        assert!(!matches("43", value("42")) && !matches("42", value("\"43\"")));
        assert!(!matches("9007199254740993", value("9007199254740992")));
        assert!(matches("true", value("true")) && !matches("True", value("true")));
        assert_eq!(mirrored(value("1e2")).as_deref(), Some("100"));
        assert_eq!(mirrored(value("null")), None);
    }

    #[test]
    fn knows_media_types() {
        let json = |v: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, v.parse().unwrap());
            is_json(&headers)
        };
        assert!(json("application/json") && json("Application/JSON; charset=UTF-8"));
        assert!(!json("text/plain") && !json("application/json;x=text/plain") && !json("application/jsonp"));
    }
}
