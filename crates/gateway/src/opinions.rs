//! Second opinions on the path: asked only for servers that name some, before anything of a text goes on (attacks.md
//! II-01, II-10).

use std::sync::Arc;

use bartizan_mcp::{Message, Refusal};
use bartizan_shield::{Finding, NoOpinion, Shield, Text};
use futures::future::join_all;

use crate::{Gate, inspect, permit::holds::Hold, server::Server};

/// Lets a message of a client through to `server`, after everybody was asked about it. Answers the hold of one that goes on only
/// if a person approves it.
///
/// # Errors
/// The refusal.
pub async fn call(gate: &Gate, server: &Server, message: &Message) -> Result<Option<Hold>, Refusal> {
    let names = &server.settings().second_opinions;
    if names.is_empty() {
        return inspect::call(&gate.shield.load(), server, message, &[]);
    }
    let shield = gate.shield.load_full();
    let found = ask(&shield, names, &inspect::sent_words(message)?).await;
    inspect::call(&shield, server, message, &found)
}

/// The same for what cannot wait for anybody: what would be held is refused.
///
/// # Errors
/// The refusal.
pub async fn word(gate: &Gate, server: &Server, message: &Message) -> Result<(), Refusal> {
    call(gate, server, message).await?.map_or(Ok(()), |hold| Err(hold.refused()))
}

/// Asks every service of `names` about `text`, all at once. Who gives no opinion has found that.
pub async fn ask(shield: &Arc<Shield>, names: &[String], text: &Text) -> Vec<Finding> {
    let asking = names.iter().map(|name| async move {
        let Some(opinion) = shield.opinion(name) else { return vec![text.unjudged(name)] };
        let asked = tokio::time::timeout(opinion.budget(), opinion.ask(text)).await;
        let asked = asked.unwrap_or(Err(NoOpinion::Late));
        if let Err(no_opinion) = &asked {
            tracing::warn!(second_opinion = name, %no_opinion, "a second opinion could not be had");
        }
        opinion.settle(text, asked)
    });
    join_all(asking).await.into_iter().flatten().collect()
}
