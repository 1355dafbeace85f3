//! Figures on labelled texts: how much is found, how much honest text is hit, how long it takes.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    finding::{Category, Severity},
    fragment::Kind,
    verdict::Verdict,
};

/// One line of a data set (JSON Lines); other members are ignored.
#[derive(Clone, Debug, Deserialize)]
pub struct Row {
    /// The text.
    pub text: String,
    /// 1 if it is an attack.
    pub label: u8,
    /// `tool_description`, `tool_result`, `document`, `code`, `user_prompt`, or a [`Kind`].
    pub kind: String,
}

impl Row {
    /// What the text is; a kind that is not known counts as a result.
    pub fn kind(&self) -> Kind {
        match self.kind.as_str() {
            "tool_description" | "definition" => Kind::Definition,
            "code" => Kind::Code,
            "user_prompt" | "client-text" => Kind::ClientText,
            "question" => Kind::Question,
            _ => Kind::Result,
        }
    }
}

/// How one row was judged.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The data set it is from.
    pub set: String,
    /// Whether it is an attack.
    pub attack: bool,
    /// Higher is worse; only the order counts.
    pub score: f32,
    /// Findings of medium severity and more, whatever their action.
    pub noticed: bool,
    /// It did not pass, or not unchanged.
    pub stopped: bool,
    /// How long judging it took.
    pub took: Duration,
    /// Bytes judged.
    pub bytes: usize,
}

/// A score for a verdict: the worst severity among findings about injection, and a detector's score within it.
pub fn score(verdict: &Verdict) -> f32 {
    let relevant = verdict
        .findings
        .iter()
        .map(|judged| &judged.finding)
        .filter(|finding| !matches!(finding.category, Category::PersonalData | Category::Secret));
    relevant
        .map(|finding| {
            let rank = match finding.severity {
                Severity::Low => 1.0,
                Severity::Medium => 2.0,
                Severity::High => 3.0,
                Severity::Critical => 4.0,
            };
            // Any score, squeezed below one step.
            rank + finding.score.map_or(0.5, |score| 0.5 + score.atan() / std::f32::consts::PI * 0.99)
        })
        .fold(0.0, f32::max)
}

/// Figures of one data set.
#[derive(Clone, Debug, Serialize)]
pub struct SetFigures {
    /// Rows.
    pub rows: usize,
    /// Attacks among them.
    pub attacks: usize,
    /// Area under the curve of these attacks against the honest rows of all sets; none without either.
    pub auroc: Option<f64>,
    /// Share of attacks, or of honest rows in a set without attacks, above the score that 1 % of all honest rows exceed.
    pub at_1_percent: f64,
    /// The same at 0.1 %.
    pub at_01_percent: f64,
    /// Share noticed at the settings in force: medium findings and worse.
    pub noticed: f64,
    /// Rows stopped at the settings in force.
    pub stopped: usize,
}

/// Figures of all data sets.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// By data set.
    pub sets: BTreeMap<String, SetFigures>,
    /// Half of all rows took less, in microseconds.
    pub median_us: f64,
    /// 99 % of all rows took less, in microseconds.
    pub p99_us: f64,
    /// Megabytes a second over all rows.
    pub mb_per_s: f64,
}

impl Figures {
    /// Counts `samples`.
    pub fn of(samples: &[Sample]) -> Self {
        let mut benign: Vec<f32> = samples.iter().filter(|s| !s.attack).map(|s| s.score).collect();
        benign.sort_by(f32::total_cmp);
        let (one, tenth) = (threshold(&benign, 0.01), threshold(&benign, 0.001));
        let mut by_set: BTreeMap<String, Vec<&Sample>> = BTreeMap::new();
        for sample in samples {
            by_set.entry(sample.set.clone()).or_default().push(sample);
        }
        let sets = by_set
            .into_iter()
            .map(|(set, samples)| (set, set_figures(&samples, &benign, one, tenth)))
            .collect();
        let mut times: Vec<Duration> = samples.iter().map(|s| s.took).collect();
        times.sort();
        let at = |share: f64| {
            let index = share_of(times.len(), share).min(times.len().saturating_sub(1));
            times.get(index).map_or(0.0, |t| t.as_secs_f64() * 1e6)
        };
        let seconds: f64 = times.iter().map(Duration::as_secs_f64).sum();
        let bytes: usize = samples.iter().map(|s| s.bytes).sum();
        let mb_per_s = if seconds > 0.0 { as_f64(bytes) / 1e6 / seconds } else { 0.0 };
        Self { sets, median_us: at(0.5), p99_us: at(0.99), mb_per_s }
    }

