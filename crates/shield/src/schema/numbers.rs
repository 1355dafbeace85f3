//! JSON texts as values, whatever the size of their numbers.

use std::borrow::Cow;

use serde_json::Value;

/// The value of `text`; none if it is not JSON. A number that no float can hold counts as the largest one.
pub fn value(text: &str) -> Option<Value> {
    serde_json::from_str(text).or_else(|_| serde_json::from_str(&in_range(text))).ok()
}

/// `text` with every number that is out of range brought into it.
fn in_range(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut done = 0;
    let mut at = 0;
    let bytes = text.as_bytes();
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at += 1;
                while let Some(inside) = bytes.get(at).filter(|b| **b != b'"') {
                    at += if *inside == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                let rest = bytes.get(at..).unwrap_or_default();
                let is_part = |b: &&u8| matches!(b, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
                let end = at + rest.iter().take_while(is_part).count();
                let number = text.get(at..end).unwrap_or_default();
                if let Some(value) = number.parse::<f64>().ok().filter(|n| n.is_infinite()) {
                    out.push_str(text.get(done..at).unwrap_or_default());
                    out.push_str(if value > 0.0 {
                        "1.7976931348623157e308"
                    } else {
                        "-1.7976931348623157e308"
                    });
                    done = end;
                }
                at = end;
            }
            _ => at += 1,
        }
    }
    if done == 0 {
        return text.into();
    }
    out.push_str(text.get(done..).unwrap_or_default());
    out.into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_of_any_size_are_numbers() {
        assert_eq!(
            value(r#"{"a":[1e999,-1E+999,"1e999\"",12345678901234567890123]}"#).unwrap(),
            json!({
                "a": [f64::MAX, f64::MIN, "1e999\"", 12345678901234567890123.0]
            })
        );
        for bad in ["", "{", "1e", "[1e999", "\"a"] {
            assert!(value(bad).is_none(), "{bad}");
        }
    }
}
