//! `[audit]`

use std::{collections::BTreeSet, num::NonZeroU32, path::PathBuf, time::Duration};

use bartizan_audit::Kind;
use bartizan_model::ServerName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::{Given, UpstreamTls, content::ContentConfig};
use crate::witness::HOLD;

/// `[audit]`
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AuditConfig {
    /// What this machine is called in what is exported; its own name by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Drop what is older than this many days from the gate's log, in whole segments of 64 MiB: whenever one is full, once every
    /// exporter has delivered what is dropped. Without, it is kept for ever. A change needs a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_days: Option<NonZeroU32>,
    /// Drop the oldest segments while the gate's log is longer than this many MiB, delivered or not, whenever one is full. A change
    /// needs a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_mib: Option<NonZeroU32>,
    /// Who remembers how far the log was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub witness: Option<super::witness::WitnessConfig>,
    /// Let calls, sign-ins and tokens go on when they cannot be recorded; what was lost is counted. A change needs a restart.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dangerous_audit_best_effort: bool,
    /// What is recorded of what is said in calls of tools; nothing by default. The first that fits a call counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub content: Vec<ContentConfig>,
    /// Where the log is sent as it grows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub export: Vec<Export>,
}

/// `[[audit.export]]`: one receiver of the log.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Export {
    /// OCSF events as lines of JSON in a file that a collector reads.
    File(FileExport),
    /// OCSF events as lines of JSON, posted.
    Http(HttpExport),
    /// Entries of the log, posted and signed (Standard Webhooks).
    Webhook(WebhookExport),
    /// RFC 5424 over TLS (RFC 5425).
    Syslog(SyslogExport),
    /// Splunk's HTTP Event Collector.
    SplunkHec(SplunkExport),
    /// Microsoft Sentinel by the Logs Ingestion API.
    Sentinel(Box<SentinelExport>),
    /// OpenTelemetry logs (OTLP/HTTP).
    Otlp(OtlpExport),
    /// OpenTelemetry traces (OTLP/HTTP): each call as a span.
    OtlpTraces(OtlpExport),
}

/// `kind = "file"`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileExport {
    /// What the exporter is called: 1 to 32 of `a-z`, `0-9` and `-`.
    pub name: String,
    /// Only events of these kinds, such as `alert.raised`; all by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
    /// Tell it arguments and results too, where `[[audit.content]]` has them recorded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub content: bool,
    /// The file; made with mode 0600 if there is none.
    pub path: PathBuf,
    /// It is renamed to `path.1` when it would grow longer than this, and `path.1` to `path.2` …
    #[serde(default = "default_file_bytes")]
    pub max_bytes: u64,
    /// How many renamed files are kept.
    #[serde(default = "default_file_keep")]
    pub keep: u32,
}

const fn default_file_bytes() -> u64 {
    64 << 20
}

const fn default_file_keep() -> u32 {
    8
}

/// `kind = "http"`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpExport {
    /// What the exporter is called: 1 to 32 of `a-z`, `0-9` and `-`.
    pub name: String,
    /// Only events of these kinds; all by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
    /// Tell it arguments and results too, where `[[audit.content]]` has them recorded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub content: bool,
    /// Where to.
    #[schemars(with = "String")]
    pub url: Url,
    /// The bearer token: `{ env = "NAME" }` or `{ file = "path" }`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Given>,
    /// TLS towards it: `client_cert` and `key` to show, `ca` to trust instead of the system's.
    #[serde(default)]
    pub tls: UpstreamTls,
}

/// `kind = "webhook"`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookExport {
    /// What the exporter is called: 1 to 32 of `a-z`, `0-9` and `-`.
    pub name: String,
    /// Only events of these kinds; all by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
    /// Tell it arguments and results too, where `[[audit.content]]` has them recorded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub content: bool,
    /// Where to.
    #[schemars(with = "String")]
    pub url: Url,
    /// What signs: `{ env = "NAME" }` or `{ file = "path" }`, `whsec_` and Base64, or any text of at least 24 characters.
    pub secret: Given,
    /// TLS towards it.
    #[serde(default)]
    pub tls: UpstreamTls,
}

