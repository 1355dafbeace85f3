//! Text classifiers in ONNX, run in this process by [`rten`] and [`tokenizers`].
//!
//! A model is taken from bytes whose SHA-256 the operator named. What it is is looked at first ([`format`]); then the engine
//! reads it, and it has to do what it is there for: judge a window as long as the configuration says, the tokenizer's last
//! token in it, twice the same. Whoever pins a model gives it as much of a processor and of memory as it takes.

mod format;

use std::{fmt, ops::Range, sync::Arc, time::Duration};

use aws_lc_rs::digest;
use rten::{DataType, Dimension, Model, ModelOptions, NodeId, RunOptions, ThreadPool, Value, ValueType};
use tokenizers::{Encoding, PostProcessor, Tokenizer};

use super::{
    NoOpinion,
    local::{MODEL_BYTES, OnnxModel, PinnedFile, TOKENIZER_BYTES, Task, Window},
};

/// The part of a window's tokens that the next one sees again: an eighth.
const OVERLAP: usize = 8;

/// Why a model is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It is not what was pinned.
    #[error(
        "{what}: its SHA-256 is {found}, not {wanted} as `sha256` says: it was exchanged or damaged; find out which before you \
         change the configuration"
    )]
    Digest {
        /// The field.
        what: &'static str,
        /// What was found.
        found: String,
        /// What was asked for.
        wanted: String,
    },
    /// The engine does not take it.
    #[error("model: the engine cannot load it: {0}")]
    Engine(String),
    /// It needs more files.
    #[error(
        "model: some of its weights are in other files (external data), which nobody pinned; export it as one file, with its \
         weights in it"
    )]
    External,
    /// It is something else.
    #[error("model: {0}")]
    Format(&'static str),
    /// It takes other inputs.
    #[error(
        "model: {0}; it must take `input_ids`, `attention_mask` and perhaps `token_type_ids`, of whole numbers [1, tokens]"
    )]
    Inputs(String),
    /// It brings operators of its own.
    #[error(
        "model: its operator `{operator}` is of the domain `{domain}`, which is no standard one, and is not run"
    )]
    Operator {
        /// The domain.
        domain: String,
        /// Its name.
        operator: String,
    },
    /// It answers something else.
    #[error("model: {0}; it must answer one number for each of `labels`: [1, {1}]")]
    Outputs(String, usize),
    /// It is too large.
    #[error("{0}: it is larger than {1} MiB")]
    Size(&'static str, u64),
    /// The tokenizer does not do.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// It does not work.
    #[error("model: tried with a window of {tokens} tokens, as `max_tokens` says, {why}")]
    Trial {
        /// How long the window was.
        tokens: usize,
        /// What went wrong.
        why: String,
    },
}

/// A model that works.
pub struct Classifier {
    model: Model,
    inputs: Vec<(NodeId, Input)>,
    output: NodeId,
    tokenizer: Tokenizer,
    /// For each output, whether it is an attack.
    attacks: Vec<bool>,
    max_tokens: usize,
    /// Tokens that stand around every text.
    frame: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Input {
    Ids,
    Mask,
    Types,
}

impl fmt::Debug for Classifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Classifier({} labels, {} tokens)", self.attacks.len(), self.max_tokens)
    }
}

/// A processor's time: one thread, on which one window after another is judged, always in the same order of additions.
#[derive(Debug)]
pub struct Lane(Arc<ThreadPool>);

impl Default for Lane {
    fn default() -> Self {
        Self(Arc::new(ThreadPool::with_num_threads(1)))
    }
}

/// Tells how long a task has been worked on; `None` if nobody waits for it any more.
pub type Elapsed<'e> = dyn Fn() -> Option<Duration> + Sync + 'e;

