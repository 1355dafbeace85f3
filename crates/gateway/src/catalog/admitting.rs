//! Which calls are let through: those of approved tools and prompts (attacks.md PO-01).

use std::sync::Arc;

use bartizan_mcp::{
    Era, Message, Refusal, code,
    json::{Value, quote},
};
use bartizan_shield::schema::Contract;
use bartizan_store::pins::{Key, Kind};

use super::{Catalog, LookError, is_pinned};
use crate::{Asker, merged, server::Server};

impl Catalog {
    /// Lets a call through whose tool or prompt is approved.
    ///
    /// # Errors
    /// The refusal: an unknown name reads as such, a withheld one says what must happen (attacks.md PO-01).
    pub async fn admit(
        &self,
        asker: &Asker,
        server: &Arc<Server>,
        era: Era,
        is_merged: bool,
        message: &Message,
    ) -> Result<(), Refusal> {
        let kind = match message.method().as_ref() {
            "tools/call" => Kind::Tool,
            "prompts/get" => Kind::Prompt,
            _ => return Ok(()),
        };
        if !is_pinned(server) {
            return Ok(());
        }
        // That it is there was checked by `mcp::era`.
        let named = message.param("name").and_then(Value::as_str).unwrap_or_default();
        let bare = if is_merged { merged::split_name(&named).map_or("", |(_, bare)| bare) } else { &named };
        let name = server.name();
        self.keeper.keep_fresh().await;
        if self.keeper.is_approved(name, kind, bare) {
            return Ok(());
        }
        let looked = self.look_at(server, false).await;
        if self.keeper.is_approved(name, kind, bare) {
            return Ok(());
        }
        let status = |modern| if era == Era::Modern { modern } else { 200 };
        match (self.held(server, kind, bare).await?, looked) {
            (Some(withheld), _) => Err(Refusal { status: status(403), ..withheld }),
            (None, Err(LookError::Server(failure))) => {
                let refusal = failure.refusal(name.as_str());
                Err(Refusal { status: status(refusal.status), ..refusal })
            }
            (None, Err(LookError::Pins(error))) => {
                tracing::error!(server = %name, %error, "the pins cannot be read");
                Err(unreadable())
            }
            (None, Ok(())) => {
                // Nobody may have listed anything yet for want of an account.
                if let Some(failure) = server.missing_link(asker).await {
                    let refusal = failure.refusal(name.as_str());
                    return Err(Refusal { status: status(refusal.status), ..refusal });
                }
                let what = kind.as_str();
                // As peers answer it (spec.md A-48).
                Err(Refusal::new(200, code::INVALID_PARAMS, format!("there is no such {what}")))
            }
        }
    }

    /// Why a definition that was offered before is withheld.
    async fn held(&self, server: &Server, kind: Kind, bare: &str) -> Result<Option<Refusal>, Refusal> {
        let (name, what) = (server.name(), kind.as_str());
        let key = Key { server: name.clone(), kind, name: bare.to_owned() };
        let reason = self.keeper.held(&key).await.map_err(|error| {
            tracing::error!(server = %name, %error, "the pins cannot be read");
            unreadable()
        })?;
        let text = format!(
            "the {what} `{bare}` of the server `{name}` is withheld until its operator has looked at it: \
             {}",
            server.settings().look_command()
        );
        Ok(reason.map(|reason| {
            let (reason, server, bare) = (reason.code(), quote(name.as_str()), quote(bare));
            Refusal::new(403, code::WITHHELD, text).with_data(format!(
                r#"{{"source":"bartizan","reason":"{reason}","server":{server},"name":{bare}}}"#
            ))
        }))
    }

    /// What the tool that `message` calls takes and gives; none where nothing is pinned, or the operator wants no comparison.
    pub fn contract(&self, server: &Server, is_merged: bool, message: &Message) -> Option<Arc<Contract>> {
        if message.method() != "tools/call" || !is_pinned(server) || !server.settings().validates {
            return None;
        }
        let named = message.param("name").and_then(Value::as_str).unwrap_or_default();
        let bare = if is_merged { merged::split_name(&named).map_or("", |(_, bare)| bare) } else { &named };
        let set = self.keeper.approved();
        set.get(server.name(), Kind::Tool, bare).map(|pinned| self.contracts.of(pinned.hash, &pinned.text))
    }

    /// What every approved tool of `server` takes and gives.
    pub fn contracts(&self, server: &Server) -> Vec<Arc<Contract>> {
        if !is_pinned(server) || !server.settings().validates {
            return Vec::new();
        }
        let set = self.keeper.approved();
        set.of(server.name(), Kind::Tool)
            .map(|(_, pinned)| self.contracts.of(pinned.hash, &pinned.text))
            .collect()
    }
}

fn unreadable() -> Refusal {
    Refusal::new(503, code::LIMIT, "the approvals cannot be read now; try again later")
}
