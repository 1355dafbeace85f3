//! The strict pass and the views on what it lets through, against `serde_json`.

use bartizan_mcp::json::{Kind, Limits, Value, check, quote};
use serde_json::Value as Other;

/// Whatever the strict pass accepts, `serde_json` accepts and reads the same; whatever only the strict pass refuses has
/// a reason that is ours and not JSON's.
pub fn json(bytes: &[u8]) {
    let limits = Limits { depth: 64, values: 10_000, key: 1024 };
    let other = serde_json::from_slice::<Other>(bytes);
    match check(bytes, limits) {
        Ok(text) => {
            let other = other.unwrap_or_else(|e| panic!("accepted, and serde_json says {e}: {text:?}"));
            let mut values = 0;
            compare(Value::of(text), &other, 0, &mut values);
            assert!(values <= limits.values, "{values} values passed");
        }
        Err(bartizan_mcp::json::Fault::Syntax(at)) => {
            assert!(other.is_err(), "refused as no JSON at byte {at}, and serde_json reads {other:?}");
        }
        Err(_) => {}
    }
}

/// Both readers see the same value.
pub fn compare(ours: Value<'_>, other: &Other, depth: usize, values: &mut usize) {
    *values += 1;
    assert!(depth <= 64, "too deep");
    match (ours.kind(), other) {
        (Kind::Null, Other::Null) => assert!(ours.is_null()),
        (Kind::Boolean, Other::Bool(b)) => assert_eq!(ours.as_bool(), Some(*b)),
        (Kind::Number, Other::Number(n)) => {
            assert_eq!(ours.as_u64(), if ours.is_integer() { n.as_u64() } else { None }, "{}", ours.text());
        }
        (Kind::String, Other::String(s)) => {
            assert_eq!(ours.as_str().as_deref(), Some(s.as_str()));
            assert_eq!(serde_json::from_str::<String>(&quote(s)).ok().as_ref(), Some(s), "quoted");
        }
        (Kind::Array, Other::Array(elements)) => {
            assert_eq!(ours.elements().count(), elements.len());
            for (element, other) in ours.elements().zip(elements) {
                compare(element, other, depth + 1, values);
            }
        }
        (Kind::Object, Other::Object(members)) => {
            // Equal counts also mean that no key was named twice: serde_json would have kept one of them.
            assert_eq!(ours.members().count(), members.len());
            for member in ours.members() {
                let key = member.key();
                assert!(member.is(&key) && !key.contains('\0'));
                let other =
                    members.get(key.as_ref()).unwrap_or_else(|| panic!("serde_json has no key {key:?}"));
                compare(member.value, other, depth + 1, values);
            }
        }
        (kind, other) => panic!("{kind:?} here, {other:?} there"),
    }
}