impl Classifier {
    /// The model of these bytes. Takes a second and more.
    ///
    /// # Errors
    /// [`Unfit`], which names the field and what to do.
    pub fn load(settings: &OnnxModel, model: Vec<u8>, tokenizer: &[u8], lane: &Lane) -> Result<Self, Unfit> {
        pinned("model", &settings.model, &model, MODEL_BYTES)?;
        pinned("tokenizer", &settings.tokenizer, tokenizer, TOKENIZER_BYTES)?;
        format::check(&model)?;
        let max_tokens = usize::from(settings.max_tokens);
        let (tokenizer, frame) = read_tokenizer(tokenizer, max_tokens)?;
        let attacks: Vec<bool> = settings.labels.iter().map(|l| settings.attack_labels.contains(l)).collect();
        let model = lane.0.run(|| ModelOptions::with_all_ops().load(model));
        let model = model.map_err(|error| Unfit::Engine(error.to_string()))?;
        let inputs = inputs(&model)?;
        let output = output(&model, attacks.len())?;
        let classifier = Self { model, inputs, output, tokenizer, attacks, max_tokens, frame };
        classifier.try_out(lane)?;
        Ok(classifier)
    }

    /// Judges one piece of a text, one window after another, on the lane's thread.
    ///
    /// # Errors
    /// [`NoOpinion`]: [`TooLong`](NoOpinion::TooLong) if the budget does not do for all of the text's windows.
    pub fn judge(
        &self,
        task: &Task,
        piece: &Range<usize>,
        lane: &Lane,
        elapsed: &Elapsed<'_>,
    ) -> Result<Vec<Window>, NoOpinion> {
        lane.0.run(|| {
            let text = task.text.get(piece.clone()).ok_or(NoOpinion::Malformed("a piece is none"))?;
            let mut windows = Vec::new();
            let mut longest = Duration::ZERO;
            for (range, encoding) in self.windows(text)? {
                let began = elapsed().ok_or(NoOpinion::Late)?;
                if began + longest > task.budget {
                    let is_first = piece.start == 0 && windows.is_empty();
                    return Err(if is_first { NoOpinion::Busy } else { NoOpinion::TooLong });
                }
                let attack = self.attack(&encoding, lane).map_err(NoOpinion::Unreachable)?;
                let took = elapsed().ok_or(NoOpinion::Late)?.saturating_sub(began);
                if took > task.within {
                    return Err(NoOpinion::Late);
                }
                longest = longest.max(took);
                windows.push(Window { range: piece.start + range.start..piece.start + range.end, attack });
            }
            Ok(windows)
        })
    }

    /// The windows of `text`, and which bytes of it they are of. They meet, overlap, and leave out nothing.
    fn windows(&self, text: &str) -> Result<Vec<(Range<usize>, Encoding)>, NoOpinion> {
        let unreadable = |error: tokenizers::Error| NoOpinion::Unreachable(format!("its tokenizer: {error}"));
        let all = self.tokenizer.encode(text, false).map_err(unreadable)?;
        let room = self.max_tokens.saturating_sub(self.frame).max(1);
        let step = room - room / OVERLAP;
        // The last window ends with the last token.
        let count = all.len().saturating_sub(room).div_ceil(step) + 1;
        let window = |number: usize| {
            let tokens = number * step..(number * step + room).min(all.len());
            let first = |at: usize| all.get_offsets().get(at).map_or(text.len(), |(start, _)| *start);
            let start = if number == 0 { 0 } else { first(tokens.start) };
            let last =
                all.get_offsets().get(tokens.clone()).unwrap_or_default().iter().map(|(_, end)| *end).max();
            // What no token stands for, such as spaces, goes with the window before it.
            let end = last.unwrap_or_default().max(first(tokens.end)).max(start).min(text.len());
            let range = text.floor_char_boundary(start)..text.ceil_char_boundary(end);
            let encoding = self.tokenizer.post_process(part(&all, tokens), None, true).map_err(unreadable)?;
            if encoding.len() > self.max_tokens {
                return Err(NoOpinion::Malformed("its tokenizer makes a window too long"));
            }
            Ok((range, encoding))
        };
        (0..count).map(window).collect()
    }

