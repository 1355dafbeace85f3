//! `bartizan policy flow`: what has entered whose window, and forgetting it.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context;
use bartizan_audit::{
    Kind,
    event::{Decision, rfc3339},
};
use bartizan_model::{Caller, Clock, SystemClock, Timestamp};
use bartizan_shield::drift::visible;
use bartizan_store::{Flows, StoredFlows, flows::Flow};
use clap::{Args, Subcommand};
use serde_json::json;

use super::{CLEAN, FOUND, Format};
use crate::{
    ConfigFile, config,
    journal::Deed,
    print, say_error,
    state::State,
    tools::{Consent, ask, who},
};

/// `bartizan policy flow …`
#[derive(Subcommand)]
pub enum FlowCommand {
    /// Show which labels have entered whose window, when, and by which calls. Exit code 1 if untrusted text and private data
    /// have met in one.
    Show(ShowArgs),
    /// Forget what has entered a person's window, so that calls may send out again. It holds from the next call on, on every
    /// gate of the database, and is recorded. Do it once the conversation is over: what its model has read, it still knows.
    Reset(ResetArgs),
}

/// Whose windows.
#[derive(Args)]
struct Whose {
    /// The person's subject, as its issuer names it.
    #[arg(long, value_name = "SUBJECT", requires = "issuer")]
    person: Option<String>,
    /// Who vouches for the person. The holder of the local token is the person `owner` of the issuer `local`.
    #[arg(long, value_name = "ISSUER", requires = "person")]
    issuer: Option<String>,
    /// One application's windows only.
    #[arg(long, value_name = "ID")]
    client: Option<String>,
}

#[derive(Args)]
pub struct ShowArgs {
    #[command(flatten)]
    place: ConfigFile,
    #[command(flatten)]
    whose: Whose,
    /// For people or for programs.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Args)]
pub struct ResetArgs {
    #[command(flatten)]
    place: ConfigFile,
    #[command(flatten)]
    whose: Whose,
    /// Why, for the record.
    #[arg(long, value_name = "WORDS", default_value = "")]
    why: String,
    #[command(flatten)]
    consent: Consent,
}

/// What has entered the window of one person at one application.
struct Window {
    caller: Caller,
    flows: Vec<Flow>,
}

/// Runs it; the answer is the exit code.
pub async fn run(command: FlowCommand) -> anyhow::Result<u8> {
    match command {
        FlowCommand::Show(arguments) => show(arguments).await,
        FlowCommand::Reset(arguments) => reset(arguments).await,
    }
}

async fn show(arguments: ShowArgs) -> anyhow::Result<u8> {
    let path = arguments.place.config.as_deref();
    let stored = StoredFlows::new(State::look(path)?.database().await?);
    let windows = windows(path, &stored, &arguments.whose).await?;
    print(&match arguments.format {
        Format::Text if windows.is_empty() => "nothing has entered anybody's window\n".to_owned(),
        Format::Text => windows.iter().map(Window::in_words).collect(),
        Format::Json => {
            let all: Vec<_> = windows.iter().map(Window::as_json).collect();
            format!("{}\n", serde_json::to_string_pretty(&all)?)
        }
    })?;
    Ok(if windows.iter().any(Window::have_met) { FOUND } else { CLEAN })
}

async fn reset(arguments: ResetArgs) -> anyhow::Result<u8> {
    let path = arguments.place.config.as_deref();
    let state = State::of_gate(path)?;
    let stored = StoredFlows::new(state.database().await?);
    let windows = windows(path, &stored, &arguments.whose).await?;
    if windows.is_empty() {
        say_error("nothing has entered these windows\n");
        return Ok(CLEAN);
    }
    say_error(&windows.iter().map(Window::in_words).collect::<String>());
    let count = windows.len();
    if !arguments.consent.yes && !ask(&format!("Forget what has entered {count} window(s)?"))? {
        return Ok(FOUND);
    }
    let by = arguments.consent.by.clone().unwrap_or_else(who);
    for window in &windows {
        // Recorded first: what is done and not recorded cannot be explained afterwards.
        record(&state, window, &by, &arguments.why).await?;
        stored.reset(&window.caller, &by, SystemClock.now()).await?;
    }
    say_error(&format!("forgot what had entered {count} window(s), by {by}\n"));
    Ok(CLEAN)
}

async fn windows(path: Option<&Path>, stored: &StoredFlows, whose: &Whose) -> anyhow::Result<Vec<Window>> {
    let window = config::load(path)?.config.policy.flow.window();
    let since = Timestamp::from_unix(SystemClock.now().as_unix().saturating_sub(window.as_secs()));
    let mut found = Vec::new();
    for caller in stored.callers(since).await?.into_iter().filter(|caller| whose.includes(caller)) {
        let mut flows = stored.window(&caller, since).await?.to_vec();
        flows.retain(|flow| !flow.labels.is_empty());
        if !flows.is_empty() {
            found.push(Window { caller, flows });
        }
    }
    Ok(found)
}

/// In a log of this process's own. A person goes by his pseudonym.
async fn record(state: &State, window: &Window, by: &str, why: &str) -> anyhow::Result<()> {
    let log = state.log("policy")?;
    let person = log.persons().of(&window.caller).map(|person| person.pseudonym().to_string());
    let labels = window.labels().into_keys().collect::<Vec<_>>().join(" ");
    let why = if why.is_empty() { "no reason given" } else { why };
    let name = format!("{} via {}", person.unwrap_or_default(), window.caller.client());
    let deed = Deed::new(Kind::Responded, by, "flow", &name, Some(&labels), Some("reset"))
        .deciding(Decision::Permit)
        .because(why);
    log.note(deed.event()).await.map(drop).context("it is not done, for it cannot be recorded")
}

impl Whose {
    fn includes(&self, caller: &Caller) -> bool {
        self.person.as_deref().is_none_or(|subject| subject == caller.subject())
            && self.issuer.as_deref().is_none_or(|issuer| issuer == caller.issuer())
            && self.client.as_deref().is_none_or(|client| client == caller.client())
    }
}

impl Window {
    /// Each label, with the last call of each tool that brought it, the latest first.
    fn labels(&self) -> BTreeMap<&str, Vec<&Flow>> {
        let mut labels: BTreeMap<&str, Vec<&Flow>> = BTreeMap::new();
        for flow in self.flows.iter().rev() {
            for label in &flow.labels {
                let calls = labels.entry(label).or_default();
                if !calls.iter().any(|known| (&known.server, &known.tool) == (&flow.server, &flow.tool)) {
                    calls.push(flow);
                }
            }
        }
        labels
    }

