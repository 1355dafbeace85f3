//! Pins in the database.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use bartizan_model::{ServerName, Timestamp};
use sqlx::{AnyConnection, AssertSqlSafe, Row};

use super::{
    Event, Form, Key, Kind, Look, Observation, Pin, PinError, PinSet, Pinned, Pins, Record, Ruling, State,
    Step,
    looking::{self, Looking},
    rows::{self, Kept},
    seen::Seen,
    step,
};
use crate::{
    Database, DatabaseError, Digest, Sealer,
    columns::{digest, server},
};

/// [`Pins`] in a [`Database`].
#[derive(Debug)]
pub struct StoredPins {
    database: Database,
    sealer: Arc<Sealer>,
    seen: Seen,
}

impl StoredPins {
    /// Pins in `database`, sealed by `sealer`. `seen`, if given, is a file outside the database (`pins.seen`) that
    /// remembers the newest version, so that an old database put back is noticed (attacks.md PO-13).
    pub fn new(database: Database, sealer: Arc<Sealer>, seen: Option<PathBuf>) -> Self {
        Self { database, sealer, seen: Seen::new(seen) }
    }

    /// Marks the file outside the database with the key that marks now.
    ///
    /// # Errors
    /// [`PinError::Seen`].
    pub fn renew_seen(&self) -> Result<(), PinError> {
        self.seen.renew(&self.sealer)
    }

    async fn version_in(&self, database: &mut AnyConnection, known: u64) -> Result<u64, PinError> {
        let version: i64 =
            sqlx::query_scalar("SELECT version FROM pin_version WHERE one = 1").fetch_one(database).await?;
        let version = u64::try_from(version).map_err(|_| DatabaseError::Value("version"))?;
        self.seen.check(known, version)?;
        Ok(version)
    }

    /// Counts the version up; from here to the end of the transaction, no other change of any pin runs.
    async fn next_version(&self, database: &mut AnyConnection) -> Result<u64, PinError> {
        let version: i64 = sqlx::query_scalar(
            "UPDATE pin_version SET version = version + 1 WHERE one = 1 RETURNING version",
        )
        .fetch_one(database)
        .await?;
        Ok(u64::try_from(version).map_err(|_| DatabaseError::Value("version"))?)
    }

    /// What comes of a look that shows nothing to be written down.
    async fn known_in(
        &self,
        look: &Look,
        known: u64,
        now: Timestamp,
    ) -> Result<Option<Observation>, PinError> {
        let mut database = self.database.read().await?;
        let version = self.version_in(&mut database, known).await?;
        let mut looking = Looking::begin(&mut database, &self.sealer, look, now).await?;
        let outcomes = looking.meet();
        if !looking.is_known(&mut database, &outcomes).await? {
            return Ok(None);
        }
        Ok(Some(Observation { sights: looking.sights(outcomes), withdrawn: Vec::new(), version }))
    }

    async fn observe_in(
        &self,
        database: &mut AnyConnection,
        look: &Look,
        known: u64,
        now: Timestamp,
    ) -> Result<Observation, PinError> {
        rows::lock(&mut *database, &look.server, now).await?;
        let mut version = self.version_in(&mut *database, known).await?;
        let mut looking = Looking::begin(&mut *database, &self.sealer, look, now).await?;
        let outcomes = looking.meet();
        let withdrawn = looking.take_stock(&mut *database).await?;
        if looking.has_news() {
            version = self.next_version(&mut *database).await?;
        }
        looking.write(&mut *database, version, &outcomes).await?;
        Ok(Observation { sights: looking.sights(outcomes), withdrawn, version })
    }

    async fn decide_in(
        &self,
        database: &mut AnyConnection,
        rulings: &[Ruling],
        known: u64,
        by: &str,
        now: Timestamp,
    ) -> Result<u64, PinError> {
        // In one order, so that no two of us wait for each other.
        let servers: BTreeSet<_> = rulings.iter().map(|ruling| &ruling.key().server).collect();
        for server in servers {
            rows::lock(&mut *database, server, now).await?;
        }
        self.version_in(&mut *database, known).await?;
        let version = self.next_version(&mut *database).await?;
        for ruling in rulings {
            let key = ruling.key();
            let kept = self.one(&mut *database, key).await?;
            let mut pin = match (kept, ruling) {
                (Some(Kept { mut pin, is_ours }), _) => {
                    if !is_ours {
                        step::distrust(&mut pin);
                    }
                    pin
                }
                (None, Ruling::Import { .. }) => Pin {
                    key: key.clone(),
                    state: State::Pending,
                    approved: None,
                    waiting: None,
                    refused: None,
                    offered: None,
                    turns: 0,
                    first_seen: now,
                    last_seen: now,
                    decided_by: None,
                    decided_at: None,
                    version,
                },
                (None, _) => return Err(PinError::Unknown(key.clone())),
            };
            let earlier = match ruling {
                Ruling::RollBack { to, .. } => self.earlier(&mut *database, &pin, *to).await?,
                _ => None,
            };
            if let Ruling::RollBack { to: Some(_), .. } = ruling
                && earlier.is_none()
            {
                return Err(PinError::NothingEarlier(key.clone()));
            }
            if let Ruling::Import { form, .. } | Ruling::Extend { form, .. } = ruling {
                if Digest::of(form.text.as_bytes()) != form.hash || !looking::is_keepable(&key.name) {
                    return Err(PinError::Forged(key.clone()));
                }
                rows::keep_form(&mut *database, key, &Form { first_seen: now, ..form.clone() }).await?;
                rows::keep_findings(&mut *database, key, form.hash, &form.findings, now).await?;
            }
            let (event, hash) = step::rule(&mut pin, ruling, earlier, by, now)?;
            pin.version = version;
            rows::write(&mut *database, &self.sealer, &pin).await?;
            rows::add_step(
                &mut *database,
                key,
                &Step { at: now, event, hash: Some(hash), by: by.to_owned() },
            )
            .await?;
            if event != Event::Rejected {
                rows::mark_approved(&mut *database, key, hash, by, now).await?;
            }
        }
        Ok(version)
    }

