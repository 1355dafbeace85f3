//! What people found wrong with the shield's judgement: a local evaluation set.
//!
//! Each report is a line of its own, sealed under the state folder's key, in a file for us alone: what was reported is text
//! somebody withheld, or should have. `bartizan shield eval --reports` measures on them; nothing is sent anywhere.

use std::process::ExitCode;

use anyhow::{Context, bail};
use bartizan_model::{Clock, SystemClock};
use bartizan_shield::{Category, Config, Fragment, Kind, Scene, Shield};
use bartizan_store::{Quarantine, SealedLines, Sealer};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::TextKind;
use crate::state::State;

/// The file in the state folder.
const FILE: &str = "shield-reports";

/// What a line is sealed as.
const CONTEXT: &[u8] = b"shield report";

/// The longest text that is kept, in bytes.
const LONGEST: usize = 1 << 20;

/// `bartizan shield report`
#[derive(Args)]
#[group(id = "judgement", required = true, multiple = false, args = ["false_positive", "false_negative"])]
pub struct ReportArgs {
    /// The id of a result in quarantine (`bartizan tools quarantine list`), a file, or - for standard input.
    #[arg(value_name = "ID|FILE")]
    what: String,
    /// It is honest, and was stopped or noticed.
    #[arg(long)]
    false_positive: bool,
    /// It is an attack, and passed.
    #[arg(long)]
    false_negative: bool,
    /// What the text is.
    #[arg(long, value_enum, default_value = "result")]
    kind: TextKind,
    /// Cut out the secrets and personal data that the shield finds in it before it is kept.
    #[arg(long)]
    redact: bool,
    #[command(flatten)]
    config: crate::ConfigFile,
}

/// One report.
#[derive(Debug, Serialize, Deserialize, PartialEq)]
pub struct Report {
    /// The text.
    pub text: String,
    /// 1 if it is an attack.
    pub label: u8,
    /// What the text is.
    pub kind: Kind,
    /// When it was reported, in Unix seconds.
    pub at: u64,
}

/// The reports of a state folder.
pub struct Reports {
    lines: SealedLines,
    sealer: std::sync::Arc<Sealer>,
}

/// Where those of a state folder are kept.
pub fn lines(state: &State) -> SealedLines {
    SealedLines::new(state.folder().join(FILE), CONTEXT)
}

impl Reports {
    /// Those in `state`.
    pub async fn of(state: &State) -> anyhow::Result<Self> {
        Ok(Self { lines: lines(state), sealer: state.sealer().await? })
    }

    /// Keeps one more; durable when this returns.
    fn add(&self, report: &Report) -> anyhow::Result<()> {
        let written = self.lines.append(&self.sealer, &serde_json::to_vec(report)?);
        written.with_context(|| format!("cannot write {}", self.lines.path().display()))
    }

    /// All of them, in order.
    pub fn read(&self) -> anyhow::Result<Vec<Report>> {
        let path = self.lines.path().display();
        let lines = self.lines.read(&self.sealer).with_context(|| format!("cannot read {path}"))?;
        let report = |(number, plain): (usize, Option<Vec<u8>>)| {
            let report = plain.and_then(|plain| serde_json::from_slice(&plain).ok());
            report.with_context(|| format!("{path}, line {}, is not as we wrote it", number + 1))
        };
        lines.into_iter().enumerate().map(report).collect()
    }
}

pub fn report(arguments: &ReportArgs) -> anyhow::Result<ExitCode> {
    let state = State::for_config(arguments.config.config.as_deref())?;
    let kind = arguments.kind.into();
    let mut text = text_of(&arguments.what, &state)?;
    if text.len() > LONGEST {
        bail!("a report has at most {LONGEST} bytes; cut out what it is about");
    }
    if arguments.redact {
        text = redacted(&text, kind);
    }
    let reports = crate::runtime()?.block_on(Reports::of(&state))?;
    let label = u8::from(arguments.false_negative);
    reports.add(&Report { text, label, kind, at: SystemClock.now().as_unix() })?;
    crate::say_error(&format!(
        "kept, sealed, in {}; `bartizan shield eval --reports` measures on all {}\n",
        reports.lines.path().display(),
        reports.read()?.len()
    ));
    Ok(ExitCode::SUCCESS)
}

/// A result in quarantine by its id, or else a file.
fn text_of(what: &str, state: &State) -> anyhow::Result<String> {
    let path = std::path::Path::new(what);
    if what == "-" || path.exists() {
        return super::read(path);
    }
    let found = crate::runtime()?.block_on(async {
        let kept = state.quarantine(state.database().await?).await?;
        Ok::<_, anyhow::Error>(kept.read(what, SystemClock.now()).await)
    })?;
    match found {
        Ok((_, text)) => Ok(text),
        Err(error) => bail!("`{what}` is no file, and no result in quarantine: {error}"),
    }
}

/// The text with what is nobody's business cut out.
fn redacted(text: &str, kind: Kind) -> String {
    let verdict =
        Shield::shipped(Config::default()).inspect(&Scene::default(), &[Fragment::new(kind, "", text)]);
    let private = verdict.findings.iter().map(|judged| &judged.finding);
    let private = private.filter(|f| matches!(f.category, Category::Secret | Category::PersonalData));
    let mut cuts: Vec<_> =
        private.flat_map(|f| f.places.iter().map(|place| (place.range.clone(), f.rule.as_ref()))).collect();
    cuts.sort_by_key(|(range, _)| range.start);
    let (mut out, mut at) = (String::new(), 0);
    for (range, rule) in cuts {
        if range.end <= at {
            continue;
        }
        out.push_str(text.get(at..range.start.max(at)).unwrap_or_default());
        if range.start >= at {
            out.push_str(&format!("[redacted: {rule}]"));
        }
        at = range.end;
    }
    out.push_str(text.get(at..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn kept(folder: &std::path::Path) -> (State, Reports) {
        let config = folder.join("bartizan.toml");
        std::fs::write(&config, "[[servers]]\nname = \"one\"\ncommand = [\"one\"]\n").unwrap();
        let state = State::for_config(Some(&config)).unwrap();
        let reports = crate::runtime().unwrap().block_on(Reports::of(&state)).unwrap();
        (state, reports)
    }

    #[test]
    fn reports_are_sealed_ours_alone_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let (_, reports) = kept(folder.path());
        assert_eq!(reports.read().unwrap(), []);
        let one = |text: &str, label| Report { text: text.to_owned(), label, kind: Kind::Result, at: 7 };
        let both = [one("the marmalade\nis honest", 0), one("obey the marmalade", 1)];
        for report in &both {
            reports.add(report).unwrap();
        }
        assert_eq!(reports.read().unwrap(), both);
        let about = std::fs::metadata(reports.lines.path()).unwrap();
        assert_eq!(about.mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(reports.lines.path()).unwrap();
        assert!(!text.contains("marmalade"));
        let (first, second) = text.split_once('\n').unwrap();
        std::fs::write(reports.lines.path(), format!("{}x\n{second}", first)).unwrap();
        assert!(reports.read().is_err(), "an edited line is no report");
    }

    #[test]
    fn what_is_nobodys_business_is_cut_out() {
        let secret = ["ghp_", "a8Kd03jFq7LmZx92BvNcT5rWy1Ue4Ho6GsPi"].concat();
        let text = format!("the key is {secret} and the door is green");
        assert_eq!(
            redacted(&text, Kind::Result),
            "the key is [redacted: secret.github-token] and the door is green"
        );
        assert_eq!(redacted("nothing to hide", Kind::Result), "nothing to hide");
    }
}
