//! What clients that listen are told when a decision changes what they may see: an approval, a hold, a quarantine, another
//! policy (25/tools, 26/sub). Their server knows of none of these, so the gate says it.
//!
//! Whoever listens has a [`Listener`], which remembers what they could see. Whatever changes that is told once, and in one word:
//! which list it is of. What a server itself adds or takes away it announces itself.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, Weak},
};

use bartizan_mcp::{Era, era, message};
use bartizan_model::ServerName;
use bartizan_store::{Keeper, pins::Kind};

use crate::{
    Asker,
    catalog::long_work,
    inventory::DefinitionKind,
    permit::Policy,
    responses::Responses,
    server::{Pinning, Server},
    upstream::stdio::lock,
};

/// A list of which a client can be told that it changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum List {
    /// `prompts/list`
    Prompts,
    /// `resources/list` and `resources/templates/list`
    Resources,
    /// `tools/list`
    Tools,
}

impl List {
    /// Every list.
    pub const ALL: [Self; 3] = [Self::Tools, Self::Prompts, Self::Resources];

    /// The list that definitions of this kind stand in.
    fn of(kind: Kind) -> Option<Self> {
        match kind {
            Kind::Prompt => Some(Self::Prompts),
            Kind::Resource | Kind::Template => Some(Self::Resources),
            Kind::Tool => Some(Self::Tools),
            Kind::Identity | Kind::Instructions => None,
        }
    }