    /// A table for people.
    pub fn table(&self) -> String {
        let mut out = String::from(
            "set                            rows attacks   AUROC   @1 %  @0.1 %  noticed  stopped\n",
        );
        for (set, figures) in &self.sets {
            let auroc = figures.auroc.map_or("–".to_owned(), |auroc| format!("{auroc:.3}"));
            // Writing to a string does not fail.
            let _ = writeln!(
                out,
                "{set:<30} {:>4} {:>7}   {auroc:>5}  {:>5.3}   {:>5.3}    {:>5.3}  {:>7}",
                figures.rows,
                figures.attacks,
                figures.at_1_percent,
                figures.at_01_percent,
                figures.noticed,
                figures.stopped
            );
        }
        let _ = writeln!(
            out,
            "per text: median {:.0} µs, 99 % below {:.0} µs; {:.0} MB/s",
            self.median_us, self.p99_us, self.mb_per_s
        );
        out
    }
}

fn set_figures(samples: &[&Sample], benign: &[f32], one: f32, tenth: f32) -> SetFigures {
    let attacks: Vec<f32> = samples.iter().filter(|s| s.attack).map(|s| s.score).collect();
    let counted: Vec<&&Sample> = samples.iter().filter(|s| s.attack || attacks.is_empty()).collect();
    let share = |is: &dyn Fn(&Sample) -> bool| {
        as_f64(counted.iter().filter(|s| is(s)).count()) / as_f64(counted.len().max(1))
    };
    SetFigures {
        rows: samples.len(),
        attacks: attacks.len(),
        auroc: auroc(&attacks, benign),
        at_1_percent: share(&|s| s.score > one),
        at_01_percent: share(&|s| s.score > tenth),
        noticed: share(&|s| s.noticed),
        stopped: samples.iter().filter(|s| s.stopped).count(),
    }
}

/// The smallest score that at most `share` of `benign` (sorted) exceed.
fn threshold(benign: &[f32], share: f64) -> f32 {
    let allowed = share_of(benign.len(), share);
    benign
        .len()
        .checked_sub(allowed + 1)
        .and_then(|index| benign.get(index))
        .copied()
        .unwrap_or(f32::NEG_INFINITY)
}

/// The chance that an attack scores above an honest text, ties counting half (Mann and Whitney 1947).
fn auroc(attacks: &[f32], benign: &[f32]) -> Option<f64> {
    if attacks.is_empty() || benign.is_empty() {
        return None;
    }
    let wins: f64 = attacks
        .iter()
        .map(|score| {
            let below = benign.partition_point(|b| b < score);
            let equal = benign.partition_point(|b| b <= score) - below;
            as_f64(below) + as_f64(equal) / 2.0
        })
        .sum();
    Some(wins / as_f64(attacks.len()) / as_f64(benign.len()))
}

#[expect(clippy::cast_precision_loss, reason = "counts of rows and bytes are far below 2⁵³")]
fn as_f64(count: usize) -> f64 {
    count as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a length is within it"
)]
fn share_of(length: usize, share: f64) -> usize {
    (as_f64(length) * share).floor() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(set: &str, attack: bool, score: f32) -> Sample {
        let took = Duration::from_micros(10);
        Sample {
            set: set.to_owned(),
            attack,
            score,
            noticed: score >= 2.0,
            stopped: score >= 3.0,
            took,
            bytes: 100,
        }
    }

    #[test]
    fn figures_of_a_small_set_are_those_counted_by_hand() {
        let mut samples: Vec<_> =
            (0..1_000_u16).map(|i| sample("honest", false, f32::from(i) / 1_000.0)).collect();
        samples.extend([0.5, 0.995, 0.9999, 3.5].map(|score| sample("attacks", true, score)));
        let figures = Figures::of(&samples);
        let attacks = &figures.sets["attacks"];
        assert_eq!((attacks.rows, attacks.attacks, attacks.stopped), (4, 4, 1));
        assert!((attacks.at_1_percent - 0.75).abs() < 1e-9 && (attacks.at_01_percent - 0.5).abs() < 1e-9);
        // 0.5 beats 500 and ties with one, 0.995 beats 995 and ties, the others beat all.
        let expected = (500.5 + 995.5 + 1_000.0 + 1_000.0) / 4_000.0;
        assert!((attacks.auroc.unwrap() - expected).abs() < 1e-9);
        let honest = &figures.sets["honest"];
        assert!(honest.auroc.is_none() && (honest.at_1_percent - 0.01).abs() < 1e-9);
        assert!((figures.mb_per_s - 10.0).abs() < 1e-6);
        assert!(figures.table().contains("attacks"));
    }

    #[test]
    fn no_rows_give_no_figures_and_no_fault() {
        let figures = Figures::of(&[]);
        assert!(figures.sets.is_empty());
    }
}
