//! The step `pins`: the server's definitions, and the server itself, are again what they were before it was compromised.

use bartizan_audit::Kind as Recorded;
use bartizan_model::{Clock, SystemClock, Timestamp};
use bartizan_store::{
    Digest, Pins, Plans,
    pins::{Event, Key, Kind, Record, Ruling, State as Stands},
    plans::{Standing, Step},
};

use super::compromise::{Done, Run, Scene};

/// What is to be done about one definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is what was approved before.
    Keep,
    /// This form was the approved one before.
    RollBack(Digest),
    /// Nobody had approved it before: this form's approval is taken back.
    TakeBack(Digest),
}

impl Verdict {
    /// What is done, unless nothing is.
    pub fn words(&self) -> Option<String> {
        let short = |hash: &Digest| hash.to_string().chars().take(12).collect::<String>();
        match self {
            Self::Keep => None,
            Self::RollBack(hash) => Some(format!("back to the form {}", short(hash))),
            Self::TakeBack(hash) => Some(format!("the approval of the form {} is taken back", short(hash))),
        }
    }
}

/// Which form counts as good, where `since` says when the server's word stopped counting.
fn judge(record: &Record, since: Option<Timestamp>) -> Verdict {
    let (Some(approved), Some(since)) = (record.pin.approved, since) else { return Verdict::Keep };
    if record.pin.state == Stands::Rejected {
        return Verdict::Keep;
    }
    // What stood approved at that time: the last decision before it, whichever way it went.
    let mut good = None;
    for step in record.history.iter().filter(|step| step.at < since) {
        match step.event {
            Event::Approved | Event::Imported | Event::Released | Event::RolledBack => good = step.hash,
            Event::Rejected | Event::Tampered => good = None,
            _ => {}
        }
    }
    match good {
        Some(good) if good == approved => Verdict::Keep,
        Some(good) if record.forms.iter().any(|form| form.hash == good) => Verdict::RollBack(good),
        _ => Verdict::TakeBack(approved),
    }
}

/// What is to be done about each definition of the server.
pub async fn verdicts(scene: &Scene) -> anyhow::Result<Vec<(Record, String, Verdict)>> {
    let pins = scene.state.pins(scene.database.clone()).await?;
    let mut all = Vec::new();
    for pin in pins.list(Some(&scene.server)).await? {
        let Some(record) = pins.read(&pin.key).await? else { continue };
        let verdict = judge(&record, scene.since);
        all.push((record, named(&pin.key), verdict));
    }
    Ok(all)
}

fn named(key: &Key) -> String {
    format!("{} {}", key.kind.as_str(), bartizan_audit::harmless(&key.name))
}

/// Rolls back what was approved since, and says which version of the server that means.
pub async fn roll_back(scene: &Scene, run: &Run) -> anyhow::Result<Done> {
    let pins = scene.state.pins(scene.database.clone()).await?;
    let (mut kept, mut back, mut taken, mut held) = (0_u32, 0_u32, 0_u32, 0_u32);
    let mut version = None;
    let mut begun = run.plans().items(&run.plan().id).await?;
    begun.retain(|i| i.step == Step::Pins && !i.name.is_empty() && i.standing == Standing::Waiting);
    for (record, name, verdict) in verdicts(scene).await? {
        let key = record.pin.key.clone();
        let by = format!("plan {}", run.plan().id);
        held += u32::from(record.pin.waiting.is_some());
        let (ruling, kind) = match &verdict {
            Verdict::Keep => {
                // A crash came after the ruling.
                if let Some(begun) = begun.iter().find(|item| item.name == name) {
                    back += 1;
                    run.record(Recorded::PinRolledBack, key.kind.as_str(), &key.name, &begun.words).await?;
                    run.settle(Step::Pins, &name, Standing::Done, &begun.words).await?;
                    continue;
                }
                kept += u32::from(record.pin.approved.is_some());
                continue;
            }
            Verdict::RollBack(to) => {
                back += 1;
                if key.kind == Kind::Identity {
                    version = record.form(Some(*to)).map(|form| form.text.clone());
                }
                (Ruling::RollBack { key: key.clone(), to: Some(*to) }, Recorded::PinRolledBack)
            }
            Verdict::TakeBack(hash) => {
                taken += 1;
                (Ruling::Reject { key: key.clone(), hash: *hash }, Recorded::ApprovalRejected)
            }
        };
        let words = verdict.words().unwrap_or_default();
        run.settle(Step::Pins, &name, Standing::Waiting, &words).await?;
        pins.decide(&[ruling], &by, SystemClock.now()).await?;
        run.record(kind, key.kind.as_str(), &key.name, &words).await?;
        run.settle(Step::Pins, &name, Standing::Done, &words).await?;
    }
    let mut words = format!(
        "{kept} definition(s) stay as they were approved, {back} rolled back, {taken} no longer approved, {held} changed and held"
    );
    if let Some(version) = version {
        // The configuration says which program runs; only its author can put the old one back.
        words.push_str(&format!(
            "; the server itself was another before: put back what makes it {}",
            bartizan_audit::harmless(&version)
        ));
        return Ok(Done { standing: Standing::ByHand, words });
    }
    Ok(Done { standing: Standing::Done, words })
}

