//! What of an answer may be shown at all: approved, permitted, judged, and as it was promised.

use std::sync::Arc;

use bartizan_mcp::{
    Kind, Message,
    json::{Kind as Json, Value},
};
use bartizan_shield::Finding;

use super::Call;
use crate::{
    catalog::Withheld,
    contract,
    documents::{Read, Reading},
    inspect::{self, Known, Passed},
    inventory::DefinitionKind,
    opinions,
    upstream::{Answer, Failure},
};

/// What was found out about a message from the server before it is shown.
#[derive(Default)]
pub struct Vetted {
    /// Entries of the list it is that are not shown.
    pub(super) withheld: Arc<[Withheld]>,
    /// Entries of it that the caller may not use.
    pub(super) hidden: Vec<usize>,
    /// Its `instructions` are not shown.
    pub(super) hides_instructions: bool,
    /// What goes on in its place.
    pub changed: Option<Message>,
    /// It does not go on at all.
    pub drops: bool,
}

impl Call {
    /// The answer that a person released for this very request; it is given once.
    pub async fn released(&mut self) -> Option<Answer> {
        let message = self.stay.as_ref()?.released(self.id).await?;
        self.is_released = true;
        self.ending.altered("released");
        Some(Answer::given(message))
    }

    /// Finds out what of `message` may be shown at all.
    ///
    /// # Errors
    /// [`Failure::Limit`] if it cannot be found out; nothing of it may be shown then.
    pub async fn vet(&mut self, message: &Message) -> Result<Vetted, Failure> {
        self.responses.pass(self.server.name(), &self.asker.caller)?;
        self.pass_tool()?;
        match self.pass_task(message) {
            Ok(()) => {}
            // Whoever listens goes on hearing of other tasks.
            Err(_) if message.kind() == Kind::Notification => {
                return Ok(Vetted { drops: true, ..Vetted::default() });
            }
            // A question for another tool's task is refused where it is put, which this call must not pay for.
            Err(_) if message.kind() == Kind::Request => {}
            Err(failure) => return Err(failure),
        }
        let mut vetted = Vetted::default();
        let mut judged = None;
        if message.result().is_some()
            && let Some(kind) = DefinitionKind::listed_by(&self.method)
            && let Some(list) = message.field(kind.member())
        {
            if list.kind() != Json::Array {
                return Err(Failure::Protocol(format!("its `{}` is no list", kind.member())));
            }
            let is_whole = self.is_first_page && message.field("nextCursor").is_none_or(Value::is_null);
            let judging = self.catalog.judge(&self.server, &self.asker.key, kind, list, is_whole).await;
            let list = judging.map_err(|error| {
                tracing::error!(server = %self.server.name(), %error, "a list was withheld");
                Failure::Limit("the approvals of its definitions cannot be read now".into())
            })?;
            vetted.hidden = self.policy.hidden(&self.asker, &self.server, self.era, kind, &list.names);
            if kind == DefinitionKind::Tool {
                vetted.hidden.extend(self.responses.hidden(self.server.name(), &list.names));
            }
            vetted.withheld = list.withheld;
            judged = Some(kind.member());
        }
        if message.result().is_some() && self.method == "server/discover" {
            inspect::has_proper_instructions(message)?;
            // A definition, judged with the pins below.
            judged = Some("instructions");
        }
        if self.is_released {
            let cleaned = inspect::released(&self.shield, &self.server, message, &mut self.ending)?;
            if let Passed::Changed(cleaned) = cleaned {
                vetted.changed = Some(*cleaned);
            }
        } else {
            let documents = if self.server.settings().inspects {
                self.reading.of(self.server.name(), message, &self.readers).await?
            } else {
                Arc::default()
            };
            let found = self.second_opinions(message, judged, &documents).await?;
            self.reading = Reading::Fresh;
            let known = Known {
                judged,
                found: &found,
                documents: Some(&documents),
                is_compared: self.contract.is_some(),
            };
            let inspected = self.inspected(message, known);
            match (inspected, &self.stay) {
                (Ok(Passed::AsItIs), _) => {}
                (Ok(Passed::Changed(changed)), _) => vetted.changed = Some(*changed),
                (Ok(Passed::Dropped), _) => vetted.drops = true,
                (Err(failure), Some(stay)) => {
                    return Err(stay.keep(message, failure, &self.policy).await);
                }
                (Err(failure), None) => return Err(failure),
            }
        }
        if let Some(contract) = &self.contract {
            let shown = vetted.changed.as_ref().unwrap_or(message);
            if let Err(failure) = contract::result(contract, &self.server, shown) {
                self.ending.broke_promise();
                return Err(failure);
            }
            if contract::contradicts(shown) {
                self.ending.contradicted_itself();
            }
        }
        if let Err(failure) = self.vet_task(vetted.changed.as_ref().unwrap_or(message)) {
            self.ending.broke_promise();
            return Err(failure);
        }
        self.vet_named_task(message)?;
        self.remember_task(message)?;
        if self.method == "server/discover"
            && let Some(text) = message.field("instructions").and_then(Value::as_str)
        {
            vetted.hides_instructions =
                !self.catalog.shows_instructions(&self.server, &self.asker.key, &text).await;
        }
        Ok(vetted)
    }

    /// Judges `message`. What its client is not shown stands between nothing that it reads, so it is not remembered.
    fn inspected(&mut self, message: &Message, known: Known<'_>) -> Result<Passed, Failure> {
        let before = self.inspector.clone();
        let inspected = inspect::answer(
            &self.shield,
            &mut self.inspector,
            &self.server,
            message,
            known,
            self.entropy.as_ref(),
            &mut self.ending,
        );
        if self.drops(message) || matches!(inspected, Ok(Passed::Dropped)) {
            self.inspector = before;
        }
        inspected
    }

    /// What others find in `message`, `but` for one member. Dropping the future loses nothing: they go on being asked.
    async fn second_opinions(
        &mut self,
        message: &Message,
        but: Option<&str>,
        documents: &Read,
    ) -> Result<Vec<Finding>, Failure> {
        if self.server.settings().second_opinions.is_empty() {
            return Ok(Vec::new());
        }
        let asking = match &mut self.asking {
            Some(asking) => asking,
            None => {
                let text = inspect::said_words(message, but, documents)?;
                let (shield, server) = (Arc::clone(&self.shield), Arc::clone(&self.server));
                self.asking.insert(tokio::spawn(async move {
                    opinions::ask(&shield, &server.settings().second_opinions, &text).await
                }))
            }
        };
        let found = asking.await;
        self.asking = None;
        found.map_err(|_| Failure::Limit("the second opinions on its answer were lost".into()))
    }
}
