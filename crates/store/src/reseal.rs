//! Sealing everything again under newer keys, while gates go on.
//!
//! Each row is read, opened, sealed anew and put back only if nobody changed it meanwhile; whoever is stopped and starts
//! again finds what is left by the ids of the keys. A row that does not open, or cannot be read, is left as it is: it counted
//! for nothing before.
//!
//! What lives for minutes only, sign-ins under way, is left to end by itself: the gate's older key opens for a day more
//! ([`crate::keyfile::RETIRED`]).

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bartizan_model::{ServerName, Timestamp};
use sqlx::{AssertSqlSafe, Row, any::AnyRow};

use crate::{
    Database, DatabaseError, Sealer, StoredAdmins, StoredBundles, admins, approvals, bundles,
    columns::{digest, time},
    consents, grants,
    keyfile::{Contents, KeyFile, KeysError},
    links::{self, Account},
    persons::{self, Person},
    pins::{StoredPins, rows as pin_rows},
    provider_tokens, quarantine, signing, vault,
};

/// Rows that are read at once.
const PAGE: i64 = 200;

/// Why a rotation stopped. It goes on where it was when it is begun again.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// Another process rotates the same keys.
    #[error("another rotation of these keys is under way; wait until it is finished")]
    Busy,
    /// The keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The database.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The file beside the pins.
    #[error(transparent)]
    Pins(#[from] crate::pins::PinError),
}

/// What is sealed outside the database, in a file of the state folder.
#[async_trait]
pub trait Outside: Send + Sync {
    /// What it is, as [`Progress::Resealed`] tells it.
    fn what(&self) -> &'static str;

    /// Seals all of it again under the keys that seal now: how many were, and how many do not open and were left as they
    /// are.
    ///
    /// # Errors
    /// What the system or the database says; the rotation is not over then.
    async fn reseal(&self) -> Result<(u64, u64), DatabaseError>;
}

impl From<sqlx::Error> for RotationError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// How far a rotation is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// New keys are made; gates learn of them.
    Published,
    /// New keys seal; gates learn of it.
    Promoted,
    /// A row cannot be read, and was left as it is. Nobody else can read it either.
    Malformed {
        /// What it is.
        what: &'static str,
        /// What names it, escaped: text of somebody else's may be among it.
        row: String,
    },
    /// A kind of rows was sealed again: `done` of them, and `lost` that do not open were left as they are.
    Resealed {
        /// What they are.
        what: &'static str,
        /// How many were sealed again.
        done: u64,
        /// How many do not open.
        lost: u64,
    },
    /// Older keys are destroyed.
    Ended,
}

/// That this process rotates the keys of a file, and no other one while it lives.
#[derive(Debug)]
pub struct Only {
    _lock: std::fs::File,
}

impl Only {
    /// Keeps every other rotation of the keys in `file` out. Two of them at once would each destroy what the other seals by: the
    /// second is refused, before it has changed anything.
    ///
    /// # Errors
    /// [`RotationError::Busy`], or the file beside the keys cannot be locked.
    pub fn of(file: &KeyFile) -> Result<Self, RotationError> {
        let lock = file.only_rotation().map_err(KeysError::from)?;
        Ok(Self { _lock: lock.ok_or(RotationError::Busy)? })
    }
}

/// A rotation of every key that is ours.
pub struct Rotation<'a> {
    /// The key file.
    pub file: &'a KeyFile,
    /// The database.
    pub database: &'a Database,
    /// Sealer of this process; it goes by the new keys when this is over.
    pub sealer: Arc<Sealer>,
    /// The pins, with the file beside them.
    pub pins: &'a StoredPins,
    /// What was taken up of bundles, with the file beside it.
    pub bundles: &'a StoredBundles,
    /// Admin roles, with the file beside them.
    pub admins: &'a StoredAdmins,
    /// What is sealed elsewhere.
    pub outside: &'a [&'a dyn Outside],
    /// How long gates take to learn of a change of the key file.
    pub patience: Duration,
    /// Destroy the gate's older key at once, not after a day: what it sealed for other hands (session ids, cursors, forms)
    /// opens no more. For a key that got out.
    pub at_once: bool,
}

