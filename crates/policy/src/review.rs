//! Access review: which rights were used, by whom, and the smaller policy that would have been enough.
//!
//! Recorded uses stream through once. What is kept grows with the number of policies, people, actions and credentials,
//! and with the distinct queries up to a bound, not with the number of uses.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use cedar_policy::{ActionConstraint, Effect};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Bundle, Claims, Problems,
    compile::Compiled,
    record::{RecordedAction, RecordedQuery},
    schema::{CALL, USE},
};

mod findings;
mod report;

pub use findings::Finding;

/// One use that was permitted, as the audit recorded it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Use {
    /// What was asked. Its `time` is when.
    pub query: RecordedQuery,
    /// The permits that decided, by id.
    pub policies: Vec<String>,
    /// The scopes of the server's credential that the call went out with, where the upstream told which it needed.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub credential_scopes: BTreeSet<String>,
}

/// What to look at.
#[derive(Clone, Debug)]
pub struct Options {
    /// Uses before this do not count; seconds since the Unix epoch.
    pub since: u64,
    /// Distinct queries that are kept for the replay, at most.
    pub most_queries: usize,
    /// People who could sign in, as `issuer#subject`; those not seen are dormant.
    pub people: BTreeSet<String>,
    /// The scopes that each server's credential was granted.
    pub credentials: BTreeMap<String, BTreeSet<String>>,
    /// Actions whose uses are not recorded: nothing is narrowed on them.
    pub unrecorded: BTreeSet<String>,
}

/// How often and when last, in seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Uses in the window.
    pub uses: u64,
    /// The last of them.
    pub last: u64,
}

/// The result.
#[derive(Debug, Default, Serialize)]
pub struct Review {
    /// Every permit.
    pub rights: Vec<Right>,
    /// Everybody seen, and everybody dormant.
    pub people: BTreeMap<String, Person>,
    /// Which permits the people of a role used.
    pub roles: BTreeMap<String, BTreeMap<String, Tally>>,
    /// Scopes of server credentials: granted, and used as far as recorded.
    pub credentials: BTreeMap<String, Credential>,
    /// The arguments seen, by action and argument, where they were recorded.
    pub arguments: BTreeMap<String, BTreeMap<String, Range>>,
    /// The smaller policy: the new text by id, `None` to remove. Empty if nothing can go.
    pub patch: BTreeMap<String, Option<String>>,
    /// What the replay against the smaller policy found.
    pub replay: Replay,
}

/// One permit and its use.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Right {
    /// The policy.
    pub policy: String,
    /// All uses.
    #[serde(flatten)]
    pub tally: Tally,
    /// Actions it permits by its scope.
    pub granted: usize,
    /// Uses by action.
    pub used: BTreeMap<String, Tally>,
    /// What to make of it.
    pub verdict: Verdict,
}

/// What to make of a right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything it gives was used, or it is shipped and stays.
    Fits,
    /// It gives actions that nobody used.
    OverBroad,
    /// Nobody used it.
    Unused,
}

/// One person or workload.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Person {
    /// All uses; none: dormant.
    #[serde(flatten)]
    pub tally: Tally,
    /// The roles the person has now.
    pub roles: BTreeSet<String>,
}

/// One server's credential.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Credential {
    /// Scopes by use; those never used have no uses.
    pub scopes: BTreeMap<String, Tally>,
    /// No call recorded which scopes it needed, so nothing can be said about this credential.
    pub not_recorded: bool,
}

/// The values of one argument.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Range {
    /// The least and greatest number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numbers: Option<(f64, f64)>,
    /// The distinct texts and truth values, if there are at most eight.
    pub texts: BTreeSet<String>,
    /// There were more texts than are kept.
    pub more: bool,
}

/// What happened when the recorded queries were asked again.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Replay {
    /// Queries asked of both policies.
    pub asked: usize,
    /// Queries that today's policy denies as well, mostly since their arguments were not recorded.
    pub not_repeatable: usize,
    /// Queries beyond the bound, which were not kept.
    pub not_kept: u64,
    /// Queries that the smaller policy would deny. Must be empty.
    pub broken: Vec<RecordedQuery>,
}

const TEXTS: usize = 8;
const TEXT_BYTES: usize = 64;

/// Streams recorded uses; see [`Reviewer::observe`].
pub struct Reviewer<'b> {
    bundle: &'b Bundle,
    options: Options,
    policies: HashMap<String, HashMap<String, Tally>>,
    people: HashMap<String, Tally>,
    roles: HashMap<String, HashMap<String, Tally>>,
    roles_of: HashMap<Claims, BTreeSet<String>>,
    scopes: HashMap<String, HashMap<String, Tally>>,
    arguments: HashMap<String, BTreeMap<String, Range>>,
    queries: HashSet<RecordedQuery>,
    not_kept: u64,
}