    /// How probably a window is an attack.
    fn attack(&self, window: &Encoding, lane: &Lane) -> Result<f32, String> {
        let logits = self.run(window.get_ids(), window.get_type_ids(), lane)?;
        let attack = match logits.as_slice() {
            [alone] => {
                let yes = sigmoid(*alone);
                if self.attacks.first() == Some(&true) { yes } else { 1.0 - yes }
            }
            all => softmax(all).zip(&self.attacks).filter(|(_, is)| **is).map(|(p, _)| p).sum::<f32>(),
        };
        if attack.is_finite() { Ok(attack.clamp(0.0, 1.0)) } else { Err("it answers no numbers".into()) }
    }

    /// One run of the model over a window without padding; one finite number for each label.
    fn run(&self, ids: &[u32], types: &[u32], lane: &Lane) -> Result<Vec<f32>, String> {
        let numbers = |of: &[u32]| of.iter().map(|n| i32::try_from(*n)).collect::<Result<Vec<_>, _>>();
        let inputs = self.inputs.iter().map(|(node, input)| {
            let data = match input {
                Input::Ids => numbers(ids),
                Input::Mask => Ok(vec![1; ids.len()]),
                Input::Types => numbers(types),
            };
            let data = data.map_err(|_| "a token's number is too large".to_owned())?;
            let value = Value::from_shape([1, ids.len()], data).map_err(|error| error.to_string())?;
            Ok((*node, value.into()))
        });
        let inputs: Vec<_> = inputs.collect::<Result<_, String>>()?;
        let options = RunOptions::default().with_thread_pool(Some(Arc::clone(&lane.0)));
        let [answer] =
            self.model.run_n(inputs, [self.output], Some(options)).map_err(|error| error.to_string())?;
        let (shape, numbers) = answer.into_shape_vec::<f32, 2>().map_err(|error| error.to_string())?;
        if shape != [1, self.attacks.len()] {
            return Err(format!("it answers {shape:?}, not [1, {}]", self.attacks.len()));
        }
        if numbers.iter().any(|number| !number.is_finite()) {
            return Err("it answers what is no number".into());
        }
        Ok(numbers)
    }

    /// Whether it takes the longest window, with the last token that the tokenizer knows, and says the same of it twice.
    fn try_out(&self, lane: &Lane) -> Result<(), Unfit> {
        let last = self.tokenizer.get_vocab(true).into_values().max().unwrap_or_default();
        let unfit = |why: String| Unfit::Trial { tokens: self.max_tokens, why };
        let ids: Vec<u32> = [last, 0].into_iter().cycle().take(self.max_tokens).collect();
        let types = vec![0; ids.len()];
        let once = self.run(&ids, &types, lane).map_err(|error| {
            unfit(format!(
                "it fails: {error} (is `max_tokens` more than it takes, or the tokenizer another model's?)"
            ))
        })?;
        let again = self.run(&ids, &types, lane).map_err(&unfit)?;
        if once.iter().map(|n| n.to_bits()).ne(again.iter().map(|n| n.to_bits())) {
            return Err(unfit("it does not say the same twice".into()));
        }
        Ok(())
    }
}

/// Whether `bytes` are those that were pinned.
fn pinned(what: &'static str, file: &PinnedFile, bytes: &[u8], limit: u64) -> Result<(), Unfit> {
    if bytes.len() as u64 > limit {
        return Err(Unfit::Size(what, limit >> 20));
    }
    let found = digest::digest(&digest::SHA256, bytes);
    if file.digest().is_some_and(|wanted| wanted == found.as_ref()) {
        return Ok(());
    }
    Err(Unfit::Digest { what, found: hex::encode(found), wanted: file.sha256.to_ascii_lowercase() })
}

/// The tokenizer, set to leave texts whole whatever it was set to, and how many tokens it puts around each.
fn read_tokenizer(bytes: &[u8], max_tokens: usize) -> Result<(Tokenizer, usize), Unfit> {
    let unfit = |why: String| Unfit::Tokenizer(why);
    let mut tokenizer =
        Tokenizer::from_bytes(bytes).map_err(|error| unfit(format!("it is no tokenizer.json: {error}")))?;
    let frame = tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
    if frame * 2 > max_tokens {
        return Err(unfit(format!(
            "it puts {frame} tokens around each text, more than half of `max_tokens`"
        )));
    }
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|error| unfit(error.to_string()))?;
    // What a text says of `[SEP]` are letters, not the end of it.
    tokenizer.set_encode_special_tokens(true);
    Ok((tokenizer, frame))
}