impl Rotation<'_> {
    /// Rotates, or goes on with a rotation that was stopped; `only` is of the same file.
    ///
    /// # Errors
    /// [`RotationError`]; to be begun again.
    pub async fn run(
        &self,
        _only: &Only,
        now: Timestamp,
        say: &mut dyn FnMut(Progress),
    ) -> Result<(), RotationError> {
        if self.file.read().await?.rotating().is_none() {
            self.file.root().renew().await.map_err(KeysError::from)?;
        }
        let begun = self.file.change(now, |keys, entropy| keys.begin(now, entropy)).await?;
        self.adopt(&begun)?;
        say(Progress::Published);
        tokio::time::sleep(self.patience).await;
        let promoted = self.file.change(now, |keys, _| keys.promote(now)).await?;
        self.adopt(&promoted)?;
        say(Progress::Promoted);
        tokio::time::sleep(self.patience).await;
        self.reseal(say).await?;
        self.pins.renew_seen()?;
        self.bundles.renew_seen()?;
        self.admins.renew_ended()?;
        let root = self.sealer.persons_id().ok_or(DatabaseError::Locked)?;
        // Nothing opens by them any more; what still names one did not open before.
        sqlx::query("DELETE FROM person_keys WHERE root <> $1")
            .bind(root)
            .execute(self.database.writer())
            .await?;
        let at_once = self.at_once;
        let ended = self.file.change(now, |keys, _| keys.end(at_once)).await?;
        self.file.root().forget_older().await.map_err(KeysError::from)?;
        self.adopt(&ended)?;
        say(Progress::Ended);
        Ok(())
    }

    fn adopt(&self, keys: &Contents) -> Result<(), RotationError> {
        Ok(self.sealer.adopt(keys).map_err(KeysError::from)?)
    }

    async fn reseal(&self, say: &mut dyn FnMut(Progress)) -> Result<(), RotationError> {
        for table in TABLES {
            let mut pass = Pass::default();
            loop {
                self.pass(table, &mut pass, say).await?;
                if pass.missed == 0 {
                    break;
                }
                pass = Pass { done: pass.done, is_told: true, ..Pass::default() };
            }
            say(pass.progress(table));
        }
        for outside in self.outside {
            let (done, lost) = outside.reseal().await?;
            say(Progress::Resealed { what: outside.what(), done, lost });
        }
        Ok(())
    }

    /// Goes through a table once, by the keys of its rows: rows that come and go meanwhile hide no other.
    async fn pass(
        &self,
        table: &Table,
        pass: &mut Pass,
        say: &mut dyn FnMut(Progress),
    ) -> Result<(), DatabaseError> {
        let mut after: Option<Vec<String>> = None;
        loop {
            let rows = self.stale(table, after.as_deref()).await?;
            for row in &rows {
                match self.again(table, row).await {
                    Ok(Some(0)) => pass.missed += 1,
                    Ok(Some(count)) => pass.done += count,
                    Ok(None) => pass.lost += 1,
                    // One row that somebody spoilt must not keep the others under a key that got out.
                    Err(error) if self.is_of_row(&error) => {
                        pass.lost += 1;
                        if !pass.is_told {
                            say(Progress::Malformed { what: table.what, row: table.name_of(row) });
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
            if i64::try_from(rows.len()).is_ok_and(|read| read < PAGE) {
                return Ok(());
            }
            say(pass.progress(table));
            // A page of rows that nothing names cannot be gone on from, and what follows it must not be lost.
            let last = rows.iter().rev().find_map(|row| table.key_of(row));
            after = Some(last.ok_or(DatabaseError::Value(table.name))?);
        }
    }

    /// Seals a row again; how many were changed, `None` if it does not open.
    async fn again(&self, table: &Table, row: &AnyRow) -> Result<Option<u64>, DatabaseError> {
        match self.renewed(table, row).await? {
            None => Ok(None),
            Some(text) => self.put(table, row, &text).await.map(Some),
        }
    }

    /// Whether an error says something of one row, and nothing of the database or the keys: a value that is not one, or a
    /// person's key under a root that the key file does not have.
    fn is_of_row(&self, error: &DatabaseError) -> bool {
        match error {
            DatabaseError::Value(_) => true,
            DatabaseError::Locked => !self.sealer.is_locked(),
            DatabaseError::Failed(sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)) => true,
            _ => false,
        }
    }

    /// The next rows that older keys sealed, in the order of what names them, behind the row that `after` names.
    async fn stale(&self, table: &Table, after: Option<&[String]>) -> Result<Vec<AnyRow>, DatabaseError> {
        let Table { name, column, keys, .. } = table;
        let (condition, id) = if table.is_personal() {
            let root = self.sealer.persons_id().ok_or(DatabaseError::Locked)?;
            let of_current = format!(
                "NOT EXISTS (SELECT 1 FROM person_keys k WHERE k.tenant = '' AND k.issuer = t.issuer \
                 AND k.subject = t.subject AND k.root = $1 AND t.{column} LIKE '4.' || k.id || '.%')"
            );
            (of_current, root)
        } else {
            let id = self.sealer.key_id().ok_or(DatabaseError::Locked)?;
            (format!("t.{column} NOT LIKE $1"), format!("_.{id}.%"))
        };
        let order = keys.join(", ");
        let numbers: Vec<_> = (3..).take(keys.len()).map(|n| format!("${n}")).collect();
        let behind = after.map(|_| format!("AND ({order}) > ({})", numbers.join(", "))).unwrap_or_default();
        let statement = format!(
            "SELECT * FROM {name} t WHERE t.{column} IS NOT NULL AND {condition} {behind} ORDER BY {order} LIMIT $2"
        );
        let mut query = sqlx::query(AssertSqlSafe(statement)).bind(id).bind(PAGE);
        for key in after.unwrap_or_default() {
            query = query.bind(key.clone());
        }
        Ok(query.fetch_all(self.database.pool()).await?)
    }

    /// Puts `text` in the place of what was read; nothing if somebody else did meanwhile.
    async fn put(&self, table: &Table, row: &AnyRow, text: &str) -> Result<u64, DatabaseError> {
        let Table { name, column, keys, .. } = table;
        let conditions: Vec<_> = keys.iter().zip(3..).map(|(key, n)| format!("{key} = ${n}")).collect();
        let statement =
            format!("UPDATE {name} SET {column} = $1 WHERE {column} = $2 AND {}", conditions.join(" AND "));
        let mut query =
            sqlx::query(AssertSqlSafe(statement)).bind(text).bind(row.try_get::<String, _>(*column)?);
        for key in *keys {
            query = query.bind(row.try_get::<String, _>(*key)?);
        }
        Ok(query.execute(self.database.writer()).await?.rows_affected())
    }

    /// What is to be in the column; `None` for a row that is not as it was written.
    async fn renewed(&self, table: &Table, row: &AnyRow) -> Result<Option<String>, DatabaseError> {
        let old: String = row.try_get(table.column)?;
        let text = |column: &str| row.try_get::<String, _>(column);
        match table.content {
            Content::Grant => {
                let grant = grants::Grant {
                    id: text("id")?,
                    client: text("client")?,
                    issuer: text("issuer")?,
                    subject: text("subject")?,
                    content: String::new(),
                    made_at: time(row, "made_at")?,
                    expires_at: time(row, "expires_at")?,
                };
                let parts = grants::parts(&grant, digest(row, "code")?);
                self.person(row, &parts.each_ref().map(Vec::as_slice), &old, grant.made_at).await
            }
            Content::Link => {
                let account = Account {
                    issuer: text("issuer")?,
                    subject: text("subject")?,
                    server: ServerName::try_from(text("server")?)
                        .map_err(|_| DatabaseError::Value("server"))?,
                };
                let upstream = text("upstream")?;
                let made = time(row, "granted_at")?;
                self.person(row, &links::of_grant(&account, &upstream), &old, made).await
            }
            Content::ProviderTokens => {
                let (issuer, subject, id) = (text("issuer")?, text("subject")?, text("sign_in")?);
                let context = provider_tokens::context(&issuer, &subject, &id);
                self.person(row, &context, &old, time(row, "kept_at")?).await
            }
            Content::Browser => {
                let (id, issuer, subject) = (text("id")?, text("issuer")?, text("subject")?);
                let context = crate::browsers::context(&id, &issuer, &subject);
                self.person(row, &context, &old, time(row, "opened_at")?).await
            }
            Content::Withheld => {
                let id = text("id")?;
                self.person(row, &[b"quarantine", id.as_bytes()], &old, time(row, "kept_at")?).await
            }
            Content::WithheldMark => {
                let item = quarantine::item(row)?;
                Ok(quarantine::with_parts(&item, |parts| self.marked(parts, &old)))
            }
            Content::RefreshMark => {
                let (grant, binding) = (text("grant_id")?, text("binding")?);
                let (token, until) = (digest(row, "hash")?, time(row, "until")?);
                Ok(grants::with_mark(token, &grant, &binding, until, |parts| self.marked(parts, &old)))
            }
            Content::ConsentMark => {
                let consent = consents::given(row)?.consent;
                let scopes = text("scopes")?;
                Ok(self.marked(&consents::parts(&consent, &scopes), &old))
            }
            Content::AdminMark => {
                let held = admins::held(row)?;
                Ok(admins::with_mark(&held, |parts| self.marked(parts, &old)))
            }
            Content::ApprovalMark => {
                let approval = approvals::approval(row, &self.sealer)?;
                // What was used has the mark of when it was approved.
                let standing = match approval.standing {
                    approvals::Standing::Used => approvals::Standing::Approved,
                    other => other,
                };
                let approval = approvals::Approval { standing, ..approval };
                Ok(approvals::with_seal(&approval, |parts| self.marked(parts, &old)))
            }
            Content::ApprovalWords => {
                let approval = approvals::approval(row, &self.sealer)?;
                approvals::with_words_context(&approval, |parts| self.row(parts, &old))
            }
            Content::BundleMark => {
                let (key, taken) = (text("key_id")?, bundles::taken(row, "version")?);
                Ok(bundles::with_parts(bundles::VERSION, &key, taken, |parts| self.marked(parts, &old)))
            }
            Content::ChainMark => {
                let (root, last, links) = (text("root")?, bundles::taken(row, "number")?, text("links")?);
                Ok(bundles::with_links(&root, last, &links, |parts| self.marked(parts, &old)))
            }
            Content::PinMark => {
                let kept = pin_rows::pin(row, &self.sealer)?;
                Ok(kept.is_ours.then(|| pin_rows::seal(&kept.pin, &self.sealer)))
            }
            Content::SigningKey => {
                let (id, public) = (text("id")?, text("public")?);
                self.row(&signing::context(&id, &public), &old)
            }
            Content::Client => self.row(&[b"client", text("id")?.as_bytes()], &old),
            Content::Registration => {
                let (upstream, redirect) = (text("upstream")?, text("redirect_uri")?);
                self.row(&[links::REGISTRATIONS.as_bytes(), upstream.as_bytes(), redirect.as_bytes()], &old)
            }
            Content::Secret => {
                let revision: i64 = row.try_get("revision")?;
                self.row(&vault::context(&text("name")?, &revision.to_be_bytes()), &old)
            }
        }
    }

    async fn person(
        &self,
        row: &AnyRow,
        context: &[&[u8]],
        old: &str,
        made: Timestamp,
    ) -> Result<Option<String>, DatabaseError> {
        let (issuer, subject): (String, String) = (row.try_get("issuer")?, row.try_get("subject")?);
        let person = Person { issuer: &issuer, subject: &subject };
        let opened = persons::open(self.database, &self.sealer, person, context, old).await?;
        let Some(plain) = opened.map(zeroize::Zeroizing::new) else { return Ok(None) };
        persons::seal(self.database, &self.sealer, person, made, context, &plain).await.map(Some)
    }

    fn row(&self, context: &[&[u8]], old: &str) -> Result<Option<String>, DatabaseError> {
        let Some(plain) = self.sealer.open(context, old).map(zeroize::Zeroizing::new) else {
            return Ok(None);
        };
        self.sealer.seal_row(context, &plain).map(Some)
    }

    fn marked(&self, parts: &[&[u8]], old: &str) -> Option<String> {
        self.sealer.is_marked(parts, old).then(|| self.sealer.mark(parts))
    }
}

/// What came of going through a table.
#[derive(Default)]
struct Pass {
    /// How many rows were sealed again, by this pass and those before it.
    done: u64,
    /// How many do not open.
    lost: u64,
    /// How many somebody else changed meanwhile: they may be under an older key still, and are looked at once more.
    missed: u64,
    /// Whether those that cannot be read were named by a pass before.
    is_told: bool,
}

impl Pass {
    fn progress(&self, table: &Table) -> Progress {
        Progress::Resealed { what: table.what, done: self.done, lost: self.lost }
    }
}

/// One column.
struct Table {
    what: &'static str,
    name: &'static str,
    column: &'static str,
    /// What names a row: columns of text.
    keys: &'static [&'static str],
    content: Content,
}

#[derive(Clone, Copy)]
enum Content {
    AdminMark,
    ApprovalMark,
    ApprovalWords,
    Browser,
    BundleMark,
    ChainMark,
    Client,
    ConsentMark,
    Grant,
    Link,
    PinMark,
    ProviderTokens,
    RefreshMark,
    Registration,
    Secret,
    SigningKey,
    Withheld,
    WithheldMark,
}

impl Table {
    /// What names a row, for the operator.
    fn name_of(&self, row: &AnyRow) -> String {
        let value = |key: &&str| row.try_get::<String, _>(*key).unwrap_or_else(|_| "?".to_owned());
        let named = self.keys.iter().map(|key| format!("{key} {:?}", value(key)));
        named.collect::<Vec<_>>().join(", ")
    }

    /// What names a row, to go on behind it.
    fn key_of(&self, row: &AnyRow) -> Option<Vec<String>> {
        self.keys.iter().map(|key| row.try_get::<String, _>(*key).ok()).collect()
    }

    fn is_personal(&self) -> bool {
        matches!(
            self.content,
            Content::Browser | Content::Grant | Content::Link | Content::ProviderTokens | Content::Withheld
        )
    }
}

const fn table(
    what: &'static str,
    name: &'static str,
    column: &'static str,
    keys: &'static [&'static str],
    content: Content,
) -> Table {
    Table { what, name, column, keys, content }
}

