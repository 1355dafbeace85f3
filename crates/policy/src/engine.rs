//! Decisions.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
};

use bartizan_model::Timestamp;
use cedar_policy::{Context, Request, RestrictedExpression as Expr};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    arguments::{self, to_record, to_set},
    bundle::{ActionEntry, Bundle, ServerEntry},
    canonical::{self, Ambiguous, Location},
    cedar::{Asked, Known},
    claims::Principal,
    decision::{Decision, Denial, Obligation, Permit, Reason},
    explain::Outcome,
    index::{self, Drawer, Key, Matched, Mode},
    query::{Action, Query, ServerAction, ServerQuery, Surroundings},
    reads::Reads,
    schema::{uid, within},
    shape::Record,
};

/// The entries of a context.
type Entries = Vec<(String, Expr)>;

impl Bundle {
    /// Decides whether a caller may do something. Whatever is in doubt is denied: arguments and addresses with two
    /// readings (attacks.md EP-04), tools that are not pinned, policies that cannot be evaluated.
    pub fn authorize(&self, query: &Query<'_>) -> Decision {
        self.decide(query).0
    }

    /// The decision, and whether it is the same for other arguments and at another time: no policy that was asked reads those.
    pub(crate) fn decide(&self, query: &Query<'_>) -> (Decision, bool) {
        let principal = self.current(query.principal);
        let subject = match self.subject(query.server, query.action) {
            Ok(subject) => subject,
            Err(reason) => return (self.deny(reason), false),
        };
        let drawers = self.index.open(&subject.action.keys, &subject.keys, &principal.keys);
        let reads = joined(&drawers, Mode::Exact);
        let lasts = !(reads.arguments || reads.time || reads.auth_age);
        let decision = match self.ask_for_caller(query, &principal, &subject, &reads) {
            Ok(asked) => self.conclude(index::evaluate(&drawers, Mode::Exact, &asked), query.approved),
            Err(reason) => self.deny(reason),
        };
        (decision, lasts)
    }

    /// Whether a caller may know of something: some arguments, a stronger sign-in or an approval could let him use it.
    ///
    /// What this hides, [`Self::authorize`] denies for all arguments. What it shows may still be denied for some.
    pub fn may_see(&self, query: &Query<'_>) -> bool {
        let principal = self.current(query.principal);
        self.subject(query.server, query.action).is_ok_and(|subject| self.sees(query, &principal, &subject).0)
    }

