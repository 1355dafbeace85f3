//! Consent: what a person allowed a client to do in their name (spec.md F-26, F-30; attacks.md CD-04, CD-13).
//!
//! Consent is for one exact combination; whatever differs in one part is another question. Each row carries a mark of
//! ours: whoever can write to the database cannot consent for anybody.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use bartizan_model::Timestamp;
use sqlx::{Row, any::AnyRow};

use crate::{
    Database, DatabaseError, Sealer,
    columns::{seconds, time},
};

/// What is allowed, to whom, by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consent {
    /// Who vouches for the person.
    pub issuer: String,
    /// The person there.
    pub subject: String,
    /// `client_id`
    pub client: String,
    /// Where the client's codes go.
    pub redirect_uri: String,
    /// What the client may do: words without white space.
    pub scopes: BTreeSet<String>,
    /// The resource it may do it at.
    pub resource: String,
    /// The digest of the client's metadata: a client that has changed is asked about anew.
    pub metadata: String,
}

/// Consent that was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// What for.
    pub consent: Consent,
    /// What the client called itself.
    pub client_name: String,
    /// When.
    pub at: Timestamp,
}

/// Where consent is kept.
#[async_trait]
pub trait Consents: Send + Sync {
    /// Remembers consent; what was given before to the same client with other metadata is replaced.
    ///
    /// # Errors
    /// [`DatabaseError`]; nothing is remembered then.
    async fn remember(&self, given: &Given) -> Result<(), DatabaseError>;

    /// Whether exactly this was allowed.
    ///
    /// # Errors
    /// [`DatabaseError`]; the person must be asked then, or turned away.
    async fn is_given(&self, consent: &Consent) -> Result<bool, DatabaseError>;

    /// Everything a person has allowed, the latest first.
    ///
    /// # Errors
    /// [`DatabaseError`].
    async fn of(&self, issuer: &str, subject: &str) -> Result<Vec<Given>, DatabaseError>;

    /// Takes back everything a person has allowed a client; the answer is how much there was.
    ///
    /// # Errors
    /// [`DatabaseError`]; nothing was taken back then.
    async fn withdraw(&self, issuer: &str, subject: &str, client: &str) -> Result<u64, DatabaseError>;
}

/// [`Consents`] in a [`Database`].
#[derive(Clone, Debug)]
pub struct StoredConsents {
    database: Database,
    sealer: Arc<Sealer>,
}

impl StoredConsents {
    /// Consent in `database`. A row without `sealer`'s mark is as good as none.
    pub fn new(database: Database, sealer: Arc<Sealer>) -> Self {
        Self { database, sealer }
    }
}

#[async_trait]
impl Consents for StoredConsents {
    async fn remember(&self, given: &Given) -> Result<(), DatabaseError> {
        let Given { consent, client_name, at } = given;
        let scopes = words(&consent.scopes);
        sqlx::query(
            "INSERT INTO consents (issuer, subject, client, redirect_uri, scopes, resource, metadata, client_name, \
             given_at, seal) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
             ON CONFLICT (issuer, subject, client, redirect_uri, scopes, resource) DO UPDATE SET \
             metadata = excluded.metadata, client_name = excluded.client_name, given_at = excluded.given_at, \
             seal = excluded.seal",
        )
        .bind(&consent.issuer)
        .bind(&consent.subject)
        .bind(&consent.client)
        .bind(&consent.redirect_uri)
        .bind(&scopes)
        .bind(&consent.resource)
        .bind(&consent.metadata)
        .bind(client_name)
        .bind(seconds(*at))
        .bind(self.sealer.mark(&parts(consent, &scopes)))
        .execute(self.database.writer())
        .await?;
        Ok(())
    }

    async fn is_given(&self, consent: &Consent) -> Result<bool, DatabaseError> {
        let scopes = words(&consent.scopes);
        let seal: Option<String> = sqlx::query_scalar(
            "SELECT seal FROM consents WHERE issuer = $1 AND subject = $2 AND client = $3 AND redirect_uri = $4 \
             AND scopes = $5 AND resource = $6 AND metadata = $7",
        )
        .bind(&consent.issuer)
        .bind(&consent.subject)
        .bind(&consent.client)
        .bind(&consent.redirect_uri)
        .bind(&scopes)
        .bind(&consent.resource)
        .bind(&consent.metadata)
        .fetch_optional(self.database.pool())
        .await?;
        Ok(seal.is_some_and(|seal| self.sealer.is_marked(&parts(consent, &scopes), &seal)))
    }

    async fn of(&self, issuer: &str, subject: &str) -> Result<Vec<Given>, DatabaseError> {
        let rows = sqlx::query(
            "SELECT issuer, subject, client, redirect_uri, scopes, resource, metadata, client_name, given_at \
             FROM consents WHERE issuer = $1 AND subject = $2 ORDER BY given_at DESC, client, resource, scopes",
        )
        .bind(issuer)
        .bind(subject)
        .fetch_all(self.database.pool())
        .await?;
        rows.iter().map(given).collect()
    }

    async fn withdraw(&self, issuer: &str, subject: &str, client: &str) -> Result<u64, DatabaseError> {
        let withdrawn =
            sqlx::query("DELETE FROM consents WHERE issuer = $1 AND subject = $2 AND client = $3")
                .bind(issuer)
                .bind(subject)
                .bind(client)
                .execute(self.database.writer())
                .await?;
        Ok(withdrawn.rows_affected())
    }
}

fn words(scopes: &BTreeSet<String>) -> String {
    scopes.iter().map(String::as_str).collect::<Vec<_>>().join(" ")
}

pub(crate) fn parts<'a>(consent: &'a Consent, scopes: &'a str) -> [&'a [u8]; 8] {
    [
        b"consent",
        consent.issuer.as_bytes(),
        consent.subject.as_bytes(),
        consent.client.as_bytes(),
        consent.redirect_uri.as_bytes(),
        scopes.as_bytes(),
        consent.resource.as_bytes(),
        consent.metadata.as_bytes(),
    ]
}

pub(crate) fn given(row: &AnyRow) -> Result<Given, DatabaseError> {
    let scopes: String = row.try_get("scopes")?;
    Ok(Given {
        consent: Consent {
            issuer: row.try_get("issuer")?,
            subject: row.try_get("subject")?,
            client: row.try_get("client")?,
            redirect_uri: row.try_get("redirect_uri")?,
            scopes: scopes.split_ascii_whitespace().map(str::to_owned).collect(),
            resource: row.try_get("resource")?,
            metadata: row.try_get("metadata")?,
        },
        client_name: row.try_get("client_name")?,
        at: time(row, "given_at")?,
    })
}
