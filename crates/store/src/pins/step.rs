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

/// The turn of a definition that is told of as flapping: two versions of one server behind an address, or an old and a new gate
/// before one server, would else be told of for as long as they run.
const FLAPPING: u32 = 3;

/// What a server did with a known definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// What is written down.
    pub event: Event,
    /// Whether anybody is told.
    pub is_told: bool,
}

impl Turn {
    fn told(event: Event) -> Self {
        Self { event, is_told: true }
    }
}

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
        turns: 0,
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
pub fn offer(pin: &mut Pin, hash: Digest, around: &Around) -> Option<Turn> {
    let has_switched = pin.offered != Some(hash) && around.before.is_some_and(|before| before != hash);
    let waited = pin.waiting;
    let turn = turn(pin, hash, has_switched);
    if turn.is_some() || has_switched || pin.waiting != waited || pin.offered.is_none() {
        pin.offered = Some(hash);
    }
    pin.last_seen = around.now;
    turn
}

fn turn(pin: &mut Pin, hash: Digest, has_switched: bool) -> Option<Turn> {
    if pin.approved == Some(hash) {
        if pin.state == State::Withdrawn {
            pin.state = State::Approved;
            // Whether or not anybody is told, it may be called again.
            let again = turn_again(pin, Event::Returned);
            return again.or(Some(Turn { event: Event::Returned, is_told: false }));
        }
        // The hold stays: a server that shows one face and then another has to be looked at.
        return if has_switched { turn_again(pin, Event::Reverted) } else { None };
    }
    if pin.state == State::Rejected && pin.refused == Some(hash) {
        return None;
    }
    if pin.state == State::Withdrawn {
        pin.state = State::Approved;
    }
    match pin.waiting.replace(hash) {
        // Nothing was held for another form: whatever went before, a person has to hear of that.
        None => {
            pin.turns = 1;
            Some(Turn::told(Event::Changed))
        }
        Some(waiting) if waiting != hash || has_switched => turn_again(pin, Event::Changed),
        Some(_) => None,
    }
}

/// Counts a turn that neither opens nor holds anything; one too many is told of as flapping, and those after it not at all.
fn turn_again(pin: &mut Pin, event: Event) -> Option<Turn> {
    pin.turns = pin.turns.saturating_add(1);
    match pin.turns {
        ..FLAPPING => Some(Turn::told(event)),
        FLAPPING => Some(Turn::told(Event::Flapping)),
        _ => None,
    }
}

/// A known definition is offered to nobody any more.
pub fn withdraw(pin: &mut Pin) -> Option<Turn> {
    // What waits or was rejected keeps its place; it is not callable anyway.
    if pin.state == State::Approved && pin.waiting.is_none() {
        pin.state = State::Withdrawn;
        return Some(Turn { event: Event::Withdrawn, is_told: pin.turns < FLAPPING });
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
        turns: 0,
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
        Ruling::Extend { from, form, .. } => {
            if !pin.is_open() || pin.approved != Some(*from) {
                return Err(PinError::Moved(pin.key.clone()));
            }
            approve(pin, form.hash, by, now);
            pin.offered = Some(form.hash);
            (Event::Approved, form.hash)
        }
        Ruling::Reject { hash, .. } => {
            if ![pin.waiting, pin.offered, pin.approved].contains(&Some(*hash)) {
                return Err(PinError::Moved(pin.key.clone()));
            }
            pin.state = State::Rejected;
            pin.refused = Some(*hash);
            pin.waiting = None;
            pin.turns = 0;
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
    pin.turns = 0;
    pin.decided_by = Some(by.to_owned());
    pin.decided_at = Some(now);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pins::{Form, Key};

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
        Extend { from: u8, to: u8 },
        Reject(u8),
        Release,
        RollBack(u8),
    }

    fn any_move() -> impl Strategy<Value = Move> {
        prop_oneof![
            4 => (0..3u8, prop::option::of(0..3u8)).prop_map(|(form, before)| Move::Offer { form, before }),
            1 => Just(Move::Withdraw),
            2 => (0..3u8).prop_map(Move::Approve),
            1 => (0..3u8, 0..3u8).prop_map(|(from, to)| Move::Extend { from, to }),
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
            // How often anybody was told since a person decided.
            let mut told = 0;
            for one in moves {
                match one {
                    Move::Offer { form: n, before } => {
                        let was_open = pin.is_open();
                        let turn = offer(&mut pin, form(n), &around(before));
                        told += usize::from(turn.is_some_and(|turn| turn.is_told));
                        if was_open && !pin.is_open() {
                            prop_assert_eq!(turn, Some(Turn::told(Event::Changed)), "a hold is always told");
                        }
                        if chosen != Some(form(n)) {
                            chosen = None;
                        }
                        let shown = decide(&pin, form(n), None) == Decision::Show;
                        prop_assert_eq!(shown, chosen == Some(form(n)));
                    }
                    Move::Withdraw => {
                        told += usize::from(withdraw(&mut pin).is_some_and(|turn| turn.is_told));
                        prop_assert!(!pin.is_open());
                    }
                    Move::Approve(n) => {
                        let ruling = Ruling::Approve { key: key(), hash: form(n) };
                        if rule(&mut pin, &ruling, None, "ada", now).is_ok() {
                            (chosen, told) = (Some(form(n)), 0);
                            last_choice = chosen;
                        }
                    }
                    Move::Extend { from, to } => {
                        let (text, findings) = (String::new(), Vec::new());
                        let (from, hash, body) = (form(from), form(to), form(to));
                        let form = Form { hash, body, text, first_seen: now, approved_at: None, findings };
                        let ruling = Ruling::Extend { key: key(), from, form };
                        let was_open = pin.is_open() && chosen == Some(from);
                        let is_done = rule(&mut pin, &ruling, None, "more of the same", now).is_ok();
                        prop_assert_eq!(is_done, was_open, "only what stands approved is extended");
                        if is_done {
                            (chosen, last_choice, told) = (Some(hash), Some(hash), 0);
                        }
                    }
                    Move::Reject(n) => {
                        let ruling = Ruling::Reject { key: key(), hash: form(n) };
                        if rule(&mut pin, &ruling, None, "ada", now).is_ok() {
                            (chosen, told) = (None, 0);
                            last_choice = last_choice.filter(|last| *last != form(n));
                            prop_assert!(!pin.is_open());
                        }
                    }
                    Move::Release => {
                        if rule(&mut pin, &Ruling::Release { key: key() }, None, "ada", now).is_ok() {
                            (chosen, told) = (last_choice, 0);
                            prop_assert!(chosen.is_some(), "nothing was chosen to go back to");
                        }
                    }
                    Move::RollBack(n) => {
                        let ruling = Ruling::RollBack { key: key(), to: Some(form(n)) };
                        rule(&mut pin, &ruling, None, "ada", now).unwrap();
                        (last_choice, told) = (Some(form(n)), 0);
                        chosen = last_choice.filter(|_| pin.waiting.is_none());
                    }
                }
                // Twice as a turn, once as flapping; with as much coming and going before something else was held.
                prop_assert!(told <= 9, "{} times", told);
                // Calls go to what was chosen last, or nowhere.
                if pin.is_open() {
                    prop_assert_eq!(pin.approved, last_choice);
                    prop_assert!(chosen.is_some());
                }
            }
        }
    }
}
