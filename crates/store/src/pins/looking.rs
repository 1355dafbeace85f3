//! One look at a server, inside one transaction: what is known of it, what is new, and what is to be written.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use bartizan_model::Timestamp;
use sqlx::{AnyConnection, AssertSqlSafe, Row};

use super::{
    Decision, Event, Extent, Form, IDENTITY, Key, Kind, Look, NAME_BYTES, Offered, PINS_PER_SERVER, Pin,
    PinError, Reason, Sight, Step,
    rows::{self, Kept},
    step::{self, Around, Turn},
};
use crate::{
    Digest, Sealer,
    columns::{maybe_digest, seconds, time},
};

/// How old "last seen" may get before it is written anew.
const STALE: Duration = Duration::from_secs(3600);

/// How long a caller that has stopped looking counts among those who are offered something, and how long a definition
/// that nobody decided about is kept after that.
const FORGET: Duration = Duration::from_secs(30 * 24 * 3600);

/// Where a definition is within its server.
type Place = (Kind, String);

/// What came of one offered definition: news, if any, or why it is not even looked at.
pub type Outcome = Result<Option<Event>, Reason>;

/// A look in progress. The server's row is locked.
pub struct Looking<'a> {
    sealer: &'a Sealer,
    look: &'a Look,
    now: Timestamp,
    /// Everything the server ever offered.
    pins: BTreeMap<Place, Pin>,
    /// Pins to be written, with the steps they took; without any, only times changed.
    changed: BTreeMap<Place, Vec<Step>>,
    /// Kinds of which there has been a whole look.
    looked_at: Vec<String>,
    /// What this caller was offered in its last whole looks.
    before: HashMap<Place, Digest>,
    /// The digests of those looks, and when the last one was noted.
    sets: HashMap<Kind, (String, Timestamp)>,
}

impl<'a> Looking<'a> {
    /// Reads what is known.
    pub async fn begin(
        database: &mut AnyConnection,
        sealer: &'a Sealer,
        look: &'a Look,
        now: Timestamp,
    ) -> Result<Self, PinError> {
        let mut looking = Self {
            sealer,
            look,
            now,
            pins: BTreeMap::new(),
            changed: BTreeMap::new(),
            looked_at: Vec::new(),
            before: HashMap::new(),
            sets: HashMap::new(),
        };
        let statement = format!("SELECT {} FROM pins WHERE server = $1", rows::COLUMNS);
        let pins = sqlx::query(AssertSqlSafe(statement)).bind(looking.server());
        for row in pins.fetch_all(&mut *database).await? {
            looking.place(rows::pin(&row, sealer)?);
        }
        let before = sqlx::query(
            "SELECT i.kind, i.offered_set, i.last_seen, s.name, s.hash FROM pin_inventories i LEFT JOIN pin_sets s ON \
             s.server = i.server AND s.kind = i.kind AND s.offered_set = i.offered_set \
             WHERE i.server = $1 AND i.caller = $2",
        );
        for row in before.bind(looking.server()).bind(looking.caller()).fetch_all(&mut *database).await? {
            let kind = rows::kind(&row)?;
            looking.sets.insert(kind, (row.try_get("offered_set")?, time(&row, "last_seen")?));
            if let (Some(name), Some(hash)) = (row.try_get("name")?, maybe_digest(&row, "hash")?) {
                looking.before.insert((kind, name), hash);
            }
        }
        looking.looked_at = sqlx::query_scalar("SELECT kind FROM pin_first_looks WHERE server = $1")
            .bind(looking.server())
            .fetch_all(&mut *database)
            .await?;
        Ok(looking)
    }

    /// Takes in a pin; one that is not ours is set back to pending, so that the honest rest goes on.
    fn place(&mut self, Kept { mut pin, is_ours }: Kept) {
        let place = (pin.key.kind, pin.key.name.clone());
        if !is_ours {
            tracing::error!(server = self.server(), kind = pin.key.kind.as_str(), name = ?pin.key.name,
                "a pin is not as it was written; it waits for approval again");
            step::distrust(&mut pin);
            self.took(&place, Event::Tampered, pin.offered, "");
        }
        self.pins.insert(place, pin);
    }

