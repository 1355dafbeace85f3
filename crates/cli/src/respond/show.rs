//! How far a plan is, for people and for programs.

use std::{collections::HashMap, process::ExitCode, sync::Arc};

use bartizan_audit::{
    Person, Persons,
    event::{Pseudonym, rfc3339},
    harmless,
};
use bartizan_model::Timestamp;
use bartizan_store::{
    Plans, StoredPlans,
    plans::{Item, Plan, SecretMark, Standing, Step},
};
use serde_json::{Value, json};

use super::{compromise::Scene, exposure::Seen, held};
use crate::{Format, print};

/// Whom the pseudonyms stand for, as far as they are not erased.
type People = HashMap<Pseudonym, Arc<Person>>;

fn people(scene: &Scene) -> People {
    Persons::in_folder(&scene.state.audit_folder().join("people")).unwrap_or_default()
}

fn who(people: &People, name: &str) -> Option<(String, String)> {
    let identity = people.get(&name.parse().ok()?)?.identity();
    Some((identity.issuer.clone(), identity.subject.clone()))
}

/// What a plan would do.
///
/// # Errors
/// That of printing.
pub fn intentions(scene: &Scene, items: &[Item], format: Format) -> anyhow::Result<()> {
    let people = people(scene);
    if format == Format::Json {
        let steps = Step::ALL.map(|step| step_json(step, items, &people));
        let text = json!({ "server": scene.server.as_str(), "dry_run": true, "steps": steps });
        return Ok(print(&format!("{text}\n"))?);
    }
    print(&format!("server {}: this would be done\n", scene.server))?;
    for step in Step::ALL {
        print(&format!("  {}\n", step.as_str()))?;
        let mut is_empty = true;
        for item in items.iter().filter(|i| i.step == step) {
            is_empty = false;
            print(&format!("    {}\n", line(item, &people)))?;
        }
        if is_empty {
            print("    nothing to do\n")?;
        }
    }
    Ok(())
}

/// How far `plan` is. Exit code 1 if something waits, failed, or is left to a person.
///
/// # Errors
/// The database's, or that of printing.
pub async fn status(
    scene: &Scene,
    plans: &StoredPlans,
    plan: &Plan,
    format: Format,
) -> anyhow::Result<ExitCode> {
    let items = plans.items(&plan.id).await?;
    let marks = plans.marks(&scene.server).await?;
    let people = people(scene);
    let is_over = plan.ended_at.is_some() && marks.iter().all(|m| m.rotated_at.is_some());
    let by_hand = items.iter().any(|i| i.standing == Standing::ByHand && i.step != Step::Secrets);
    let code = ExitCode::from(u8::from(!is_over || by_hand));
    if format == Format::Json {
        let text = json!({
            "plan": plan.id, "server": scene.server.as_str(), "why": plan.why, "by": plan.by,
            "since": plan.since.map(time), "begun": time(plan.begun_at), "ended": plan.ended_at.map(time),
            "steps": Step::ALL.map(|step| step_json(step, &items, &people)),
            "secrets": marks.iter().map(secret_json).collect::<Vec<_>>(),
        });
        print(&format!("{text}\n"))?;
        return Ok(code);
    }
    let state =
        plan.ended_at.map_or_else(|| "under way".to_owned(), |at| format!("carried out {}", time(at)));
    print(&format!(
        "server {}: plan {}, begun {} by {}, {state}\n",
        scene.server,
        plan.id,
        time(plan.begun_at),
        plan.by
    ))?;
    for item in &items {
        let indent = if item.name.is_empty() { "  " } else { "    " };
        print(&format!("{indent}{:<8} {}\n", item.standing, line(item, &people)))?;
    }
    let sealer = scene.state.sealer().await?;
    for mark in &marks {
        let state = match mark.rotated_at {
            Some(at) => format!("rotated {}", time(at)),
            None if mark.place.starts_with("file:") && !sealer.knows(&mark.fingerprint) => {
                format!("to be rotated; {}", held::incomparable(&mark.place))
            }
            None => "to be rotated".to_owned(),
        };
        print(&format!("  secret {}: {}\n", harmless(&mark.place), harmless(&state)))?;
    }
    Ok(code)
}

fn time(at: Timestamp) -> String {
    rfc3339::text(at)
}

fn line(item: &Item, people: &People) -> String {
    let words = match serde_json::from_str::<Seen>(&item.words) {
        Ok(seen) if item.step == Step::Exposure && !item.name.is_empty() => format!(
            "{} call(s), {} to {}: {}{}",
            seen.calls,
            seen.first,
            seen.last,
            seen.tools.iter().cloned().collect::<Vec<_>>().join(", "),
            if seen.labels.is_empty() {
                String::new()
            } else {
                format!(" [{}]", seen.labels.iter().cloned().collect::<Vec<_>>().join(", "))
            }
        ),
        _ => item.words.clone(),
    };
    let name = match who(people, &item.name) {
        Some((issuer, subject)) => format!("{subject} of {issuer}"),
        None if item.name.is_empty() => item.step.as_str().to_owned(),
        None => item.name.clone(),
    };
    harmless(&format!("{name}: {words}")).into_owned()
}

fn step_json(step: Step, items: &[Item], people: &People) -> Value {
    let own = items.iter().find(|i| i.step == step && i.name.is_empty());
    let pieces: Vec<_> = items
        .iter()
        .filter(|i| i.step == step && !i.name.is_empty())
        .map(|item| {
            let mut piece = serde_json::Map::new();
            let mut add = |name: &str, value: Value| drop(piece.insert(name.to_owned(), value));
            add("name", json!(item.name));
            add("standing", json!(item.standing.as_str()));
            add("at", json!(item.at.map(time)));
            if let Some((issuer, subject)) = who(people, &item.name) {
                add("person", json!({ "issuer": issuer, "subject": subject }));
            }
            match serde_json::from_str::<Seen>(&item.words) {
                Ok(seen) if step == Step::Exposure => add("exposure", json!(seen)),
                _ => add("words", json!(item.words)),
            }
            Value::Object(piece)
        })
        .collect();
    json!({
        "step": step.as_str(),
        "standing": own.map_or(Standing::Waiting, |i| i.standing).as_str(),
        "words": own.map(|i| &i.words),
        "at": own.and_then(|i| i.at).map(time),
        "items": pieces,
    })
}

fn secret_json(mark: &SecretMark) -> Value {
    json!({ "place": mark.place, "marked": time(mark.marked_at), "rotated": mark.rotated_at.map(time) })
}
