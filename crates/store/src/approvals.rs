//! Decisions that wait for a person, each good for one exact call, once.
//!
//! A call that policy lets pass only with a person's approval is put here, bound to who calls, which tool in which pinned
//! form, the SHA-256 of the very bytes to be forwarded, and the policy that asked. Where it needs the approval of several
//! roles, each is a request of its own. The caller tries again later with the same bytes; [`Approvals::redeem`] then
//! answers, and uses all of its approvals up, in one transaction. Anything else that differs is another call.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bartizan_model::{Caller, Entropy, ServerName, Timestamp};
use sqlx::{AnyConnection, AssertSqlSafe, Row, any::AnyRow};

use crate::{
    Database, DatabaseError, Digest, Sealer,
    columns::{digest, maybe_time, seconds, server, time},
};

/// Requests of one person, through whichever clients, that may wait at once: more would only tire the approver
/// (attacks.md EP-08).
pub const WAITING_PER_CALLER: i64 = 8;
/// Requests of one person within [`PERIOD`], whatever became of them.
pub const ASKED_PER_CALLER: i64 = 30;
/// Requests of one person that were denied within [`PERIOD`]: then nobody is asked for a while.
pub const DENIED_PER_CALLER: i64 = 5;
/// Over how long [`ASKED_PER_CALLER`] and [`DENIED_PER_CALLER`] count.
pub const PERIOD: Duration = Duration::from_secs(10 * 60);

/// What an approval is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Who calls.
    pub caller: Caller,
    /// The server.
    pub server: ServerName,
    /// The tool, by the server's name for it.
    pub tool: String,
    /// SHA-256 of the exact bytes to be forwarded.
    pub bytes: Digest,
    /// The tool's approved definition.
    pub pin: Digest,
    /// The version of the policy that asked.
    pub policy: String,
}

/// A request for a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What it is for.
    pub binding: Binding,
    /// The role whose holders may decide.
    pub role: String,
    /// Whether the caller may decide too, holding that role.
    pub by_self: bool,
    /// The call in words, for whoever decides: any text. It is kept sealed.
    pub words: String,
    /// How long it waits, and how long the decision is good.
    pub lifetime: Duration,
}

/// Where a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Approved, and not used yet.
    Approved,
    /// Denied. The same call is not asked about again until it expires.
    Denied,
    /// Approved and used up.
    Used,
    /// Nobody has decided.
    Waiting,
}

impl Standing {
    /// The standing as it is kept and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Used => "used",
            Self::Waiting => "waiting",
        }
    }

    fn named(text: &str) -> Option<Self> {
        [Self::Approved, Self::Denied, Self::Used, Self::Waiting].into_iter().find(|s| s.as_str() == text)
    }
}

/// A request that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// Its id: unguessable, for links.
    pub id: String,
    /// What it is for.
    pub binding: Binding,
    /// The role whose holders may decide.
    pub role: String,
    /// Whether the caller may decide too.
    pub by_self: bool,
    /// The call in words; empty if they are not as they were written.
    pub words: String,
    /// Where it stands. What is past `expires_at` is worth nothing, whatever this says.
    pub standing: Standing,
    /// When it was asked.
    pub asked_at: Timestamp,
    /// Until when it waits, and the decision is good.
    pub expires_at: Timestamp,
    /// Who decided.
    pub decided_by: Option<String>,
    /// When.
    pub decided_at: Option<Timestamp>,
    /// When it was used.
    pub used_at: Option<Timestamp>,
}

/// What a call gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redemption {
    /// Every role approved it, and this call has used all of that up.
    Granted(Vec<Approval>),
    /// Something is lacking, and nothing was used up. What is asked of each role in turn; `None` where nobody has been asked,
    /// or it has expired.
    Open(Vec<Option<Approval>>),
}