/// `kind = "syslog"`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SyslogExport {
    /// What the exporter is called: 1 to 32 of `a-z`, `0-9` and `-`.
    pub name: String,
    /// Only events of these kinds; all by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
    /// Tell it arguments and results too, where `[[audit.content]]` has them recorded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub content: bool,
    /// `tls://host:6514`; on loopback also `tcp://host:port`.
    #[schemars(with = "String")]
    pub url: Url,
    /// What stands in the message part.
    #[serde(default)]
    pub body: SyslogBody,
    /// Your private enterprise number, under which the structured data is named; 32473 is the one for examples.
    #[serde(default = "default_enterprise")]
    pub enterprise: u32,
    /// TLS towards it.
    #[serde(default)]
    pub tls: UpstreamTls,
}

const fn default_enterprise() -> u32 {
    32473
}

/// `body`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SyslogBody {
    /// The entry as it stands in the log, with the person's name added.
    #[default]
    Json,
    /// A CEF line.
    Cef,
    /// An OCSF event.
    Ocsf,
}

/// `kind = "splunk-hec"`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SplunkExport {
    /// What the exporter is called: 1 to 32 of `a-z`, `0-9` and `-`.
    pub name: String,
    /// Only events of these kinds; all by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
    /// Tell it arguments and results too, where `[[audit.content]]` has them recorded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub content: bool,
    /// `https://host:8088`, without a path.
    #[schemars(with = "String")]
    pub url: Url,
    /// The HEC token: `{ env = "NAME" }` or `{ file = "path" }`.
    pub token: Given,
    /// The index, if not the token's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<String>,
    /// TLS towards it.
    #[serde(default)]
    pub tls: UpstreamTls,
}

/// `kind = "sentinel"`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SentinelExport {
    /// What the exporter is called: 1 to 32 of `a-z`, `0-9` and `-`.
    pub name: String,
    /// Only events of these kinds; all by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
    /// Tell it arguments and results too, where `[[audit.content]]` has them recorded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub content: bool,
    /// The logs ingestion endpoint of the data collection rule, or a data collection endpoint; without a path.
    #[schemars(with = "String")]
    pub endpoint: Url,
    /// The rule's immutable id, `dcr-…`.
    pub rule: String,
    /// The stream, `Custom-…`; its columns are those of `docs/detections/sentinel`.
    pub stream: String,
    /// The directory (tenant) of the application that may publish to the rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// That application's id; with `managed_identity` another name for `identity_client_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Its secret: `{ env = "NAME" }` or `{ file = "path" }`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<Given>,
    /// Publish as the identity that Azure manages for this machine, instead of an application.
    #[serde(default)]
    pub managed_identity: bool,
    /// Which identity, by its client id, for a machine that has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_client_id: Option<String>,
    /// Whom to ask for tokens; another in national clouds.
    #[schemars(with = "String")]
    #[serde(default = "default_authority")]
    pub authority: Url,
    /// The OAuth scope; another in national clouds.
    #[serde(default = "default_scope")]
    pub scope: String,
    /// TLS towards it.
    #[serde(default)]
    pub tls: UpstreamTls,
}

#[expect(clippy::expect_used, reason = "the text is ours")]
fn default_authority() -> Url {
    "https://login.microsoftonline.com".parse().expect("it is a URL")
}

fn default_scope() -> String {
    "https://monitor.azure.com/.default".to_owned()
}

/// `kind = "otlp"` and `kind = "otlp-traces"`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OtlpExport {
    /// What the exporter is called: 1 to 32 of `a-z`, `0-9` and `-`.
    pub name: String,
    /// Only events of these kinds; all by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
    /// Tell it arguments and results too, where `[[audit.content]]` has them recorded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub content: bool,
    /// The receiver's endpoint for logs, `https://host:4318/v1/logs`, or for traces, `…/v1/traces`.
    #[schemars(with = "String")]
    pub url: Url,
    /// How log records are written down.
    #[serde(default)]
    pub encoding: OtlpEncoding,
    /// The bearer token: `{ env = "NAME" }` or `{ file = "path" }`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Given>,
    /// TLS towards it.
    #[serde(default)]
    pub tls: UpstreamTls,
}

/// `encoding`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OtlpEncoding {
    /// What every receiver takes.
    #[default]
    Protobuf,
    /// `application/json`
    Json,
}

impl Export {
    /// What the exporter is called.
    pub fn name(&self) -> &str {
        match self {
            Self::File(e) => &e.name,
            Self::Http(e) => &e.name,
            Self::Webhook(e) => &e.name,
            Self::Syslog(e) => &e.name,
            Self::SplunkHec(e) => &e.name,
            Self::Sentinel(e) => &e.name,
            Self::Otlp(e) | Self::OtlpTraces(e) => &e.name,
        }
    }

