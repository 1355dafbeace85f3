//! How a legacy conversation begins: `initialize` and its answer (C-32).

use std::sync::Arc;

use bartizan_mcp::{
    Era, Message, Revision, Splice,
    json::{Value, quote},
    message,
};
use http::HeaderMap;
use tokio::sync::oneshot;

use super::Way;
use crate::{
    Asker,
    limits::START_WAIT,
    server::{Server, Transport, final_message},
    upstream::{Answer, Failure, http::Wire, stdio::Process},
};

/// Why no conversation began.
pub enum NoLink {
    /// The server speaks the modern era only.
    Modern,
    /// It refused the handshake with this error.
    Refused(Message),
    /// It gave no answer.
    Failed(Failure),
}

impl From<Failure> for NoLink {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Opens a conversation with `server` for `asker`, or for the gate itself; `hello` is the parameters of `initialize`. Answers its response too, which may
/// be an error.
///
/// # Errors
/// [`Failure`] if there is no response.
pub async fn shake_hands(
    server: &Arc<Server>,
    asker: Option<&Asker>,
    hello: &str,
) -> Result<(Way, Message), Failure> {
    match &server.settings().transport {
        Transport::Url(endpoint) => {
            let (wire, hello) = (server.wire(endpoint, asker), hello.to_owned());
            let (to, from) = oneshot::channel();
            // A task of its own: whoever goes away meanwhile leaves a session there, which is ended.
            tokio::spawn(async move {
                let opened = tokio::time::timeout(START_WAIT, open_session(wire, &hello)).await;
                let opened = opened.unwrap_or(Err(Failure::Timeout(START_WAIT.as_secs())));
                if let Err(Ok((wire, _))) = to.send(opened) {
                    wire.delete().await;
                }
            });
            let opened = from.await.unwrap_or_else(|_| Err(Failure::Lost("the handshake failed".into())));
            opened.map(|(wire, answer)| (Way::Wire(wire), answer))
        }
        Transport::Command { .. } if server.settings().shared => {
            let (process, answer) = server.shared_process(hello).await?;
            Ok((Way::Shared(process), answer))
        }
        Transport::Command { launch, secrets } => {
            let process = server.start(launch, secrets, Era::Legacy, asker).await?;
            let answer = greet(&process, hello).await.inspect_err(|_| server.note_crash(asker))?;
            if answer.result().is_some() {
                revision_of(&answer)?;
            }
            Ok((Way::Process(process), answer))
        }
    }
}

/// Sends `initialize` over `wire`, which is in the session that comes of it.
async fn open_session(mut wire: Wire, hello: &str) -> Result<(Wire, Message), Failure> {
    let text = message::request("1", "initialize", Some(hello));
    let (posted, head) = wire.clone().post(text, HeaderMap::new()).await?;
    let mut answer = Answer::sending(async { Ok(posted) });
    let answer = final_message(&mut answer).await?;
    if answer.result().is_some() {
        wire.enter_session(&head);
        match revision_of(&answer) {
            Ok(revision) => wire.revision = Some(revision),
            Err(failure) => {
                wire.delete().await;
                return Err(failure);
            }
        }
    }
    Ok((wire, answer))
}

/// What servers over stdio of the first revision choose, whatever they are offered.
const FIRST_REVISION: &str = "2024-11-05";

/// Sends `initialize` to a fresh process. One that chooses 2024-11-05 is answered for as one of 2025-03-26.
///
/// # Errors
/// [`Failure`].
pub async fn greet(process: &Arc<Process>, hello: &str) -> Result<Message, Failure> {
    let id = process.mint();
    let mut answer = Answer::pipe(
        process
            .request(id, message::request(&id.to_string(), "initialize", Some(hello)), None, false)
            .await?,
    );
    let answered = tokio::time::timeout(START_WAIT, final_message(&mut answer)).await;
    let answer = answered.map_err(|_| Failure::Timeout(START_WAIT.as_secs()))??;
    Ok(of_first_revision(&answer).unwrap_or(answer))
}

/// The answer of a server of 2024-11-05 as one of 2025-03-26: over stdio that adds to it only what a server need not do, and what
/// capabilities announce. (Batches end here, a process hears one message a line.)
fn of_first_revision(answer: &Message) -> Option<Message> {
    let version = answer.result()?.get("protocolVersion")?;
    if version.as_str().as_deref() != Some(FIRST_REVISION) {
        return None;
    }
    let mut splice = Splice::new(answer.text());
    splice.replace(version, format!("\"{}\"", Revision::V2025_03_26.name()));
    Message::from_spliced(splice.finish()).ok()
}

/// The revision a server chose (C-32).
///
/// # Errors
/// [`Failure::Protocol`] if it is none of ours.
pub fn revision_of(answer: &Message) -> Result<Revision, Failure> {
    let named =
        answer.result().and_then(|r| r.get("protocolVersion")).and_then(Value::as_str).unwrap_or_default();
    Revision::named(&named).filter(|r| r.era() == Era::Legacy).ok_or_else(|| {
        let is_name = named.len() <= 32 && named.bytes().all(|b| b.is_ascii_digit() || b == b'-');
        // Nobody has judged what it says.
        let named = if is_name { quote(&named) } else { "of a name that is none".to_owned() };
        Failure::Protocol(format!("it chose the protocol version {named}, which the gateway does not speak"))
    })
}
