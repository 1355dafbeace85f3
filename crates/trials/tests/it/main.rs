//! The trials: attacks that must fail beside honest neighbours that must not ([`attacks`], listed in docs/attacks.md),
//! what must be carried ([`traffic`]), and what holds the house together ([`layout`]).

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    reason = "whatever goes wrong in a trial fails it"
)]

mod attacks;
mod catalogue;
mod exporting;
mod layout;
mod traffic;

use bartizan_trials::{Gate, Upstream};
use serde_json::Value;

/// A gate in front of two honest servers: `new` speaks the modern era, `old` the legacy one.
struct Scene {
    gate: Gate,
    new: Upstream,
    old: Upstream,
}

impl Scene {
    fn start() -> Self {
        Self::with("")
    }

    /// With more configuration in front of the servers.
    fn with(config: &str) -> Self {
        let (new, old) = (Upstream::modern(|_, _| false), Upstream::legacy(|_, _| false));
        let gate = Gate::start(&format!("{config}\n{}{}", new.config("new", ""), old.config("old", "")));
        Self { gate, new, old }
    }

    /// How many tools were called, whoever asked: the effect that an attack is after.
    fn executed(&self) -> usize {
        self.new.heard_of("tools/call").len() + self.old.heard_of("tools/call").len()
    }

    /// Asserts that honest clients of both eras are served, each by one call.
    fn serves(&self) {
        let before = self.executed();
        let client = self.gate.client();
        assert_eq!(client.call("/mcp/new", "echo", r#"{"word":"new"}"#).said(), r#"{"word":"new"}"#);
        let session = client.session("/mcp/old", "2025-11-25", "{}");
        assert_eq!(session.call("1", "echo", r#"{"word":"old"}"#).send().said(), r#"{"word":"old"}"#);
        assert_eq!(session.end().status, 204);
        assert_eq!(self.executed(), before + 2);
    }
}

/// `value` at a JSON pointer, as text.
fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