/// Why a request or a decision was refused.
#[derive(Debug, thiserror::Error)]
pub enum ApprovalError {
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// It was decided before, or has expired.
    #[error("this request is not waiting for a decision")]
    NotWaiting,
    /// Whoever asks may not decide.
    #[error("one's own request is for somebody else to decide")]
    Own,
    /// The caller has asked too often: too many wait, or were asked or denied lately.
    #[error("this caller has too many requests waiting, asked or denied lately")]
    TooMany,
    /// There is no such request.
    #[error("there is no such request")]
    Unknown,
}

impl From<sqlx::Error> for ApprovalError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// Where decisions are kept.
#[async_trait]
pub trait Approvals: Send + Sync {
    /// Asks a role, unless it is asked about the same call already: then that request is the answer, whatever its standing.
    ///
    /// # Errors
    /// [`ApprovalError::TooMany`] or [`ApprovalError::Database`]; nothing was asked then.
    async fn ask(&self, request: &Request, now: Timestamp) -> Result<Approval, ApprovalError>;

    /// Decides. That `by` holds the role is the caller's to check; that it is somebody else is checked here. It is kept who
    /// decided as `named`.
    ///
    /// # Errors
    /// [`ApprovalError`]; nothing was decided then.
    async fn decide(
        &self,
        id: &str,
        approve: bool,
        (by, named): (&Caller, &str),
        now: Timestamp,
    ) -> Result<Approval, ApprovalError>;

    /// Answers for a call that needs the approval of all of `roles`, and uses them up: of any number of calls at once, one is
    /// granted.
    ///
    /// # Errors
    /// [`ApprovalError::Database`]; the call may not be made then.
    async fn redeem(
        &self,
        binding: &Binding,
        roles: &[String],
        now: Timestamp,
    ) -> Result<Redemption, ApprovalError>;

    /// One request.
    ///
    /// # Errors
    /// [`ApprovalError::Database`].
    async fn read(&self, id: &str) -> Result<Option<Approval>, ApprovalError>;

    /// Requests that wait for a decision, the oldest first.
    ///
    /// # Errors
    /// [`ApprovalError::Database`].
    async fn waiting(&self, now: Timestamp) -> Result<Vec<Approval>, ApprovalError>;

    /// Forgets what expired before `before`; the answer is how many there were.
    ///
    /// # Errors
    /// [`ApprovalError::Database`].
    async fn forget(&self, before: Timestamp) -> Result<u64, ApprovalError>;
}

/// [`Approvals`] in a [`Database`].
#[derive(Clone)]
pub struct StoredApprovals {
    database: Database,
    sealer: Arc<Sealer>,
    entropy: Arc<dyn Entropy>,
}

impl std::fmt::Debug for StoredApprovals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StoredApprovals({:?})", self.database)
    }
}

const COLUMNS: &str = "id, issuer, subject, client, server, tool, bytes, pin, policy, role, by_self, words, state, \
                       asked_at, expires_at, decided_by, decided_at, used_at";

/// One call, and no other: the parameters $1 to $8.
const BOUND: &str = "issuer = $1 AND subject = $2 AND client = $3 AND server = $4 AND tool = $5 AND bytes = $6 \
                     AND pin = $7 AND policy = $8";

impl StoredApprovals {
    /// Approvals in `database`, with ids from `entropy`. What `sealer` has not marked as decided is not: whoever can
    /// write to the database cannot approve.
    pub fn new(database: Database, sealer: Arc<Sealer>, entropy: Arc<dyn Entropy>) -> Self {
        Self { database, sealer, entropy }
    }

