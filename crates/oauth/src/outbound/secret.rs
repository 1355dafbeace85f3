//! `kind = "secret"`: one secret for everybody, in a header the operator names.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bartizan_model::{Clock, Secret, SecretRef, Timestamp};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::Mutex;

use super::{Asking, Credential, Refused, Retry, SecretConfig, Secrets, Unobtainable, sensitive};

/// A vaulted secret. It is read again when a second has passed, and at once when it was refused, so that a new one
/// counts without a restart; one that cannot be read any more counts no longer.
pub struct SecretCredential {
    from: SecretRef,
    header: HeaderName,
    prefix: String,
    secrets: Arc<dyn Secrets>,
    clock: Arc<dyn Clock>,
    held: Mutex<Option<(Timestamp, HeaderValue)>>,
}

impl fmt::Debug for SecretCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretCredential({})", self.header)
    }
}

impl SecretCredential {
    /// A credential as configured.
    ///
    /// # Errors
    /// What is wrong with the header's name.
    pub fn new(
        config: &SecretConfig,
        secrets: Arc<dyn Secrets>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, String> {
        let header = config.header_name()?;
        let prefix = config.prefix(&header);
        Ok(Self { from: config.value.clone(), header, prefix, secrets, clock, held: Mutex::default() })
    }

    /// The header's value. `again` reads the secret though it was read a moment ago.
    async fn value(&self, again: bool) -> Result<HeaderValue, Unobtainable> {
        let now = self.clock.now();
        // Whoever waits finds it read.
        let mut held = self.held.lock().await;
        if let Some((at, value)) = &*held
            && *at == now
            && !again
        {
            return Ok(value.clone());
        }
        *held = None;
        let secret = self.secrets.read(&self.from).await.map_err(Unobtainable::Failed)?;
        if secret.reveal().is_empty() {
            return Err(Unobtainable::Failed("its secret is empty".into()));
        }
        let value = sensitive(&Secret::new(format!("{}{}", self.prefix, secret.reveal())))?;
        *held = Some((now, value.clone()));
        Ok(value)
    }
}

#[async_trait]
impl Credential for SecretCredential {
    async fn headers(&self, _asking: Option<&Asking>) -> Result<HeaderMap, Unobtainable> {
        Ok(HeaderMap::from_iter([(self.header.clone(), self.value(false).await?)]))
    }

    async fn challenged(
        &self,
        _asking: Option<&Asking>,
        refused: Refused<'_>,
    ) -> Result<Retry, Unobtainable> {
        let fresh = self.value(true).await?;
        Ok(if refused.shown.get(&self.header) == Some(&fresh) { Retry::No } else { Retry::Once })
    }
}