    fn server(&self) -> &'a str {
        self.look.server.as_str()
    }

    fn caller(&self) -> String {
        String::from_utf8_lossy(self.look.caller.as_bytes()).into_owned()
    }

    fn key(&self, offered: &Offered) -> Key {
        Key { server: self.look.server.clone(), kind: offered.kind, name: offered.name.clone() }
    }

    fn took(&mut self, place: &Place, event: Event, hash: Option<Digest>, by: &str) {
        let step = Step { at: self.now, event, hash, by: by.to_owned() };
        self.changed.entry(place.clone()).or_default().push(step);
    }

    /// Brings every offered definition together with its pin; one outcome for each, in order.
    pub fn meet(&mut self) -> Vec<Outcome> {
        let mut counts: HashMap<(Kind, &str), usize> = HashMap::new();
        for offered in &self.look.offered {
            *counts.entry((offered.kind, &offered.name)).or_default() += 1;
        }
        let is_single = |o: &Offered| counts.get(&(o.kind, o.name.as_str())) == Some(&1);
        let look = self.look;
        look.offered
            .iter()
            .map(|o| if is_single(o) { self.meet_one(o) } else { Err(Reason::Duplicate) })
            .collect()
    }

    fn meet_one(&mut self, offered: &Offered) -> Outcome {
        let place = (offered.kind, offered.name.clone());
        let around = Around {
            policy: self.look.policy,
            is_first_use: !self.looked_at.iter().any(|kind| kind == offered.kind.as_str()),
            before: self.before.get(&place).copied(),
            now: self.now,
        };
        // Nothing else has been noted yet.
        let was_tampered = self.changed.contains_key(&place);
        if let Some(pin) = self.pins.get_mut(&place) {
            let stands = |pin: &Pin| (pin.waiting, pin.offered, pin.turns);
            let (before, seen_before) = (stands(pin), pin.last_seen);
            let turn = step::offer(pin, offered.hash, &around);
            if let Some(Turn { event, .. }) = turn {
                self.took(&place, event, Some(offered.hash), "");
            } else if stands(pin) != before || self.now.since(seen_before) >= STALE {
                self.changed.entry(place).or_default();
            }
            let told = turn.filter(|turn| turn.is_told).map(|turn| turn.event);
            return Ok(if was_tampered { Some(Event::Tampered) } else { told });
        }
        if !is_keepable(&offered.name) || self.pins.len() >= PINS_PER_SERVER {
            return Err(Reason::Unkeepable);
        }
        let (pin, taken) = step::first_sight(self.key(offered), offered, &around);
        self.pins.insert(place.clone(), pin);
        for (event, by) in taken {
            self.took(&place, event, Some(offered.hash), by);
        }
        Ok(Some(Event::FirstSeen))
    }

    /// Puts a whole look down, and finds what nobody is offered any more.
    pub async fn take_stock(&mut self, database: &mut AnyConnection) -> Result<Vec<Key>, PinError> {
        let Extent::Whole(kinds) = &self.look.extent else { return Ok(Vec::new()) };
        let mut withdrawn = Vec::new();
        for kind in kinds {
            if !self.keep_set(&mut *database, *kind).await? {
                continue;
            }
            let in_force: Vec<String> =
                sqlx::query_scalar("SELECT DISTINCT name FROM pin_sets WHERE server = $1 AND kind = $2")
                    .bind(self.server())
                    .bind(kind.as_str())
                    .fetch_all(&mut *database)
                    .await?;
            let in_force: BTreeSet<_> = in_force.into_iter().collect();
            let mut gone = Vec::new();
            for (place, pin) in &mut self.pins {
                if place.0 != *kind || in_force.contains(&place.1) {
                    continue;
                }
                let Some(Turn { event, is_told }) = step::withdraw(pin) else { continue };
                gone.push((place.clone(), event, pin.approved));
                withdrawn.extend(is_told.then(|| pin.key.clone()));
            }
            for (place, event, approved) in gone {
                self.took(&place, event, approved, "");
            }
        }
        Ok(withdrawn)
    }

    /// Whether nothing of this look is to be written: it shows what was shown before, noted not long ago, and finds nothing new.
    pub async fn is_known(
        &self,
        database: &mut AnyConnection,
        outcomes: &[Outcome],
    ) -> Result<bool, PinError> {
        let kinds: &[Kind] = match &self.look.extent {
            Extent::Part => &[],
            Extent::Whole(kinds) => kinds,
        };
        Ok(self.changed.is_empty()
            && kinds.iter().all(|kind| self.is_noted(*kind, &set_of(&self.singles(*kind))))
            && self.has_findings(database, outcomes).await?)
    }

    /// Whether it is on record that this caller is offered `set` of `kind`. While something of the kind waits for a person, who else
    /// is offered what is part of the question, and must not be old.
    fn is_noted(&self, kind: Kind, set: &str) -> bool {
        let waits = || self.pins.iter().any(|(place, pin)| place.0 == kind && pin.waiting.is_some());
        let noted = self.sets.get(&kind);
        noted.is_some_and(|(noted, at)| noted == set && self.now.since(*at) < STALE && !waits())
    }

    /// Whether all that was found in what is offered is kept.
    async fn has_findings(
        &self,
        database: &mut AnyConnection,
        outcomes: &[Outcome],
    ) -> Result<bool, PinError> {
        let kept = self.look.offered.iter().zip(outcomes).filter(|(_, outcome)| outcome.is_ok());
        let mut found: BTreeSet<_> = kept
            .flat_map(|(offered, _)| offered.findings.iter().map(move |finding| (offered, finding)))
            .map(|(offered, finding)| {
                let (kind, hash) = (offered.kind.as_str().to_owned(), offered.hash.to_string());
                (kind, offered.name.clone(), hash, finding.rule.clone(), rows::words(finding))
            })
            .collect();
        if found.is_empty() {
            return Ok(true);
        }
        let kept = sqlx::query("SELECT kind, name, hash, rule, words FROM pin_findings WHERE server = $1");
        for row in kept.bind(self.server()).fetch_all(database).await? {
            let text = |column: &str| row.try_get::<String, _>(column);
            found.remove(&(text("kind")?, text("name")?, text("hash")?, text("rule")?, text("words")?));
        }
        Ok(found.is_empty())
    }

    /// Notes which set of `kind` this caller is offered; the answer is whether it is another one than before.
    async fn keep_set(&self, database: &mut AnyConnection, kind: Kind) -> Result<bool, PinError> {
        let offered = self.singles(kind);
        let set = set_of(&offered);
        if self.is_noted(kind, &set) {
            return Ok(false);
        }
        let of_kind =
            |statement: &'static str| sqlx::query(statement).bind(self.server()).bind(kind.as_str());
        of_kind(
            "INSERT INTO pin_inventories (server, kind, caller, offered_set, first_seen, last_seen) \
             VALUES ($1, $2, $3, $4, $5, $5) ON CONFLICT (server, kind, caller) DO UPDATE SET \
             offered_set = excluded.offered_set, last_seen = excluded.last_seen",
        )
        .bind(self.caller())
        .bind(&set)
        .bind(seconds(self.now))
        .execute(&mut *database)
        .await?;
        if self.sets.get(&kind).is_some_and(|(noted, _)| *noted == set) {
            return Ok(false);
        }
        of_kind(
            "INSERT INTO pin_first_looks (server, kind, at) VALUES ($1, $2, $3) ON CONFLICT (server, kind) DO NOTHING",
        )
        .bind(seconds(self.now))
        .execute(&mut *database)
        .await?;
        let known =
            of_kind("SELECT name FROM pin_sets WHERE server = $1 AND kind = $2 AND offered_set = $3 LIMIT 1")
                .bind(&set)
                .fetch_optional(&mut *database)
                .await?;
        if known.is_none() {
            for (name, hash) in &offered {
                of_kind("INSERT INTO pin_sets (server, kind, offered_set, name, hash) VALUES ($1, $2, $3, $4, $5)")
                    .bind(&set)
                    .bind(*name)
                    .bind(hash.to_string())
                    .execute(&mut *database)
                    .await?;
            }
        }
        self.forget(&mut *database, kind).await?;
        Ok(true)
    }

    /// Makes room: callers that stopped looking, sets that nobody is offered, and what nobody ever decided about.
    async fn forget(&self, database: &mut AnyConnection, kind: Kind) -> Result<(), PinError> {
        let old = seconds(Timestamp::from_unix(self.now.as_unix().saturating_sub(FORGET.as_secs())));
        let of_kind =
            |statement: &'static str| sqlx::query(statement).bind(self.server()).bind(kind.as_str());
        of_kind("DELETE FROM pin_inventories WHERE server = $1 AND kind = $2 AND last_seen < $3")
            .bind(old)
            .execute(&mut *database)
            .await?;
        of_kind(
            "DELETE FROM pin_sets WHERE server = $1 AND kind = $2 AND offered_set NOT IN \
             (SELECT offered_set FROM pin_inventories WHERE server = $1 AND kind = $2)",
        )
        .execute(&mut *database)
        .await?;
        for table in ["pin_history", "pin_findings", "pin_forms", "pins"] {
            let statement = format!(
                "DELETE FROM {table} WHERE server = $1 AND kind = $2 AND name IN (SELECT p.name FROM pins p \
                 WHERE p.server = $1 AND p.kind = $2 AND p.state = 'pending' AND p.decided_at IS NULL \
                 AND p.last_seen < $3 AND NOT EXISTS (SELECT 1 FROM pin_sets s WHERE s.server = $1 \
                 AND s.kind = $2 AND s.name = p.name))"
            );
            // INVARIANT: the statement is put together from the constants above alone.
            sqlx::query(AssertSqlSafe(statement))
                .bind(self.server())
                .bind(kind.as_str())
                .bind(old)
                .execute(&mut *database)
                .await?;
        }
        Ok(())
    }

    /// The definitions of `kind` that the look shows once, and that can be kept.
    fn singles(&self, kind: Kind) -> BTreeMap<&'a str, Digest> {
        let mut found: BTreeMap<&str, Option<Digest>> = BTreeMap::new();
        for offered in self.look.offered.iter().filter(|o| o.kind == kind && is_keepable(&o.name)) {
            let is_second = found.contains_key(offered.name.as_str());
            found.insert(&offered.name, (!is_second).then_some(offered.hash));
        }
        found.into_iter().filter_map(|(name, hash)| Some((name, hash?))).collect()
    }

    /// Whether anything happened to any pin.
    pub fn has_news(&self) -> bool {
        self.changed.values().any(|steps| !steps.is_empty())
    }

    /// Writes what changed; what took a step carries `version`.
    pub async fn write(
        &mut self,
        database: &mut AnyConnection,
        version: u64,
        outcomes: &[Outcome],
    ) -> Result<(), PinError> {
        for (place, steps) in &self.changed {
            let Some(pin) = self.pins.get_mut(place) else { continue };
            if !steps.is_empty() {
                pin.version = version;
            }
            rows::write(&mut *database, self.sealer, pin).await?;
            for step in steps {
                rows::add_step(&mut *database, &pin.key, step).await?;
            }
        }
        let kept = self.look.offered.iter().zip(outcomes).filter(|(_, outcome)| outcome.is_ok());
        for (offered, _) in kept {
            let key = self.key(offered);
            if let Some(steps) = self.changed.get(&(offered.kind, offered.name.clone())) {
                let form = Form {
                    hash: offered.hash,
                    body: offered.body,
                    text: offered.text.clone(),
                    first_seen: self.now,
                    approved_at: None,
                    findings: Vec::new(),
                };
                rows::keep_form(&mut *database, &key, &form).await?;
                if let Some(approval) = steps.iter().find(|step| step.event == Event::Approved) {
                    rows::mark_approved(&mut *database, &key, offered.hash, &approval.by, self.now).await?;
                }
            }
            rows::keep_findings(&mut *database, &key, offered.hash, &offered.findings, self.now).await?;
        }
        Ok(())
    }

    /// What may be shown, now that it is known where the server itself stands.
    pub fn sights(&self, outcomes: Vec<Outcome>) -> Vec<Sight> {
        let identity = self.pins.get(&(Kind::Identity, IDENTITY.to_owned()));
        let sight = |(offered, outcome): (&Offered, Outcome)| {
            let pin = self.pins.get(&(offered.kind, offered.name.clone()));
            let (decision, news) = match (outcome, pin) {
                (Ok(news), Some(pin)) => (step::decide(pin, offered.hash, identity), news),
                (Ok(_), None) => (Decision::Withhold(Reason::Pending), None),
                (Err(reason), _) => (Decision::Withhold(reason), None),
            };
            Sight { key: self.key(offered), decision, news }
        };
        self.look.offered.iter().zip(outcomes).map(sight).collect()
    }
}

/// What tells one set of definitions from another.
fn set_of(offered: &BTreeMap<&str, Digest>) -> String {
    let mut framed = Vec::new();
    for (name, hash) in offered {
        framed.extend_from_slice(&(name.len() as u64).to_be_bytes());
        framed.extend_from_slice(name.as_bytes());
        framed.extend_from_slice(&hash.0);
    }
    Digest::of(&framed).to_string()
}

/// Whether a definition of this name can be kept: Postgres keeps no NUL, and a name is for reading.
pub fn is_keepable(name: &str) -> bool {
    name.len() <= NAME_BYTES && !name.contains('\0')
}
