//! A root of keys from which single keys can be taken away for good.
//!
//! It is the tree of Goldreich, Goldwasser and Micali (*How to construct random functions*, JACM 1986): the key of a
//! number is reached from the root by one step for each of its bits. To take a number's key away, its path is replaced by
//! the subtrees that leave the path: every other key can still be computed, this one cannot, by anybody who holds what is
//! left. A person's data key is wrapped under such a key, so a person who was erased stays erased in every copy of the
//! database, and nobody else is.

use std::collections::BTreeMap;

use aws_lc_rs::hmac;
use bartizan_model::Entropy;
use zeroize::Zeroizing;

use crate::ring::{KEY, KeyBytes, fresh};

/// Bits of a number, and the depth of the tree.
const DEPTH: u8 = 64;

/// A root, whole or punctured.
#[derive(Clone)]
pub struct Punctured {
    id: String,
    /// Subtrees that are left, by depth and the leading bits that lead there, those to the left of them zero.
    left: BTreeMap<(u8, u64), KeyBytes>,
}

impl Punctured {
    /// A whole root.
    pub fn new(entropy: &dyn Entropy) -> Self {
        Self::of(fresh(entropy))
    }

    /// The whole root that `seed` stands for.
    pub fn of(seed: KeyBytes) -> Self {
        let mut id = hex::encode(step(&seed, b"id").as_ref());
        id.truncate(8);
        Self { id, left: BTreeMap::from([((0, 0), seed)]) }
    }

    /// What was written down of one: see [`Self::parts`].
    pub fn from_parts(id: String, left: BTreeMap<(u8, u64), KeyBytes>) -> Self {
        Self { id, left }
    }

    /// Its subtrees, to be written down.
    pub fn parts(&self) -> impl Iterator<Item = (u8, u64, &[u8; KEY])> {
        self.left.iter().map(|((depth, bits), seed)| (*depth, *bits, &**seed))
    }

    /// Names the root, and says nothing of it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The key of `number`; `None` once it was taken away.
    pub fn key(&self, number: u64) -> Option<KeyBytes> {
        let (depth, seed) = self.subtree(number)?;
        let mut seed = seed.clone();
        for depth in depth..DEPTH {
            seed = child(&seed, bit(number, depth));
        }
        Some(step(&seed, b"leaf"))
    }

    /// Takes the key of `number` away. `false` if it was gone.
    pub fn puncture(&mut self, number: u64) -> bool {
        let Some((from, seed)) = self.subtree(number).map(|(depth, seed)| (depth, seed.clone())) else {
            return false;
        };
        self.left.remove(&(from, prefix(number, from)));
        let mut seed = seed;
        for depth in from..DEPTH {
            let taken = bit(number, depth);
            let other = prefix(number, depth) << 1 | u64::from(!taken);
            self.left.insert((depth + 1, other), child(&seed, !taken));
            seed = child(&seed, taken);
        }
        true
    }

    fn subtree(&self, number: u64) -> Option<(u8, &KeyBytes)> {
        (0..=DEPTH).find_map(|depth| Some((depth, self.left.get(&(depth, prefix(number, depth)))?)))
    }
}

/// The leading `depth` bits of `number`.
fn prefix(number: u64, depth: u8) -> u64 {
    number.checked_shr(u32::from(DEPTH - depth)).unwrap_or(0)
}

/// The bit of `number` that leads from `depth` to the next.
fn bit(number: u64, depth: u8) -> bool {
    number >> (DEPTH - 1 - depth) & 1 == 1
}

fn child(seed: &KeyBytes, right: bool) -> KeyBytes {
    step(seed, if right { b"1" } else { b"0" })
}

fn step(seed: &KeyBytes, word: &[u8]) -> KeyBytes {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, seed.as_ref()), word);
    let mut out = Zeroizing::new([0; KEY]);
    for (to, from) in out.iter_mut().zip(tag.as_ref()) {
        *to = *from;
    }
    out
}

#[cfg(test)]
mod tests {
    use bartizan_model::SeededEntropy;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_taken_away_is_gone_and_nothing_else_is() {
        let whole = Punctured::new(&SeededEntropy::new(1));
        let numbers = [0, 1, u64::MAX, u64::MAX - 1, 1 << 63, 0x0123_4567_89ab_cdef];
        for gone in numbers {
            let mut holed = whole.clone();
            assert!(holed.puncture(gone) && !holed.puncture(gone));
            assert_eq!(holed.id(), whole.id());
            for number in numbers {
                let expected = whole.key(number).filter(|_| number != gone);
                assert_eq!(holed.key(number), expected, "{number} after {gone}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_set_of_holes_leaves_the_rest(gone in prop::collection::vec(any::<u64>(), 0..8), others in prop::collection::vec(any::<u64>(), 8)) {
            let whole = Punctured::new(&SeededEntropy::new(7));
            let mut holed = whole.clone();
            for number in &gone { holed.puncture(*number); }
            for number in &gone { prop_assert!(holed.key(*number).is_none()); }
            for number in others.iter().filter(|n| !gone.contains(n)) {
                prop_assert_eq!(holed.key(*number), whole.key(*number));
            }
            // What is left says nothing of the path: no seed on it is kept.
            let seeds: Vec<_> = holed.parts().map(|(depth, bits, _)| (depth, bits)).collect();
            for number in &gone {
                let on_path = |d: u8, b: u64| prefix(*number, d) == b;
                prop_assert!(seeds.iter().all(|(d, b)| !on_path(*d, *b)));
            }
        }
    }
}
