//! The Merkle tree of RFC 9162 §2.1, kept as its right edge.
//!
//! A log of any length is summed up by at most 64 hashes ([`Frontier`]); proofs are computed by streaming the leaves
//! once ([`Proof`]), so neither needs the tree in memory.

use std::{fmt, ops::Range};

use aws_lc_rs::digest::{Context, SHA256, digest};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

/// A SHA-256 hash of a leaf, a node or a whole tree. As text: standard Base64, padded.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hash([u8; 32]);

/// A text that is not the Base64 of 32 bytes.
#[derive(Debug, thiserror::Error)]
#[error("a hash is 32 bytes in standard Base64")]
pub struct InvalidHash;

impl Hash {
    /// The root of the tree without leaves (RFC 9162 §2.1.1).
    pub fn empty() -> Self {
        Self::of(digest(&SHA256, b"").as_ref())
    }

    /// The hash of one entry: `SHA-256(0x00 || entry)` (RFC 9162 §2.1.1).
    pub fn leaf(entry: &[u8]) -> Self {
        let mut hasher = Context::new(&SHA256);
        hasher.update(&[0]);
        hasher.update(entry);
        Self::of(hasher.finish().as_ref())
    }

    /// The hash over two subtrees: `SHA-256(0x01 || left || right)` (RFC 9162 §2.1.1).
    pub fn node(left: Self, right: Self) -> Self {
        let mut hasher = Context::new(&SHA256);
        hasher.update(&[1]);
        hasher.update(&left.0);
        hasher.update(&right.0);
        Self::of(hasher.finish().as_ref())
    }

    /// The hash with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The hash's bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn of(sum: &[u8]) -> Self {
        Self(sum.try_into().expect("SHA-256 gives 32 bytes"))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Hash {
    type Err = InvalidHash;

    fn from_str(text: &str) -> Result<Self, InvalidHash> {
        let bytes = STANDARD.decode(text).map_err(|_| InvalidHash)?;
        Ok(Self(bytes.try_into().map_err(|_| InvalidHash)?))
    }
}

impl TryFrom<String> for Hash {
    type Error = InvalidHash;

    fn try_from(text: String) -> Result<Self, InvalidHash> {
        text.parse()
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> Self {
        hash.to_string()
    }
}

/// The right edge of a tree: one root per perfect subtree, widest first.
///
/// Subtree `i` covers as many leaves as the `i`-th highest set bit of the size says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    subtrees: Vec<Hash>,
}

impl Frontier {
    /// The edge of a tree of `size` leaves, if there are as many subtrees as such a tree has.
    pub fn from_parts(size: u64, subtrees: Vec<Hash>) -> Option<Self> {
        (u32::try_from(subtrees.len()) == Ok(size.count_ones())).then_some(Self { size, subtrees })
    }

    /// How many leaves the tree has.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The roots of the perfect subtrees, widest first.
    pub fn subtrees(&self) -> &[Hash] {
        &self.subtrees
    }

    /// Adds a leaf.
    pub fn push(&mut self, leaf: Hash) {
        let mut right = leaf;
        // Every trailing one of the size is a subtree as wide as what we carry.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.subtrees.pop() {
                right = Hash::node(left, right);
            }
        }
        self.subtrees.push(right);
        self.size += 1;
    }

    /// The root of the tree (RFC 9162 §2.1.1).
    pub fn root(&self) -> Hash {
        let edge = self.subtrees.iter().rev().copied();
        edge.reduce(|right, left| Hash::node(left, right)).unwrap_or_else(Hash::empty)
    }

    /// The perfect subtrees with the leaves each covers.
    fn covered(&self) -> impl Iterator<Item = (Range<u64>, Hash)> {
        let mut from = 0;
        let widths = (0..64).rev().map(|bit| 1_u64 << bit).filter(|width| self.size & width != 0);
        widths.zip(&self.subtrees).map(move |(width, hash)| {
            let range = from..from + width;
            from += width;
            (range, *hash)
        })
    }
}

/// A proof under way: which subtrees it needs, and what is known of each. Feed it every leaf, in order, from
/// [`Frontier::size`] of the edge it started from.
#[derive(Debug)]
pub struct Proof {
    parts: Vec<Part>,
    next: u64,
}

#[derive(Debug)]
struct Part {
    range: Range<u64>,
    tree: Frontier,
}

impl Proof {
    /// That leaf `index` is in the tree of `size` leaves (RFC 9162 §2.1.3.1). `edge` stands for the leaves that are no
    /// longer at hand; it may be empty. `None` unless `edge.size() <= index < size`.
    pub fn inclusion(index: u64, size: u64, edge: &Frontier) -> Option<Self> {
        if index >= size || index < edge.size() {
            return None;
        }
        let mut ranges = Vec::new();
        inclusion_ranges(index, 0..size, &mut ranges);
        Self::over(ranges, edge)
    }