#[cfg(test)]
mod tests {
    use bartizan_store::pins::{Form, Pin};

    use super::*;

    fn form(n: u8) -> Form {
        let hash = Digest::of(&[n]);
        Form {
            hash,
            body: hash,
            text: String::new(),
            first_seen: Timestamp::from_unix(0),
            approved_at: None,
            findings: Vec::new(),
        }
    }

    /// A definition with this life, `(when, what, which form)`, whose approved form is now `approved`.
    fn record(approved: Option<u8>, life: &[(u64, Event, u8)]) -> Record {
        let at = Timestamp::from_unix;
        let step = |&(when, event, n): &(u64, Event, u8)| bartizan_store::pins::Step {
            at: at(when),
            event,
            hash: Some(form(n).hash),
            by: String::new(),
        };
        Record {
            pin: Pin {
                key: Key { server: "files".parse().unwrap(), kind: Kind::Tool, name: "read".to_owned() },
                state: Stands::Approved,
                approved: approved.map(|n| form(n).hash),
                waiting: None,
                refused: None,
                offered: None,
                turns: 0,
                first_seen: at(0),
                last_seen: at(0),
                decided_by: None,
                decided_at: None,
                version: 0,
            },
            forms: vec![form(1), form(2)],
            history: life.iter().map(step).collect(),
            sightings: Vec::new(),
        }
    }

    #[test]
    fn good_is_what_stood_approved_when_the_server_could_still_be_trusted() {
        let life = [(10, Event::Approved, 1), (20, Event::Changed, 2), (30, Event::Approved, 2)];
        let since = |s| Some(Timestamp::from_unix(s));
        let verdict = |approved, life: &[_], s| judge(&record(approved, life), s);
        assert_eq!(verdict(Some(2), &life, None), Verdict::Keep, "what is approved counts as good");
        assert_eq!(verdict(Some(2), &life, since(40)), Verdict::Keep);
        assert_eq!(
            verdict(Some(2), &life, since(30)),
            Verdict::RollBack(form(1).hash),
            "approved at that very time"
        );
        assert_eq!(verdict(Some(2), &life, since(11)), Verdict::RollBack(form(1).hash));
        assert_eq!(
            verdict(Some(2), &life, since(10)),
            Verdict::TakeBack(form(2).hash),
            "nothing was approved then"
        );
        assert_eq!(verdict(None, &life, since(10)), Verdict::Keep);
        let forgotten = [(10, Event::Approved, 3), (30, Event::Approved, 2)];
        assert_eq!(
            verdict(Some(2), &forgotten, since(20)),
            Verdict::TakeBack(form(2).hash),
            "its text is gone"
        );
        let doubted = [(10, Event::Approved, 1), (15, Event::Rejected, 1), (30, Event::Approved, 1)];
        assert_eq!(verdict(Some(1), &doubted, since(20)), Verdict::TakeBack(form(1).hash));
    }
}