    /// What is kept of a call for `role` and has neither been used nor expired, with its seal.
    async fn find(
        &self,
        database: &mut AnyConnection,
        binding: &Binding,
        role: &str,
        now: Timestamp,
    ) -> Result<Option<(Approval, Option<String>)>, ApprovalError> {
        let statement = format!(
            "SELECT {COLUMNS}, seal FROM approvals WHERE {BOUND} AND expires_at > $9 AND role = $10 \
             AND state <> 'used' ORDER BY asked_at DESC, id LIMIT 1"
        );
        let row = bound(AssertSqlSafe(statement), binding)
            .bind(seconds(now))
            .bind(role)
            .fetch_optional(database)
            .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some((self.approval(&row)?, row.try_get("seal")?)))
    }

    /// What is kept of a call for `role`, and whether it is a decision for it that was made here. One that was not counts as a
    /// denial.
    async fn stands(
        &self,
        database: &mut AnyConnection,
        binding: &Binding,
        role: &str,
        now: Timestamp,
    ) -> Result<Option<Approval>, ApprovalError> {
        let Some((known, seal)) = self.find(database, binding, role, now).await? else { return Ok(None) };
        let is_ours =
            with_seal(&known, |parts| self.sealer.is_marked(parts, seal.as_deref().unwrap_or_default()));
        if known.standing == Standing::Approved && !is_ours {
            tracing::error!(id = known.id, "an approval is not as it was written; it counts for nothing");
            return Ok(Some(Approval { standing: Standing::Denied, ..known }));
        }
        Ok(Some(known))
    }

    /// How many requests of a person fulfil `condition`, in which $3 is `since`.
    async fn count(
        database: &mut AnyConnection,
        caller: &Caller,
        condition: &str,
        since: Timestamp,
    ) -> Result<i64, sqlx::Error> {
        let statement =
            format!("SELECT COUNT(*) FROM approvals WHERE issuer = $1 AND subject = $2 AND {condition}");
        sqlx::query_scalar(AssertSqlSafe(statement))
            .bind(caller.issuer())
            .bind(caller.subject())
            .bind(seconds(since))
            .fetch_one(database)
            .await
    }

    fn approval(&self, row: &AnyRow) -> Result<Approval, DatabaseError> {
        approval(row, &self.sealer)
    }
}