impl<'b> Reviewer<'b> {
    /// A review of the rights that `bundle` gives.
    pub fn new(bundle: &'b Bundle, options: Options) -> Self {
        Self {
            bundle,
            options,
            policies: HashMap::new(),
            people: HashMap::new(),
            roles: HashMap::new(),
            roles_of: HashMap::new(),
            scopes: HashMap::new(),
            arguments: HashMap::new(),
            queries: HashSet::new(),
            not_kept: 0,
        }
    }

    /// Counts one use. The order does not matter.
    pub fn observe(&mut self, used: &Use) {
        let at = used.query.time;
        if at < self.options.since {
            return;
        }
        let action = used.query.action.name(&used.query.server);
        if !self.roles_of.contains_key(&used.query.claims) {
            self.roles_of.insert(used.query.claims.clone(), self.bundle.roles.of(&used.query.claims));
        }
        for policy in &used.policies {
            tally(tally_map(&mut self.policies, policy), &action, at);
            for role in self.roles_of.get(&used.query.claims).into_iter().flatten() {
                tally(tally_map(&mut self.roles, role), policy, at);
            }
        }
        tally(&mut self.people, &used.query.claims.user(), at);
        for scope in &used.credential_scopes {
            tally(tally_map(&mut self.scopes, &used.query.server), scope, at);
        }
        if let RecordedAction::Call { arguments: Some(arguments), .. } = &used.query.action {
            self.note_arguments(&action, arguments);
        }
        self.keep(&used.query);
    }

    fn note_arguments(&mut self, action: &str, arguments: &str) {
        let Ok(Value::Object(arguments)) = serde_json::from_str(arguments) else { return };
        if !self.arguments.contains_key(action) {
            self.arguments.insert(action.to_owned(), BTreeMap::new());
        }
        let Some(ranges) = self.arguments.get_mut(action) else { return };
        for (name, value) in arguments {
            // Names that a stranger makes up must not fill the memory.
            if ranges.len() < 256 || ranges.contains_key(&name) {
                ranges.entry(name).or_default().note(&value);
            }
        }
    }

    /// Keeps a query for the replay, unless one like it at another time is there.
    fn keep(&mut self, query: &RecordedQuery) {
        let timeless =
            if self.bundle.reads_time() { query.clone() } else { RecordedQuery { time: 0, ..query.clone() } };
        if self.queries.len() < self.options.most_queries {
            self.queries.insert(timeless);
        } else if !self.queries.contains(&timeless) {
            self.not_kept += 1;
        }
    }

    /// The review of everything observed.
    ///
    /// # Errors
    /// [`Problems`] if the smaller policy does not load, a defect.
    pub fn finish(self) -> Result<Review, Problems> {
        let mut review = Review::default();
        for compiled in self.bundle.policies.values().filter(|p| p.policy.effect() == Effect::Permit) {
            // What servers were given is not among callers' uses.
            let granted = granted_actions(self.bundle, compiled);
            // A record may be older than the policy: what the policy does not grant now, no smaller one may grant.
            let uses = self
                .policies
                .get(compiled.id())
                .into_iter()
                .flatten()
                .filter(|(action, _)| granted.contains(*action));
            let used: BTreeMap<String, Tally> =
                uses.map(|(action, tally)| (action.clone(), *tally)).collect();
            let is_reviewable = !granted.is_empty() && compiled.id() != "owner";
            let verdict = match (is_reviewable, used.len()) {
                (false, _) => Verdict::Fits,
                (true, 0) => Verdict::Unused,
                (true, _) if granted.iter().all(|a| used.contains_key(a) || self.is_unrecorded(a)) => {
                    Verdict::Fits
                }
                (true, _) => Verdict::OverBroad,
            };
            let smaller = match verdict {
                Verdict::Fits => None,
                Verdict::Unused => Some(None),
                Verdict::OverBroad => {
                    let kept = granted.iter().filter(|a| used.contains_key(*a) || self.is_unrecorded(a));
                    narrowed(compiled, kept).map(Some)
                }
            };
            review.patch.extend(smaller.map(|text| (compiled.id().to_owned(), text)));
            let tally = used.values().fold(Tally::default(), |sum, t| Tally {
                uses: sum.uses + t.uses,
                last: sum.last.max(t.last),
            });
            review.rights.push(Right {
                policy: compiled.id().to_owned(),
                tally,
                granted: granted.len(),
                used,
                verdict,
            });
        }
        review.replay = self.replay(&review.patch)?;
        review.people = self.options.people.iter().map(|p| (p.clone(), Person::default())).collect();
        for (user, tally) in self.people {
            review.people.entry(user).or_default().tally = tally;
        }
        for (claims, roles) in self.roles_of {
            review.people.entry(claims.user()).or_default().roles.extend(roles);
        }
        let sorted = |map: HashMap<String, Tally>| map.into_iter().collect::<BTreeMap<_, _>>();
        review.roles = self.roles.into_iter().map(|(role, policies)| (role, sorted(policies))).collect();
        for (server, scopes) in self.options.credentials {
            let credential = review
                .credentials
                .entry(server)
                .or_insert_with(|| Credential { not_recorded: true, ..Credential::default() });
            credential.scopes.extend(scopes.into_iter().map(|s| (s, Tally::default())));
        }
        for (server, scopes) in self.scopes {
            let credential = review.credentials.entry(server).or_default();
            credential.not_recorded = false;
            credential.scopes.extend(scopes);
        }
        review.arguments = self.arguments.into_iter().collect();
        Ok(review)
    }

