//! How much a caller may ask for: `[limits]` on the path of a request (attacks.md EP-06).
//!
//! Rates and places, those of sessions and listening streams too, are counted in this process; with [`Shared`] they are counted
//! in one place for several gates.
//! A request over a limit is refused with 429 and the time to wait (RFC 6585 §4), inside the conversation where the
//! protocol has one.

mod leases;
mod proofs;
mod shared;

use std::{sync::Arc, time::Duration};

use arc_swap::{ArcSwap, ArcSwapOption};
use bartizan_mcp::{Message, Refusal, code, json::Value};
use bartizan_policy::{
    Claims,
    limits::{Held, Limits, LimitsConfig, Load, OverLimit, Slot},
};
use tokio::time::Instant;

pub use proofs::CountedReplays;
pub use shared::{Place, Shared, Unavailable};

use crate::{Asker, merged, server::Server};

use leases::Lease;

/// The places of a request, a session or a stream among those under way, here and wherever they are counted; it has them until
/// this is dropped.
#[must_use = "it counts as over when this is dropped"]
pub struct Taken {
    _slot: Slot,
    _lease: Option<Lease>,
}

/// A tool's name that is longer is no tool's (spec.md A-59), and takes no memory here.
const LONGEST_NAME: usize = 128;

/// How far the clocks of gates may be apart.
const APART: Duration = Duration::from_secs(60);

/// What has been counted, and up to where.
pub struct Quotas {
    limits: ArcSwap<Limits>,
    shared: ArcSwapOption<Shared>,
    began: Instant,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            limits: ArcSwap::from_pointee(Limits::new(LimitsConfig::default())),
            shared: ArcSwapOption::empty(),
            began: Instant::now(),
        }
    }
}

impl Quotas {
    /// Limits by `config` from now on; what has been counted stays counted. `shared` is where rates are counted, if not
    /// here.
    pub fn set(&self, config: LimitsConfig, shared: Option<Shared>) {
        self.limits.store(self.limits.load().next(config).into());
        self.shared.store(shared.map(Into::into));
    }

    /// Bytes of one request.
    pub fn request_bytes(&self) -> usize {
        self.limits.load().config().request_bytes.get()
    }

    /// Bytes of everything that comes back for one request.
    pub fn answer_bytes(&self) -> usize {
        self.limits.load().config().answer_bytes.get()
    }

    /// Lets a message in, to `server` if it is for one. It counts as under way until what it has taken is dropped.
    ///
    /// # Errors
    /// 429 over a limit; 503 if it cannot be counted.
    pub async fn enter(
        &self,
        asker: &Asker,
        server: Option<&Server>,
        is_merged: bool,
        message: &Message,
    ) -> Result<Taken, Refusal> {
        let user = Claims::of_caller(&asker.caller).user();
        let tool = tool_of(is_merged, message);
        let load = Load {
            caller: &user,
            client: asker.caller.client(),
            server: server.map(|s| s.name().as_str()),
            tool: tool.as_deref(),
        };
        let limits = self.limits.load_full();
        let alone = |limits: &Limits| {
            let slot = limits.enter(load, self.now()).map_err(over)?;
            Ok(Taken { _slot: slot, _lease: None })
        };
        let Some(shared) = self.shared.load_full() else { return alone(&limits) };
        // What is over here is over everywhere.
        let (slot, rates, rooms) = limits.enter_but_rates(load, self.now()).map_err(over)?;
        match shared.take(&rates, &rooms).await {
            Ok(Ok(lease)) => Ok(Taken { _slot: slot, _lease: lease }),
            Ok(Err(over_limit)) => Err(over(over_limit)),
            Err(_) if limits.config().dangerous_fail_open => {
                drop(slot);
                alone(&limits)
            }
            Err(_) => Err(uncounted()),
        }
    }

    /// Counts a session or a listening stream until what it has taken is dropped. One that has begun goes on while it cannot
    /// be counted.
    ///
    /// # Errors
    /// 429 over the limit; 503 if it cannot be counted.
    pub async fn hold(&self, held: Held, asker: &Asker) -> Result<Taken, Refusal> {
        let user = Claims::of_caller(&asker.caller).user();
        let limits = self.limits.load_full();
        // What is over here is over everywhere.
        let slot = limits.hold(held, &user, self.now()).map_err(over)?;
        let Some(shared) = self.shared.load_full() else { return Ok(Taken { _slot: slot, _lease: None }) };
        match shared.take(&[], &[limits.room(held, &user)]).await {
            Ok(Ok(lease)) => Ok(Taken { _slot: slot, _lease: lease }),
            Ok(Err(over_limit)) => Err(over(over_limit)),
            Err(_) if limits.config().dangerous_fail_open => Ok(Taken { _slot: slot, _lease: None }),
            Err(_) => Err(uncounted()),
        }
    }

    /// Where it is counted, if not here.
    fn shared(&self) -> Option<Arc<Shared>> {
        self.shared.load_full()
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }
}

