//! Microsoft Graph, asked by the gate's own application: which groups somebody is in whose token leaves them out (attacks.md
//! §2.2), and whether somebody's account is still enabled.
//!
//! Both are asked by JSON batching, so that one address is all that is ever connected to, whoever is asked about. What is not
//! a whole and plain answer is none: nobody is taken to be in no group, or to be still there, because Graph did not say.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bartizan_model::{Caller, Clock, Secret, Timestamp};
use http::{HeaderMap, HeaderValue, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::Url;

use crate::{
    Fetch, GroupSource, NamedBy, Resolving, Sent,
    config::problems::{check_url, is_guid},
    facade::{Directory, DirectoryUnavailable, Person, Standing},
    outbound::{EntraApp, EntraAppConfig, EntraMeans, token::Tokens},
};

/// How long somebody's groups count; a change of theirs is late by so much at most, as with any token.
const FRESH: Duration = Duration::from_secs(300);
/// Between two questions about one person, the first of which failed.
const REST: Duration = Duration::from_secs(5);
/// People whose groups are remembered.
const ROOM: usize = 10_000;

/// `[identity.graph]`: ask Microsoft Graph about people of an Entra tenant.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GraphConfig {
    /// The gate's registration in the tenant; by default the one of `[identity.provider]`. It needs the application permissions
    /// `User.Read.All` and `GroupMember.Read.All`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<EntraAppConfig>,
    /// Where Graph is: the global cloud's, or a national one's.
    #[serde(default = "global_graph")]
    #[schemars(with = "String")]
    pub endpoint: Url,
    /// Look up the groups of people whose tokens leave them out; otherwise such people are refused.
    #[serde(default = "yes")]
    pub groups: bool,
    /// Look up security groups only, as the `groups` claim of most registrations does.
    #[serde(default = "yes")]
    pub security_groups_only: bool,
    /// Ask at each refresh of a token (`mode = "facade"`) whether the person's account is still enabled.
    #[serde(default = "yes")]
    pub people: bool,
}

#[expect(clippy::expect_used, reason = "a fixed text that a test reads")]
fn global_graph() -> Url {
    Url::parse("https://graph.microsoft.com").expect("it is a URL")
}

fn yes() -> bool {
    true
}

impl GraphConfig {
    /// Everything that is wrong.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        check_url(&self.endpoint, "`endpoint`", &mut found);
        found.extend(self.app.iter().flat_map(EntraAppConfig::problems).map(|p| format!("app: {p}")));
        if !self.groups && !self.people {
            found.push("`groups` and `people` are both off: leave [identity.graph] out".into());
        }
        found
    }
}

/// Graph, as one tenant's application may ask it.
pub struct Graph {
    app: EntraApp,
    batch: Url,
    scope: String,
    only_security: bool,
    fetch: Arc<dyn Fetch>,
    clock: Arc<dyn Clock>,
    /// Whoever holds the lock asks for a token; the others wait for it.
    token: tokio::sync::Mutex<Option<Tokens>>,
    people: Mutex<HashMap<String, Looking>>,
}

/// One person's groups; whoever holds the lock asks.
type Looking = Arc<tokio::sync::Mutex<Option<Looked>>>;

struct Looked {
    at: Timestamp,
    groups: Option<BTreeSet<String>>,
}

