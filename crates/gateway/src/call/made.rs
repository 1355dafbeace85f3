//! When a server says that it made a task: what tells a task from another of the same id, made by a server that was started anew and
//! counts its tasks anew.

use bartizan_mcp::json::Value;

/// When a task was made (`createdAt`, ISO 8601), as its server wrote it.
#[derive(Clone, Debug)]
pub struct Made(String);

impl Made {
    /// What the member `createdAt` of a task says, if it says when.
    pub fn told(created: Option<Value<'_>>) -> Option<Self> {
        Self::read(&created?.as_str()?)
    }

    /// The time that is written as `text`.
    pub fn read(text: &str) -> Option<Self> {
        let is_of_time = |b: u8| b.is_ascii_digit() || b"-:.+TZtz ".contains(&b);
        let is_time = (1..=40).contains(&text.len()) && text.bytes().all(is_of_time);
        is_time.then(|| Self(text.to_owned()))
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the same time: one may be written with a finer fraction of a second than the other.
    pub fn is(&self, other: &Self) -> bool {
        let (mine, theirs) = (self.parts(), other.parts());
        let (short, long) =
            if mine.1.len() < theirs.1.len() { (mine.1, theirs.1) } else { (theirs.1, mine.1) };
        mine.0.eq_ignore_ascii_case(theirs.0) && mine.2 == theirs.2 && long.starts_with(short)
    }

    /// Up to the second, the fraction of it, and the offset from UTC.
    fn parts(&self) -> (&str, &str, &str) {
        let is_end = |c: char| matches!(c, '+' | 'Z' | 'z');
        let time = self.0.find(['T', 't', ' ']).unwrap_or_default();
        let of_time = self.0.get(time..).unwrap_or_default();
        let end = of_time.find(is_end).or_else(|| of_time.find('-')).map_or(self.0.len(), |at| time + at);
        let (time, offset) = self.0.split_at_checked(end).unwrap_or_default();
        let (second, fraction) = time.split_once('.').unwrap_or((time, ""));
        let offset = if matches!(offset, "Z" | "z" | "+00:00" | "-00:00") { "" } else { offset };
        (second, fraction.trim_end_matches('0'), offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_the_same_however_it_is_written() {
        let made = |text: &str| Made::read(text).unwrap();
        let first = made("2026-01-01T00:00:01Z");
        for same in ["2026-01-01T00:00:01.000Z", "2026-01-01t00:00:01+00:00", "2026-01-01T00:00:01.25Z"] {
            assert!(first.is(&made(same)) && made(same).is(&first), "{same}");
        }
        for other in
            ["2026-01-01T00:00:02Z", "2026-01-01T00:00:01+01:00", "2026-01-01T00:00:01-01:00", "2026-01-02"]
        {
            assert!(!first.is(&made(other)) && !made(other).is(&first), "{other}");
        }
        assert!(!made("2026-01-01T00:00:01.2Z").is(&made("2026-01-01T00:00:01.3Z")));
        assert!(made("2026-01-01T00:00:01.2Z").is(&made("2026-01-01T00:00:01.200000Z")));
        for none in ["", "now", "2026-01-01T00:00:01Z\n", &"1".repeat(41)] {
            assert!(Made::read(none).is_none(), "{none}");
        }
    }
}
