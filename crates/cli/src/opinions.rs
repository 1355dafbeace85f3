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
    Ok(Opinion::new(name, settings.clone(), key, Arc::new(Wire(endpoint)), Arc::new(SystemClock)))
}

/// Posts to one address.
struct Wire(Endpoint);

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
            let exchange = async {
                let answer = self.0.send(Method::POST, headers, post.body.into(), post.within).await?;
                let retry_after = answer.headers().get(header::RETRY_AFTER);
                let retry_after = retry_after.and_then(|r| r.to_str().ok()?.parse().ok());
                let status = answer.status().as_u16();
                let body = answer.into_body().collect_within(ANSWER_BYTES, post.within).await?;
                Ok::<_, bartizan_egress::Error>(Reply { status, retry_after, body })
            };
            let late = |_| "no answer came in time".to_owned();
            tokio::time::timeout(post.within, exchange)
                .await
                .map_err(late)?
                .map_err(|error| error.to_string())
        })
    }
}
