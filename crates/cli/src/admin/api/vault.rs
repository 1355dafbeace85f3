//! What an administrator does about secrets in the vault: by name. No answer holds a value.

use bartizan_audit::{Details, Event, Kind, Text, event::Change};
use bartizan_model::{Clock, Secret, SystemClock};
use bartizan_store::{Vault, VaultError, vault::check};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::{Admin, Admitted, Api, Refused, acts::unusable, policies::note};
use crate::secrets::versions;

/// A secret and its new value.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewValue {
    /// Its name.
    pub name: String,
    /// Its value.
    #[serde(deserialize_with = "secret")]
    pub value: Secret,
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    String::deserialize(deserializer).map(Secret::new)
}

/// What becomes of a secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is new.
    Set,
    /// It gets another value.
    Rotated,
    /// It goes.
    Removed,
}

impl Fate {
    fn word(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Rotated => "rotated",
            Self::Removed => "removed",
        }
    }
}

impl Api {
    /// The vault's secrets, without their values.
    pub(super) async fn secrets(&self) -> Result<Value, Refused> {
        let listed = self.vault().list().await.map_err(unusable)?;
        let listed = listed.iter().map(|secret| {
            let changed = bartizan_audit::event::rfc3339::text(secret.changed_at);
            json!({ "name": secret.name, "value": secret.revision, "changed_at": changed })
        });
        Ok(json!({ "secrets": listed.collect::<Vec<_>>() }))
    }

    /// Changes a secret, to `value` where it stays.
    pub(super) async fn change_secret(
        &self,
        name: &str,
        value: Option<&Secret>,
        fate: Fate,
        admitted: &Admitted,
        admin: &Admin,
    ) -> Result<Value, Refused> {
        let vault = self.vault();
        if let Some(value) = value {
            check(name, value).map_err(refused)?;
        }
        let (from, to) = versions(&vault, name, fate.word()).await.map_err(unusable)?;
        match (fate, &from) {
            (Fate::Set, Some(_)) => return Err(refused(VaultError::Known(name.to_owned()))),
            (Fate::Rotated | Fate::Removed, None) => {
                return Err(refused(VaultError::Unknown(name.to_owned())));
            }
            _ => {}
        }
        let change = Change {
            entity: Text::new("secret"),
            name: Text::new(name),
            from: from.as_deref().map(Text::new),
            to: Some(Text::new(&to)),
        };
        let message = Some(Text::new(fate.word()));
        let details = Details { change: Some(change), message, ..Details::default() };
        note(Event::new(Kind::SecretChanged), details, admitted, admin).await?;
        let now = SystemClock.now();
        match (fate, value) {
            (Fate::Set, Some(value)) => vault.add(name, value, now).await,
            (Fate::Rotated, Some(value)) => vault.replace(name, value, now).await.map(drop),
            _ => vault.remove(name).await.map(drop),
        }
        .map_err(refused)?;
        Ok(json!({ "name": name, "was": from, "is": to }))
    }

    fn vault(&self) -> Vault {
        Vault::new(self.database.clone(), std::sync::Arc::clone(&self.sealer))
    }
}

fn refused(error: VaultError) -> Refused {
    match error {
        VaultError::Known(_) => Refused::new(409, "secret.known", error.to_string()),
        VaultError::Unknown(_) => Refused::new(404, "admin.unknown", error.to_string()),
        VaultError::Name(_) | VaultError::Length => Refused::new(400, "admin.body", error.to_string()),
        VaultError::Unsealed(_) | VaultError::Database(_) => unusable(error),
    }
}
