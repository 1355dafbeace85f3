//! Servers whose command runs something else than before, with a person's approval: their processes of before would go on as what
//! they were, and offer to some what is offered to others in another form.

use std::{collections::HashMap, sync::Arc};

use bartizan_model::ServerName;
use bartizan_store::pins::{IDENTITY, Kind, PinSet, Pinned};

use crate::{Gate, program, server::Server};

/// Who each server was when that was last asked.
#[derive(Default)]
pub struct Identities {
    /// At which version of the pins nothing of it was in doubt.
    version: u64,
    last: HashMap<ServerName, Pinned>,
}

impl Identities {
    /// Has servers start anew that are approved as something else since this was last asked.
    pub fn renew(&mut self, gate: &Gate) {
        let set = gate.catalog().keeper().approved();
        for (server, before) in self.changed(&set, gate.all_servers()) {
            tokio::spawn(async move { renew(&server, &before).await });
        }
    }

    /// The servers that `set` has as something else than before, and as what they were before.
    pub(super) fn changed(&mut self, set: &PinSet, servers: Vec<Arc<Server>>) -> Vec<(Arc<Server>, Pinned)> {
        if set.version() == self.version {
            return Vec::new();
        }
        self.last.retain(|name, _| servers.iter().any(|server| server.name() == name));
        // Who a server is may be approved and yet in doubt: that it is becomes known at no other version.
        let is_certain = servers.iter().all(|server| set.version_of(server.name()).is_some());
        if is_certain {
            self.version = set.version();
        }
        let mut changed = Vec::new();
        for server in servers {
            let Some(now) = set.get(server.name(), Kind::Identity, IDENTITY) else { continue };
            let Some(before) = self.last.insert(server.name().clone(), now.clone()) else { continue };
            if before.hash != now.hash {
                changed.push((server, before));
            }
        }
        changed
    }
}

async fn renew(server: &Arc<Server>, before: &Pinned) {
    // That more is known of the same command makes no other server.
    if program::says_more(&program::identity(server.settings()).await, before) {
        return;
    }
    tracing::info!(server = %server.name(), "it is approved as something else: its processes start anew");
    server.renew().await;
}
