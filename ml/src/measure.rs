//! Figures: area under the curve, recall at a rate of false positives.

/// The chance that an attack scores above a harmless text, ties counting half.
pub fn auroc(attacks: &[f32], harmless: &[f32]) -> f64 {
    let mut sorted = harmless.to_vec();
    sorted.sort_by(f32::total_cmp);
    let below = |score: f32| {
        let lower = sorted.partition_point(|other| *other < score);
        let upper = sorted.partition_point(|other| *other <= score);
        ratio(lower + upper, 2 * sorted.len())
    };
    attacks.iter().map(|score| below(*score)).sum::<f64>() / float(attacks.len())
}

/// The lowest threshold that at most `rate` of `harmless` reach.
pub fn threshold_at(harmless: &[f32], rate: f64) -> f32 {
    let mut sorted = harmless.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a count")]
    let allowed = (float(sorted.len()) * rate).floor() as usize;
    // One more than is allowed would reach its score, so the threshold lies above it.
    sorted.get(allowed).map_or(f32::MAX, |score| score.next_up())
}

/// The share of `scores` that reach `threshold`.
pub fn share_at(scores: &[f32], threshold: f32) -> f64 {
    ratio(count_at(scores, threshold), scores.len())
}

/// How many of `scores` reach `threshold`.
pub fn count_at(scores: &[f32], threshold: f32) -> usize {
    scores.iter().filter(|score| **score >= threshold).count()
}

fn ratio(part: usize, whole: usize) -> f64 {
    float(part) / float(whole.max(1))
}

#[expect(clippy::cast_precision_loss, reason = "counts of documents")]
pub const fn float(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_agree_with_a_case_counted_by_hand() {
        let harmless: Vec<f32> = (0..1000_u16).map(f32::from).collect();
        let at_one_percent = threshold_at(&harmless, 0.01);
        assert_eq!(count_at(&harmless, at_one_percent), 10);
        assert_eq!(count_at(&harmless, threshold_at(&harmless, 0.0)), 0);
        assert!((auroc(&[999.5, -1.0, 499.0], &harmless) - (1.0 + 0.0 + 0.4995) / 3.0).abs() < 1e-9);
        assert!((share_at(&[1.0, 2.0, 3.0, 4.0], 3.0) - 0.5).abs() < 1e-9);
    }
}
