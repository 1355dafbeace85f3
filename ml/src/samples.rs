//! Documents cut into windows of n-grams, exactly as the shield cuts them.

use bartizan_shield::classifier::{
    SCALES,
    ngrams::{self, BUCKETS, Ngram, Visit},
};

use crate::data::Document;

/// One window: a run of [`Samples::ngrams`].
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub start: usize,
    pub end: usize,
    pub attack: bool,
    /// How much it counts.
    pub weight: f32,
}

/// Windows of many documents. Neighbouring windows share the n-grams of their common block.
#[derive(Default)]
pub struct Samples {
    /// Weight indices: word buckets, then character buckets.
    pub ngrams: Vec<u32>,
    pub windows: Vec<Sample>,
}

impl Samples {
    /// Adds the windows of `document`, each with `weight`.
    ///
    /// In a document that hides an attack, windows that hold most of it (or are mostly made of it) are attacks, windows
    /// without any of it are harmless, and the ones between teach nothing.
    pub fn add(&mut self, document: &Document, weight: f32) {
        let text = document.text();
        let attack = document.before.len()..document.before.len() + document.attack.len();
        let first = (self.ngrams.len(), 0);
        let mut blocks = Blocks { ngrams: &mut self.ngrams, ends: vec![first], last_is_whole: true };
        ngrams::scan(&text, &mut blocks);
        let Blocks { ends, last_is_whole, .. } = blocks;
        for (last, &(end, end_byte)) in ends.iter().enumerate().skip(1) {
            let mut before = last;
            for scale in SCALES {
                // Near the beginning, longer windows hold the same blocks.
                if before == 0 {
                    break;
                }
                before = last.saturating_sub(scale);
                if scale == 1 && before > 0 && last + 1 == ends.len() && !last_is_whole {
                    continue;
                }
                let Some(&(start, start_byte)) = ends.get(before) else { break };
                let common = end_byte.min(attack.end).saturating_sub(attack.start.max(start_byte));
                let share = |of: usize| common * 10 >= of * 6;
                if start < end && (common == 0 || share(attack.len()) || share(end_byte - start_byte)) {
                    self.windows.push(Sample { start, end, attack: common > 0, weight });
                }
            }
        }
    }
}

struct Blocks<'s> {
    ngrams: &'s mut Vec<u32>,
    /// Where each block ends: in the n-grams, in the text.
    ends: Vec<(usize, usize)>,
    last_is_whole: bool,
}

impl Visit for Blocks<'_> {
    fn ngram(&mut self, ngram: Ngram) {
        let index = match ngram {
            Ngram::Word(bucket) => bucket,
            Ngram::Characters(bucket) => BUCKETS + bucket,
        };
        self.ngrams.extend(u32::try_from(index));
    }

    fn block(&mut self, end: usize, whole: bool) {
        self.ends.push((self.ngrams.len(), end));
        self.last_is_whole = whole;
    }
}
