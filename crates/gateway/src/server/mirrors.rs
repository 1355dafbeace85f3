//! The headers that mirror parameters of a server's tools (C-07).

use std::sync::Arc;

use bartizan_mcp::{code, tool::Mirror};
use tokio::time::timeout;

use super::{ModernLink, Server, final_message, modern_headers};
use crate::{
    call::own_modern_request,
    limits::{CONTROL_WAIT, INVENTORY_WAIT, PAGES},
    upstream::{Answer, Failure, http::Posted},
};

impl Server {
    /// The headers that mirror the parameters of `tool`, asking the server for its tools if that is not known.
    pub async fn mirrors(&self, tool: &str, link: &ModernLink) -> Arc<[Mirror]> {
        if let Some(known) = self.tools.of(tool) {
            return known;
        }
        match timeout(INVENTORY_WAIT, self.fetch_tools(link)).await {
            Ok(Ok(())) => {}
            // Never seen: sent without headers, and the server says so if it minds (C-08).
            Ok(Err(failure)) => {
                tracing::debug!(server = %self.name(), %failure, "its tools could not be listed");
            }
            Err(_) => {
                tracing::warn!(server = %self.name(), "the list of its tools takes too long");
                self.tools.complete();
            }
        }
        self.tools.of(tool).unwrap_or_default()
    }

    async fn fetch_tools(&self, link: &ModernLink) -> Result<(), Failure> {
        let mut cursor: Option<String> = None;
        for page in 0..PAGES {
            let mut answer = match link {
                ModernLink::Wire(wire) => {
                    let sent = wire.clone().post(
                        own_modern_request(1, "tools/list", cursor.as_deref()),
                        modern_headers("tools/list", None),
                    );
                    Answer::sending(async { sent.await.map(|(posted, _)| posted) })
                }
                ModernLink::Process(process) => {
                    let id = process.mint();
                    Answer::pipe(
                        process
                            .request(id, own_modern_request(id, "tools/list", cursor.as_deref()), None, true)
                            .await?,
                    )
                }
            };
            let listed = timeout(CONTROL_WAIT, final_message(&mut answer));
            let listed = listed.await.map_err(|_| Failure::Timeout(CONTROL_WAIT.as_secs()))??;
            let Some(tools) = listed.result().and_then(|r| r.get("tools")) else { return Ok(()) };
            let next = listed.result().and_then(|r| r.get("nextCursor")).map(|c| c.text().to_owned());
            self.tools.learn(tools, page == 0 && next.is_none(), self.name());
            // A cursor that leads to itself leads nowhere (attacks.md PH-29).
            if next.is_none() || next == cursor || self.tools.is_full() {
                break;
            }
            cursor = next;
        }
        // Also where the list has no end: what is not in so much of it is not asked for again at every call.
        self.tools.complete();
        Ok(())
    }
}

/// Whether the server refused a call for its `Mcp-Param-*` headers, so that asking for its tools again may help.
pub fn is_header_mismatch(answer: &Posted) -> bool {
    match answer {
        Posted::Whole { messages, .. } => {
            messages.iter().any(|m| m.error_code() == Some(i64::from(code::HEADER_MISMATCH)))
        }
        _ => false,
    }
}
