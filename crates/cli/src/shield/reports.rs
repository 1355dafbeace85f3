//! What people found wrong with the shield's judgement: a local evaluation set.
//!
//! What was reported is text that somebody withheld, or should have; it is kept sealed ([`kept`](super::kept)).
//! `bartizan shield eval --reports` measures on it; nothing is sent anywhere.

use std::process::ExitCode;

use anyhow::bail;
use bartizan_model::{Clock, SystemClock};
use bartizan_shield::{Category, Finding, Fragment, Kind, Scene, Shield};
use bartizan_store::Quarantine;
use clap::Args;

use super::{
    TextKind,
    kept::{Report, Reports, Whose},
};
use crate::state::State;

/// The longest text that is kept, in bytes.
const LONGEST: usize = 1 << 20;
/// How often a text is looked at again for what is left to cut out.
const ROUNDS: usize = 4;

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

pub fn report(arguments: &ReportArgs) -> anyhow::Result<ExitCode> {
    let state = State::of_gate(arguments.config.config.as_deref())?;
    let kind = arguments.kind.into();
    let shield =
        if arguments.redact { Some(super::shield_of(arguments.config.config.as_deref())?.0) } else { None };
    crate::runtime()?.block_on(async {
        let (mut text, whose) = text_of(&arguments.what, &state).await?;
        if text.len() > LONGEST {
            bail!("a report has at most {LONGEST} bytes; cut out what it is about");
        }
        if let Some(shield) = &shield {
            text = redacted(shield, &text, kind)?;
        }
        let reports = Reports::of(&state).await?;
        let label = u8::from(arguments.false_negative);
        reports.add(&Report { text, label, kind, at: SystemClock.now().as_unix() }, whose).await?;
        crate::say_error(&format!(
            "kept, sealed, in {}; `bartizan shield eval --reports` measures on all {}\n",
            reports.path().display(),
            reports.read().await?.0.len()
        ));
        Ok(ExitCode::SUCCESS)
    })
}

/// A result in quarantine by its id, and whose it was, or else a file.
async fn text_of(what: &str, state: &State) -> anyhow::Result<(String, Option<Whose>)> {
    let path = std::path::Path::new(what);
    if what == "-" || path.exists() {
        return Ok((super::read(path)?, None));
    }
    let kept = state.quarantine(state.database().await?).await?;
    match kept.read(what, SystemClock.now()).await {
        Ok((item, text)) => {
            let caller = item.binding.caller;
            let (issuer, subject) = (caller.issuer().to_owned(), caller.subject().to_owned());
            Ok((text, Some(Whose { issuer, subject })))
        }
        Err(error) => bail!("`{what}` is no file, and no result in quarantine: {error}"),
    }
}

/// The text with what is nobody's business cut out, by the rules in force.
///
/// # Errors
/// Not all of it can be: there is more than is listed, or some of the text cannot be judged.
fn redacted(shield: &Shield, text: &str, kind: Kind) -> anyhow::Result<String> {
    let mut text = text.to_owned();
    for _ in 0..ROUNDS {
        let found = shield.find(&Scene::default(), &[Fragment::new(kind, "", text.as_str())]);
        if found.iter().any(|finding| finding.category == Category::Unjudged) {
            bail!(
                "nothing is kept: not all of the text can be judged, so secrets may be in it; cut them out by hand"
            );
        }
        let is_private =
            |finding: &&Finding| matches!(finding.category, Category::Secret | Category::PersonalData);
        let private: Vec<_> = found.iter().filter(is_private).collect();
        if private.is_empty() {
            return Ok(text);
        }
        if !private.iter().all(|finding| is_whole(finding)) {
            break;
        }
        text = without(&text, &private);
    }
    bail!(
        "nothing is kept: there is more to cut out of the text than can be listed; report a smaller part of it"
    )
}

/// Whether all of it is at its places.
fn is_whole(finding: &Finding) -> bool {
    !finding.continued && !finding.places.is_empty()
}

/// The text without what `private` says of it.
fn without(text: &str, private: &[&Finding]) -> String {
    let places = private.iter().flat_map(|f| f.places.iter().map(|place| (&place.range, f.rule.as_ref())));
    let mut cuts: Vec<_> = places.collect();
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
    use bartizan_shield::Config;

    use super::*;

    fn shield() -> Shield {
        Shield::shipped(Config::default())
    }

    #[test]
    fn what_is_nobodys_business_is_cut_out() {
        let secret = ["ghp_", "a8Kd03jFq7LmZx92BvNcT5rWy1Ue4Ho6GsPi"].concat();
        let text = format!("the key is {secret} and the door is green");
        assert_eq!(
            redacted(&shield(), &text, Kind::Result).unwrap(),
            "the key is [redacted: secret.github-token] and the door is green"
        );
        assert_eq!(redacted(&shield(), "nothing to hide", Kind::Result).unwrap(), "nothing to hide");
    }

    /// However many there are, either none is left or nothing is kept.
    #[test]
    fn what_cannot_be_cut_out_whole_is_not_kept() {
        let secret = |n: usize| ["ghp_", &format!("{n:04x}Kd03jFq7LmZx92BvNcT5rWy1Ue4Ho6Gs")].concat();
        let text = |count: usize| (0..count).map(|n| format!("key {}\n", secret(n))).collect::<String>();
        let several = redacted(&shield(), &text(100), Kind::Result).unwrap();
        assert_eq!(several.matches("[redacted: secret.github-token]").count(), 100);
        assert!(!several.contains("ghp_"), "{several}");
        let many = text(20_000);
        assert!(many.len() < LONGEST);
        let refused = redacted(&shield(), &many, Kind::Result).unwrap_err().to_string();
        assert!(refused.starts_with("nothing is kept: "), "{refused}");
        let shown = Finding { continued: true, ..found(&text(1)) };
        assert!(is_whole(&found(&text(1))) && !is_whole(&shown));
    }

    fn found(text: &str) -> Finding {
        let found = shield().find(&Scene::default(), &[Fragment::new(Kind::Result, "", text)]);
        found.into_iter().find(|finding| finding.category == Category::Secret).unwrap()
    }
}