    /// Which kinds of events it wants, as written.
    pub fn only(&self) -> &[String] {
        match self {
            Self::File(e) => &e.only,
            Self::Http(e) => &e.only,
            Self::Webhook(e) => &e.only,
            Self::Syslog(e) => &e.only,
            Self::SplunkHec(e) => &e.only,
            Self::Sentinel(e) => &e.only,
            Self::Otlp(e) | Self::OtlpTraces(e) => &e.only,
        }
    }

    /// Whether it is told arguments and results, where they are recorded.
    pub fn content(&self) -> bool {
        match self {
            Self::File(e) => e.content,
            Self::Http(e) => e.content,
            Self::Webhook(e) => e.content,
            Self::Syslog(e) => e.content,
            Self::SplunkHec(e) => e.content,
            Self::Sentinel(e) => e.content,
            Self::Otlp(e) | Self::OtlpTraces(e) => e.content,
        }
    }

    /// TLS towards it, if it is reached by a network.
    pub fn tls(&self) -> Option<&UpstreamTls> {
        match self {
            Self::File(_) => None,
            Self::Http(e) => Some(&e.tls),
            Self::Webhook(e) => Some(&e.tls),
            Self::Syslog(e) => Some(&e.tls),
            Self::SplunkHec(e) => Some(&e.tls),
            Self::Sentinel(e) => Some(&e.tls),
            Self::Otlp(e) | Self::OtlpTraces(e) => Some(&e.tls),
        }
    }

    /// Its secrets, each with the name of its field.
    pub fn secrets(&self) -> Vec<(&'static str, &Given)> {
        match self {
            Self::File(_) | Self::Syslog(_) => Vec::new(),
            Self::Http(e) => e.token.iter().map(|t| ("token", t)).collect(),
            Self::Otlp(e) | Self::OtlpTraces(e) => e.token.iter().map(|t| ("token", t)).collect(),
            Self::Webhook(e) => vec![("secret", &e.secret)],
            Self::SplunkHec(e) => vec![("token", &e.token)],
            Self::Sentinel(e) => e.client_secret.iter().map(|s| ("client_secret", s)).collect(),
        }
    }

    fn urls(&self) -> Vec<(&'static str, &Url)> {
        match self {
            Self::File(_) => Vec::new(),
            Self::Http(e) => vec![("url", &e.url)],
            Self::Webhook(e) => vec![("url", &e.url)],
            Self::Syslog(e) => vec![("url", &e.url)],
            Self::SplunkHec(e) => vec![("url", &e.url)],
            Self::Sentinel(e) => vec![("endpoint", &e.endpoint), ("authority", &e.authority)],
            Self::Otlp(e) | Self::OtlpTraces(e) => vec![("url", &e.url)],
        }
    }

