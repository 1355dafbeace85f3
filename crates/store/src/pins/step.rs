//! How a pin moves: pure functions of where it stands and what comes.

use bartizan_model::Timestamp;

use super::{Decision, Event, Kind, Offered, Pin, PinError, Policy, Reason, Ruling, State};
use crate::Digest;

/// Who approves what the operator wrote down himself.
const CONFIGURATION: &str = "the configuration";

/// Who approves on first use.
const FIRST_USE: &str = "trust on first use";

/// What surrounds an offer.
pub struct Around {
    /// What first sight is worth.
    pub policy: Policy,
    /// Whether nobody has had a whole look at this kind yet.
    pub is_first_use: bool,
    /// The form this caller was offered in its last whole look.
    pub before: Option<Digest>,
    /// Now.
    pub now: Timestamp,
}

/// A step that was taken: what happened and by whom; empty for the server.
pub type Taken = (Event, &'static str);

/// A definition that was never seen before.
pub fn first_sight(key: super::Key, offered: &Offered, around: &Around) -> (Pin, Vec<Taken>) {
    let by = if offered.kind == Kind::Identity {
        // The operator wrote command and address himself; only later changes are news.
        Some(CONFIGURATION)
    } else if around.policy == Policy::TrustOnFirstUse
        // Resources come and go in all honesty; what counts is whether one that is known turns into another.
        && (around.is_first_use || offered.kind == Kind::Resource)
        && !offered.findings.iter().any(|f| f.blocks)
    {
        Some(FIRST_USE)
    } else {
        None
    };
    let mut pin = Pin {
        key,
        state: State::Pending,
        approved: None,
        waiting: Some(offered.hash),
        refused: None,
        offered: Some(offered.hash),
        first_seen: around.now,
        last_seen: around.now,
        decided_by: None,
        decided_at: None,
        version: 0,
    };
    let mut taken = vec![(Event::FirstSeen, "")];
    if let Some(by) = by {
        approve(&mut pin, offered.hash, by, around.now);
        taken.push((Event::Approved, by));
    }
    (pin, taken)
}

/// A known definition is offered.
///
/// `pin.offered` is the form the server switched to last, by the word of a caller who saw it switch: callers who are
/// each shown a form of their own, always the same, tell nothing new after the first time.
pub fn offer(pin: &mut Pin, hash: Digest, around: &Around) -> Option<Event> {
    let has_switched = pin.offered != Some(hash) && around.before.is_some_and(|before| before != hash);
    let event = if pin.approved == Some(hash) {
        if pin.state == State::Withdrawn {
            pin.state = State::Approved;
            Some(Event::Returned)
        } else {
            // The hold stays: a server that shows one face and then another has to be looked at.
            has_switched.then_some(Event::Reverted)
        }
    } else if pin.state == State::Rejected && pin.refused == Some(hash) {
        None
    } else {
        if pin.state == State::Withdrawn {
            pin.state = State::Approved;
        }
        let is_new = pin.waiting.replace(hash) != Some(hash);
        (is_new || has_switched).then_some(Event::Changed)
    };
    if event.is_some() || has_switched || pin.offered.is_none() {
        pin.offered = Some(hash);
    }
    pin.last_seen = around.now;
    event
}

/// A known definition is offered to nobody any more.
pub fn withdraw(pin: &mut Pin) -> Option<Event> {
    // What waits or was rejected keeps its place; it is not callable anyway.
    if pin.state == State::Approved && pin.waiting.is_none() {
        pin.state = State::Withdrawn;
        return Some(Event::Withdrawn);
    }
    None
}

/// A row that is not as we wrote it says nothing.
pub fn distrust(pin: &mut Pin) {
    *pin = Pin {
        state: State::Pending,
        approved: None,
        waiting: pin.offered,
        refused: None,
        decided_by: None,
        decided_at: None,
        ..pin.clone()
    };
}

/// Whether `hash`, offered now, may be shown.
pub fn decide(pin: &Pin, hash: Digest, identity: Option<&Pin>) -> Decision {
    if pin.key.kind != Kind::Identity && identity.is_some_and(|identity| !identity.is_open()) {
        return Decision::Withhold(Reason::Identity);
    }
    match pin.state {
        State::Approved if pin.is_open() && pin.approved == Some(hash) => Decision::Show,
        State::Approved | State::Withdrawn => Decision::Withhold(Reason::Changed),
        State::Pending => Decision::Withhold(Reason::Pending),
        State::Rejected => Decision::Withhold(Reason::Rejected),
    }
}

/// Carries out a ruling on a pin that exists; `earlier` is the form approved before the present one.
pub fn rule(
    pin: &mut Pin,
    ruling: &Ruling,
    earlier: Option<Digest>,
    by: &str,
    now: Timestamp,
) -> Result<(Event, Digest), PinError> {
    let (event, hash) = match ruling {
        Ruling::Approve { hash, .. } => {
            if ![pin.waiting, pin.offered, pin.approved].contains(&Some(*hash)) {
                return Err(PinError::Moved(pin.key.clone()));
            }
            approve(pin, *hash, by, now);
            (Event::Approved, *hash)
        }
        Ruling::Import { form, .. } => {
            approve(pin, form.hash, by, now);
            // What the server offers today was not what was imported.
            pin.waiting = pin.offered.filter(|offered| *offered != form.hash);
            (Event::Imported, form.hash)
        }
        Ruling::Reject { hash, .. } => {
            if ![pin.waiting, pin.offered, pin.approved].contains(&Some(*hash)) {
                return Err(PinError::Moved(pin.key.clone()));
            }
            pin.state = State::Rejected;
            pin.refused = Some(*hash);
            pin.waiting = None;
            if pin.approved == Some(*hash) {
                pin.approved = None;
            }
            (Event::Rejected, *hash)
        }
        Ruling::Release { key } => {
            let Some(approved) = pin.approved.filter(|approved| pin.offered == Some(*approved)) else {
                return Err(PinError::StillChanged(key.clone()));
            };
            approve(pin, approved, by, now);
            (Event::Released, approved)
        }
        Ruling::RollBack { key, to } => {
            let Some(to) = to.or(earlier) else { return Err(PinError::NothingEarlier(key.clone())) };
            approve(pin, to, by, now);
            pin.waiting = pin.offered.filter(|offered| *offered != to);
            (Event::RolledBack, to)
        }
    };
    pin.decided_by = Some(by.to_owned());
    pin.decided_at = Some(now);
    Ok((event, hash))
}

fn approve(pin: &mut Pin, hash: Digest, by: &str, now: Timestamp) {
    pin.state = State::Approved;
    pin.approved = Some(hash);
    pin.waiting = None;
    pin.refused = None;
    pin.decided_by = Some(by.to_owned());
    pin.decided_at = Some(now);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pins::Key;

    fn key() -> Key {
        Key { server: "files".parse().unwrap(), kind: Kind::Tool, name: "read".to_owned() }
    }

    fn form(n: u8) -> Digest {
        Digest::of(&[n])
    }

    #[derive(Clone, Debug)]
    enum Move {
        Offer { form: u8, before: Option<u8> },
        Withdraw,
        Approve(u8),
        Reject(u8),
        Release,
        RollBack(u8),
    }

    fn any_move() -> impl Strategy<Value = Move> {
        prop_oneof![
            4 => (0..3u8, prop::option::of(0..3u8)).prop_map(|(form, before)| Move::Offer { form, before }),
            1 => Just(Move::Withdraw),
            2 => (0..3u8).prop_map(Move::Approve),
            1 => (0..3u8).prop_map(Move::Reject),
            1 => Just(Move::Release),
            1 => (0..3u8).prop_map(Move::RollBack),
        ]
    }

    proptest! {
        /// Whatever a server does and in whatever order, a form is shown only if a person chose that very form last, and
        /// nothing else was offered since without a person looking again.
        #[test]
        fn only_what_a_person_chose_last_is_ever_shown(moves in prop::collection::vec(any_move(), 0..40)) {
            let now = Timestamp::from_unix(1);
            let around = |before: Option<u8>| {
                Around { policy: Policy::TrustOnFirstUse, is_first_use: false, before: before.map(form), now }
            };
            let first = Offered {
                kind: Kind::Tool,
                name: "read".to_owned(),
                hash: form(0),
                body: form(0),
                text: String::new(),
                findings: Vec::new(),
            };
            let (mut pin, _) = first_sight(key(), &first, &around(None));
            // What a person chose, while nothing has happened to it.
            let mut chosen: Option<Digest> = None;
            let mut last_choice: Option<Digest> = None;
            for one in moves {
                match one {
                    Move::Offer { form: n, before } => {
                        offer(&mut pin, form(n), &around(before));
                        if chosen != Some(form(n)) {
                            chosen = None;
                        }
                        let shown = decide(&pin, form(n), None) == Decision::Show;
                        prop_assert_eq!(shown, chosen == Some(form(n)));
                    }
                    Move::Withdraw => {
                        withdraw(&mut pin);
                        prop_assert!(!pin.is_open());
                    }
                    Move::Approve(n) => {
                        let ruling = Ruling::Approve { key: key(), hash: form(n) };
                        if rule(&mut pin, &ruling, None, "ada", now).is_ok() {
                            chosen = Some(form(n));
                            last_choice = chosen;
                        }
                    }
                    Move::Reject(n) => {
                        let ruling = Ruling::Reject { key: key(), hash: form(n) };
                        if rule(&mut pin, &ruling, None, "ada", now).is_ok() {
                            chosen = None;
                            last_choice = last_choice.filter(|last| *last != form(n));
                            prop_assert!(!pin.is_open());
                        }
                    }
                    Move::Release => {
                        if rule(&mut pin, &Ruling::Release { key: key() }, None, "ada", now).is_ok() {
                            chosen = last_choice;
                            prop_assert!(chosen.is_some(), "nothing was chosen to go back to");
                        }
                    }
                    Move::RollBack(n) => {
                        let ruling = Ruling::RollBack { key: key(), to: Some(form(n)) };
                        rule(&mut pin, &ruling, None, "ada", now).unwrap();
                        last_choice = Some(form(n));
                        chosen = last_choice.filter(|_| pin.waiting.is_none());
                    }
                }
                // Calls go to what was chosen last, or nowhere.
                if pin.is_open() {
                    prop_assert_eq!(pin.approved, last_choice);
                    prop_assert!(chosen.is_some());
                }
            }
        }
    }
}
