//! `bartizan policy review`: rights that nobody used, the smaller policy, and what was decided about what reviews found.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader},
    path::PathBuf,
};

use anyhow::Context;
use bartizan_audit::{Kind, event::rfc3339};
use bartizan_model::{Clock, SystemClock, Timestamp};
use bartizan_policy::{NoSpan, Span, review};
use bartizan_store::{
    Reviews, StoredReviews,
    reviews::{Decided, Finding, Verdict},
};
use clap::{Args, Subcommand};
use serde_json::json;

use super::{CLEAN, FOUND, Format, Policies, json, open, text};
use crate::{
    ConfigFile, Usage, config,
    journal::{Deed, Journal, OwnLog},
    print, reviews, say_error,
    state::State,
    tools::who,
};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ReviewArgs {
    #[command(subcommand)]
    command: Option<ReviewCommand>,
    #[command(flatten)]
    policies: Policies,
    /// Recorded uses (JSON lines); `-` reads standard input. By default the audit log of the gate that runs from the
    /// configuration; what its log tells no more of, because people were erased, is not asked again.
    #[arg(long, value_name = "FILE")]
    uses: Option<PathBuf>,
    /// How far back to look: `90d`, `12h`.
    #[arg(long, value_name = "TIME", default_value = "90d", value_parser = span)]
    since: Span,
    /// Who could sign in (one `issuer#subject` a line), to find who is dormant.
    #[arg(long, value_name = "FILE")]
    people: Option<PathBuf>,
    /// Scopes granted to each server's credential (JSON: `{"github": ["repo"]}`).
    #[arg(long, value_name = "FILE")]
    credentials: Option<PathBuf>,
    /// Distinct queries to keep for the replay.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    most_queries: usize,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// What the gate's own reviews found (`[policy.review] every`).
#[derive(Subcommand)]
enum ReviewCommand {
    /// List what the last review found, and what was decided about it. Exit code 1 if anything waits for a decision.
    List {
        #[command(flatten)]
        place: ConfigFile,
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Agree with a finding: the policy is made smaller until a date. If it is still found then, it is overdue.
    Accept(Deciding),
    /// Leave a right as it is until a date.
    Waive(Deciding),
}

#[derive(Args)]
struct Deciding {
    /// The finding's name, as `list` shows it.
    id: String,
    /// Until when the decision counts: a date (2027-01-31) or a span from now (90d).
    #[arg(long, value_name = "DATE", value_parser = until)]
    until: Timestamp,
    /// Why, for the record.
    #[arg(long, value_name = "WORDS")]
    why: String,
    /// Who decides, for the record; by default you, as the system knows you.
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    #[command(flatten)]
    place: ConfigFile,
}

/// Runs it; the answer is the exit code.
pub fn run(arguments: ReviewArgs) -> anyhow::Result<u8> {
    let Some(command) = arguments.command else { return review(&arguments) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            ReviewCommand::List { place, format } => list(&place, format).await,
            ReviewCommand::Accept(deciding) => decide(deciding, Verdict::Accepted).await,
            ReviewCommand::Waive(deciding) => decide(deciding, Verdict::Waived).await,
        }
    })
}

fn review(arguments: &ReviewArgs) -> anyhow::Result<u8> {
    let bundle = arguments.policies.bundle()?;
    let mut people = BTreeSet::new();
    if let Some(path) = &arguments.people {
        people.extend(text(path)?.lines().map(str::to_owned).filter(|line| !line.is_empty()));
    }
    let credentials =
        arguments.credentials.as_deref().map(json::<BTreeMap<_, _>>).transpose()?.unwrap_or_default();
    let since = SystemClock.now().as_unix().saturating_sub(arguments.since.0.as_secs());
    let most_queries = arguments.most_queries;
    let found = match (&arguments.uses, &arguments.policies.about.config) {
        (Some(path), _) => {
            let options =
                review::Options { since, most_queries, people, credentials, unrecorded: BTreeSet::new() };
            let mut reviewer = review::Reviewer::new(&bundle, options);
            let mut lines = BufReader::new(open(path)?);
            let mut line = String::new();
            for number in 1_u64.. {
                line.clear();
                if lines.read_line(&mut line)? == 0 {
                    break;
                }
                let used =
                    serde_json::from_str(&line).with_context(|| format!("{}:{number}", path.display()))?;
                reviewer.observe(&used);
            }
            reviewer.finish()
        }
        (None, Some(config)) => {
            let folder = config.with_file_name(".bartizan").join("audit");
            if !folder.is_dir() {
                let words =
                    format!("no gate has run from {}: name recorded uses with --uses", config.display());
                return Err(Usage(words).into());
            }
            let options = review::Options { most_queries, people, credentials, ..reviews::options(since) };
            let mut reviewer = review::Reviewer::new(&bundle, options);
            reviews::uses(&folder, Timestamp::from_unix(since), &bundle, |used| reviewer.observe(used))?;
            reviewer.finish()
        }
        (None, None) => {
            let words =
                "name recorded uses with --uses, or a configuration whose gate recorded some with --config";
            return Err(Usage(words.to_owned()).into());
        }
    };
    let found = found.map_err(anyhow::Error::new)?;
    match arguments.format {
        Format::Text => print(&found.to_string())?,
        Format::Json => print(&format!("{}\n", serde_json::to_string_pretty(&found)?))?,
    }
    Ok(if found.patch.is_empty() && found.replay.broken.is_empty() { CLEAN } else { FOUND })
}

