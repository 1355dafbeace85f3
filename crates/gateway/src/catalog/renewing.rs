//! Servers whose command runs something else than before, with a person's approval: their processes of before would go on as what
//! they were, and offer to some what is offered to others in another form.

use std::{collections::HashMap, sync::Arc};

use bartizan_model::ServerName;
use bartizan_store::pins::{IDENTITY, Kind, Pinned};

use crate::{Gate, program, server::Server};

/// Who each server was when that was last asked.
#[derive(Default)]
pub struct Identities {
    version: u64,
    last: HashMap<ServerName, Pinned>,
}

impl Identities {
    /// Has servers start anew that are approved as something else since this was last asked.
    pub fn renew(&mut self, gate: &Gate) {
        let set = gate.catalog().keeper().approved();
        if set.version() == self.version {
            return;
        }
        self.version = set.version();
        let servers = gate.all_servers();
        self.last.retain(|name, _| servers.iter().any(|server| server.name() == name));
        for server in servers {
            let Some(now) = set.get(server.name(), Kind::Identity, IDENTITY) else { continue };
            let Some(before) = self.last.insert(server.name().clone(), now.clone()) else { continue };
            if before.hash != now.hash {
                tokio::spawn(async move { renew(&server, &before).await });
            }
        }
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
