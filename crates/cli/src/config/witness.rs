//! `[audit.witness]`

use bartizan_audit::witness::WitnessKey;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::UpstreamTls;

/// `[audit.witness]`: somebody else who remembers how far the log was, so that it cannot be rolled back or rewritten unseen.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WitnessConfig {
    /// Its submission prefix (C2SP tlog-witness): `https://witness.example.com`. `bartizan audit witness` serves one.
    #[schemars(with = "String")]
    pub url: Url,
    /// Its verifier key, as it prints it: `name+12345678+Base64…`.
    pub key: String,
    /// How often it is asked, in seconds.
    #[serde(default = "default_every")]
    pub every_s: u64,
    /// Make no call while it refuses, or has not signed for `max_age_s`. Otherwise that is an alarm only.
    #[serde(default)]
    pub required: bool,
    /// How old its last signature may be if it is required, in seconds.
    #[serde(default = "default_max_age")]
    pub max_age_s: u64,
    /// TLS towards it.
    #[serde(default)]
    pub tls: UpstreamTls,
}

const fn default_every() -> u64 {
    60
}

const fn default_max_age() -> u64 {
    300
}

impl WitnessConfig {
    /// Everything that is wrong with it.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut say = |text: &str| found.push(format!("[audit.witness] {text}"));
        let is_loopback = self.url.host_str().is_some_and(super::audit::is_loopback);
        match self.url.scheme() {
            "https" => {}
            "http" if is_loopback => {}
            _ => say("`url` must begin with https:// (http:// on loopback only)"),
        }
        if self.url.query().is_some() || self.url.fragment().is_some() {
            say("`url` takes neither query nor fragment");
        }
        if !self.url.username().is_empty() || self.url.password().is_some() {
            say("`url` must hold no user and no password");
        }
        if self.key.parse::<WitnessKey>().is_err() {
            say("`key` is no witness's key: `bartizan audit witness` prints it when it starts");
        }
        if !(1..=86_400).contains(&self.every_s) {
            say("`every_s` is 1 to 86400");
        }
        if self.max_age_s < self.every_s {
            say("`max_age_s` must not be less than `every_s`");
        }
        if self.tls.client_cert.is_some() != self.tls.key.is_some() {
            say("`tls.client_cert` and `tls.key` belong together");
        }
        found
    }
}