    fn is_unrecorded(&self, action: &str) -> bool {
        self.options.unrecorded.contains(action)
    }

    fn replay(&self, patch: &BTreeMap<String, Option<String>>) -> Result<Replay, Problems> {
        let smaller = self.bundle.with_changes(patch)?.bundle;
        let mut replay = Replay { not_kept: self.not_kept, ..Replay::default() };
        for query in &self.queries {
            if !query.ask(self.bundle).is_permit() {
                replay.not_repeatable += 1;
                continue;
            }
            replay.asked += 1;
            if !query.ask(&smaller).is_permit() {
                replay.broken.push(query.clone());
            }
        }
        replay.broken.sort();
        Ok(replay)
    }
}

impl Range {
    fn note(&mut self, value: &Value) {
        let text = match value {
            Value::Number(number) => {
                let Some(number) = number.as_f64() else { return };
                let (least, greatest) = self.numbers.unwrap_or((number, number));
                self.numbers = Some((least.min(number), greatest.max(number)));
                return;
            }
            Value::String(text) if text.len() <= TEXT_BYTES => text.clone(),
            Value::Bool(flag) => flag.to_string(),
            _ => {
                self.more = true;
                return;
            }
        };
        if self.texts.len() < TEXTS || self.texts.contains(&text) {
            self.texts.insert(text);
        } else {
            self.more = true;
        }
    }
}

fn tally_map<'m>(
    map: &'m mut HashMap<String, HashMap<String, Tally>>,
    key: &str,
) -> &'m mut HashMap<String, Tally> {
    // Almost always there, so the key is not copied for the question.
    if !map.contains_key(key) {
        map.insert(key.to_owned(), HashMap::new());
    }
    map.entry(key.to_owned()).or_default()
}

fn tally(map: &mut HashMap<String, Tally>, key: &str, at: u64) {
    let count = |tally: &mut Tally| *tally = Tally { uses: tally.uses + 1, last: tally.last.max(at) };
    match map.get_mut(key) {
        Some(tally) => count(tally),
        None => drop(map.insert(key.to_owned(), Tally { uses: 1, last: at })),
    }
}

/// The actions of callers that a policy's scope gives.
fn granted_actions(bundle: &Bundle, policy: &Compiled) -> BTreeSet<String> {
    let all = bundle.caller_actions();
    let below = |of: &str| -> Vec<String> {
        let is_below = |a: &&String| a.as_str() == of || of == USE || (of == CALL && a.starts_with("call:"));
        all.iter().filter(is_below).cloned().collect()
    };
    match policy.policy.action_constraint() {
        ActionConstraint::Any => all,
        ActionConstraint::Eq(of) => all.into_iter().filter(|a| a == of.id().unescaped()).collect(),
        ActionConstraint::In(groups) => groups.iter().flat_map(|of| below(of.id().unescaped())).collect(),
    }
}

/// The policy with these actions in place of what its scope names.
fn narrowed<'a>(policy: &Compiled, actions: impl Iterator<Item = &'a String>) -> Option<String> {
    let entities: Vec<Value> = actions.map(|a| json!({ "type": "Action", "id": a })).collect();
    let mut json = policy.json.clone();
    json.as_object_mut()?.insert("action".into(), json!({ "op": "in", "entities": entities }));
    cedar_policy::Policy::from_json(Some(policy.policy.id().clone()), json).ok()?.to_cedar()
}

#[cfg(test)]
mod tests;