    fn have_met(&self) -> bool {
        let labels = self.labels();
        labels.contains_key("untrusted") && labels.contains_key("private")
    }

    fn in_words(&self) -> String {
        let caller = &self.caller;
        let mut text = format!(
            "{} ({}) by {}{}\n",
            visible(caller.subject()),
            visible(caller.issuer()),
            visible(caller.client()),
            if self.have_met() { ": nothing goes out without a person's word" } else { "" }
        );
        for (label, calls) in self.labels() {
            for flow in calls {
                let at = rfc3339::text(flow.at);
                text.push_str(&format!(
                    "  {label:<12} {at}  `{}` of `{}`\n",
                    visible(&flow.tool),
                    flow.server
                ));
            }
        }
        text
    }

    fn as_json(&self) -> serde_json::Value {
        let labels = self.labels().into_iter().map(|(label, calls)| {
            let call = |flow: &&Flow| {
                json!({ "at": flow.at.as_unix(), "server": flow.server.as_str(), "tool": flow.tool })
            };
            (label.to_owned(), calls.iter().map(call).collect())
        });
        json!({
            "issuer": self.caller.issuer(),
            "subject": self.caller.subject(),
            "client": self.caller.client(),
            "sends_out_only_by_approval": self.have_met(),
            "labels": labels.collect::<serde_json::Map<_, _>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(at: u64, tool: &str, labels: &[&str]) -> Flow {
        Flow {
            at: Timestamp::from_unix(at),
            server: "web".parse().unwrap(),
            tool: tool.to_owned(),
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
            call: String::new(),
        }
    }

    #[test]
    fn each_label_is_explained_by_the_last_call_of_each_tool() {
        let flows = vec![
            flow(1, "fetch", &["untrusted"]),
            flow(2, "fetch", &["untrusted"]),
            flow(3, "a\u{202e}", &["untrusted"]),
        ];
        let mut window = Window { caller: Caller::local_owner(), flows };
        let at = |window: &Window| {
            window.labels()["untrusted"].iter().map(|flow| flow.at.as_unix()).collect::<Vec<_>>()
        };
        assert_eq!((at(&window), window.have_met()), (vec![3, 2], false));
        assert!(!window.in_words().contains('\u{202e}'));
        window.flows.push(flow(4, "open", &["private"]));
        assert!(window.have_met() && window.in_words().contains("without a person's word"));
        assert_eq!(window.as_json()["labels"]["private"][0]["tool"], "open");
    }

    #[test]
    fn whose_windows_are_meant() {
        let all = Whose { person: None, issuer: None, client: None };
        let other = Whose { person: Some("ann".to_owned()), issuer: Some("local".to_owned()), client: None };
        assert!(all.includes(&Caller::local_owner()) && !other.includes(&Caller::local_owner()));
    }
}
