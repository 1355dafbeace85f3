//! From fitted weights to the file the shield embeds.

use bartizan_shield::classifier::{FILE, Kind, MAGIC};

use crate::fit::Fitted;

/// Weights beyond this many times their root mean square are cut, so that a few do not coarsen the rest.
const CLIP: f32 = 12.0;

/// The model file; `thresholds` in the order of [`Kind::ALL`].
pub fn file(fitted: &Fitted, thresholds: [f32; Kind::ALL.len()]) -> Vec<u8> {
    let step = step(&fitted.weights);
    let mut file = Vec::with_capacity(FILE);
    file.extend(MAGIC);
    for number in [step, fitted.bias].into_iter().chain(thresholds) {
        file.extend(number.to_le_bytes());
    }
    #[expect(clippy::cast_possible_truncation, reason = "clamped to the range of i8")]
    let quantised = |weight: &f32| (weight / step).round().clamp(-127.0, 127.0) as i8;
    file.extend(fitted.weights.iter().map(quantised).map(i8::cast_unsigned));
    file
}

/// What one unit of a quantised weight is worth.
fn step(weights: &[f32]) -> f32 {
    let used = weights.iter().filter(|weight| **weight != 0.0);
    let (count, squares) =
        used.fold((0.0_f64, 0.0_f64), |(count, sum), w| (count + 1.0, sum + f64::from(*w).powi(2)));
    #[expect(clippy::cast_possible_truncation, reason = "a weight, as all of them")]
    let root_mean_square = (squares / count.max(1.0)).sqrt() as f32;
    let largest = weights.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
    (root_mean_square * CLIP).min(largest).max(f32::MIN_POSITIVE * 127.0) / 127.0
}