/// Everything that is sealed or marked and stays.
const TABLES: &[Table] = &[
    table("signing keys", "signing_keys", "private", &["id"], Content::SigningKey),
    table("registered clients", "registered_clients", "content", &["id"], Content::Client),
    table(
        "registrations at servers",
        "upstream_registrations",
        "sealed",
        &["upstream", "redirect_uri"],
        Content::Registration,
    ),
    table("secrets", "vault_secrets", "sealed", &["name"], Content::Secret),
    table("grants", "grants", "content", &["id"], Content::Grant),
    table("refresh tokens", "refresh_tokens", "seal", &["hash"], Content::RefreshMark),
    table("linked accounts", "upstream_grants", "sealed", &["issuer", "subject", "server"], Content::Link),
    table(
        "sign-ins at the provider",
        "provider_tokens",
        "sealed",
        &["issuer", "subject", "sign_in"],
        Content::ProviderTokens,
    ),
    table("browsers", "browsers", "person", &["id"], Content::Browser),
    table(
        "consents",
        "consents",
        "seal",
        &["issuer", "subject", "client", "redirect_uri", "scopes", "resource"],
        Content::ConsentMark,
    ),
    table("admin roles", "admin_roles", "seal", &["role", "issuer", "subject"], Content::AdminMark),
    table("approvals", "approvals", "seal", &["id"], Content::ApprovalMark),
    table("words of held calls", "approvals", "words", &["id"], Content::ApprovalWords),
    table("withheld results", "quarantine", "sealed", &["id"], Content::Withheld),
    table("marks of withheld results", "quarantine", "mark", &["id"], Content::WithheldMark),
    table("pins", "pins", "seal", &["server", "kind", "name"], Content::PinMark),
    table("versions of bundles", "bundle_versions", "mark", &["key_id"], Content::BundleMark),
    table("chains of bundles' keys", "bundle_chains", "mark", &["root"], Content::ChainMark),
];
