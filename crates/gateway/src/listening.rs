//! When a subscription is over, which its server need never end (spec.md ).

use std::sync::Arc;

use tokio::sync::watch;

use crate::{Asker, Gate, server::Server};

/// Somebody who listens, from the time on that this is made.
pub struct Listener {
    gate: Arc<Gate>,
    asker: Asker,
    changes: watch::Receiver<u64>,
    began: u64,
}

impl Listener {
    /// `asker`, who listens from now on.
    pub fn new(gate: &Arc<Gate>, asker: &Asker) -> Self {
        let changes = gate.changes();
        let began = *changes.borrow();
        Self { gate: Arc::clone(gate), asker: asker.clone(), changes, began }
    }

    /// Waits until they may or can listen no more: the gate stops, `server` is another one by now or in quarantine, they are cut off,
    /// who may come in is found out otherwise, or what they came with is good no more. Without a server, all that there are at any
    /// time are listened to.
    pub async fn over(mut self, server: Option<Arc<Server>>) {
        let (gate, asker) = (Arc::clone(&self.gate), self.asker.clone());
        let ended = async {
            while !self.is_over(server.as_ref()) {
                if self.changes.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = ended => {}
            () = asker.until_expired(gate.clock()) => {}
        }
    }

    /// Whether [`Listener::over`] would not wait, but for what they came with.
    pub fn is_over(&self, server: Option<&Arc<Server>>) -> bool {
        let gate = &self.gate;
        let is_gone =
            |server: &Arc<Server>| !gate.has(server) || gate.responses().is_quarantined(server.name());
        gate.is_stopping()
            || *self.changes.borrow() != self.began
            || gate.responses().is_revoked(&self.asker.caller)
            || server.is_some_and(is_gone)
    }
}
