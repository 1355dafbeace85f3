//! Second opinions: the services of the configuration, reached through the one door out.

use std::{path::Path, sync::Arc};

use anyhow::Context;
use bartizan_egress::{Egress, Endpoint, Peer, TlsOptions};
use bartizan_model::SystemClock;
use bartizan_shield::{
    Opinion, SecondOpinion, Shield,
    bundle::Arms,
    opinion::{ANSWER_BYTES, Post, Reply, Replying, Transport},
};
use http::{HeaderMap, HeaderValue, Method, header};
use url::Url;

use crate::{
    config::{Config, SecretRef},
    endpoints,
    managed_identity::ManagedIdentity,
};

/// The shield that a configuration asks for, judging by `arms`. Relative paths start at `base`.
pub fn shield(config: &Config, base: &Path, arms: &Arms) -> anyhow::Result<Shield> {
    let egress = endpoints::egress(config);
    config.shield.second_opinion.iter().try_fold(
        Shield::armed(config.shield.clone(), arms),
        |shield, (name, settings)| {
            let opinion = opinion(name, settings, &egress, base);
            let opinion = opinion.with_context(|| format!("[shield.second_opinion.{name}]"))?;
            Ok(shield.with_opinion(Arc::new(opinion)))
        },
    )
}

fn opinion(name: &str, settings: &SecondOpinion, egress: &Egress, base: &Path) -> anyhow::Result<Opinion> {
    let url = Url::parse(&settings.url()).context("endpoint")?;
    let endpoint = egress.endpoint(&Peer { url, tls: TlsOptions::default(), dangerous_plaintext: false })?;
    let key = settings.key.as_ref().map(|key| SecretRef::from(key).read(base)).transpose().context("key")?;
    let identity = settings.managed_identity.then(|| {
        let client_id = settings.identity_client_id.as_deref();
        ManagedIdentity::new(egress, COGNITIVE_SERVICES, client_id, Arc::new(SystemClock))
    });
    let wire = Wire { endpoint, identity: identity.transpose()? };
    Ok(Opinion::new(name, settings.clone(), key, Arc::new(wire), Arc::new(SystemClock)))
}

/// Whom tokens for Azure AI Content Safety are for (attacks.md §2.1).
const COGNITIVE_SERVICES: &str = "https://cognitiveservices.azure.com";

/// Posts to one address.
struct Wire {
    endpoint: Endpoint,
    /// Whose tokens are shown where no key is.
    identity: Option<ManagedIdentity>,
}

impl Transport for Wire {
    fn post<'t>(&'t self, post: Post<'t>) -> Replying<'t> {
        Box::pin(async move {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            if let Some((name, scheme, key)) = post.authorization {
                let value = HeaderValue::from_str(&format!("{scheme}{}", key.reveal()));
                let mut value = value.map_err(|_| "its key cannot be sent".to_owned())?;
                value.set_sensitive(true);
                headers.insert(name, value);
            }
            let words = |error: bartizan_egress::Error| error.to_string();
            let exchange = async {
                if let Some(identity) = &self.identity {
                    let token = identity.token().await?;
                    let value = HeaderValue::from_str(&format!("Bearer {}", token.reveal()));
                    let mut value = value.map_err(|_| "its token cannot be sent".to_owned())?;
                    value.set_sensitive(true);
                    headers.insert(header::AUTHORIZATION, value);
                }
                let answer = self
                    .endpoint
                    .send(Method::POST, headers, post.body.into(), post.within)
                    .await
                    .map_err(words)?;
                let retry_after = answer.headers().get(header::RETRY_AFTER);
                let retry_after = retry_after.and_then(|r| r.to_str().ok()?.parse().ok());
                let status = answer.status().as_u16();
                if let (401, Some(identity)) = (status, &self.identity) {
                    identity.forget().await;
                }
                let body =
                    answer.into_body().collect_within(ANSWER_BYTES, post.within).await.map_err(words)?;
                Ok::<_, String>(Reply { status, retry_after, body })
            };
            let late = |_| "no answer came in time".to_owned();
            tokio::time::timeout(post.within, exchange).await.map_err(late)?
        })
    }
}
