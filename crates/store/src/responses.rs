//! Responses: who and what is cut off, by whom and why.
//!
//! A response is in force from the moment it is written until it is taken back. Whoever enforces them reads all of them
//! every few seconds, so that each holds for every process on the database. What somebody was granted is taken back here, when they
//! are cut off, and not only by who reads that: no gate may be running, or none may read it before it is lifted.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use bartizan_model::{Caller, ServerName, Timestamp};
use sqlx::{AnyConnection, Row, any::AnyRow};

use crate::{
    Database, DatabaseError,
    columns::{seconds, time},
    grants::{self, Revocation, RevokedKind, Which},
    sessions::{self, End, Whose},
};

/// The longest that a token can live, whoever issued it: the most that `max_token_lifetime_s` may say.
pub const LONGEST_TOKEN: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Whom or what a response cuts off.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// Everything of a server.
    Server(ServerName),
    /// One tool of a server.
    Tool {
        /// The server.
        server: ServerName,
        /// The tool, by the server's name for it.
        tool: String,
    },
    /// A person, through whichever client.
    Person {
        /// Who vouches for the subject.
        issuer: String,
        /// The subject.
        subject: String,
    },
    /// A client, whoever uses it.
    Client {
        /// Who registered it; empty for whoever did.
        issuer: String,
        /// Its id.
        client: String,
    },
}

/// A response in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Whom or what it cuts off.
    pub target: Target,
    /// Why, in the words of whoever did it.
    pub why: String,
    /// Who did it.
    pub by: String,
    /// When. What a person or client was granted before is revoked for good.
    pub at: Timestamp,
}

/// Where responses are kept.
#[async_trait]
pub trait Responses: Send + Sync {
    /// Puts `response` in force, ends the live sessions that it cuts off, and takes back what whom it cuts off was granted; `false`
    /// if one for its target is in force already, which stays as it is.
    ///
    /// # Errors
    /// [`DatabaseError`]; it is not in force then.
    async fn enforce(&self, response: &Response) -> Result<bool, DatabaseError>;

    /// Takes the response for `target` back; `None` if there was none.
    ///
    /// # Errors
    /// [`DatabaseError`]; it is still in force then.
    async fn lift(&self, target: &Target) -> Result<Option<Response>, DatabaseError>;

    /// Every response in force, in the order of their targets.
    ///
    /// # Errors
    /// [`DatabaseError`].
    async fn all(&self) -> Result<Vec<Response>, DatabaseError>;
}

/// [`Responses`] in a [`Database`].
#[derive(Clone, Debug)]
pub struct StoredResponses(Database);

impl StoredResponses {
    /// Responses in `database`.
    pub fn new(database: Database) -> Self {
        Self(database)
    }
}

impl Target {
    /// Whether it is `caller`, or the client the caller uses.
    pub fn is(&self, caller: &Caller) -> bool {
        match self {
            Self::Person { issuer, subject } => caller.issuer() == issuer && caller.subject() == subject,
            Self::Client { issuer, client } => {
                (issuer.is_empty() || caller.issuer() == issuer) && caller.client() == client
            }
            Self::Server(_) | Self::Tool { .. } => false,
        }
    }

    /// Kind, issuer, name and tool, as they stand in a row.
    fn columns(&self) -> [&str; 4] {
        match self {
            Self::Server(server) => ["server", "", server.as_str(), ""],
            Self::Tool { server, tool } => ["tool", "", server.as_str(), tool],
            Self::Person { issuer, subject } => ["person", issuer, subject, ""],
            Self::Client { issuer, client } => ["client", issuer, client, ""],
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(server) => write!(f, "server {server}"),
            Self::Tool { server, tool } => write!(f, "tool {server}/{tool}"),
            Self::Person { issuer, subject } => write!(f, "person {subject} of {issuer}"),
            Self::Client { issuer, client } if issuer.is_empty() => write!(f, "client {client}"),
            Self::Client { issuer, client } => write!(f, "client {client} of {issuer}"),
        }
    }
}

