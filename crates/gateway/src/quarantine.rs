//! Answers that are kept for a person, and given once to whoever asked when that person releases them (attacks.md
//! II-03).
//!
//! Only where the operator chose `quarantine` for something in `[shield]`: nobody else's calls ask the store.

use std::sync::Arc;

use bartizan_mcp::{
    Message,
    json::{Value, quote},
    message,
};
use bartizan_model::Clock;
use bartizan_store::{
    Digest,
    quarantine::{Binding, Quarantine, QuarantineError, Suspect},
};

use crate::{Asker, permit::Policy, server::Server, upstream::Failure};

/// Where suspect answers wait.
pub struct Ward {
    kept: Arc<dyn Quarantine>,
    clock: Arc<dyn Clock>,
}

/// Whose request it is, as the ward knows it.
pub struct Stay {
    ward: Arc<Ward>,
    binding: Binding,
    method: String,
    name: String,
}

impl Ward {
    /// A ward whose answers `kept` keeps.
    pub fn new(kept: Arc<dyn Quarantine>, clock: Arc<dyn Clock>) -> Self {
        Self { kept, clock }
    }

    /// What is kept.
    pub fn kept(&self) -> &dyn Quarantine {
        self.kept.as_ref()
    }

    /// The stay of a request's answer; `digest` is of its method and parameters.
    pub fn stay(
        self: &Arc<Self>,
        asker: &Asker,
        server: &Server,
        request: &Message,
        digest: [u8; 32],
    ) -> Stay {
        let text = |name| request.param(name).and_then(Value::as_str);
        let caller = asker.caller.as_ref().clone();
        Stay {
            ward: Arc::clone(self),
            binding: Binding { caller, server: server.name().clone(), request: Digest(digest) },
            method: request.method().into_owned(),
            name: text("name").or_else(|| text("uri")).unwrap_or_default().into_owned(),
        }
    }
}

impl Stay {
    /// The released answer to this request as a response to `id`, once. If the store cannot say, the server is asked.
    pub async fn released(&self, id: u64) -> Option<Message> {
        let redeemed = self.ward.kept.redeem(&self.binding, self.ward.clock.now()).await;
        let (item, result) = redeemed
            .inspect_err(|error| tracing::error!(%error, "released answers cannot be read"))
            .ok()
            .flatten()?;
        tracing::info!(server = %item.binding.server, id = item.id, by = item.decided_by, "a released answer was given");
        Message::from_spliced(message::result(&id.to_string(), &result)).ok()
    }

    /// Keeps an answer that `failure` withholds for a person, and says so in what the caller reads: `policy` knows where people
    /// decide about it.
    pub async fn keep(&self, answer: &Message, failure: Failure, policy: &Policy) -> Failure {
        let Failure::Withheld { words, data, suspect: Some(found) } = failure else { return failure };
        let Some(result) = answer.result() else { return Failure::Withheld { words, data, suspect: None } };
        let suspect = Suspect {
            binding: self.binding.clone(),
            method: &self.method,
            name: &self.name,
            found: &found,
            result: result.text(),
        };
        let kept = self.ward.kept.keep(&suspect, self.ward.clock.now()).await;
        let page = kept.as_ref().ok().and_then(|item| policy.page(&format!("/quarantine/{}", item.id)));
        let (more, id) = match &kept {
            Ok(item) => {
                let page = page.as_ref().map_or(String::new(), |page| format!("{page} or "));
                let place = format!("{page}{}", policy.command("quarantine show", &item.id));
                (format!("an approver can look at it and release it: {place}"), item.id.as_str())
            }
            Err(error @ (QuarantineError::Full | QuarantineError::TooLong)) => {
                (format!("it was not kept: {error}"), "")
            }
            Err(error) => {
                tracing::error!(%error, "a withheld answer was not kept");
                ("it could not be kept".to_owned(), "")
            }
        };
        let data = match (id, data.strip_suffix('}')) {
            ("", _) | (_, None) => data,
            (id, Some(open)) => {
                let url = page.map_or(String::new(), |page| format!(r#","url":{}"#, quote(&page)));
                format!(r#"{open},"quarantine":"{id}"{url}}}"#)
            }
        };
        Failure::Withheld { words: format!("{words}; {more}"), data, suspect: None }
    }
}
