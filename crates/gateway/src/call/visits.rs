//! Questions of the gate's own to a modern client: pages where a person can lift what keeps a request from its server.

use bartizan_mcp::{
    Era, Message, Refusal, era,
    json::{Kind as Json, Value, quote},
    message,
};

use super::Call;
use crate::{permit::Question, upstream::Failure};

/// What the keys of the gate's own questions begin with. No server may use them.
const OURS: &str = "bartizan/";
/// The key of the question to link an account.
const CONNECT: &str = "bartizan/connect";
/// The keys of the questions to visit a page where somebody decides begin with this.
const VISIT: &str = "bartizan/visit";

impl Call {
    /// An error of ours in the place of the response.
    ///
    /// To a client that can show a URL, an account that is not linked is a URL to show before it asks again (spec.md C-66,
    /// A-90).
    pub fn failed(&self, failure: &Failure) -> (u16, String) {
        let refusal = failure.refusal(self.server.name().as_str());
        if let Failure::NeedsLinking(url) = failure
            && self.shows_urls()
        {
            return (
                200,
                to_be_shown(&self.client_id, [(CONNECT.to_owned(), url.as_str())], &refusal.message),
            );
        }
        // Legacy clients take other statuses for the end of the session (spec.md B-28).
        let refusal = refusal.as_answer(&self.method);
        let status = if self.era == Era::Legacy { 200 } else { refusal.status };
        (status, refusal.to_text(Some(&self.client_id)))
    }

    /// Whether the client said on this request that it can show a URL, where it may be asked to.
    fn shows_urls(&self) -> bool {
        self.era == Era::Modern && era::may_need_input(&self.method) && self.declares(&["elicitation", "url"])
    }
}

/// Whether the key of a question says that the gate asks it itself.
pub(super) fn is_ours(key: &str) -> bool {
    key.starts_with(OURS)
}

/// What a client answers to a server's questions in a modern request: not what it answers to ours. `None` if there is nothing.
pub fn answers_to_server(request: &Message) -> Option<Vec<(String, &str)>> {
    let answers = request.param("inputResponses")?;
    if answers.kind() != Json::Object {
        // Whatever it is, the server gets it.
        return Some(vec![(String::new(), answers.text())]);
    }
    let answers = answers.members().filter(|answer| !is_ours(&answer.key()));
    let answers: Vec<_> = answers.map(|answer| (answer.key().into_owned(), answer.value.text())).collect();
    (!answers.is_empty()).then_some(answers)
}

/// The refusal of a modern request in the words of its client: one that can show a URL is asked to show the pages where
/// somebody can lift it (26/elicitation). What the client answers means nothing; that it asks again does. It is asked once: a
/// client that comes back from there too early gets the error.
pub fn asked_to_visit(request: &Message, refusal: &Refusal) -> Option<String> {
    let url_mode = Value::of(r#"{"mode":"url"}"#);
    let declared = request.meta(era::META_CAPABILITIES)?;
    let has_been = request
        .param("inputResponses")
        .is_some_and(|answers| answers.members().any(|answer| answer.key().starts_with(VISIT)));
    if refusal.visits.is_empty()
        || has_been
        || !era::may_need_input(&request.method())
        || !Question::Elicitation.is_declared(declared, Some(url_mode))
    {
        return None;
    }
    let places = (1..).zip(&refusal.visits).map(|(nth, url)| (format!("{VISIT}-{nth}"), url.as_str()));
    Some(to_be_shown(request.id_value()?.text(), places, &refusal.message))
}

/// The answer to the request `id` that has its client show these URLs, each under its key.
fn to_be_shown<'u>(id: &str, places: impl IntoIterator<Item = (String, &'u str)>, words: &str) -> String {
    let words = quote(words);
    let questions = places.into_iter().map(|(key, url)| {
        let url = quote(url);
        format!(
            r#"{}:{{"method":"elicitation/create","params":{{"mode":"url","url":{url},"message":{words}}}}}"#,
            quote(&key)
        )
    });
    let questions = questions.collect::<Vec<_>>().join(",");
    message::result(id, &format!(r#"{{"resultType":"input_required","inputRequests":{{{questions}}}}}"#))
}
