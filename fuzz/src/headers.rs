//! The headers that mirror a body: what is written is read back, and what is read is text.

use bartizan_mcp::headers::{self, Fault};
use bartizan_mcp::json::{Limits, Value, check};
use http::{HeaderMap, HeaderValue};

/// The longest value that is decoded, as sent.
const LONGEST: usize = 16 * 1024;

/// Any text survives the way through a header; any bytes are read to text that survives it, or refused.
pub fn headers(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let header = headers::encode(text);
        let sent = header.as_bytes();
        assert!(sent.iter().all(|b| (0x20..0x7f).contains(b)), "{header:?}");
        assert!(!sent.starts_with(b" ") && !sent.ends_with(b" "), "{header:?}");
        let expected =
            if sent.len() > LONGEST { Err(Fault::TooLong("n".into())) } else { Ok(text.to_owned()) };
        assert_eq!(headers::decode("n", sent), expected);
    }
    if let Ok(text) = headers::decode("n", bytes) {
        assert!(bytes.len() <= LONGEST);
        let again = headers::encode(&text);
        assert!(
            again.len() > LONGEST || headers::decode("n", again.as_bytes()).as_ref() == Ok(&text),
            "{text:?}"
        );
    }
    as_lines(bytes);
    if let Ok(text) = check(bytes, Limits::default()) {
        let value = Value::of(text);
        if let Some(mirror) = headers::mirrored(value) {
            assert!(headers::matches(&mirror, value), "{mirror:?} mirrors {text}");
            let header = headers::encode(&mirror);
            assert!(
                header.len() > LONGEST
                    || headers::decode("n", header.as_bytes()).is_ok_and(|h| headers::matches(&h, value)),
                "{header:?} is sent for {text}"
            );
        }
    }
}

/// The same bytes as header lines of a request: two lines of a name are never believed.
fn as_lines(bytes: &[u8]) {
    let mut map = HeaderMap::new();
    for line in bytes.split(|b| *b == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            map.append(headers::NAME, value.clone());
            map.append(http::header::CONTENT_TYPE, value);
        }
    }
    let lines = map.get_all(headers::NAME).iter().count();
    let read = headers::read(&map, &headers::NAME);
    match lines {
        0 => assert_eq!(read, Ok(None)),
        1 => assert_ne!(read, Ok(None)),
        _ => assert!(matches!(read, Err(Fault::Repeated(_))), "{read:?}"),
    }
    assert!(!(headers::is_json(&map) && headers::is_event_stream(&map)));
    assert!(lines == 1 || !headers::is_json(&map));
}
