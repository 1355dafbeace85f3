//! Filters on the command line.

use std::time::Duration;

use anyhow::bail;
use bartizan_audit::{
    event::{Decision, EventId, Kind, Outcome, Owasp, Pseudonym, rfc3339},
    search::{Filter, Term},
};
use bartizan_model::{Clock, SystemClock, Timestamp};
use clap::Args;

use super::show::Reader;
use crate::say_error;

/// The fields of an entry. A field that no entry has fits none, and a slip of the pen must not look like a quiet log.
const FIELDS: [&str; 48] = [
    "address",
    "alterations",
    "arguments",
    "arguments_digest",
    "attributes",
    "base",
    "call",
    "caller_trace",
    "calls",
    "change",
    "checkpoint",
    "client",
    "code",
    "count",
    "decision",
    "duration_us",
    "findings",
    "grant",
    "id",
    "kind",
    "labels",
    "message",
    "method",
    "open_calls",
    "outcome",
    "owasp",
    "person",
    "pid",
    "policies",
    "protocol",
    "reason",
    "redirect_uri",
    "request_bytes",
    "resource",
    "response_bytes",
    "result",
    "result_digest",
    "scopes",
    "sealed_arguments",
    "sealed_result",
    "seq",
    "server",
    "session",
    "span",
    "stranger_address",
    "time",
    "tool",
    "trace",
];

/// The fields of those that hold objects.
const INNER: [(&str, &[&str]); 3] = [
    ("alterations", &["count", "place", "what"]),
    ("change", &["entity", "from", "name", "to"]),
    ("findings", &["action", "place", "rule", "severity"]),
];

/// Which entries. All that are given must fit; one that is given twice must fit twice.
#[derive(Args)]
pub struct FilterArgs {
    /// The kind of event, such as call.closed.
    #[arg(long, help_heading = "Filters")]
    kind: Vec<Kind>,
    /// Who did it: the subject at the identity provider.
    #[arg(long, help_heading = "Filters")]
    subject: Option<String>,
    /// Who vouches for --subject, if several do.
    #[arg(long, requires = "subject", help_heading = "Filters")]
    issuer: Option<String>,
    /// Who did it: the pseudonym in the log.
    #[arg(long, value_name = "PSEUDONYM", conflicts_with = "subject", help_heading = "Filters")]
    person: Option<Pseudonym>,
    /// The application through which it was done.
    #[arg(long, help_heading = "Filters")]
    client: Option<String>,
    /// The server.
    #[arg(long, help_heading = "Filters")]
    server: Option<String>,
    /// The tool or prompt.
    #[arg(long, help_heading = "Filters")]
    tool: Option<String>,
    /// The MCP method.
    #[arg(long, help_heading = "Filters")]
    method: Option<String>,
    /// A scope that a client asked for or was granted.
    #[arg(long, help_heading = "Filters")]
    scope: Vec<String>,
    /// What tokens stand on: everything that came of one consent.
    #[arg(long, help_heading = "Filters")]
    grant: Option<String>,
    /// permit, deny or hold.
    #[arg(long, help_heading = "Filters")]
    decision: Option<Decision>,
    /// The reason code.
    #[arg(long, help_heading = "Filters")]
    reason: Option<String>,
    /// How it ended.
    #[arg(long, help_heading = "Filters")]
    outcome: Option<Outcome>,
    /// A policy that decided.
    #[arg(long, help_heading = "Filters")]
    policy: Vec<String>,
    /// A flow label.
    #[arg(long, help_heading = "Filters")]
    label: Vec<String>,
    /// A rule of the shield that found something.
    #[arg(long, help_heading = "Filters")]
    rule: Vec<String>,
    /// A risk of the OWASP MCP Top 10, such as MCP03.
    #[arg(long, help_heading = "Filters")]
    owasp: Vec<Owasp>,
    /// The id of a call: what belongs to it.
    #[arg(long, value_name = "ID", help_heading = "Filters")]
    call: Option<EventId>,
    /// Any field, as docs/audit-log.md names it: `trace=…`, `findings.severity=high`, `change.entity=pin`.
    #[arg(long = "where", value_name = "FIELD=VALUE", value_parser = term, help_heading = "Filters")]
    fields: Vec<Term>,
    /// Not before: an RFC 3339 time, or how long ago (90s, 15m, 2h, 7d).
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = "Filters")]
    since: Option<Timestamp>,
    /// Before: likewise.
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = "Filters")]
    until: Option<Timestamp>,
}

