//! What a server says that answers no request.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use bartizan_mcp::{Era, Kind, Message};
use bartizan_shield::Finding;
use tokio::{sync::OwnedSemaphorePermit, task::AbortHandle, time::Instant};

use super::{Link, Taken, Way, Whence};
use crate::{
    Gate,
    call::{Call, Down, Line, Vetted},
    documents,
    inspect::{self, Known, Passed},
    opinions,
    record::{Ending, Unasked},
    upstream::{Failure, Item, Within, stdio::lock},
};

/// How long a server is left alone that hung up on whoever listens; longer each time where it does so at once.
const PAUSE: Duration = Duration::from_millis(500);

/// How long somebody listens at least where the server means them to.
const LASTING: Duration = Duration::from_secs(10);

/// What a message that waits takes beside its text.
const WAITING: usize = 1024;

impl Link {
    /// A message that answers no request, and whence it comes: for the session's general stream.
    pub fn unasked(self: &Arc<Self>, message: &Message, whence: &Whence) {
        let Some(gate) = self.gate.upgrade() else { return };
        if gate.responses().pass(self.server.name(), &self.asker.caller).is_err() {
            return;
        }
        if self.server.settings().second_opinions.is_empty() {
            return self.judge_unasked(&gate, message, whence, &[]);
        }
        let Some(room) = self.room(message.text().len()) else {
            tracing::warn!(server = %self.server.name(), "a flood of messages that answer no request was cut");
            return;
        };
        let (me, message, whence) = (Arc::clone(self), message.clone(), whence.clone());
        tokio::spawn(async move {
            let _room = room;
            // One after the other, as they came.
            let _turn = me.turn.lock().await;
            // What answers nothing carries no documents.
            let documents = documents::unread(&message);
            let Ok(text) = inspect::said_words(&message, None, &documents) else { return };
            let shield = gate.shield.load_full();
            let found = opinions::ask(&shield, &me.server.settings().second_opinions, &text).await;
            if message.kind() == Kind::Request && !found.is_empty() {
                tracing::warn!(server = %me.server.name(), "a question was withheld for a second opinion");
                if let Some((way, _)) = me.way_back(&whence) {
                    me.refuse(&message, None, Unasked::Shield, way);
                }
                return;
            }
            me.judge_unasked(&gate, &message, &whence, &found);
        });
    }

    /// A place for so many bytes that wait, if there is one.
    pub(super) fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes.saturating_add(WAITING)).ok()?;
        Arc::clone(&self.room).try_acquire_many_owned(bytes).ok()
    }

    fn judge_unasked(
        self: &Arc<Self>,
        gate: &Arc<Gate>,
        message: &Message,
        whence: &Whence,
        found: &[Finding],
    ) {
        // Questions are judged where they are taken.
        let changed = match message.kind() {
            Kind::Notification => {
                let inspector = &mut *lock(&self.unasked);
                let (shield, entropy) = (gate.shield.load(), gate.entropy.as_ref());
                let known = Known { found, ..Known::default() };
                let (server, ending) = (&self.server, &mut Ending::default());
                match inspect::answer(&shield, inspector, server, message, known, entropy, ending) {
                    Ok(Passed::AsItIs) => None,
                    Ok(Passed::Changed(changed)) => Some(*changed),
                    Ok(Passed::Dropped) | Err(_) => return,
                }
            }
            Kind::Request | Kind::Response => None,
        };
        let message = changed.as_ref().unwrap_or(message);
        if message.kind() == Kind::Notification && message.method() == "notifications/message" {
            let (within, asker) = match self.way() {
                Way::Process(process) => (process.within(), Some(&self.asker)),
                Way::Shared(process) => (process.within(), None),
                Way::Wire(_) => (Within::default(), Some(&self.asker)),
            };
            self.server.voice().logged(asker, within, message);
            // It may be about anybody's request.
            if asker.is_none() {
                return;
            }
        }
        match self.take_from_server(message, whence, None, None) {
            Taken::Done => {}
            Taken::Send(text) => self.hub.general().push(text),
            Taken::Theirs if message.kind() == Kind::Response => {}
            Taken::Theirs => {
                let process = match whence {
                    Whence::Shared(process) => process.everybodys(),
                    Whence::Life(..) => None,
                };
                let line = Line { id: 0, process };
                let mut call = Call::new(
                    gate,
                    Arc::clone(&self.server),
                    self.asker.clone(),
                    Era::Legacy,
                    self.is_merged,
                    line,
                    message,
                );
                if call.pass_task(message).is_ok()
                    && let Ok(Down::Pass(text)) = call.incoming(message, &Vetted::default())
                {
                    self.hub.general().push(text);
                }
            }
        }
    }

    /// Listens to what an HTTP server says unasked, from now until the session ends. Only once at a time: where the server would
    /// say nothing, it is asked again when the client listens again.
    pub fn listen(self: &Arc<Self>) {
        let Way::Wire(_) = self.way() else { return };
        let mut listening = lock(&self.listening);
        if listening.as_ref().is_none_or(AbortHandle::is_finished) {
            *listening = Some(tokio::spawn(listen_on(Arc::downgrade(self))).abort_handle());
        }
    }
}

async fn listen_on(link: Weak<Link>) {
    let mut pause = PAUSE;
    loop {
        let Some((Way::Wire(wire), life)) = link.upgrade().map(|link| link.lived_way()) else { return };
        match wire.listen(None).await {
            Ok(mut events) => {
                let (began, mut heard) = (Instant::now(), false);
                while let Ok(Some(item)) = events.next().await {
                    heard = true;
                    let Some(link) = link.upgrade() else { return };
                    if let Item::Message(message) = item {
                        link.unasked(&message, &Whence::Life(life, Weak::new()));
                    }
                }
                // One that says nothing and hangs up is asked less and less often.
                if heard || began.elapsed() >= LASTING {
                    pause = PAUSE;
                }
            }
            // It offers none (B-18); or the session ended.
            Err(
                Failure::Status(400..=499)
                | Failure::SessionGone
                | Failure::Unauthorized(_)
                | Failure::NeedsLinking(_)
                | Failure::NotForCaller(_)
                | Failure::StepUp(_),
            ) => {
                return;
            }
            Err(_) => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(30));
    }
}
