//! Trains the shield's n-gram model and measures it: `ml/MODEL_CARD.md` says with what result.

mod data;
mod fit;
mod grammar;
mod measure;
mod model;
mod random;
mod report;
mod samples;
mod train;

use std::{
    error::Error,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use bartizan_shield::classifier::{Classifier, HEADER, Kind, MAGIC};

use train::Corpus;

const USAGE: &str = "usage:
  bartizan-ml train FOLDER OUT      fit on the training sets in FOLDER, write the model file OUT
  bartizan-ml rehearse FOLDER       fit without some sources and goals, and measure on those
  bartizan-ml eval FOLDER [MODEL]   measure the shipped model, or MODEL, on the evaluation sets in FOLDER
  bartizan-ml speed FOLDER          time the shipped model on the harmless texts in FOLDER
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match *arguments {
        ["train", folder, out] => train(Path::new(folder), Path::new(out)),
        ["rehearse", folder] => rehearse(Path::new(folder)),
        ["eval", folder] => eval(Path::new(folder), None),
        ["eval", folder, model] => eval(Path::new(folder), Some(PathBuf::from(model))),
        ["speed", folder] => report::speed(Path::new(folder)),
        _ => {
            let _ = std::io::stderr().write_all(USAGE.as_bytes());
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "bartizan-ml: {error}");
            ExitCode::from(3)
        }
    }
}

fn train(folder: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    let corpus = Corpus::read(folder)?;
    let scores = train::out_of_fold(&corpus)?;
    report::harmless(&scores)?;
    let thresholds = train::thresholds(&scores);
    let (mut file, _) = train::fit_without(&corpus, None, grammar::Goals::All)?;
    let numbers = file.get_mut(MAGIC.len() + 8..HEADER).unwrap_or_default();
    for (bytes, threshold) in numbers.chunks_mut(4).zip(thresholds) {
        bytes.copy_from_slice(&threshold.to_le_bytes());
    }
    fs::write(out, &file)?;
    let mut stdout = std::io::stdout();
    for (kind, threshold) in Kind::ALL.iter().zip(thresholds) {
        writeln!(stdout, "threshold of {kind:?}: {threshold:.3}")?;
    }
    Ok(())
}

fn rehearse(folder: &Path) -> Result<(), Box<dyn Error>> {
    report::rehearsal(&train::rehearsal(&Corpus::read(folder)?)?)
}

fn eval(folder: &Path, model: Option<PathBuf>) -> Result<(), Box<dyn Error>> {
    let read = model.map(fs::read).transpose()?.map(|file| Classifier::parse(&file)).transpose()?;
    report::eval(folder, read.as_ref().unwrap_or_else(|| Classifier::embedded()))
}