#[async_trait]
impl Approvals for StoredApprovals {
    async fn ask(&self, request: &Request, now: Timestamp) -> Result<Approval, ApprovalError> {
        let caller = &request.binding.caller;
        let mut transaction = self.database.write().await?;
        // Two that ask the same at once get one request: in SQLite the transaction has the lock, in Postgres this is it.
        if self.database.dialect() == crate::Dialect::Postgres {
            sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, 8123))")
                .bind(format!("{}#{}", caller.issuer(), caller.subject()))
                .execute(&mut *transaction)
                .await?;
        }
        let known = self.find(&mut transaction, &request.binding, &request.role, now).await?;
        if let Some((known, _)) = known {
            return Ok(known);
        }
        // A person who registers client after client is still one person.
        let lately = Timestamp::from_unix(now.as_unix().saturating_sub(PERIOD.as_secs()));
        for (condition, since, most) in [
            ("state = 'waiting' AND expires_at > $3", now, WAITING_PER_CALLER),
            ("asked_at > $3", lately, ASKED_PER_CALLER),
            ("state = 'denied' AND asked_at > $3", lately, DENIED_PER_CALLER),
        ] {
            if Self::count(&mut transaction, caller, condition, since).await? >= most {
                return Err(ApprovalError::TooMany);
            }
        }
        let mut id = [0; 16];
        self.entropy.fill(&mut id);
        let approval = Approval {
            id: hex::encode(id),
            binding: request.binding.clone(),
            role: request.role.clone(),
            by_self: request.by_self,
            words: request.words.clone(),
            standing: Standing::Waiting,
            asked_at: now,
            expires_at: now.plus(request.lifetime),
            decided_by: None,
            decided_at: None,
            used_at: None,
        };
        bound(
            "INSERT INTO approvals (issuer, subject, client, server, tool, bytes, pin, policy, id, role, by_self, \
             words, state, asked_at, expires_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 'waiting', $13, $14)",
            &approval.binding,
        )
        .bind(&approval.id)
        .bind(&approval.role)
        .bind(i64::from(approval.by_self))
        .bind(with_words_context(&approval, |parts| self.sealer.seal_row(parts, approval.words.as_bytes()))?)
        .bind(seconds(approval.asked_at))
        .bind(seconds(approval.expires_at))
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(approval)
    }

    async fn decide(
        &self,
        id: &str,
        approve: bool,
        (by, named): (&Caller, &str),
        now: Timestamp,
    ) -> Result<Approval, ApprovalError> {
        let known = self.read(id).await?.ok_or(ApprovalError::Unknown)?;
        if known.standing != Standing::Waiting {
            return Err(ApprovalError::NotWaiting);
        }
        let asker = &known.binding.caller;
        if !known.by_self && (asker.issuer(), asker.subject()) == (by.issuer(), by.subject()) {
            return Err(ApprovalError::Own);
        }
        let decided = Approval {
            standing: if approve { Standing::Approved } else { Standing::Denied },
            decided_by: Some(named.to_owned()),
            decided_at: Some(now),
            ..known
        };
        let changed = sqlx::query(
            "UPDATE approvals SET state = $2, decided_by = $3, decided_at = $4, seal = $5 \
             WHERE id = $1 AND state = 'waiting' AND expires_at > $4",
        )
        .bind(id)
        .bind(decided.standing.as_str())
        .bind(&decided.decided_by)
        .bind(seconds(now))
        .bind(with_seal(&decided, |parts| self.sealer.mark(parts)))
        .execute(self.database.writer())
        .await?;
        if changed.rows_affected() == 1 { Ok(decided) } else { Err(ApprovalError::NotWaiting) }
    }

    async fn redeem(
        &self,
        binding: &Binding,
        roles: &[String],
        now: Timestamp,
    ) -> Result<Redemption, ApprovalError> {
        let mut transaction = self.database.write().await?;
        let mut found = Vec::with_capacity(roles.len());
        for role in roles {
            found.push(self.stands(&mut transaction, binding, role, now).await?);
        }
        let is_given = |known: &Option<Approval>| {
            known.as_ref().is_some_and(|approval| approval.standing == Standing::Approved)
        };
        if roles.is_empty() || !found.iter().all(is_given) {
            return Ok(Redemption::Open(found));
        }
        let mut granted = Vec::with_capacity(found.len());
        for approval in found.into_iter().flatten() {
            // Of several that came this far, the first has the row; the others wait for it and find it used.
            let used = sqlx::query(
                "UPDATE approvals SET state = 'used', used_at = $2, seal = NULL \
                 WHERE id = $1 AND state = 'approved'",
            )
            .bind(&approval.id)
            .bind(seconds(now))
            .execute(&mut *transaction)
            .await?;
            if used.rows_affected() != 1 {
                return Ok(Redemption::Open(vec![None; roles.len()]));
            }
            granted.push(Approval { standing: Standing::Used, used_at: Some(now), ..approval });
        }
        transaction.commit().await?;
        Ok(Redemption::Granted(granted))
    }

    async fn read(&self, id: &str) -> Result<Option<Approval>, ApprovalError> {
        let statement = format!("SELECT {COLUMNS} FROM approvals WHERE id = $1");
        let row = sqlx::query(AssertSqlSafe(statement)).bind(id).fetch_optional(self.database.pool()).await?;
        Ok(row.as_ref().map(|row| self.approval(row)).transpose()?)
    }

    async fn waiting(&self, now: Timestamp) -> Result<Vec<Approval>, ApprovalError> {
        let statement = format!(
            "SELECT {COLUMNS} FROM approvals WHERE state = 'waiting' AND expires_at > $1 ORDER BY asked_at, id"
        );
        let found =
            sqlx::query(AssertSqlSafe(statement)).bind(seconds(now)).fetch_all(self.database.pool()).await?;
        Ok(found.iter().map(|row| self.approval(row)).collect::<Result<_, _>>()?)
    }

    async fn forget(&self, before: Timestamp) -> Result<u64, ApprovalError> {
        let forgotten = sqlx::query("DELETE FROM approvals WHERE expires_at < $1")
            .bind(seconds(before))
            .execute(self.database.writer())
            .await?;
        Ok(forgotten.rows_affected())
    }
}

