//! The gate among a client's servers.

use url::Url;

use super::{
    File, GATE, Plan,
    entry::{Entry, Splice, Way},
    is_chosen, jsonc,
    places::ByUrl,
};
use crate::{config::Problems, say_error};

/// Whether a gate can be at `url`.
///
/// # Errors
/// Why not.
pub fn check(url: &Url) -> Result<(), Problems> {
    let mut problems = Vec::new();
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        problems.push("it must be http:// or https:// with a host".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        problems.push("it has a user's name or password, which do not belong into it".to_owned());
    }
    if problems.is_empty() { Ok(()) } else { Err(Problems::new("--gate", problems)) }
}

impl File {
    /// The gate among the user's servers.
    pub(super) fn gate(&self) -> Option<&Entry> {
        let top = self.groups.first().filter(|group| group.is_top)?;
        top.entries.iter().map(|(_, entry)| entry).find(|entry| entry.name == GATE)
    }

    /// What adds the gate to the user's servers.
    pub(super) fn with_gate(&self, url: &Url) -> Result<Plan, Problems> {
        let server = match self.by_url {
            ByUrl::Typed => serde_json::json!({ "type": "http", "url": url }),
            ByUrl::Plain => serde_json::json!({ "url": url }),
            ByUrl::HttpUrl => serde_json::json!({ "httpUrl": url }),
            ByUrl::ServerUrl => serde_json::json!({ "serverUrl": url }),
            ByUrl::Never => {
                say_error(&format!(
                    "{}: {} reaches no server by URL; guard those that it starts\n",
                    self.path.display(),
                    self.client
                ));
                return Ok(Plan::default());
            }
        };
        let cannot = |problem: String| Problems::new(self.path.display().to_string(), vec![problem]);
        let mut servers = self.servers(|entry| Some(entry.way.clone()));
        let way = Way::Url(url.to_string());
        let (at, text) = if let Some(there) = self.gate() {
            let (Way::Url(old), Some(at)) = (&there.way, &there.url) else {
                return Err(cannot(format!("its server `{GATE}` is not the gate; call it something else")));
            };
            if Url::parse(old).is_ok_and(|old| old == *url) {
                return Ok(Plan::default());
            }
            let top = servers.first_mut().into_iter().flatten();
            top.filter(|(name, ..)| name == GATE).for_each(|(_, old, _)| *old = way.clone());
            (at.clone(), serde_json::Value::from(url.as_str()).to_string())
        } else {
            let new = (GATE.to_owned(), way, Vec::new());
            if let Some(top) = self.groups.first().filter(|group| group.is_top) {
                let comma = if top.entries.is_empty() { "" } else { "," };
                servers.first_mut().into_iter().for_each(|servers| servers.insert(0, new.clone()));
                (top.at + 1..top.at + 1, format!("\n    \"{GATE}\": {server}{comma}"))
            } else {
                servers.insert(0, vec![new]);
                let object = format!("{{ \"{GATE}\": {server} }}");
                match &self.taken {
                    Some(taken) if self.text.get(taken.clone()) == Some("null") => (taken.clone(), object),
                    Some(_) => return Err(cannot(format!("its `{}` is no object", self.key))),
                    None => {
                        let at = jsonc::whole(&self.text).map_or(0, |whole| whole.start);
                        let is_alone = jsonc::members(&self.text, at).is_some_and(|there| there.is_empty());
                        let comma = if is_alone { "" } else { "," };
                        (at + 1..at + 1, format!("\n  \"{}\": {object}{comma}", self.key))
                    }
                }
            }
        };
        Ok(Plan { splices: vec![(at, text)], servers })
    }

    /// What takes the gate out.
    pub(super) fn without_gate(&self, names: &[String]) -> Vec<Splice> {
        let mut splices = Vec::new();
        for group in &self.groups {
            let mut before: Option<&jsonc::Member> = None;
            for (member, entry) in &group.entries {
                if entry.name == GATE && matches!(entry.way, Way::Url(_)) && is_chosen(names, entry) {
                    splices.extend(self.without(group.at + 1, before, member));
                }
                before = Some(member);
            }
        }
        splices
    }

    /// What cuts out `member`, which is behind `before`, or the first behind byte `start`, with the comma that is needed no more: the one
    /// behind it, or else the one before. Comments around it stay.
    fn without(&self, start: usize, before: Option<&jsonc::Member>, member: &jsonc::Member) -> Vec<Splice> {
        let is_blank =
            |from: usize, to: usize| self.text.get(from..to).is_some_and(|between| between.trim().is_empty());
        let comma_before = before.and_then(|before| jsonc::comma(&self.text, before.value.end));
        let comma_behind = jsonc::comma(&self.text, member.value.end);
        // Blanks before it go with it, unless they end a comment.
        let lead = comma_before.map_or(start, |comma| comma + 1);
        let from = if is_blank(lead, member.start) { lead } else { member.start };
        let comma = match (comma_behind, comma_before) {
            (Some(comma), _) if is_blank(member.value.end, comma) => Some(member.value.end..comma + 1),
            (Some(comma), _) | (None, Some(comma)) => Some(comma..comma + 1),
            (None, None) => None,
        };
        let cuts = std::iter::once(from..member.value.end).chain(comma);
        cuts.map(|range| (range, String::new())).collect()
    }
}
