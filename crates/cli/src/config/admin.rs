//! `[admin]`

use bartizan_audit::event::rfc3339;
use bartizan_model::Timestamp;
use bartizan_oauth::{AuthenticationRequired, ResourceSettings};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::Config;
use crate::identity::Mode;

/// `[admin]`: who may act at the admin listener, by access tokens issued for it alone: of `[[identity.issuers]]`, or of the gate's
/// own authorization server where it is one. On a laptop (`mode = "local"`) its owner may do everything, signed in by a fresh link.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// The URL of the admin API, which access tokens must be issued for: `https://gate.example.com:8788/api`. Without it there
    /// is no API.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub url: Option<Url>,
    /// What a token's `aud` may be; nothing means the URL. For Entra: the API's client id, a GUID. It must be no endpoint's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub audience: Vec<String>,
    /// Values of `amr`, one of which an administrator's sign-in must show for whatever changes anything.
    pub methods: Vec<String>,
    /// Values of `acr` (Entra: `c1` to `c99`), one of which the sign-in must show instead, where there are any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub contexts: Vec<String>,
    /// The oldest that such a sign-in may be, in seconds.
    pub max_auth_age_s: u64,
    /// The longest that `bartizan admin grant` may grant a role for, in hours.
    pub max_grant_h: u64,
    /// Roles beside those that `bartizan admin grant` grants. Each ends.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<AdminRole>,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            url: None,
            audience: Vec::new(),
            methods: vec!["mfa".to_owned()],
            contexts: Vec::new(),
            max_auth_age_s: 900,
            max_grant_h: 12,
            roles: Vec::new(),
        }
    }
}

/// What an administrator may do.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Decide about calls that wait for a person, and release results from quarantine.
    Approver,
    /// Put policies in force, decide about reviews of rights, set and remove secrets.
    Operator,
    /// Quarantine, revoke and release.
    Responder,
    /// Look at the state and at metrics; whoever has another role may, too.
    Viewer,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Approver, Self::Operator, Self::Responder, Self::Viewer];

    /// The role as it is kept and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Approver => "approver",
            Self::Operator => "operator",
            Self::Responder => "responder",
            Self::Viewer => "viewer",
        }
    }
}

/// `[[admin.roles]]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdminRole {
    /// Which role.
    pub role: Role,
    /// Who vouches for the person: an issuer as its tokens write it.
    pub issuer: String,
    /// The person's subject; or name a group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub person: Option<String>,
    /// A group, everybody in which has the role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// When it ends: an RFC 3339 time.
    pub until: String,
}

impl AdminRole {
    /// When it ends.
    pub fn end(&self) -> Option<Timestamp> {
        rfc3339::parse(&self.until)
    }
}

impl AdminConfig {
    /// Whether nothing is set.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The API as a protected resource.
    pub fn resource(&self) -> Option<ResourceSettings> {
        Some(ResourceSettings {
            name: "the admin API".to_owned(),
            url: self.url.clone()?,
            audience: self.audience.clone(),
            required_scopes: Vec::new(),
            authentication: AuthenticationRequired::default(),
        })
    }

    /// How an administrator must have signed in to change anything.
    pub fn fresh(&self) -> AuthenticationRequired {
        AuthenticationRequired { contexts: self.contexts.clone(), max_age_s: Some(self.max_auth_age_s) }
    }

    /// Everything that is wrong with it, beside the rest of `config`.
    pub fn problems(&self, config: &Config) -> Vec<String> {
        let mut found = Vec::new();
        let mut say = |text: String| found.push(format!("[admin] {text}"));
        for role in &self.roles {
            let role_name = role.role.as_str();
            if role.end().is_none() {
                say(format!(
                    "roles: `until` of a {role_name} is no RFC 3339 time: {}",
                    role.until.escape_debug()
                ));
            }
            if role.person.is_some() == role.group.is_some() {
                say(format!("roles: name `person` or `group` of a {role_name}, one of them"));
            }
        }
        if self.max_auth_age_s == 0 || self.max_auth_age_s > 86_400 {
            say("`max_auth_age_s` is 1 to 86400".into());
        }
        if self.methods.is_empty() && self.contexts.is_empty() {
            say("`methods` or `contexts` must say what a second factor is: nothing would be fresh otherwise"
                .into());
        }
        let Some(url) = &self.url else {
            if !self.roles.is_empty() {
                say("`roles` need `url`, the URL of the admin API".into());
            }
            return found;
        };
        let has_own = config.identity.mode != Mode::ResourceServer;
        if config.identity.dangerous_open || (!has_own && config.identity.resource_server.issuers.is_empty())
        {
            say("`url` needs somebody who issues tokens for it: [[identity.issuers]], or [identity] of mode \"facade\" or \"local\" \
                 without `dangerous_open`"
                .into());
        }
        let is_plain = url.scheme() == "http" && !url.host_str().is_some_and(super::audit::is_loopback);
        if has_own && (is_plain || !matches!(url.scheme(), "http" | "https")) {
            say("`url` must begin with https://, or http:// on loopback".into());
        }
        if url.path() == "/" || url.path() == "/metrics" {
            say("`url` needs a path of its own, such as /api".into());
        }
        let resources = config.resources(config.server.listen).unwrap_or_default();
        for resource in &resources {
            let theirs =
                std::iter::once(resource.url.as_str()).chain(resource.audience.iter().map(String::as_str));
            let ours = || std::iter::once(url.as_str()).chain(self.audience.iter().map(String::as_str));
            for audience in theirs {
                if ours().any(|own| own == audience) {
                    say(format!(
                        "a token for the endpoint `{}` would be good at the admin API too: give it another `url` or `audience`",
                        resource.name
                    ));
                }
            }
        }
        found
    }
}