/// A query whose first eight parameters are `binding`.
fn bound<'q>(
    statement: impl sqlx::SqlSafeStr,
    binding: &'q Binding,
) -> sqlx::query::Query<'q, sqlx::Any, <sqlx::Any as sqlx::Database>::Arguments> {
    sqlx::query(statement)
        .bind(binding.caller.issuer())
        .bind(binding.caller.subject())
        .bind(binding.caller.client())
        .bind(binding.server.as_str())
        .bind(&binding.tool)
        .bind(binding.bytes.to_string())
        .bind(binding.pin.to_string())
        .bind(&binding.policy)
}

/// Hands `use_parts` everything that says what was decided, for which call, by whom and until when.
pub(crate) fn with_seal<T>(approval: &Approval, use_parts: impl FnOnce(&[&[u8]]) -> T) -> T {
    let decision = [
        approval.standing.as_str().as_bytes(),
        approval.decided_by.as_deref().unwrap_or_default().as_bytes(),
    ];
    with_request(b"approval", approval, &decision, use_parts)
}

/// Hands `use_parts` everything that the words of a request are sealed under: the call, who may decide about it, and until when.
pub(crate) fn with_words_context<T>(approval: &Approval, use_parts: impl FnOnce(&[&[u8]]) -> T) -> T {
    with_request(b"approval words", approval, &[], use_parts)
}

fn with_request<T>(
    use_of: &[u8],
    approval: &Approval,
    more: &[&[u8]],
    use_parts: impl FnOnce(&[&[u8]]) -> T,
) -> T {
    let binding = &approval.binding;
    let (caller, by_self) = (binding.caller.key(), [u8::from(approval.by_self)]);
    let expires_at = approval.expires_at.as_unix().to_be_bytes();
    let request: [&[u8]; 11] = [
        use_of,
        approval.id.as_bytes(),
        caller.as_bytes(),
        binding.server.as_str().as_bytes(),
        binding.tool.as_bytes(),
        &binding.bytes.0,
        &binding.pin.0,
        binding.policy.as_bytes(),
        approval.role.as_bytes(),
        &by_self,
        &expires_at,
    ];
    use_parts(&[&request, more].concat())
}

/// What a row says; a request whose words do not open is denied.
pub(crate) fn approval(row: &AnyRow, sealer: &Sealer) -> Result<Approval, DatabaseError> {
    let text = |column: &str| row.try_get::<String, _>(column);
    let mut approval = Approval {
        binding: Binding {
            caller: Caller::new(text("issuer")?, text("subject")?, text("client")?),
            server: server(row)?,
            tool: text("tool")?,
            bytes: digest(row, "bytes")?,
            pin: digest(row, "pin")?,
            policy: text("policy")?,
        },
        role: text("role")?,
        by_self: row.try_get::<i64, _>("by_self")? != 0,
        words: String::new(),
        standing: Standing::named(&text("state")?).ok_or(DatabaseError::Value("state"))?,
        asked_at: time(row, "asked_at")?,
        expires_at: time(row, "expires_at")?,
        decided_by: row.try_get("decided_by")?,
        decided_at: maybe_time(row, "decided_at")?,
        used_at: maybe_time(row, "used_at")?,
        id: text("id")?,
    };
    let sealed = text("words")?;
    let opened = with_words_context(&approval, |parts| sealer.open(parts, &sealed));
    match opened.and_then(|words| String::from_utf8(words).ok()) {
        Some(words) => approval.words = words,
        // What is shown is then not what would be approved.
        None if approval.standing == Standing::Waiting => {
            tracing::error!(
                id = approval.id,
                "a request for approval is not as it was written; it counts as denied"
            );
            approval.standing = Standing::Denied;
        }
        None => {}
    }
    Ok(approval)
}
