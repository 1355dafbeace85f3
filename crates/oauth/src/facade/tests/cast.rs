//! The cast: strangers whose documents are a table, and a directory in which people may be gone.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bartizan_egress::Fetched;
use bartizan_model::Timestamp;
use bartizan_store::{DatabaseError, SigningKeys, StoredSigningKeys, signing::SigningKey};
use http::{HeaderMap, StatusCode};
use url::Url;

use super::stage::header_map;
use crate::facade::{Directory, DirectoryUnavailable, FetchStranger, FetchingStranger, Person, Standing};

/// Signing keys that may be unreadable.
pub struct Keys {
    pub stored: StoredSigningKeys,
    pub are_unreadable: AtomicBool,
}

#[async_trait]
impl SigningKeys for Keys {
    async fn all(&self, now: Timestamp) -> Result<Vec<SigningKey>, DatabaseError> {
        match self.are_unreadable.load(Ordering::SeqCst) {
            true => Err(DatabaseError::Value("private")),
            false => self.stored.all(now).await,
        }
    }

    async fn add(&self, key: &SigningKey) -> Result<bool, DatabaseError> {
        self.stored.add(key).await
    }

    async fn end_all(&self, now: Timestamp) -> Result<u64, DatabaseError> {
        self.stored.end_all(now).await
    }

    async fn forget(&self, before: Timestamp) -> Result<u64, DatabaseError> {
        self.stored.forget(before).await
    }
}

/// Documents of strangers. What is not in it cannot be reached.
#[derive(Default)]
pub struct Strangers {
    documents: Mutex<HashMap<String, (u16, HeaderMap, String)>>,
    pub count: AtomicUsize,
}

impl Strangers {
    pub fn say(&self, url: &str, status: u16, headers: &[(&str, &str)], body: impl ToString) {
        let mut documents = self.documents.lock().unwrap();
        documents.insert(url.to_owned(), (status, header_map(headers), body.to_string()));
    }

    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

impl FetchStranger for Strangers {
    fn fetch<'a>(&'a self, url: &'a Url, max_bytes: usize) -> FetchingStranger<'a> {
        self.count.fetch_add(1, Ordering::SeqCst);
        let found = self.documents.lock().unwrap().get(url.as_str()).cloned();
        Box::pin(async move {
            // Others get their turn, as over a real network.
            tokio::task::yield_now().await;
            let (status, headers, body) = found.ok_or(bartizan_egress::Error::ForbiddenAddress)?;
            if body.len() > max_bytes {
                return Err(bartizan_egress::Error::TooLong);
            }
            if (300..400).contains(&status) {
                return Err(bartizan_egress::Error::Redirects);
            }
            Ok(Fetched { status: StatusCode::from_u16(status).unwrap(), headers, body: body.into_bytes() })
        })
    }
}

/// A directory in which everybody is somebody, until a test says otherwise.
#[derive(Default)]
pub struct People {
    pub gone: Mutex<BTreeSet<String>>,
    /// Whose sign-ins are over.
    pub signed_out: Mutex<BTreeSet<String>>,
    pub is_down: AtomicBool,
}

#[async_trait::async_trait]
impl Directory for People {
    async fn standing(&self, person: &Person) -> Result<Standing, DirectoryUnavailable> {
        if self.is_down.load(Ordering::SeqCst) {
            return Err(DirectoryUnavailable);
        }
        assert_eq!(person.issuer, "https://idp.example");
        let is_in = |set: &Mutex<BTreeSet<String>>| set.lock().unwrap().contains(&person.subject);
        Ok(match (is_in(&self.gone), is_in(&self.signed_out)) {
            (true, _) => Standing::Gone,
            (false, true) => Standing::SignInOver,
            (false, false) => Standing::Active,
        })
    }
}