impl FilterArgs {
    /// The filter, or `None` if nothing can fit because nobody of this name is known.
    pub fn resolve(&self, reader: &Reader) -> anyhow::Result<Option<Filter>> {
        let mut terms = self.fields.clone();
        let mut add = |field: &str, values: Vec<String>| {
            terms.extend(values.into_iter().map(|value| Term::new(field, value)));
        };
        add("kind", self.kind.iter().map(ToString::to_string).collect());
        add("client", self.client.iter().cloned().collect());
        add("server", self.server.iter().cloned().collect());
        add("tool", self.tool.iter().cloned().collect());
        add("method", self.method.iter().cloned().collect());
        add("scopes", self.scope.clone());
        add("grant", self.grant.iter().cloned().collect());
        add("decision", self.decision.iter().map(ToString::to_string).collect());
        add("reason", self.reason.iter().cloned().collect());
        add("outcome", self.outcome.iter().map(ToString::to_string).collect());
        add("policies", self.policy.clone());
        add("labels", self.label.clone());
        add("findings.rule", self.rule.clone());
        add("owasp", self.owasp.iter().map(ToString::to_string).collect());
        add("call", self.call.iter().map(ToString::to_string).collect());
        add("person", self.person.iter().map(ToString::to_string).collect());
        if let Some(subject) = &self.subject {
            let known = reader.pseudonyms(subject, self.issuer.as_deref());
            match known.as_slice() {
                [] => {
                    say_error(&format!("nobody called `{subject}` is known here: never seen, or erased\n"));
                    return Ok(None);
                }
                [(pseudonym, _)] => terms.push(Term::new("person", pseudonym.to_string())),
                several => {
                    let issuers: Vec<_> = several.iter().map(|(_, issuer)| issuer.as_str()).collect();
                    bail!(
                        "several issuers know a `{subject}`; say which with --issuer: {}",
                        issuers.join(", ")
                    );
                }
            }
        }
        Ok(Some(Filter { terms, since: self.since, until: self.until }))
    }
}

fn term(text: &str) -> Result<Term, String> {
    match text.split_once('=') {
        Some((field, value)) if !field.is_empty() => {
            known(field)?;
            Ok(Term::new(field, value))
        }
        _ => Err("expected FIELD=VALUE".to_owned()),
    }
}

/// Whether an entry can have `field`.
fn known(field: &str) -> Result<(), String> {
    let (outer, inner) = field.split_once('.').unwrap_or((field, ""));
    if !FIELDS.contains(&outer) {
        return Err(format!("an entry has no `{outer}`, only {}", FIELDS.join(", ")));
    }
    match INNER.iter().find(|(name, _)| *name == outer) {
        Some((_, fields)) if !fields.contains(&inner) => {
            let fields: Vec<_> = fields.iter().map(|field| format!("{outer}.{field}")).collect();
            Err(format!("a term can be about {}, not about `{field}`", fields.join(", ")))
        }
        _ => Ok(()),
    }
}

/// A time: RFC 3339, or how long ago.
pub fn time(text: &str) -> Result<Timestamp, String> {
    time_at(text, SystemClock.now())
}

/// A time, or how long before `now`.
fn time_at(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Some(time) = rfc3339::parse(text) {
        return Ok(time);
    }
    let ago = || {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return None,
        };
        Some(Duration::from_secs(number.parse::<u64>().ok()?.checked_mul(seconds)?))
    };
    let ago = ago().ok_or("expected an RFC 3339 time or a span such as 90s, 15m, 2h or 7d")?;
    Ok(Timestamp::from_unix(now.as_unix().saturating_sub(ago.as_secs())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_points_or_spans_before_now() {
        let now = Timestamp::from_unix(1_000_000);
        for (text, expected) in [
            ("90s", Some(999_910)),
            ("2h", Some(992_800)),
            ("7d", Some(395_200)),
            ("99999d", Some(0)),
            ("1970-01-02T00:00:00Z", Some(86_400)),
            ("1970-01-02T01:00:00+01:00", Some(86_400)),
            ("", None),
            ("h", None),
            ("-1h", None),
            ("1 h", None),
            ("5ä", None),
            ("yesterday", None),
        ] {
            assert_eq!(time_at(text, now).ok().map(Timestamp::as_unix), expected, "{text}");
        }
    }

    #[test]
    fn a_term_is_about_a_field_that_entries_have() {
        for good in ["trace=1", "findings.severity=high", "change.entity=pin", "address.key=x"] {
            assert!(term(good).is_ok(), "{good}");
        }
        for bad in
            ["finding.severity=high", "findings.severty=high", "findings=high", "nosuch=1", "=1", "trace"]
        {
            assert!(term(bad).is_err(), "{bad}");
        }
    }

    /// The documentation's tables are generated from the types.
    #[test]
    fn the_fields_are_those_of_the_documentation() {
        let text = include_str!("../../../../docs/audit-log.md");
        let of = |what: &str| -> Vec<&str> {
            let (_, rest) = text.split_once(&format!("### `{what}`")).unwrap();
            let table = rest.split("### ").next().unwrap();
            table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect()
        };
        assert_eq!(of("Entry"), FIELDS);
        let inner = ["Alteration", "Change", "Finding"].map(of);
        assert_eq!(inner.iter().map(Vec::as_slice).collect::<Vec<_>>(), INNER.map(|(_, fields)| fields));
    }
}