    /// Whether a caller may know of each of `actions`, in their order, and whether any of that may be different at another
    /// time though all else is the same.
    pub(crate) fn sees_each(&self, query: &Query<'_>, actions: &[Action<'_>]) -> (Vec<bool>, bool) {
        let principal = self.current(query.principal);
        let mut depends_on_time = false;
        let sees = |action: &Action<'_>| {
            let query = Query { action: *action, ..*query };
            let Ok(subject) = self.subject(query.server, query.action) else { return false };
            let (seen, is_timed) = self.sees(&query, &principal, &subject);
            depends_on_time |= is_timed;
            seen
        };
        let seen = actions.iter().map(sees).collect();
        (seen, depends_on_time)
    }

    /// Decides whether a server may have something of a client or of the gate. By default it may have nothing.
    pub fn authorize_server(&self, query: &ServerQuery<'_>) -> Decision {
        match self.ask_for_server(query) {
            Ok((drawers, asked)) => self.conclude(index::evaluate(&drawers, Mode::Exact, &asked), &[]),
            Err(reason) => self.deny(reason),
        }
    }

    /// Every policy whose scope fits, with what became of it.
    pub(crate) fn considered(&self, query: &Query<'_>) -> BTreeMap<String, Outcome> {
        let principal = self.current(query.principal);
        let Ok(subject) = self.subject(query.server, query.action) else { return BTreeMap::new() };
        let drawers = self.index.open(&subject.action.keys, &subject.keys, &principal.keys);
        let ids = drawers.iter().flat_map(|drawer| drawer.ids());
        let Ok(asked) = self.ask_for_caller(query, &principal, &subject, &joined(&drawers, Mode::Exact))
        else {
            return ids.map(|id| (id, Outcome::NotAsked)).collect();
        };
        let matched = index::evaluate(&drawers, Mode::Exact, &asked);
        let mut found: BTreeMap<String, Outcome> = ids.map(|id| (id, Outcome::Misses)).collect();
        found.extend(matched.permits.into_iter().chain(matched.forbids).map(|id| (id, Outcome::Matches)));
        found.extend(matched.errors.into_iter().map(|(id, why)| (id, Outcome::Failed(why))));
        found
    }

    /// Whether the caller may know of it, and whether any policy asked for that looks at the time.
    fn sees(&self, query: &Query<'_>, principal: &Principal, subject: &Subject<'_>) -> (bool, bool) {
        let drawers = self.index.open(&subject.action.keys, &subject.keys, &principal.keys);
        let reads = Reads { arguments: false, ..joined(&drawers, Mode::Loose) };
        let is_timed = reads.time || reads.auth_age;
        let Ok(asked) = self.ask_for_caller(query, principal, subject, &reads) else {
            return (false, is_timed);
        };
        let matched = index::evaluate(&drawers, Mode::Loose, &asked);
        let seen = matched.errors.is_empty() && matched.forbids.is_empty() && !matched.permits.is_empty();
        (seen, is_timed)
    }

    /// The principal, made ready for this bundle if another one made it.
    fn current<'p>(&self, principal: &'p Principal) -> Cow<'p, Principal> {
        if principal.version == self.version {
            Cow::Borrowed(principal)
        } else {
            Cow::Owned(self.prepare(principal.claims.clone()))
        }
    }

    fn conclude(&self, matched: Matched, approved: &[String]) -> Decision {
        let list = |ids: BTreeSet<String>| ids.into_iter().collect::<Vec<_>>();
        let deny = |reason, policies, obligations| {
            Decision::Deny(Denial { reason, policies, obligations, version: self.version })
        };
        if !matched.errors.is_empty() {
            return deny(
                Reason::Evaluation,
                matched.errors.into_iter().map(|(id, _)| id).collect(),
                Vec::new(),
            );
        }
        if matched.forbids.is_empty() && !matched.permits.is_empty() {
            return Decision::Permit(Permit { policies: list(matched.permits), version: self.version });
        }
        let of = |id: &String| self.policies.get(id).map(|p| p.obligations.as_slice()).unwrap_or_default();
        if matched.forbids.iter().any(|id| of(id).is_empty()) {
            return deny(Reason::Forbidden, list(matched.forbids), Vec::new());
        }
        // Nobody is asked to prove more for what is not permitted anyway.
        if matched.permits.is_empty() {
            return deny(Reason::NoPermit, list(matched.forbids), Vec::new());
        }
        let is_met = |o: &Obligation| matches!(o, Obligation::Approval(role) if approved.contains(role));
        let open: BTreeSet<Obligation> =
            matched.forbids.iter().flat_map(of).filter(|o| !is_met(o)).cloned().collect();
        if open.is_empty() {
            let policies = list(matched.permits.into_iter().chain(matched.forbids).collect());
            return Decision::Permit(Permit { policies, version: self.version });
        }
        deny(Reason::Obligation, list(matched.forbids), open.into_iter().collect())
    }

    fn deny(&self, reason: Reason) -> Decision {
        Decision::Deny(Denial {
            reason,
            policies: Vec::new(),
            obligations: Vec::new(),
            version: self.version,
        })
    }
}

/// What a question is about, found in the bundle or made for it.
pub(crate) struct Subject<'b> {
    pub action: &'b ActionEntry,
    pub entity: Known,
    pub keys: Cow<'b, [Key]>,
    server: &'b ServerEntry,
    /// What it takes, as pinned.
    shape: Option<&'b Record>,
}

