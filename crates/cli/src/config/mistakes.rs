//! What is wrong with a configuration, and what works and is still not as it should be.

use std::collections::{BTreeMap, BTreeSet};

use bartizan_egress::TlsOptions;
use url::Url;

use super::{Config, Given, alerts, keys};
use crate::endpoints;

/// Where in `text` what is wrong, without what stands there: it may be a secret that belongs elsewhere, and a gate that reads its
/// configuration again says this in its log.
pub(super) fn misread(mut error: toml::de::Error, text: &str) -> String {
    let before = error.span().and_then(|span| text.get(..span.start));
    let place = before.map(|before| {
        let (line, column) = before
            .rsplit_once('\n')
            .map_or((1, before), |(lines, rest)| (lines.matches('\n').count() + 2, rest));
        format!("line {line}, column {}: ", column.chars().count() + 1)
    });
    // It would print the line otherwise; without it, it names the field.
    error.set_input(None);
    let words = without_value(&error.to_string());
    format!("{}{}", place.unwrap_or_default(), words.trim_end().replace('\n', "\n    "))
}

/// What serde says, without the text that it found.
fn without_value(words: &str) -> String {
    let hide = |begins: &str| {
        let (head, rest) = words.split_once(begins)?;
        let (_, expected) = rest.rsplit_once("\", expected ")?;
        Some(format!("{head}{}, expected {expected}", begins.trim_end_matches(" \"")))
    };
    ["invalid type: string \"", "invalid value: string \""]
        .into_iter()
        .find_map(hide)
        .unwrap_or_else(|| words.to_owned())
}

impl Config {
    /// What no single field shows.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        let listen = self.server.listen;
        if !listen.ip().is_loopback() {
            if self.server.tls.is_none() && self.server.trusted_proxies.is_empty() {
                found.push(format!(
                    "[server] listen = \"{listen}\" is reachable from other machines without TLS: set `tls = {{ cert, key }}`, \
                     or `trusted_proxies` if a proxy in front ends TLS, or listen on 127.0.0.1"
                ));
            }
            if self.identity.dangerous_open {
                found.push(
                    "[identity] dangerous_open is for loopback only: listen on 127.0.0.1, or remove it"
                        .into(),
                );
            }
            if listen.ip().is_unspecified()
                && self.server.public_url.is_none()
                && self.server.allowed_hosts.is_empty()
            {
                found.push("[server] needs `public_url` or `allowed_hosts`: the gate must know by which names it is called".into());
            }
        }
        found.extend(self.identity_problems());
        if let Some(admin) = self.server.admin_listen {
            if !admin.ip().is_loopback() && self.server.tls.is_none() {
                found.push(format!(
                    "[server] admin_listen = \"{admin}\" is reachable from other machines without TLS: set `tls = {{ cert, key }}`, or listen on 127.0.0.1"
                ));
            }
            if admin == listen && admin.port() != 0 {
                found.push(
                    "[server] admin_listen must not be `listen`: what clients reach is no place for it"
                        .into(),
                );
            }
        }
        if self
            .server
            .public_url
            .as_ref()
            .is_some_and(|u| !matches!(u.scheme(), "http" | "https") || u.host_str().is_none())
        {
            found.push("[server] public_url must be an http or https URL".into());
        }
        let (write, idle) = (self.server.write_timeout_s, self.server.idle_timeout_s);
        for (name, seconds) in [("write_timeout_s", write), ("idle_timeout_s", idle)] {
            if !(1..=3600).contains(&seconds) {
                found.push(format!("[server] {name} is 1 to 3600"));
            }
        }
        for origin in &self.server.allowed_origins {
            let is_origin = Url::parse(origin).is_ok_and(|u| u.origin().ascii_serialization() == *origin);
            if !is_origin {
                found.push(format!("[server] allowed_origins: `{origin}` is no origin; write scheme://host[:port] and nothing more"));
            }
        }
        found.extend(keys::problems(&self.keys, &self.vaults));
        found.extend(crate::secrets::address_problems(self));
        found.extend(self.audit.problems());
        found.extend(self.admin.problems(self));
        found.extend(alerts::problems(&self.alerts));
        let limits = &self.limits;
        if let Some(place) = &limits.shared
            && let Err(problem) = bartizan_gateway::quota::Place::parse(place, TlsOptions::default())
        {
            found.push(format!("[limits] shared: {problem}"));
        }
        let needs_shared =
            limits.shared_password_file.is_some() || limits.shared_ca.is_some() || limits.dangerous_fail_open;
        if limits.shared.is_none() && needs_shared {
            found.push(
                "[limits] shared_password_file, shared_ca and dangerous_fail_open are for `shared`".into(),
            );
        }
        if self.servers.is_empty() {
            found.push("there are no [[servers]]: add one with `name` and `command` or `url`".into());
        }
        let mut names = BTreeSet::new();
        for server in &self.servers {
            if !names.insert(&server.name) {
                found.push(format!("two [[servers]] are named `{}`", server.name));
            }
            found.extend(server.problems());
            if server.credential.takes_sign_ins() && endpoints::provider(self).is_none() {
                found.push(format!(
                    "server `{}`: credential: `entra-obo` needs `app`, the gate's registration in the tenant, unless [identity] is of \
                     mode \"facade\" with a provider of kind \"entra\"",
                    server.name
                ));
            }
            if server.credential.takes_subjects() && self.identity.dangerous_open {
                found.push(format!(
                    "server `{}`: credential: it is had in exchange for the caller's access token, and with [identity] \
                     dangerous_open nobody has one",
                    server.name
                ));
            }
            if server.dangerous_unshielded && !server.second_opinions.is_empty() {
                let second = "second_opinions are part of the shield, which dangerous_unshielded leaves out";
                found.push(format!("server `{}`: {second}: remove one of the two", server.name));
            }
            for name in server.second_opinions.iter().filter(|n| !self.shield.second_opinion.contains_key(*n))
            {
                found.push(format!(
                    "server `{}`: second_opinions: there is no [shield.second_opinion.{name}]",
                    server.name
                ));
            }
        }
        found.extend(self.shield_problems());
        found
    }
}

impl Config {
    /// What works and is still not as it should be.
    pub fn warnings(&self) -> Vec<String> {
        let mut uses: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
        for server in &self.servers {
            let shown = server.credential.secrets().into_iter();
            let set = server.set_env.values().filter_map(Given::kept);
            for place in shown.chain(set) {
                uses.entry(place.place()).or_default().insert(server.name.as_str());
            }
        }
        let shared = uses.into_iter().filter(|(_, servers)| servers.len() > 1);
        let shared = shared.map(|(place, servers)| {
            let names = servers.into_iter().collect::<Vec<_>>().join("`, `");
            format!(
                "the servers `{names}` get one secret, from {place}: each can act as the gate at the other; give each its \
                 own"
            )
        });
        let of_parts = self.audit.warnings(&self.servers).into_iter().chain(self.policy.warnings());
        shared.chain(of_parts).chain(self.review_warning()).collect()
    }

    /// That reviews of rights look further back than the log is kept, if they do.
    fn review_warning(&self) -> Option<String> {
        let (review, keeps) = self.policy.review.as_ref().zip(self.audit.keeps())?;
        (review.since.0 > keeps).then(|| {
            format!(
                "[policy.review] looks {} back, and [audit] keep_days keeps less: rights that were used before that look \
                 unused; set `since` to no more than `keep_days`",
                review.since
            )
        })
    }
}
