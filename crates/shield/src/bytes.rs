//! Looking for single bytes, many at a step.

/// Bytes looked at together, fewer than a byte can count.
pub const STRETCH: usize = 64;

/// Bytes looked at one by one first: where what is looked for stands close together, steps would be in the way.
const NEAR: usize = 8;

/// Where in `bytes` the first one stands that `is` it. If `is` does without branches, compilers take sixteen bytes and more at
/// once.
#[inline]
pub fn first(bytes: &[u8], is: impl Fn(u8) -> bool) -> Option<usize> {
    let (near, far) = bytes.split_at(bytes.len().min(NEAR));
    if let Some(at) = near.iter().position(|byte| is(*byte)) {
        return Some(at);
    }
    // No way out in the middle of a stretch: that is what makes it fast.
    let stretch =
        far.chunks(STRETCH).position(|stretch| stretch.iter().fold(false, |any, byte| any | is(*byte)))?;
    let start = stretch * STRETCH;
    let at = far.get(start..)?.iter().position(|byte| is(*byte))?;
    Some(NEAR + start + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_found_wherever_it_stands() {
        let mut bytes = [b'.'; 3 * STRETCH];
        assert_eq!(first(&bytes, |b| b == b'!'), None);
        assert_eq!(first(b"", |_| true), None);
        for at in (0..bytes.len()).rev() {
            bytes[at] = b'!';
            assert_eq!(first(&bytes, |b| b == b'!'), Some(at));
            assert_eq!(first(&bytes[..=at], |b| b == b'!'), Some(at));
            assert_eq!(first(&bytes[..at], |b| b == b'!'), None);
        }
    }
}