    /// That the tree of `old` leaves is a prefix of the tree of `new` (RFC 9162 §2.1.4.1). `None` unless
    /// `0 < old <= new` and `edge.size() <= old`.
    pub fn consistency(old: u64, new: u64, edge: &Frontier) -> Option<Self> {
        if old == 0 || old > new || old < edge.size() {
            return None;
        }
        let mut ranges = Vec::new();
        if old < new {
            consistency_ranges(old, 0..new, true, &mut ranges);
        }
        Self::over(ranges, edge)
    }

    fn over(ranges: Vec<Range<u64>>, edge: &Frontier) -> Option<Self> {
        let mut parts = Vec::with_capacity(ranges.len());
        for range in ranges {
            let mut tree = Frontier::default();
            // INVARIANT: a range is aligned to its own width, so the subtrees of `edge` inside it are whole, and they
            // are the edge of the part of it that lies before `edge.size()`.
            for (covered, hash) in edge.covered() {
                if covered.start >= range.start && covered.end <= range.end {
                    tree.size += covered.end - covered.start;
                    tree.subtrees.push(hash);
                } else if covered.start < range.end && covered.end > range.start {
                    return None;
                }
            }
            parts.push(Part { range, tree });
        }
        Some(Self { parts, next: edge.size() })
    }

    /// Takes the next leaf.
    pub fn push(&mut self, leaf: Hash) {
        for part in &mut self.parts {
            if part.range.contains(&self.next) {
                part.tree.push(leaf);
            }
        }
        self.next += 1;
    }

    /// The proof, if every leaf it needs has been seen.
    pub fn finish(self) -> Option<Vec<Hash>> {
        let whole = |part: &Part| part.tree.size() == part.range.end - part.range.start;
        self.parts.iter().all(whole).then(|| self.parts.iter().map(|part| part.tree.root()).collect())
    }
}

/// PATH(m, D\[n]) as ranges of leaves, nearest sibling first.
fn inclusion_ranges(index: u64, tree: Range<u64>, out: &mut Vec<Range<u64>>) {
    let Some(split) = split(&tree) else { return };
    if index < split {
        inclusion_ranges(index, tree.start..split, out);
        out.push(split..tree.end);
    } else {
        inclusion_ranges(index, split..tree.end, out);
        out.push(tree.start..split);
    }
}

/// SUBPROOF(m, D\[n], b) as ranges of leaves.
fn consistency_ranges(old: u64, tree: Range<u64>, known: bool, out: &mut Vec<Range<u64>>) {
    if old == tree.end {
        if !known {
            out.push(tree);
        }
        return;
    }
    let Some(split) = split(&tree) else { return };
    if old <= split {
        consistency_ranges(old, tree.start..split, known, out);
        out.push(split..tree.end);
    } else {
        consistency_ranges(old, split..tree.end, false, out);
        out.push(tree.start..split);
    }
}

/// Where a tree of more than one leaf splits: the largest power of two below its width (RFC 9162 §2.1.1).
fn split(tree: &Range<u64>) -> Option<u64> {
    let width = tree.end - tree.start;
    (width > 1).then(|| tree.start + (1 << (width - 1).ilog2()))
}

/// Whether `proof` shows that `leaf` is number `index` of the tree of `size` leaves with this `root`
/// (RFC 9162 §2.1.3.2).
pub fn verify_inclusion(leaf: Hash, index: u64, size: u64, proof: &[Hash], root: Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut from, mut last, mut hash) = (index, size - 1, leaf);
    for &sibling in proof {
        if last == 0 {
            return false;
        }
        if from & 1 == 1 || from == last {
            hash = Hash::node(sibling, hash);
            while from & 1 == 0 && from != 0 {
                from >>= 1;
                last >>= 1;
            }
        } else {
            hash = Hash::node(hash, sibling);
        }
        from >>= 1;
        last >>= 1;
    }
    last == 0 && hash == root
}

/// Whether `proof` shows that the tree of `old.0` leaves with root `old.1` is a prefix of the tree of `new.0` leaves
/// with root `new.1` (RFC 9162 §2.1.4.2).
pub fn verify_consistency(old: (u64, Hash), new: (u64, Hash), proof: &[Hash]) -> bool {
    if old.0 == new.0 {
        return proof.is_empty() && old.1 == new.1;
    }
    if old.0 == 0 || old.0 > new.0 {
        return false;
    }
    // A perfect old tree is its own first node.
    let start = old.0.is_power_of_two().then_some(old.1);
    let mut nodes = start.into_iter().chain(proof.iter().copied());
    let Some(first) = nodes.next() else { return false };
    let mut from = old.0 - 1;
    let mut last = new.0 - 1;
    while from & 1 == 1 {
        from >>= 1;
        last >>= 1;
    }
    let (mut before, mut after) = (first, first);
    for node in nodes {
        if last == 0 {
            return false;
        }
        if from & 1 == 1 || from == last {
            before = Hash::node(node, before);
            after = Hash::node(node, after);
            while from & 1 == 0 && from != 0 {
                from >>= 1;
                last >>= 1;
            }
        } else {
            after = Hash::node(after, node);
        }
        from >>= 1;
        last >>= 1;
    }
    last == 0 && before == old.1 && after == new.1
}

#[cfg(test)]
mod tests;