#[async_trait]
impl Responses for StoredResponses {
    async fn enforce(&self, response: &Response) -> Result<bool, DatabaseError> {
        let [kind, issuer, name, tool] = response.target.columns();
        let mut transaction = self.0.write().await?;
        let added = sqlx::query(
            "INSERT INTO responses (kind, issuer, name, tool, why, done_by, done_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (kind, issuer, name, tool) DO NOTHING",
        )
        .bind(kind)
        .bind(issuer)
        .bind(name)
        .bind(tool)
        .bind(&response.why)
        .bind(&response.by)
        .bind(seconds(response.at))
        .execute(&mut *transaction)
        .await?;
        let cut_off = match &response.target {
            Target::Client { issuer, client } => Some((Whose::Client { issuer, client }, End::Revoked)),
            Target::Person { issuer, subject } => Some((Whose::Person { issuer, subject }, End::Revoked)),
            Target::Server(server) => Some((Whose::Server(server.as_str()), End::Server)),
            Target::Tool { .. } => None,
        };
        if let Some((whose, end)) = cut_off {
            sessions::end(&mut transaction, whose, end, response.at).await?;
        }
        let is_new = added.rows_affected() > 0;
        if is_new {
            take_back(&mut transaction, response).await?;
        }
        transaction.commit().await?;
        Ok(is_new)
    }

    async fn lift(&self, target: &Target) -> Result<Option<Response>, DatabaseError> {
        let [kind, issuer, name, tool] = target.columns();
        let mut transaction = self.0.write().await?;
        let before = read(&mut transaction).await?.into_iter().find(|response| response.target == *target);
        sqlx::query("DELETE FROM responses WHERE kind = $1 AND issuer = $2 AND name = $3 AND tool = $4")
            .bind(kind)
            .bind(issuer)
            .bind(name)
            .bind(tool)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(before)
    }

    async fn all(&self) -> Result<Vec<Response>, DatabaseError> {
        let mut database = self.0.pool().acquire().await?;
        read(&mut database).await
    }
}

/// Takes back for good what whom `response` cuts off was granted until then: a release lets them in again, not what they held.
async fn take_back(database: &mut AnyConnection, response: &Response) -> Result<(), DatabaseError> {
    let (kind, issuer, name) = match &response.target {
        Target::Person { issuer, subject } => (RevokedKind::Subject, issuer, subject),
        Target::Client { issuer, client } => (RevokedKind::Client, issuer, client),
        Target::Server(_) | Target::Tool { .. } => return Ok(()),
    };
    let (at, until) = (response.at, response.at.plus(LONGEST_TOKEN));
    let revocation = Revocation { kind, issuer: issuer.clone(), name: name.clone(), at, until };
    grants::revoke(database, &revocation).await?;
    if kind == RevokedKind::Client {
        // Clients that have grants and registrations here are ours, whoever else knows one of that id.
        grants::end(database, &Which::Client(name), until, at).await?;
        sqlx::query("DELETE FROM registered_clients WHERE id = $1").bind(name).execute(database).await?;
        return Ok(());
    }
    grants::end(database, &Which::Person { issuer, subject: name }, until, at).await?;
    for statement in [
        "DELETE FROM browsers WHERE issuer = $1 AND subject = $2",
        "DELETE FROM provider_tokens WHERE issuer = $1 AND subject = $2",
    ] {
        sqlx::query(statement).bind(issuer).bind(name).execute(&mut *database).await?;
    }
    Ok(())
}

async fn read(database: &mut AnyConnection) -> Result<Vec<Response>, DatabaseError> {
    let rows = sqlx::query(
        "SELECT kind, issuer, name, tool, why, done_by, done_at FROM responses ORDER BY kind, issuer, name, tool",
    )
    .fetch_all(database)
    .await?;
    rows.iter().map(response).collect()
}

fn response(row: &AnyRow) -> Result<Response, DatabaseError> {
    let text = |column| row.try_get::<String, _>(column);
    let server = || ServerName::try_from(text("name")?).map_err(|_| DatabaseError::Value("name"));
    let target = match text("kind")?.as_str() {
        "server" => Target::Server(server()?),
        "tool" => Target::Tool { server: server()?, tool: text("tool")? },
        "person" => Target::Person { issuer: text("issuer")?, subject: text("name")? },
        "client" => Target::Client { issuer: text("issuer")?, client: text("name")? },
        _ => return Err(DatabaseError::Value("kind")),
    };
    Ok(Response { target, why: text("why")?, by: text("done_by")?, at: time(row, "done_at")? })
}
