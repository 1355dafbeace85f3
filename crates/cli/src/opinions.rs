//! Second opinions: the services of the configuration, reached through the one door out, and the models that run here.

#[cfg(feature = "onnx")]
mod model;

use std::{path::Path, sync::Arc};

use anyhow::Context;
use bartizan_egress::{Egress, Endpoint, Peer, TlsOptions};
use bartizan_model::SystemClock;
use bartizan_shield::{
    Opinion, SecondOpinion, Shield,
    bundle::Arms,
    opinion::{ANSWER_BYTES, OnnxModel, OpinionKind, Post, Reply, Replying, Transport},
};
use http::{HeaderMap, HeaderValue, Method, header};
use url::Url;

use crate::{config::Config, endpoints, managed_identity::ManagedIdentity, secrets};

/// A model of the configuration that cannot be used, with the field and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(String);

/// The shield that a configuration asks for, judging by `arms`. Relative paths start at `base`. Models that no server names
/// are not loaded.
pub async fn shield(config: &Config, base: &Path, arms: &Arms) -> anyhow::Result<Shield> {
    let egress = endpoints::egress(config);
    let mut shield = Shield::armed(config.shield.clone(), arms);
    for (name, settings) in &config.shield.second_opinion {
        let opinion = match settings.kind {
            OpinionKind::Onnx if !config.servers.iter().any(|s| s.second_opinions.contains(name)) => continue,
            OpinionKind::Onnx => model(name, settings, base).await,
            OpinionKind::AzurePromptShields | OpinionKind::AzureTextAnalyze | OpinionKind::OpenaiJudge => {
                service(name, settings, &egress, base)
            }
        };
        let opinion = opinion.with_context(|| format!("[shield.second_opinion.{name}]"))?;
        shield = shield.with_opinion(Arc::new(opinion));
    }
    Ok(shield)
}

/// Tries every model of a configuration, those too that no server names: its name and how long the longest window takes, or
/// what is wrong.
pub async fn try_models(config: &Config, base: &Path) -> Vec<(String, anyhow::Result<std::time::Duration>)> {
    let mut tried = Vec::new();
    for (name, settings) in &config.shield.second_opinion {
        if let Some(onnx) = &settings.onnx {
            tried.push((name.clone(), try_model(onnx, base).await));
        }
    }
    tried
}

#[cfg(feature = "onnx")]
async fn model(name: &str, settings: &SecondOpinion, base: &Path) -> anyhow::Result<Opinion> {
    let onnx = settings.onnx.as_ref().context("onnx: there is no model")?;
    let model = model::load(onnx, base).await?;
    Ok(Opinion::local(name, settings.clone(), model, Arc::new(SystemClock)))
}

#[cfg(feature = "onnx")]
async fn try_model(onnx: &OnnxModel, base: &Path) -> anyhow::Result<std::time::Duration> {
    model::longest_window(model::fresh(onnx, base).await?, onnx).await
}

#[cfg(not(feature = "onnx"))]
async fn model(_: &str, _: &SecondOpinion, _: &Path) -> anyhow::Result<Opinion> {
    Err(Unusable(NO_ONNX.into()).into())
}

#[cfg(not(feature = "onnx"))]
async fn try_model(_: &OnnxModel, _: &Path) -> anyhow::Result<std::time::Duration> {
    Err(Unusable(NO_ONNX.into()).into())
}

#[cfg(not(feature = "onnx"))]
const NO_ONNX: &str = "this build has no ONNX; build with --features onnx";

fn service(name: &str, settings: &SecondOpinion, egress: &Egress, base: &Path) -> anyhow::Result<Opinion> {
    let url = Url::parse(&settings.url().context("endpoint")?).context("endpoint")?;
    let endpoint = egress.endpoint(&Peer { url, tls: TlsOptions::default(), dangerous_plaintext: false })?;
    let key = settings.key.as_ref().map(|key| secrets::read(key, base)).transpose().context("key")?;
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