/// The tool of a call, by its server's name for it.
fn tool_of(is_merged: bool, message: &Message) -> Option<String> {
    if message.method() != "tools/call" {
        return None;
    }
    let name = message.param("name").and_then(Value::as_str)?;
    let bare = if is_merged { merged::split_name(&name)?.1 } else { &name };
    (bare.len() <= LONGEST_NAME).then(|| bare.to_owned())
}

/// The refusal of what cannot be counted.
fn uncounted() -> Refusal {
    Refusal {
        retry_after_s: Some(1),
        ..Refusal::new(503, code::LIMIT, "requests cannot be counted now; try again later")
            .with_data(r#"{"source":"bartizan","reason":"limits.unavailable"}"#)
    }
}

fn over(over: OverLimit) -> Refusal {
    let seconds = over.retry_after_s();
    let (reason, scope, what) = match over {
        OverLimit::Rate { scope, .. } => ("limits.rate", scope, "too many requests in a short time"),
        OverLimit::Concurrent { scope } => ("limits.concurrent", scope, "too much at once"),
    };
    let scope = scope.as_str();
    Refusal {
        retry_after_s: Some(seconds),
        ..Refusal::new(429, code::LIMIT, format!("{what} for this {scope}; try again in {seconds} s"))
            .with_data(format!(
                r#"{{"source":"bartizan","reason":"{reason}","scope":"{scope}","retry_after_s":{seconds}}}"#
            ))
    }
}

#[cfg(test)]
mod tests {
    use bartizan_model::Caller;

    use super::*;

    fn call(name: &str) -> Message {
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{name}","arguments":{{}}}}}}"#
        );
        Message::parse(text.into_bytes()).unwrap()
    }

    fn quotas(config: &str) -> Quotas {
        let quotas = Quotas::default();
        quotas.set(serde_json::from_str(config).unwrap(), None);
        quotas
    }

    fn asker(subject: &str) -> Asker {
        Asker::new(Caller::new("https://issuer.example", subject, "agent"))
    }

    #[tokio::test]
    async fn says_what_is_over_and_when_to_come_again() {
        let quotas = quotas(r#"{"caller":{"per_minute":2,"burst":1}}"#);
        let (ann, call) = (asker("ann"), call("t"));
        let enter = || quotas.enter(&ann, None, false, &call);
        assert!(enter().await.is_ok());
        let refusal = enter().await.err().unwrap();
        assert_eq!((refusal.status, refusal.code, refusal.retry_after_s), (429, code::LIMIT, Some(30)));
        let data = refusal.data.unwrap();
        assert!(data.contains(r#""reason":"limits.rate","scope":"caller""#), "{data}");
        assert!(quotas.enter(&asker("bob"), None, false, &call).await.is_ok(), "another caller");
    }

    #[tokio::test]
    async fn one_person_has_one_quota_whichever_application_speaks() {
        let quotas = quotas(r#"{"caller":{"per_minute":1,"burst":1}}"#);
        let by = |client| Asker::new(Caller::new("https://issuer.example", "ann", client));
        assert!(quotas.enter(&by("one"), None, false, &call("t")).await.is_ok());
        assert!(quotas.enter(&by("two"), None, false, &call("t")).await.is_err());
    }

    #[tokio::test]
    async fn what_goes_on_is_counted_where_others_count_it_too_or_refused() {
        // Nobody listens where somebody did a moment ago.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = format!("redis://127.0.0.1:{}", listener.local_addr().unwrap().port());
        drop(listener);
        let away = || {
            let place = Place::parse(&place, bartizan_egress::TlsOptions::default()).unwrap();
            let egress = bartizan_egress::Egress::new(bartizan_egress::Config::default());
            Some(Shared::new(place, None, egress, "me".into()))
        };
        let quotas = Quotas::default();
        let set = |config: &str, shared| quotas.set(serde_json::from_str(config).unwrap(), shared);
        set(r#"{"streams":1}"#, away());
        for held in [Held::Stream, Held::Session] {
            let refusal = quotas.hold(held, &asker("ann")).await.err().unwrap();
            assert_eq!((refusal.status, refusal.retry_after_s), (503, Some(1)));
            assert!(refusal.data.unwrap().contains("limits.unavailable"));
        }
        // What was refused has no place here either; where the operator says so, this gate's own count is enough.
        set(r#"{"streams":1,"dangerous_fail_open":true}"#, away());
        let held = quotas.hold(Held::Stream, &asker("ann")).await;
        assert!(held.is_ok());
        let refusal = quotas.hold(Held::Stream, &asker("ann")).await.err().unwrap();
        assert!(refusal.data.unwrap().contains(r#""reason":"limits.concurrent","scope":"stream""#));
        drop(held);
        assert!(quotas.hold(Held::Stream, &asker("ann")).await.is_ok());
    }

    #[test]
    fn a_tool_has_one_name_on_every_endpoint() {
        assert_eq!(tool_of(false, &call("read")).as_deref(), Some("read"));
        assert_eq!(tool_of(true, &call("files__read")).as_deref(), Some("read"));
        assert_eq!(tool_of(false, &call(&"x".repeat(129))), None);
    }
}