    /// The notification that says it changed.
    pub fn notification(self) -> &'static str {
        match self {
            Self::Prompts => "notifications/prompts/list_changed",
            Self::Resources => "notifications/resources/list_changed",
            Self::Tools => "notifications/tools/list_changed",
        }
    }

    /// The capability whose `listChanged` says that its changes are told.
    pub fn capability(self) -> &'static str {
        match self {
            Self::Prompts => "prompts",
            Self::Resources => "resources",
            Self::Tools => "tools",
        }
    }

    /// The member of a subscription's filter that asks for it (26/sub).
    pub fn wish(self) -> &'static str {
        match self {
            Self::Prompts => "promptsListChanged",
            Self::Resources => "resourcesListChanged",
            Self::Tools => "toolsListChanged",
        }
    }

    /// The notification, of the subscription `id` (a JSON text) if it belongs to one.
    pub fn told(self, id: Option<&str>) -> String {
        let params = id.map(|id| format!(r#"{{"_meta":{{"{}":{id}}}}}"#, era::META_SUBSCRIPTION));
        message::notification(self.notification(), params.as_deref())
    }
}

/// Who listens, and what they are told.
pub struct News {
    keeper: Arc<Keeper>,
    policy: Arc<Policy>,
    responses: Arc<Responses>,
    listeners: Mutex<Vec<Weak<Listener>>>,
    /// At what state of everything it was last looked for news.
    told: Mutex<Option<State>>,
    /// Names are kept as their hashes, which only this process knows.
    hashes: RandomState,
}

/// Versions of all that decides what may be seen.
#[derive(Clone, Copy, PartialEq, Eq)]
struct State {
    pins: u64,
    policy: u64,
    responses: u64,
}

/// Somebody who listens to what a server offers; dropping it ends that.
pub struct Listener {
    server: Arc<Server>,
    asker: Asker,
    era: Era,
    seen: Mutex<Option<Seen>>,
    tell: Box<dyn Fn(List) + Send + Sync>,
}

/// The form of each definition, by name.
type Seen = HashMap<(Kind, u64), u64>;

impl News {
    /// News of what these decide.
    pub fn new(keeper: Arc<Keeper>, policy: Arc<Policy>, responses: Arc<Responses>) -> Self {
        Self {
            keeper,
            policy,
            responses,
            listeners: Mutex::default(),
            told: Mutex::default(),
            hashes: RandomState::new(),
        }
    }

    /// Has `tell` called with each list of `server` that changes for `asker` from now on, until the listener is dropped.
    pub fn listen(
        &self,
        server: &Arc<Server>,
        asker: &Asker,
        era: Era,
        tell: impl Fn(List) + Send + Sync + 'static,
    ) -> Arc<Listener> {
        let (server, asker) = (Arc::clone(server), asker.clone());
        let listener = Listener { server, asker, era, seen: Mutex::default(), tell: Box::new(tell) };
        let listener = Arc::new(listener);
        // Whoever has news for it waits until it is known what it has seen.
        let mut seen = lock(&listener.seen);
        let mut listeners = lock(&self.listeners);
        if listeners.len() == listeners.capacity() {
            listeners.retain(|listener| listener.strong_count() > 0);
        }
        listeners.push(Arc::downgrade(&listener));
        drop(listeners);
        *seen = self.shown(&listener);
        drop(seen);
        listener
    }

    /// Tells everybody what has changed for them since this was last called.
    pub fn tell(&self) {
        let now = State {
            pins: self.keeper.edition(),
            policy: self.policy.edition(),
            responses: self.responses.changes(),
        };
        if lock(&self.told).replace(now) == Some(now) {
            return;
        }
        let listeners = self.listeners();
        long_work(|| listeners.iter().for_each(|listener| self.tell_one(listener)));
    }

    fn tell_one(&self, listener: &Listener) {
        let mut seen = lock(&listener.seen);
        let Some(now) = self.shown(listener) else { return };
        let before = seen.as_ref().filter(|_| !listener.server.is_new());
        let changed = before.map(|before| changed(before, &now)).unwrap_or_default();
        *seen = Some(now);
        drop(seen);
        if self.responses.is_revoked(&listener.asker.caller) {
            return;
        }
        for list in List::ALL.into_iter().filter(|list| changed.contains(list)) {
            tracing::debug!(server = %listener.server.name(), method = list.notification(), "a client is told of a decision");
            (listener.tell)(list);
        }
    }

    /// Takes all of `server` for seen as it is now, when the gate has looked at it for the first time: whichever process was the first,
    /// its first sight is no decision.
    pub fn begin(&self, server: &ServerName) {
        for listener in self.listeners().iter().filter(|listener| listener.server.name() == server) {
            let mut seen = lock(&listener.seen);
            if let Some(now) = self.shown(listener) {
                *seen = Some(now);
            }
        }
    }

    /// Takes it for seen how these definitions of `server` are now: that they are, or are not any more, is its own doing.
    pub fn pass_over(&self, server: &ServerName, definitions: &[(Kind, &str)]) {
        if definitions.is_empty() {
            return;
        }
        for listener in self.listeners().iter().filter(|listener| listener.server.name() == server) {
            let mut seen = lock(&listener.seen);
            let Some(now) = self.shown(listener) else { continue };
            let Some(seen) = seen.as_mut() else { continue };
            for (kind, name) in definitions {
                let place = (*kind, self.hashes.hash_one(name));
                match now.get(&place) {
                    Some(form) => seen.insert(place, *form),
                    None => seen.remove(&place),
                };
            }
        }
    }

    fn listeners(&self) -> Vec<Arc<Listener>> {
        lock(&self.listeners).iter().filter_map(Weak::upgrade).collect()
    }

    /// What somebody may see now; `None` if that is not known, which is no decision.
    fn shown(&self, listener: &Listener) -> Option<Seen> {
        let (server, asker) = (&listener.server, &listener.asker);
        let set = self.keeper.approved();
        if set.version() == 0 || self.policy.bundle().is_none() {
            return None;
        }
        let mut seen = Seen::new();
        if self.responses.is_quarantined(server.name()) {
            return Some(seen);
        }
        for kind in DefinitionKind::ALL {
            let pinned = kind.pinned();
            let (names, forms): (Vec<_>, Vec<_>) = set
                .of(server.name(), pinned)
                .map(|(name, form)| (Some(name.to_owned()), self.hashes.hash_one(form.hash)))
                .unzip();
            let mut hidden = self.policy.hidden(asker, server, listener.era, kind, &names);
            if kind == DefinitionKind::Tool {
                hidden.extend(self.responses.hidden(server.name(), &names));
            }
            let hidden: HashSet<_> = hidden.into_iter().collect();
            let places = names.iter().flatten().map(|name| (pinned, self.hashes.hash_one(name.as_str())));
            let shown = places.zip(forms).enumerate().filter(|(at, _)| !hidden.contains(at));
            seen.extend(shown.map(|(_, entry)| entry));
        }
        // Of a server without pins, only what is cut off is known.
        for tool in self.responses.tools_in_quarantine(server.name()) {
            let place = (Kind::Tool, self.hashes.hash_one(tool.as_str()));
            seen.extend((server.settings().pinning == Pinning::DangerousNone).then_some((place, 0)));
        }
        Some(seen)
    }
}

/// The lists in which two states differ.
fn changed(before: &Seen, now: &Seen) -> HashSet<List> {
    let differs = |(place, form): (&(Kind, u64), &u64), other: &Seen| other.get(place) != Some(form);
    let gone = before.iter().filter(|entry| differs(*entry, now));
    let come = now.iter().filter(|entry| differs(*entry, before));
    gone.chain(come).filter_map(|((kind, _), _)| List::of(*kind)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_went_or_is_another_form_changed_its_own_list() {
        let seen =
            |all: &[(Kind, u64, u64)]| all.iter().map(|(kind, name, form)| ((*kind, *name), *form)).collect();
        let before: Seen = seen(&[(Kind::Tool, 1, 1), (Kind::Prompt, 1, 1)]);
        for (now, expected) in [
            (seen(&[(Kind::Prompt, 1, 1), (Kind::Tool, 1, 1)]), vec![]),
            (seen(&[(Kind::Tool, 1, 1)]), vec![List::Prompts]),
            (seen(&[(Kind::Tool, 1, 2), (Kind::Prompt, 1, 1)]), vec![List::Tools]),
            (
                seen(&[(Kind::Tool, 1, 1), (Kind::Prompt, 1, 1), (Kind::Template, 1, 1)]),
                vec![List::Resources],
            ),
            (seen(&[]), vec![List::Tools, List::Prompts]),
        ] {
            assert_eq!(changed(&before, &now), expected.into_iter().collect::<HashSet<_>>(), "{now:?}");
        }
    }

    #[test]
    fn a_word_of_a_subscription_carries_its_id() {
        assert_eq!(
            List::Tools.told(Some("\"a\"")),
            r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"a"}}}"#
        );
        assert_eq!(
            List::Prompts.told(None),
            r#"{"jsonrpc":"2.0","method":"notifications/prompts/list_changed"}"#
        );
    }
}