impl Graph {
    /// Graph as configured. `provider` is the registration to use where the configuration names none.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(
        config: &GraphConfig,
        provider: Option<&EntraAppConfig>,
        means: EntraMeans,
    ) -> Result<Self, String> {
        let app = config.app.as_ref().or(provider).ok_or(
            "it needs `app`, the gate's registration in the tenant, unless [identity.provider] is of kind \"entra\"",
        )?;
        let endpoint = config.endpoint.as_str().trim_end_matches('/');
        Ok(Self {
            batch: Url::parse(&format!("{endpoint}/v1.0/$batch")).map_err(|_| "`endpoint` is no URL")?,
            scope: format!("{endpoint}/.default"),
            only_security: config.security_groups_only,
            fetch: Arc::clone(&means.fetch),
            clock: Arc::clone(&means.clock),
            app: EntraApp::new(app, means)?,
            token: tokio::sync::Mutex::default(),
            people: Mutex::default(),
        })
    }

    /// The status and body of one request.
    async fn ask(&self, request: Value) -> Result<(u64, Value), String> {
        let token = self.token().await?;
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let mut line = HeaderValue::from_str(&format!("Bearer {}", token.reveal()))
            .map_err(|_| "its token fits no header".to_owned())?;
        line.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, line);
        let body = Secret::new(json!({ "requests": [request] }).to_string());
        let sent = self.fetch.send(&self.batch, NamedBy::Operator, Sent { headers, body }).await;
        let answer = sent.map_err(|error| error.to_string())?;
        if answer.status == 401 {
            *self.token.lock().await = None;
        }
        if answer.status != 200 {
            return Err(format!("it answered HTTP {}", answer.status));
        }
        let answer: Value =
            serde_json::from_slice(&answer.body).map_err(|_| "its answer is no JSON".to_owned())?;
        let responses = answer.get("responses").and_then(Value::as_array).map(Vec::as_slice);
        let Some([response]) = responses else { return Err("it does not answer what was asked".into()) };
        if response.get("id").and_then(Value::as_str) != Some("1") {
            return Err("it does not answer what was asked".into());
        }
        let status = response.get("status").and_then(Value::as_u64).ok_or("its answer has no status")?;
        Ok((status, response.get("body").cloned().unwrap_or_default()))
    }

    async fn token(&self) -> Result<Secret, String> {
        let mut token = self.token.lock().await;
        if let Some(tokens) = &*token
            && self.clock.now() < tokens.until
        {
            return Ok(tokens.access.clone());
        }
        let tokens = self.app.own(&self.scope).await.map_err(|denied| denied.to_string())?;
        Ok(token.insert(tokens).access.clone())
    }

    /// Everything `object` is a member of, directly or not.
    async fn memberships(&self, object: &str) -> Result<BTreeSet<String>, String> {
        let request = json!({
            "id": "1", "method": "POST", "url": format!("/users/{object}/getMemberObjects"),
            "headers": { "Content-Type": "application/json" },
            "body": { "securityEnabledOnly": self.only_security },
        });
        let (status, body) = self.ask(request).await?;
        if status != 200 {
            return Err(format!("it answered {status} about somebody's groups"));
        }
        // A part of the groups is not the groups.
        if body.get("@odata.nextLink").is_some() {
            return Err("it answered only a part of somebody's groups".into());
        }
        let groups = body.get("value").and_then(Value::as_array).ok_or("its answer names no groups")?;
        let id = |group: &Value| group.as_str().filter(|id| is_guid(id)).map(str::to_owned);
        groups
            .iter()
            .map(id)
            .collect::<Option<_>>()
            .ok_or_else(|| "it names something that is no group".into())
    }

    async fn groups(&self, caller: &Caller) -> Option<BTreeSet<String>> {
        let object = self.member(caller.issuer(), caller.subject())?;
        let looking = {
            let mut people = self.people.lock().unwrap_or_else(PoisonError::into_inner);
            if people.len() >= ROOM && !people.contains_key(object) {
                // All at once, once in a long while; they are asked about again when they come back.
                people.clear();
            }
            Arc::clone(people.entry(object.to_owned()).or_default())
        };
        let mut looked = looking.lock().await;
        let now = self.clock.now();
        if let Some(Looked { at, groups }) = &*looked
            && now.since(*at) < if groups.is_some() { FRESH } else { REST }
        {
            return groups.clone();
        }
        let groups = match self.memberships(object).await {
            Ok(groups) => Some(groups),
            Err(why) => {
                tracing::warn!(why, "Microsoft Graph does not say somebody's groups, who is refused");
                None
            }
        };
        *looked = Some(Looked { at: now, groups: groups.clone() });
        groups
    }

    /// The object id of somebody of the tenant. It goes into an address, so it is what it must be, or nothing.
    fn member<'a>(&self, issuer: &str, subject: &'a str) -> Option<&'a str> {
        (issuer == self.app.issuer && is_guid(subject)).then_some(subject)
    }
}

impl GroupSource for Graph {
    fn groups_of<'a>(&'a self, caller: &'a Caller) -> Resolving<'a> {
        Box::pin(self.groups(caller))
    }
}

#[async_trait]
impl Directory for Graph {
    async fn standing(&self, person: &Person) -> Result<Standing, DirectoryUnavailable> {
        // Somebody else's people: their own issuer answers for them.
        if person.issuer != self.app.issuer {
            return Ok(Standing::Active);
        }
        let object = self.member(&person.issuer, &person.subject).ok_or(DirectoryUnavailable)?;
        let request = json!({
            "id": "1", "method": "GET", "url": format!("/users/{object}?$select=id,accountEnabled"),
        });
        match self.ask(request).await {
            Ok((200, body)) if body.get("id").and_then(Value::as_str) == Some(object) => {
                let is_enabled = body.get("accountEnabled").and_then(Value::as_bool);
                let is_enabled = is_enabled.ok_or(DirectoryUnavailable)?;
                Ok(if is_enabled { Standing::Active } else { Standing::Gone })
            }
            // Deleted.
            Ok((404, _)) => Ok(Standing::Gone),
            other => {
                let why = other.map_or_else(|why| why, |(status, _)| format!("it answered {status}"));
                tracing::warn!(why, "Microsoft Graph does not say whether somebody is still there");
                Err(DirectoryUnavailable)
            }
        }
    }
}
