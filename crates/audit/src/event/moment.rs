//! When something happened, finer than anything is decided by.

use std::fmt;

use bartizan_model::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// A time given in milliseconds since the Unix epoch.
    pub const fn from_unix_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_unix_millis(self) -> u64 {
        self.0
    }

    /// The second it lies in.
    pub const fn timestamp(self) -> Timestamp {
        Timestamp::from_unix(self.0 / 1000)
    }
}

impl From<Timestamp> for Moment {
    fn from(at: Timestamp) -> Self {
        Self(at.as_unix().saturating_mul(1000))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&rfc3339::text(*self))
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&rfc3339::text(*self))
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        rfc3339::moment(&text).ok_or_else(|| D::Error::custom("not an RFC 3339 time"))
    }
}

/// Times as RFC 3339 texts, UTC.
pub mod rfc3339 {
    use bartizan_model::Timestamp;
    use time::{OffsetDateTime, format_description::well_known::Rfc3339};

    use super::Moment;

    /// The last second that four digits of a year can name.
    const END: u64 = 253_402_300_799;

    /// `2026-11-24T21:55:36.042Z`, always with three digits, so that texts sort as times do. The end of the year 9999
    /// stands for everything after it.
    pub fn text(at: impl Into<Moment>) -> String {
        let Moment(millis) = at.into();
        let (seconds, millis) = (millis / 1000, millis % 1000);
        let seconds = i64::try_from(seconds.min(END)).unwrap_or_default();
        let time = OffsetDateTime::from_unix_timestamp(seconds).ok();
        let whole = time.and_then(|t| t.format(&Rfc3339).ok()).unwrap_or_default();
        format!("{}.{millis:03}Z", whole.trim_end_matches('Z'))
    }

    /// The second that the time `text` lies in; `None` before 1970.
    pub fn parse(text: &str) -> Option<Timestamp> {
        moment(text).map(Moment::timestamp)
    }

    /// The time `text` says; what is finer than milliseconds is dropped. `None` before 1970.
    pub fn moment(text: &str) -> Option<Moment> {
        let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        let seconds = u64::try_from(time.unix_timestamp()).ok()?;
        Some(Moment(seconds.checked_mul(1000)?.checked_add(u64::from(time.millisecond()))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_sort_as_times_do_and_read_back() {
        let millis = [0, 1, 99, 100, 999, 1000, 1_760_000_000_042, 253_402_300_799_999];
        let texts: Vec<_> = millis.map(|m| Moment::from_unix_millis(m).to_string()).into();
        assert!(texts.is_sorted(), "{texts:?}");
        assert_eq!(texts[6], "2025-10-09T08:53:20.042Z");
        for (text, millis) in texts.iter().zip(millis) {
            assert_eq!(rfc3339::moment(text), Some(Moment::from_unix_millis(millis)));
        }
        // Logs of older versions have whole seconds.
        assert_eq!(rfc3339::moment("2025-10-09T08:53:20Z").unwrap().as_unix_millis(), 1_760_000_000_000);
        assert_eq!(rfc3339::moment("1969-12-31T23:59:59Z"), None);
        assert!(rfc3339::text(Moment::from_unix_millis(u64::MAX)).starts_with("9999-12-31T23:59:59."));
    }
}