async fn stored(place: &ConfigFile) -> anyhow::Result<StoredReviews> {
    // A configuration that cannot be read has no gate.
    config::load(place.config.as_deref())?;
    // Where no gate has run nothing was found, and there is nothing to decide.
    Ok(StoredReviews::new(State::look(place.config.as_deref())?.database().await?))
}

async fn list(place: &ConfigFile, format: Format) -> anyhow::Result<u8> {
    let stored = stored(place).await?;
    let (findings, now) = (stored.findings().await?, SystemClock.now());
    print(&match format {
        Format::Text if findings.is_empty() => match stored.last().await?.and_then(|last| last.done_at) {
            Some(at) => format!("nothing was found at {}\n", rfc3339::text(at)),
            None => "no review was made yet\n".to_owned(),
        },
        Format::Text => findings.iter().map(|finding| in_words(finding, now)).collect(),
        Format::Json => {
            let all: Vec<_> = findings.iter().map(|finding| as_json(finding, now)).collect();
            format!("{}\n", serde_json::to_string_pretty(&all)?)
        }
    })?;
    Ok(if findings.iter().any(|finding| finding.is_open(now)) { FOUND } else { CLEAN })
}

async fn decide(deciding: Deciding, verdict: Verdict) -> anyhow::Result<u8> {
    let now = SystemClock.now();
    if deciding.until <= now {
        return Err(Usage("--until is in the past: nothing would be decided".to_owned()).into());
    }
    let by = deciding.by.unwrap_or_else(who);
    let decided = Decided { verdict, by, why: deciding.why, at: now, until: deciding.until };
    let stored = stored(&deciding.place).await?;
    let findings = stored.findings().await?;
    let state = State::of_gate(deciding.place.config.as_deref())?;
    if let Some(finding) = findings.iter().find(|finding| finding.id == deciding.id) {
        // Recorded first: what is done and not recorded cannot be explained afterwards.
        OwnLog { state: &state, name: "policy" }.note(vec![deed(finding, &decided)]).await?;
    }
    if !stored.decide(&deciding.id, &decided).await? {
        say_error(&format!("error: the last review found nothing called `{}`\n", deciding.id));
        return Ok(FOUND);
    }
    let until = rfc3339::text(deciding.until);
    say_error(&format!("{}: {} until {until}, by {}\n", deciding.id, verdict.as_str(), decided.by));
    Ok(CLEAN)
}

/// A decision about a finding, for the record.
pub fn deed(finding: &Finding, decided: &Decided) -> Deed {
    let words =
        |decided: &Decided| format!("{} until {}", decided.verdict.as_str(), rfc3339::text(decided.until));
    let from = finding.decided.as_ref().map_or_else(|| "open".to_owned(), words);
    let to = words(decided);
    Deed::new(Kind::PolicyReviewed, &decided.by, "finding", &finding.id, Some(&from), Some(&to))
        .because(&decided.why)
}

fn in_words(finding: &Finding, now: Timestamp) -> String {
    let standing = match &finding.decided {
        None => "open".to_owned(),
        Some(decided) => {
            let (until, word) = (rfc3339::text(decided.until), decided.verdict.as_str());
            let when = if finding.is_open(now) { "was over" } else { "until" };
            format!("{word} {when} {until}, by {}: {}", decided.by, decided.why)
        }
    };
    format!("{}  since {}  {standing}\n  {}\n", finding.id, rfc3339::text(finding.found_at), finding.words)
}

/// A finding for programs.
pub fn as_json(finding: &Finding, now: Timestamp) -> serde_json::Value {
    let decided = finding.decided.as_ref().map(|decided| {
        json!({
            "verdict": decided.verdict.as_str(), "by": decided.by, "why": decided.why,
            "at": decided.at.as_unix(), "until": decided.until.as_unix(),
        })
    });
    json!({
        "id": finding.id, "words": finding.words, "found_at": finding.found_at.as_unix(),
        "open": finding.is_open(now), "decided": decided,
    })
}

fn span(text: &str) -> Result<Span, NoSpan> {
    text.parse()
}

/// A date, a time, or a span from now.
///
/// # Errors
/// What it must be.
pub fn until(text: &str) -> Result<Timestamp, String> {
    let at = rfc3339::parse(text).or_else(|| rfc3339::parse(&format!("{text}T00:00:00Z")));
    let from_now = || Some(SystemClock.now().plus(text.parse::<Span>().ok()?.0));
    at.or_else(from_now).ok_or_else(|| "expected a date such as 2027-01-31, or a span such as 90d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_has_an_end() {
        assert_eq!(until("1970-01-02").unwrap().as_unix(), 86_400);
        assert_eq!(until("1970-01-02T01:00:00Z").unwrap().as_unix(), 90_000);
        assert!(until("90d").unwrap() > SystemClock.now());
        for bad in ["", "soon", "2027", "0d"] {
            assert!(until(bad).is_err(), "{bad}");
        }
    }
}
