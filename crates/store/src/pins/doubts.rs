//! What is not approved for now: what looks showed to be otherwise while that could not be written down, or not be read.
//!
//! A doubt is lifted by a look as good as the one that raised it. The gate looks again itself, so its own next look counts for its own.
//! A caller may never look again, and a server may describe its tools to each in another way: what a caller was shown is kept
//! until that very form is on record, and holds the definition there.

use std::collections::HashMap;

use bartizan_model::{CallerKey, ServerName};

use super::{Decision, Extent, Kind, Look, Observation, Offered, Policy, Reason};
use crate::Digest;

/// The texts that are kept of what callers were shown, all together, in bytes. Of more the hash is kept: it stays in doubt until
/// somebody else is shown the same and that is written down.
const KEPT: usize = 16 * 1024 * 1024;

/// How long something is in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// What was written down can be read.
    Read,
    /// A look at it can be written down.
    Written,
}

/// The doubts of one gate.
#[derive(Default)]
pub struct Doubts {
    /// Who servers are as they are configured, where that tells it.
    expected: HashMap<ServerName, Digest>,
    servers: HashMap<ServerName, HashMap<Place, Doubt>>,
    /// Bytes of the texts in them.
    kept: usize,
}

/// Where a definition is within its server.
type Place = (Kind, String);

/// What there is against one definition: by the gate's own look, and by the first of its callers'. It is held for one form as it is for
/// many.
#[derive(Default)]
struct Doubt {
    own: Option<Until>,
    callers: Option<Shown>,
}

/// What a caller was shown.
struct Shown {
    until: Until,
    caller: CallerKey,
    hash: Digest,
    /// To be written down.
    owed: Option<Offered>,
}

impl Shown {
    fn bytes(&self) -> usize {
        self.owed.as_ref().map_or(0, |owed| owed.text.len())
    }
}

impl Doubts {
    /// `server` is configured to be the one that `identity` says.
    pub fn expect(&mut self, server: &ServerName, identity: Option<Digest>) {
        match identity {
            Some(identity) => self.expected.insert(server.clone(), identity),
            None => self.expected.remove(server),
        };
    }

    /// `look` showed `differing` to be otherwise than approved.
    pub fn raise(&mut self, look: &Look, differing: &[&Offered], until: Until) {
        let doubts = self.servers.entry(look.server.clone()).or_default();
        for offered in differing {
            let doubt = doubts.entry(place(offered)).or_default();
            if look.caller == CallerKey::nobody() {
                doubt.own = Some(until);
                continue;
            }
            // What is owed stays so, whatever else is shown meanwhile, unless it is that very form that is on record now.
            let stays = |shown: &Shown| {
                shown.until == Until::Written && (until == Until::Written || shown.hash != offered.hash)
            };
            if doubt.callers.as_ref().is_some_and(stays) {
                continue;
            }
            self.kept -= doubt.callers.as_ref().map_or(0, Shown::bytes);
            let owed = (until == Until::Written && self.kept + offered.text.len() <= KEPT)
                .then(|| (*offered).clone());
            if until == Until::Written && owed.is_none() {
                tracing::warn!(server = %look.server, kind = offered.kind.as_str(), name = ?offered.name,
                    "too much waits to be written down: it is withheld until another look shows the same");
            }
            let shown = Shown { until, caller: look.caller.clone(), hash: offered.hash, owed };
            self.kept += shown.bytes();
            doubt.callers = Some(shown);
        }
    }

    /// `look` is on record, as `observation` says; the answer is whether anything was in doubt of its server.
    pub fn lift(&mut self, look: &Look, observation: &Observation) -> bool {
        let Some(doubts) = self.servers.get_mut(&look.server) else { return false };
        // One that was under way while another address was configured says nothing of this one.
        let expected = self.expected.get(&look.server);
        let is_another = |offered: &Offered| {
            offered.kind == Kind::Identity && expected.is_some_and(|expected| *expected != offered.hash)
        };
        let is_own = look.caller == CallerKey::nobody() && !look.offered.iter().any(is_another);
        for (offered, sight) in look.offered.iter().zip(&observation.sights) {
            let Some(doubt) = doubts.get_mut(&place(offered)) else { continue };
            // Of these nothing is written down.
            let is_on_record =
                !matches!(sight.decision, Decision::Withhold(Reason::Duplicate | Reason::Unkeepable));
            if is_own {
                doubt.own = None;
            }
            if is_on_record && let Some(shown) = doubt.callers.take_if(|shown| shown.hash == offered.hash) {
                self.kept -= shown.bytes();
            }
        }
        if let Extent::Whole(kinds) = &look.extent
            && is_own
        {
            let of_them = doubts.iter_mut().filter(|((kind, _), _)| kinds.contains(kind));
            of_them.for_each(|(_, doubt)| doubt.own = None);
        }
        self.tidy();
        true
    }

    /// What was written down can be read; the answer is whether anything is out of doubt for that.
    pub fn read(&mut self) -> bool {
        let mut has_changed = false;
        for doubt in self.servers.values_mut().flat_map(HashMap::values_mut) {
            has_changed |= doubt.own.take_if(|until| *until == Until::Read).is_some();
            // It has no text.
            has_changed |= doubt.callers.take_if(|shown| shown.until == Until::Read).is_some();
        }
        self.tidy();
        has_changed
    }

    fn tidy(&mut self) {
        for doubts in self.servers.values_mut() {
            doubts.retain(|_, doubt| doubt.own.is_some() || doubt.callers.is_some());
        }
        self.servers.retain(|_, doubts| !doubts.is_empty());
    }

    /// The servers of which something is in doubt.
    pub fn servers(&self) -> Vec<ServerName> {
        self.servers.keys().cloned().collect()
    }

    /// What is in doubt.
    pub fn all(&self) -> impl Iterator<Item = (&ServerName, Kind, &str)> {
        self.servers.iter().flat_map(|(server, doubts)| {
            doubts.keys().map(move |(kind, name)| (server, *kind, name.as_str()))
        })
    }

    /// Whether anything is to be written down.
    pub fn has_owed(&self) -> bool {
        let mut doubts = self.servers.values().flat_map(HashMap::values);
        doubts.any(|doubt| doubt.callers.as_ref().is_some_and(|shown| shown.owed.is_some()))
    }

    /// What callers were shown that is to be written down, each by itself.
    pub fn owed(&self) -> Vec<Look> {
        let of_server = |(server, doubts): (&ServerName, &HashMap<Place, Doubt>)| {
            let shown = doubts.values().filter_map(|doubt| doubt.callers.as_ref());
            let owed = shown.filter_map(|shown| Some((shown.caller.clone(), shown.owed.clone()?)));
            let look = |(caller, offered)| Look {
                server: server.clone(),
                caller,
                // It was approved before: nothing of it is seen first.
                policy: Policy::ApproveByHand,
                extent: Extent::Part,
                offered: vec![offered],
            };
            owed.map(look).collect::<Vec<_>>()
        };
        self.servers.iter().flat_map(of_server).collect()
    }
}

fn place(offered: &Offered) -> Place {
    (offered.kind, offered.name.clone())
}