impl Bundle {
    pub(crate) fn subject(&self, server: &str, action: Action<'_>) -> Result<Subject<'_>, Reason> {
        let (name, server) = (server, self.servers.get(server).ok_or(Reason::Unknown)?);
        let base = |action: &str| self.actions.get(action).ok_or(Reason::Unknown);
        let of_server = |action: &str| {
            Ok(Subject {
                action: base(action)?,
                entity: server.entity.clone(),
                keys: Cow::Borrowed(server.keys.as_slice()),
                server,
                shape: None,
            })
        };
        let made = |action: &str, entity: Known| {
            let keys = self.index.keys([&entity.uid]).into_iter().chain(server.keys.iter().copied());
            let keys: BTreeSet<Key> = keys.collect();
            Ok(Subject {
                action: base(action)?,
                entity,
                keys: Cow::Owned(keys.into_iter().collect()),
                server,
                shape: None,
            })
        };
        match action {
            Action::Call { tool, .. } => {
                let tool = server.tools.get(tool).ok_or(Reason::Unknown)?;
                Ok(Subject {
                    action: &tool.action,
                    entity: tool.entity.clone(),
                    keys: Cow::Borrowed(tool.keys.as_slice()),
                    server,
                    shape: Some(&tool.shape),
                })
            }
            Action::CompletePrompt { prompt } => made("complete", self.prompt(name, server, prompt)),
            Action::CompleteResource { uri } => made("complete", self.resource(name, server, uri)?),
            Action::Get { prompt, arguments: _ } => {
                let made = made("get", self.prompt(name, server, prompt))?;
                Ok(Subject { shape: server.prompts.get(prompt), ..made })
            }
            Action::List => of_server("list"),
            Action::Notify => of_server("notify"),
            Action::Read { uri } => made("read", self.resource(name, server, uri)?),
            Action::SubscribeResource { uri } => made("subscribe", self.resource(name, server, uri)?),
            Action::SubscribeServer => of_server("subscribe"),
            Action::Task => of_server("task"),
        }
    }

    fn prompt(&self, name: &str, server: &ServerEntry, prompt: &str) -> Known {
        let of_server = server.entity.uid.clone();
        let attributes = HashMap::from([
            ("server".to_owned(), Expr::new_entity_uid(of_server)),
            ("name".to_owned(), Expr::new_string(prompt.to_owned())),
        ]);
        Known::new(uid(&self.types.prompt, &within(name, prompt)), attributes, self.above(server))
    }

    fn resource(&self, name: &str, server: &ServerEntry, uri: &str) -> Result<Known, Reason> {
        let Location { scheme, ancestors, host } = canonical::location(uri).map_err(Reason::Address)?;
        let domains = host.as_deref().map(canonical::domains).unwrap_or_default();
        let attributes = HashMap::from([
            ("server".to_owned(), Expr::new_entity_uid(server.entity.uid.clone())),
            ("uri".to_owned(), Expr::new_string(uri.to_owned())),
            ("scheme".to_owned(), Expr::new_string(scheme)),
            ("ancestors".to_owned(), to_set(ancestors)),
            ("hosts".to_owned(), to_set(host)),
            ("domains".to_owned(), to_set(domains)),
        ]);
        Ok(Known::new(uid(&self.types.resource, &within(name, uri)), attributes, self.above(server)))
    }

    fn above(&self, server: &ServerEntry) -> HashSet<cedar_policy::EntityUid> {
        HashSet::from([server.entity.uid.clone(), uid(&self.types.fleet, crate::schema::FLEET)])
    }

    /// The question of a caller. Without `reads.arguments` the context holds nothing of the arguments.
    pub(crate) fn ask_for_caller(
        &self,
        query: &Query<'_>,
        principal: &Principal,
        subject: &Subject<'_>,
        reads: &Reads,
    ) -> Result<Asked, Reason> {
        let Surroundings { address, now, era, flow } = query.surroundings;
        let flow =
            [("untrusted", flow.untrusted), ("private", flow.private), ("destructive", flow.destructive)];
        let flow = flow.into_iter().map(|(name, value)| (name.to_owned(), Expr::new_bool(value))).collect();
        let mut context = vec![
            ("client".to_owned(), Expr::new_entity_uid(uid(&self.types.client, query.client))),
            ("era".to_owned(), Expr::new_string(era.as_str().to_owned())),
            ("flow".to_owned(), to_record(flow)),
        ];
        if let Some(at) = principal.claims.auth_time {
            let age = now.since(Timestamp::from_unix(at)).as_secs();
            context.push(("auth_age_s".to_owned(), Expr::new_long(i64::try_from(age).unwrap_or(i64::MAX))));
        }
        if let Some(address) = address.filter(|_| reads.address) {
            context.push(("address".to_owned(), Expr::new_ip(address.to_canonical().to_string())));
        }
        if reads.time {
            context.push(("time".to_owned(), datetime(now)?));
        }
        if let (Action::Call { arguments, .. } | Action::Get { arguments, .. }, true) =
            (query.action, reads.arguments)
        {
            // Of a prompt that nobody pinned nothing can be said.
            let shape = subject.shape.ok_or(Reason::Unmapped)?;
            let mapped =
                arguments::map(shape, arguments, &reads.paths, &reads.urls).map_err(Reason::Arguments)?;
            if mapped.unmapped {
                return Err(Reason::Unmapped);
            }
            context.push(("args".to_owned(), mapped.args));
            context.push(("paths".to_owned(), mapped.paths));
            context.push(("urls".to_owned(), mapped.urls));
            context.push(("unmapped".to_owned(), Expr::new_bool(false)));
        }
        ask(&principal.entity, subject.action, &subject.entity, &subject.server.entity, context)
    }

    fn ask_for_server(&self, query: &ServerQuery<'_>) -> Result<(Vec<&Drawer>, Asked), Reason> {
        let server = self.servers.get(query.server).ok_or(Reason::Unknown)?;
        let mut context: Entries = vec![
            ("client".to_owned(), Expr::new_entity_uid(uid(&self.types.client, query.client))),
            ("era".to_owned(), Expr::new_string(query.era.as_str().to_owned())),
        ];
        let client = || Known::new(uid(&self.types.client, query.client), HashMap::new(), HashSet::new());
        let (action, resource) = match query.action {
            ServerAction::Connect { host, port } => ("connect", self.host(host, port)?),
            ServerAction::Elicit { mode, url } => {
                let host =
                    url.map(canonical::destination).transpose().map_err(Reason::Address)?.map(|d| d.host);
                context.push(("mode".to_owned(), Expr::new_string(mode.to_owned())));
                context.push((
                    "domains".to_owned(),
                    to_set(host.as_deref().map(canonical::domains).unwrap_or_default()),
                ));
                context.push(("hosts".to_owned(), to_set(host)));
                ("elicit", client())
            }
            ServerAction::Offer { uri } => ("offer", self.resource(query.server, server, uri)?),
            ServerAction::Roots => ("roots", client()),
            ServerAction::Sample { max_tokens, model_hints, include_context, with_tools } => {
                context.push(("max_tokens".to_owned(), Expr::new_long(max_tokens)));
                context.push(("model_hints".to_owned(), to_set(model_hints.iter().cloned())));
                context.push(("include_context".to_owned(), Expr::new_string(include_context.to_owned())));
                context.push(("with_tools".to_owned(), Expr::new_bool(with_tools)));
                ("sample", client())
            }
            ServerAction::Secret { name } => {
                let attributes = HashMap::from([("name".to_owned(), Expr::new_string(name.to_owned()))]);
                ("secret", Known::new(uid(&self.types.secret, name), attributes, HashSet::new()))
            }
        };
        let action = self.actions.get(action).ok_or(Reason::Unknown)?;
        let resources = self.index.keys(resource.above.iter().chain([&resource.uid]));
        let drawers = self.index.open(&action.keys, &resources, &server.keys);
        if joined(&drawers, Mode::Exact).time {
            context.push(("time".to_owned(), datetime(query.now)?));
        }
        let asked = ask(&server.entity, action, &resource, &server.entity, context)?;
        Ok((drawers, asked))
    }

    fn host(&self, host: &str, port: u16) -> Result<Known, Reason> {
        let name = host.to_ascii_lowercase();
        let bracketed = if name.contains(':') && !name.starts_with('[') { format!("[{name}]") } else { name };
        // Written as a URL it passes the same judgement as hosts in arguments.
        let found = canonical::destination(&format!("https://{bracketed}")).map_err(Reason::Address)?;
        if found.host != bracketed {
            return Err(Reason::Address(Ambiguous::Host));
        }
        let of_host = uid(&self.types.host, &found.host);
        let attributes = HashMap::from([
            ("name".to_owned(), Expr::new_string(found.host.clone())),
            ("port".to_owned(), Expr::new_long(port.into())),
        ]);
        let above = found
            .domains()
            .into_iter()
            .filter(|d| *d != found.host)
            .map(|d| uid(&self.types.host, &d))
            .collect();
        Ok(Known::new(of_host, attributes, above))
    }
}

/// The question whether `principal` may do `action` to `resource`, which belongs to `server`.
fn ask(
    principal: &Known,
    action: &ActionEntry,
    resource: &Known,
    server: &Known,
    context: Entries,
) -> Result<Asked, Reason> {
    let context = Context::from_pairs(context).map_err(|_| Reason::Evaluation)?;
    let [who, what, that] = [principal, &action.entity, resource].map(|known| known.uid.clone());
    let request = Request::new(who, what, that, context, None).map_err(|_| Reason::Evaluation)?;
    Asked::new(request, [principal, &action.entity, resource, server]).ok_or(Reason::Evaluation)
}

fn joined(drawers: &[&Drawer], mode: Mode) -> Reads {
    let mut reads = Reads::default();
    drawers.iter().for_each(|drawer| reads.join(drawer.reads(mode)));
    reads
}

fn datetime(now: Timestamp) -> Result<Expr, Reason> {
    let text = i64::try_from(now.as_unix())
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|time| time.format(&Rfc3339).ok());
    text.map(Expr::new_datetime).ok_or(Reason::Evaluation)
}

#[cfg(test)]
pub(crate) mod properties;
#[cfg(test)]
mod tests;