/// Some tokens of a text, as if they were all of one.
fn part(all: &Encoding, tokens: Range<usize>) -> Encoding {
    fn of<T: Clone>(all: &[T], tokens: &Range<usize>) -> Vec<T> {
        all.get(tokens.clone()).unwrap_or_default().to_vec()
    }
    Encoding::new(
        of(all.get_ids(), &tokens),
        of(all.get_type_ids(), &tokens),
        of(all.get_tokens(), &tokens),
        of(all.get_word_ids(), &tokens),
        of(all.get_offsets(), &tokens),
        of(all.get_special_tokens_mask(), &tokens),
        of(all.get_attention_mask(), &tokens),
        Vec::new(),
        Default::default(),
    )
}

fn inputs(model: &Model) -> Result<Vec<(NodeId, Input)>, Unfit> {
    let mut inputs = Vec::new();
    for id in model.input_ids() {
        let node = model.node_info(*id).ok_or_else(|| Unfit::Inputs("an input of it is none".into()))?;
        let name = node.name().unwrap_or_default();
        let input = match name {
            "input_ids" => Input::Ids,
            "attention_mask" => Input::Mask,
            "token_type_ids" => Input::Types,
            other => return Err(Unfit::Inputs(format!("it wants an input `{}`", other.escape_debug()))),
        };
        if node.dtype().is_some_and(|dtype| dtype != ValueType::Tensor(DataType::Int32)) {
            return Err(Unfit::Inputs(format!("its input `{name}` is not of whole numbers")));
        }
        match node.shape().as_deref() {
            None | Some([Dimension::Symbolic(_) | Dimension::Fixed(1), Dimension::Symbolic(_)]) => {}
            Some([_, Dimension::Fixed(_)]) => {
                return Err(Unfit::Inputs(format!(
                    "its input `{name}` has a fixed length; export it with a dynamic axis for the tokens"
                )));
            }
            Some(_) => return Err(Unfit::Inputs(format!("its input `{name}` is of another shape"))),
        }
        inputs.push((*id, input));
    }
    for (input, name) in [(Input::Ids, "input_ids"), (Input::Mask, "attention_mask")] {
        if !inputs.iter().any(|(_, has)| *has == input) {
            return Err(Unfit::Inputs(format!("it has no input `{name}`")));
        }
    }
    Ok(inputs)
}

/// The output called `logits`, or the only one.
fn output(model: &Model, labels: usize) -> Result<NodeId, Unfit> {
    let unfit = |why: &str| Unfit::Outputs(why.into(), labels);
    let outputs = model.output_ids();
    let named = |id: &&NodeId| model.node_info(**id).is_some_and(|node| node.name() == Some("logits"));
    let output = match outputs {
        [output] => *output,
        several => *several
            .iter()
            .find(named)
            .ok_or_else(|| unfit("it has several outputs, and none is `logits`"))?,
    };
    let node = model.node_info(output).ok_or_else(|| unfit("its output is none"))?;
    if node.dtype().is_some_and(|dtype| dtype != ValueType::Tensor(DataType::Float)) {
        return Err(unfit("its output is not of numbers with fractions"));
    }
    let fits = match node.shape().as_deref() {
        None => true,
        Some([_, Dimension::Fixed(n)]) => *n == labels,
        Some([_, Dimension::Symbolic(_)]) => true,
        Some(_) => false,
    };
    if fits { Ok(output) } else { Err(unfit("its output has another shape")) }
}

fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

fn softmax(logits: &[f32]) -> impl Iterator<Item = f32> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let raised: Vec<f32> = logits.iter().map(|logit| (logit - most).exp()).collect();
    let sum: f32 = raised.iter().sum();
    raised.into_iter().map(move |one| one / sum)
}

#[cfg(test)]
mod tests;