    async fn one(&self, database: &mut AnyConnection, key: &Key) -> Result<Option<Kept>, PinError> {
        let statement =
            format!("SELECT {} FROM pins WHERE server = $1 AND kind = $2 AND name = $3", rows::COLUMNS);
        let row = sqlx::query(AssertSqlSafe(statement))
            .bind(key.server.as_str())
            .bind(key.kind.as_str())
            .bind(&key.name)
            .fetch_optional(database)
            .await?;
        Ok(row.map(|row| rows::pin(&row, &self.sealer)).transpose()?)
    }

    /// The form approved last that is neither the present one nor refused, or `wanted` if it ever was approved.
    async fn earlier(
        &self,
        database: &mut AnyConnection,
        pin: &Pin,
        wanted: Option<Digest>,
    ) -> Result<Option<Digest>, PinError> {
        let found = sqlx::query(
            "SELECT h.hash FROM pin_history h JOIN pin_forms f ON f.server = h.server AND f.kind = h.kind \
             AND f.name = h.name AND f.hash = h.hash WHERE h.server = $1 AND h.kind = $2 AND h.name = $3 \
             AND h.event IN ('approved', 'imported', 'rolled-back') ORDER BY h.id DESC",
        )
        .bind(pin.key.server.as_str())
        .bind(pin.key.kind.as_str())
        .bind(&pin.key.name)
        .fetch_all(database)
        .await?;
        for row in &found {
            let hash = digest(row, "hash")?;
            let is_it = match wanted {
                Some(wanted) => hash == wanted,
                None => pin.approved != Some(hash) && pin.refused != Some(hash),
            };
            if is_it {
                return Ok(Some(hash));
            }
        }
        Ok(None)
    }
}

#[async_trait]
impl Pins for StoredPins {
    async fn observe(&self, look: &Look, now: Timestamp) -> Result<Observation, PinError> {
        for offered in &look.offered {
            if Digest::of(offered.text.as_bytes()) != offered.hash {
                let (server, kind, name) = (look.server.clone(), offered.kind, offered.name.clone());
                return Err(PinError::Forged(Key { server, kind, name }));
            }
        }
        let known = self.seen.known(&self.sealer)?;
        // Nearly every look shows what is known already: it waits for nobody who writes, and nobody waits for it.
        if let Some(observation) = self.known_in(look, known, now).await? {
            return Ok(observation);
        }
        let mut transaction = self.database.write().await?;
        let observation = self.observe_in(&mut transaction, look, known, now).await?;
        transaction.commit().await?;
        self.seen.remember(&self.sealer, observation.version)?;
        Ok(observation)
    }

    async fn decide(&self, rulings: &[Ruling], by: &str, now: Timestamp) -> Result<u64, PinError> {
        let known = self.seen.known(&self.sealer)?;
        let mut transaction = self.database.write().await?;
        let version = self.decide_in(&mut transaction, rulings, known, by, now).await?;
        transaction.commit().await?;
        self.seen.remember(&self.sealer, version)?;
        Ok(version)
    }

    async fn list(&self, server: Option<&ServerName>) -> Result<Vec<Pin>, PinError> {
        let found = match server {
            Some(server) => {
                let statement = format!("SELECT {} FROM pins WHERE server = $1", rows::COLUMNS);
                sqlx::query(AssertSqlSafe(statement))
                    .bind(server.as_str())
                    .fetch_all(self.database.pool())
                    .await?
            }
            None => {
                let statement = format!("SELECT {} FROM pins", rows::COLUMNS);
                sqlx::query(AssertSqlSafe(statement)).fetch_all(self.database.pool()).await?
            }
        };
        let mut pins = Vec::with_capacity(found.len());
        for row in &found {
            pins.push(trusted(rows::pin(row, &self.sealer)?));
        }
        // Databases sort texts each in its own way.
        pins.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(pins)
    }

