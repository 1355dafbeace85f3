//! Where a string of a JSON text stands, in bounded space.
//!
//! Each string has its place, so a pointer that is as long as the text lets it be would be kept once for each of hundreds of
//! thousands of strings. What is longer than a person reads is abbreviated by `~#`, which stands in no JSON pointer (RFC 6901 §3 has
//! `~0` and `~1` only): a long key by its beginning and a digest, what is far down by the number of the string in its text.

use std::fmt::Write;

use aws_lc_rs::digest;

/// The longest pointer that is spelt out, in bytes.
pub(super) const LONGEST: usize = 160;
/// The longest key that is spelt out, in bytes.
pub(super) const KEY: usize = 64;
/// How much of a longer one is, in bytes.
const BEGINNING: usize = 40;

/// The pointer to the value that is being read.
#[derive(Default)]
pub(super) struct Path {
    text: String,
    /// Steps below `text` that are not spelt out.
    hidden: usize,
}

/// How far a [`Path`] was.
#[derive(Clone, Copy)]
pub(super) struct Mark {
    length: usize,
    hidden: usize,
}

impl Path {
    /// Goes down to the property `key`.
    pub fn key(&mut self, key: &str) {
        if self.hidden > 0 {
            return self.step("");
        }
        let escaped = |key: &str| key.replace('~', "~0").replace('/', "~1");
        if key.len() <= KEY {
            return self.step(&escaped(key));
        }
        let mut step = escaped(key.get(..key.floor_char_boundary(BEGINNING)).unwrap_or_default());
        step.push_str("~#");
        let digest = digest::digest(&digest::SHA256, key.as_bytes());
        for byte in digest.as_ref().iter().take(8) {
            // Strings take whatever is written to them.
            let _ = write!(step, "{byte:02x}");
        }
        self.step(&step);
    }

    /// Goes down to the element `nth`.
    pub fn index(&mut self, nth: usize) {
        self.step(&nth.to_string());
    }

    fn step(&mut self, step: &str) {
        if self.hidden > 0 || self.text.len() + 1 + step.len() > LONGEST {
            self.hidden += 1;
        } else {
            self.text.push('/');
            self.text.push_str(step);
        }
    }

    /// How far it is now.
    pub fn mark(&self) -> Mark {
        Mark { length: self.text.len(), hidden: self.hidden }
    }

    /// Goes back up to where it was.
    pub fn back(&mut self, to: Mark) {
        self.text.truncate(to.length);
        self.hidden = to.hidden;
    }

    /// The pointer to what is read now, the string number `nth` of its text.
    pub fn pointer(&self, nth: usize) -> String {
        if self.hidden == 0 { self.text.clone() } else { format!("{}/~#{nth}", self.text) }
    }
}