    fn problems(&self) -> Vec<String> {
        let name = self.name();
        let mut found = Vec::new();
        let mut say = |text: String| found.push(format!("[[audit.export]] `{name}`: {text}"));
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if !(1..=32).contains(&name.len()) || !name.bytes().all(allowed) {
            say("`name` is 1 to 32 of a-z, 0-9 and -".into());
        }
        for kind in self.only() {
            if let Err(unknown) = kind.parse::<Kind>() {
                say(format!("`only`: {unknown}"));
            }
        }
        for (field, secret) in self.secrets() {
            if secret.kept().is_none() {
                say(format!(
                    "`{field}` is a secret and not for this file: write {{ env = \"NAME\" }} or {{ file = \"path\" }}"
                ));
            }
        }
        let (open, sealed) = if matches!(self, Self::Syslog(_)) { ("tcp", "tls") } else { ("http", "https") };
        for (field, url) in self.urls() {
            let is_loopback = url.host_str().is_some_and(is_loopback);
            match url.scheme() {
                scheme if scheme == sealed => {}
                scheme if scheme == open && is_loopback => {}
                scheme if scheme == open => {
                    say(format!("`{field}`: {open}:// is for loopback only; write {sealed}://"));
                }
                _ => say(format!("`{field}` must begin with {sealed}://")),
            }
            if !url.username().is_empty() || url.password().is_some() {
                say(format!("`{field}` must hold no user and no password"));
            }
            let has_path = !matches!(url.path(), "" | "/") || url.query().is_some();
            let takes_none = matches!(self, Self::Syslog(_) | Self::SplunkHec(_) | Self::Sentinel(_));
            if has_path && takes_none {
                say(format!("`{field}` takes no path"));
            }
        }
        if let Some(tls) = self.tls()
            && tls.client_cert.is_some() != tls.key.is_some()
        {
            say("`tls`: `client_cert` and `key` belong together".into());
        }
        if let Self::Sentinel(sentinel) = self {
            let (identity, client_id) = (sentinel.identity_client_id.as_ref(), sentinel.client_id.as_ref());
            let problem = super::keys::identity_problem(sentinel.managed_identity, identity, client_id);
            problem.into_iter().for_each(|problem| say(problem.to_owned()));
            let has_secret = sentinel.client_secret.is_some();
            let is_application = sentinel.tenant.is_some() && sentinel.client_id.is_some() && has_secret;
            if !is_application && !sentinel.managed_identity {
                say("set `tenant`, `client_id` and `client_secret`, or `managed_identity = true`".into());
            }
            if sentinel.managed_identity && (has_secret || sentinel.tenant.is_some()) {
                say("`managed_identity` stands in the place of `tenant` and `client_secret`: leave them out"
                    .into());
            }
        }
        if let Self::Syslog(syslog) = self
            && syslog.content
            && syslog.body == SyslogBody::Cef
        {
            say("`content`: CEF has no place for it; write `body = \"json\"` or `body = \"ocsf\"`".into());
        }
        if let Self::File(file) = self
            && file.max_bytes < 1 << 16
        {
            say("`max_bytes` is at least 65536".into());
        }
        found
    }
}

/// Whether a host is loopback's as [`bartizan_egress`] reads it.
pub(super) fn is_loopback(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    let host = host.strip_suffix('.').unwrap_or(host);
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// How long a day is.
const DAY: Duration = Duration::from_secs(86_400);

impl AuditConfig {
    /// How long what is recorded is kept; `None` for ever.
    pub fn keeps(&self) -> Option<Duration> {
        self.keep_days.map(|days| DAY.saturating_mul(days.get()))
    }

    /// How the gate keeps its log.
    pub fn options(&self) -> bartizan_audit::Options {
        let exporters = self.export.iter().map(|export| export.name().to_owned());
        bartizan_audit::Options {
            keep_for: self.keeps(),
            keep_bytes: self.keep_mib.map(|mib| u64::from(mib.get()) << 20),
            needed_by: exporters.chain(self.witness.iter().map(|_| HOLD.to_owned())).collect(),
            dangerous_best_effort: self.dangerous_audit_best_effort,
            ..bartizan_audit::Options::default()
        }
    }

    /// What works and is still not as it should be, before these servers.
    pub fn warnings(&self, servers: &[super::Upstream]) -> Vec<String> {
        let mut found = Vec::new();
        for content in &self.content {
            let shown = content.shown();
            found.extend(content.warning());
            let fits = bartizan_gateway::record::Glob::new(&content.server);
            if !servers.iter().any(|server| fits.fits(server.name.as_str())) {
                found.push(format!("[[audit.content]] {shown}: there is no such server"));
            }
        }
        if self.content.is_empty()
            && let Some(export) = self.export.iter().find(|export| export.content())
        {
            found.push(format!(
                "[[audit.export]] `{}`: `content` tells nothing without [[audit.content]]",
                export.name()
            ));
        }
        found
    }

    /// What of `[[audit.content]]` works and is still not as it should be, before this server alone.
    pub fn content_warnings(&self, server: &ServerName) -> Vec<String> {
        let fits = |content: &&ContentConfig| {
            bartizan_gateway::record::Glob::new(&content.server).fits(server.as_str())
        };
        self.content.iter().filter(fits).filter_map(ContentConfig::warning).collect()
    }

    /// What no single field shows.
    pub fn problems(&self) -> Vec<String> {
        let mut found: Vec<_> = self.export.iter().flat_map(Export::problems).collect();
        found.extend(self.witness.iter().flat_map(super::witness::WitnessConfig::problems));
        for (nth, content) in (1..).zip(&self.content) {
            found.extend(content.problems().into_iter().map(|p| format!("[[audit.content]] {nth}: {p}")));
        }
        let mut names = BTreeSet::new();
        for export in &self.export {
            if !names.insert(export.name()) {
                found.push(format!("two [[audit.export]] are named `{}`", export.name()));
            }
        }
        found
    }
}
