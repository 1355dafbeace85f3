//! Models that give second opinions: whether they are what was pinned, work, and are fast enough.

use std::path::Path;

use super::Check;
use crate::{config::Config, opinions};

/// Tries each model of the configuration.
pub async fn checks(config: &Config, base: &Path) -> Vec<Check> {
    let tried = opinions::try_models(config, base).await;
    tried
        .into_iter()
        .map(|(name, tried)| {
            let id = format!("shield.second_opinion.{name}");
            let settings = config.shield.second_opinion.get(&name);
            let allowed = settings.map_or(0, |settings| u128::from(settings.timeout_ms));
            match tried {
                Err(error) => Check::fail(
                    id,
                    format!("{error:#}"),
                    "bring the file that was pinned, or pin another whose origin you know",
                ),
                Ok(took) if took.as_millis() * 2 > allowed => Check::warn(
                    id,
                    format!("a full window takes {} ms of {allowed} ms `timeout_ms`", took.as_millis()),
                    "quantise the model, lower `max_tokens`, or raise `timeout_ms` and `budget_ms`: what is late is withheld",
                ),
                Ok(took) => Check::pass(
                    id,
                    format!("the model is what was pinned, and works; a full window takes {} ms", took.as_millis()),
                ),
            }
        })
        .collect()
}