    async fn read(&self, key: &Key) -> Result<Option<Record>, PinError> {
        let mut database = self.database.read().await?;
        let Some(kept) = self.one(&mut database, key).await? else { return Ok(None) };
        let mut record =
            Record { pin: trusted(kept), forms: Vec::new(), history: Vec::new(), sightings: Vec::new() };
        let of_it = |statement: &'static str| {
            sqlx::query(statement).bind(key.server.as_str()).bind(key.kind.as_str()).bind(&key.name)
        };
        let forms = of_it(
            "SELECT hash, body, text, first_seen, approved_at FROM pin_forms \
             WHERE server = $1 AND kind = $2 AND name = $3 ORDER BY first_seen DESC, hash",
        );
        for row in forms.fetch_all(&mut *database).await? {
            let form = rows::form(&row)?;
            if Digest::of(form.text.as_bytes()) != form.hash {
                return Err(PinError::Forged(key.clone()));
            }
            record.forms.push(form);
        }
        let findings = of_it(
            "SELECT hash, rule, severity, words, blocks FROM pin_findings \
             WHERE server = $1 AND kind = $2 AND name = $3 ORDER BY id",
        );
        for row in findings.fetch_all(&mut *database).await? {
            let (hash, finding) = rows::finding(&row)?;
            if let Some(form) = record.forms.iter_mut().find(|form| form.hash == hash) {
                form.findings.push(finding);
            }
        }
        let history = of_it(
            "SELECT at, event, hash, by_whom FROM pin_history \
             WHERE server = $1 AND kind = $2 AND name = $3 ORDER BY id",
        );
        for row in history.fetch_all(&mut *database).await? {
            record.history.push(rows::step(&row)?);
        }
        let sightings = of_it(
            "SELECT i.caller, s.hash, i.last_seen FROM pin_sets s JOIN pin_inventories i ON i.server = s.server \
             AND i.kind = s.kind AND i.offered_set = s.offered_set \
             WHERE s.server = $1 AND s.kind = $2 AND s.name = $3 ORDER BY i.last_seen DESC, i.caller",
        );
        for row in sightings.fetch_all(&mut *database).await? {
            record.sightings.push(rows::sighting(&row)?);
        }
        Ok(Some(record))
    }

    async fn snapshot(&self) -> Result<PinSet, PinError> {
        let read = self.since(&PinSet::nothing()).await?;
        // Nothing was ever pinned.
        Ok(read.unwrap_or_else(PinSet::nothing))
    }

    async fn since(&self, known: &PinSet) -> Result<Option<PinSet>, PinError> {
        let highest = self.seen.known(&self.sealer)?;
        let mut database = self.database.read().await?;
        let version = self.version_in(&mut database, highest).await?;
        if version == known.version() {
            return Ok(None);
        }
        let since = i64::try_from(known.version()).unwrap_or(i64::MAX);
        let changed = "SELECT server, MAX(version) AS version FROM pins WHERE version > $1 GROUP BY server";
        let changed = sqlx::query(changed).bind(since).fetch_all(&mut *database).await?;
        let changed = changed.iter().map(|row| -> Result<_, DatabaseError> {
            let version = row.try_get::<i64, _>("version")?;
            Ok((server(row)?, u64::try_from(version).map_err(|_| DatabaseError::Value("version"))?))
        });
        let mut set = known.advanced(version, changed.collect::<Result<_, _>>()?);
        let columns: Vec<_> = rows::COLUMNS.split(", ").map(|column| format!("p.{column}")).collect();
        let statement = format!(
            "SELECT {}, f.text FROM pins p LEFT JOIN pin_forms f ON f.server = p.server AND f.kind = p.kind \
             AND f.name = p.name AND f.hash = p.approved WHERE (p.state = 'approved' OR p.kind = 'server-identity') \
             AND p.server IN (SELECT server FROM pins WHERE version > $1)",
            columns.join(", ")
        );
        let mut held = Vec::new();
        for row in sqlx::query(AssertSqlSafe(statement)).bind(since).fetch_all(&mut *database).await? {
            let Kept { pin, is_ours } = rows::pin(&row, &self.sealer)?;
            let text: Option<String> = row.try_get("text")?;
            let pinned = pin.approved.zip(text).filter(|(hash, text)| Digest::of(text.as_bytes()) == *hash);
            match pinned {
                Some((hash, text)) if is_ours && pin.is_open() => {
                    let pinned = Pinned { hash, text: text.into() };
                    set.insert(pin.key.server, pin.key.kind, pin.key.name, pinned);
                }
                _ if pin.key.kind == Kind::Identity => held.push(pin.key.server),
                _ => {}
            }
        }
        for server in held {
            set.remove_server(&server);
        }
        Ok(Some(set))
    }

    async fn version(&self) -> Result<u64, PinError> {
        let known = self.seen.known(&self.sealer)?;
        let mut database = self.database.pool().acquire().await?;
        self.version_in(&mut database, known).await
    }
}

/// A pin as it may be believed.
fn trusted(Kept { mut pin, is_ours }: Kept) -> Pin {
    if !is_ours {
        step::distrust(&mut pin);
    }
    pin
}
