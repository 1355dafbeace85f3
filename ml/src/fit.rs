//! Logistic regression by AdaGrad (Duchi, Hazan, Singer 2011): one thread, seeded, only operations that IEEE 754 defines
//! exactly, so that the same data give the same bytes everywhere.

use bartizan_shield::classifier::ngrams::BUCKETS;

use crate::{
    random::Random,
    samples::{Sample, Samples},
};

/// How to fit.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub seed: u64,
    pub epochs: u8,
    /// Step size of AdaGrad.
    pub rate: f32,
    /// What a weight keeps from one epoch to the next; below 1 it is L2 regularisation.
    pub keep: f32,
}

/// Weights in the order of [`Samples::ngrams`], and a bias.
pub struct Fitted {
    pub weights: Vec<f32>,
    pub bias: f32,
}

/// A weight with the sum of its squared gradients, side by side because they are used together.
#[derive(Clone, Copy)]
struct Cell {
    weight: f32,
    squares: f32,
}

impl Cell {
    fn step(&mut self, gradient: f32, rate: f32) {
        self.squares += gradient * gradient;
        self.weight -= rate * gradient / (self.squares.sqrt() + 1e-6);
    }
}

/// Fits the model: an n-gram's value is its count over the square root of the window's n-grams.
pub fn fit(samples: &Samples, settings: Settings) -> Fitted {
    let mut cells = vec![Cell { weight: 0.0, squares: 0.0 }; 2 * BUCKETS];
    let mut bias = Cell { weight: 0.0, squares: 0.0 };
    let mut means = vec![0.0; cells.len()];
    let mut mean_bias = 0.0;
    let averaged = f32::from(settings.epochs - settings.epochs / 2);
    let mut order = samples.windows.clone();
    let mut random = Random::new(settings.seed);
    for epoch in 0..settings.epochs {
        random.shuffle(&mut order);
        for sample in &order {
            let ngrams = ngrams(samples, *sample);
            let value = 1.0 / length(ngrams).sqrt();
            let sum: f32 =
                ngrams.iter().filter_map(|index| cells.get(*index as usize)).map(|c| c.weight).sum();
            let target = if sample.attack { 1.0 } else { 0.0 };
            let error = (logistic(sum * value + bias.weight) - target) * sample.weight;
            if error.abs() < 1e-4 {
                continue;
            }
            bias.step(error, settings.rate * 0.1);
            let gradient = error * value;
            for index in ngrams {
                if let Some(cell) = cells.get_mut(*index as usize) {
                    cell.step(gradient, settings.rate);
                }
            }
        }
        // The mean over the later epochs is steadier than the last step (Polyak, Juditsky 1992).
        if epoch >= settings.epochs / 2 {
            for (mean, cell) in means.iter_mut().zip(&cells) {
                *mean += cell.weight / averaged;
            }
            mean_bias += bias.weight / averaged;
        }
        for cell in &mut cells {
            cell.weight *= settings.keep;
        }
    }
    Fitted { weights: means, bias: mean_bias }
}

fn ngrams(samples: &Samples, sample: Sample) -> &[u32] {
    samples.ngrams.get(sample.start..sample.end).unwrap_or_default()
}

#[expect(clippy::cast_precision_loss, reason = "a window holds some thousand n-grams, all exact in f32")]
const fn length(ngrams: &[u32]) -> f32 {
    ngrams.len() as f32
}

/// 1 / (1 + e^-x), without the system's `exp`, which differs between machines in the last bit.
fn logistic(x: f32) -> f32 {
    let x = x.clamp(-30.0, 30.0);
    // e^-x = (e^(-x/1024))^1024, and the Taylor series of so small an argument is short.
    let small = f64::from(-x) / 1024.0;
    let mut power = 1.0 + small * (1.0 + small * (0.5 + small * (1.0 / 6.0 + small / 24.0)));
    for _ in 0..10 {
        power *= power;
    }
    #[expect(clippy::cast_possible_truncation, reason = "a number between 0 and 1")]
    let probability = (1.0 / (1.0 + power)) as f32;
    probability
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logistic_function_is_right_to_six_digits() {
        for step in -300_i16..=300 {
            let x = f32::from(step) / 10.0;
            let expected = 1.0 / (1.0 + (-f64::from(x)).exp());
            assert!((f64::from(logistic(x)) - expected).abs() < 1e-6, "{x}");
        }
    }
}
