//! Talking to servers: one conversation per [`http`] session or [`stdio`] process, one [`Answer`] per request.

pub mod http;
pub mod scrub;
pub mod stdio;
pub mod under_way;

use std::{collections::VecDeque, future::Future, pin::Pin};

use bartizan_audit::EventId;
use bartizan_mcp::{Message, Refusal, code, json::quote};
use bartizan_oauth::StepUp;

pub use under_way::Within;

/// Why a server gave no answer that can be passed on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nothing was sent, or nothing of it can have been acted upon.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// The request went out and its answer never came; it may have been acted upon (spec.md C-14).
    #[error("it went away before it answered: {0}")]
    Lost(String),
    /// No answer in time.
    #[error("it did not answer within {0} seconds")]
    Timeout(u64),
    /// An answer the protocol does not allow.
    #[error("its answer breaks the protocol: {0}")]
    Protocol(String),
    /// It refused our own credential; its challenge stays here (spec.md C-66).
    #[error("it refused the gateway's credential (HTTP {0})")]
    Unauthorized(u16),
    /// There is nothing to show it; why is in the log.
    #[error("the gateway's credential for it cannot be had")]
    NoCredential,
    /// The caller has to link an account of theirs at this address of ours (spec.md C-66, A-97).
    #[error("link your account there first, by opening {0} in a browser")]
    NeedsLinking(String),
    /// The caller has to sign in again, for where they signed in wants to see them before it lets the gateway act for them.
    #[error("sign in again, so that the gateway may act for you there")]
    StepUp(StepUp),
    /// Its credential is not for this caller.
    #[error("{0}")]
    NotForCaller(&'static str),
    /// An HTTP status without a JSON-RPC body.
    #[error("it answered HTTP {0}")]
    Status(u16),
    /// It no longer knows the session (spec.md C-26).
    #[error("it lost the session, which has been opened anew; the request was not repeated")]
    SessionGone,
    /// The shield does not let it pass.
    #[error("{words}")]
    Withheld {
        /// What was found, in the rules' words.
        words: String,
        /// `error.data`, a JSON text.
        data: String,
        /// The rules for which it is to be kept until a person has looked.
        suspect: Option<String>,
    },
    /// It asked the client for something that it may not ask for.
    #[error("it asked by `{method}`: {}", .refusal.message)]
    Question {
        /// The question's method.
        method: String,
        /// Why it was not put.
        refusal: Box<Refusal>,
    },
    /// A limit of ours.
    #[error("{0}")]
    Limit(String),
}

impl Failure {
    /// Whether it says something of one caller: another may fare otherwise.
    pub fn is_of_caller(&self) -> bool {
        match self {
            Self::Unauthorized(_)
            | Self::NoCredential
            | Self::NeedsLinking(_)
            | Self::StepUp(_)
            | Self::NotForCaller(_) => true,
            Self::Unreachable(_)
            | Self::Lost(_)
            | Self::Timeout(_)
            | Self::Protocol(_)
            | Self::Status(_)
            | Self::SessionGone
            | Self::Withheld { .. }
            | Self::Question { .. }
            | Self::Limit(_) => false,
        }
    }

    /// As the client will read it: an error of the gateway's own, never mistaken for the server's (spec.md A-47).
    pub fn refusal(&self, server: &str) -> Refusal {
        let (status, code, reason) = match self {
            Self::Unreachable(_) => (502, code::UPSTREAM_UNAVAILABLE, "upstream_unreachable"),
            Self::Lost(_) => (502, code::UPSTREAM_UNAVAILABLE, "upstream_lost"),
            Self::Timeout(_) => (504, code::UPSTREAM_TIMEOUT, "upstream_timeout"),
            Self::Protocol(_) => (502, code::UPSTREAM_PROTOCOL, "upstream_protocol"),
            Self::Unauthorized(_) => (502, code::UPSTREAM_UNAVAILABLE, "upstream_unauthorized"),
            Self::NoCredential => (502, code::UPSTREAM_UNAVAILABLE, "upstream_credential"),
            Self::NeedsLinking(url) => {
                let text = format!("the server `{server}` needs your own account: {self}");
                return Refusal::new(403, code::NEEDS_LINKING, text).with_data(format!(
                    r#"{{"source":"bartizan","reason":"needs_linking","server":{},"url":{}}}"#,
                    quote(server),
                    quote(url)
                ));
            }
            Self::StepUp(_) => (401, code::UNAUTHENTICATED, "step_up"),
            Self::NotForCaller(_) => (403, code::FORBIDDEN, "upstream_not_for_caller"),
            Self::Status(_) => (502, code::UPSTREAM_UNAVAILABLE, "upstream_status"),
            Self::SessionGone => (502, code::UPSTREAM_RESTARTED, "upstream_session_gone"),
            Self::Withheld { words, data, .. } => {
                let text = format!("the answer of the server `{server}` was withheld: {words}");
                return Refusal::new(403, code::WITHHELD, text).with_data(data.clone());
            }
            Self::Question { .. } => (403, code::FORBIDDEN, "policy.question"),
            Self::Limit(_) => (503, code::LIMIT, "limit"),
        };
        Refusal::new(status, code, format!("the server `{server}` gave no answer: {self}"))
            .with_data(format!(r#"{{"source":"bartizan","reason":"{reason}","server":{}}}"#, quote(server)))
    }
}

/// What comes back on a request's way.
#[derive(Debug)]
pub enum Item {
    /// A message: a notification, a server's request, or the response.
    Message(Message),
    /// The server closed the stream on purpose and asks to be called again (spec.md B-14); `retry` in milliseconds.
    Interrupted {
        /// How long it asks to wait.
        retry: Option<u64>,
    },
}

/// The answer to one request, as it arrives.
pub struct Answer {
    source: Source,
    /// The HTTP status it came with; 200 where there is no HTTP.
    pub status: u16,
}

type Sending = Pin<Box<dyn Future<Output = Result<http::Posted, Failure>> + Send>>;

enum Source {
    /// An HTTP request whose answer has not begun.
    Sending(Sending),
    /// A whole body.
    Whole(VecDeque<Message>),
    /// An event stream.
    Events(Box<http::Events>),
    /// A stdio process.
    Pipe(stdio::Pipe),
}

impl Answer {
    /// The answer to an HTTP request that is being sent.
    pub fn sending(future: impl Future<Output = Result<http::Posted, Failure>> + Send + 'static) -> Self {
        Self { source: Source::Sending(Box::pin(future)), status: 200 }
    }

    /// The answer from a process.
    pub fn pipe(pipe: stdio::Pipe) -> Self {
        Self { source: Source::Pipe(pipe), status: 200 }
    }

    /// An answer that is here already.
    pub fn given(message: Message) -> Self {
        Self { source: Source::Whole([message].into()), status: 200 }
    }

    /// The answer to what is not asked, since the client has taken it back.
    pub fn nothing() -> Self {
        Self { source: Source::Whole(VecDeque::new()), status: 200 }
    }

    /// What words belong to that come on the way of the request of `call`: it is a guess where a process, which says nothing of
    /// that, has several under way.
    pub fn within(&self, call: Option<EventId>) -> Within {
        match &self.source {
            Source::Pipe(pipe) => Some(pipe.within()).filter(|within| !within.calls.is_empty()),
            Source::Sending(_) | Source::Whole(_) | Source::Events(_) => None,
        }
        .unwrap_or_else(|| Within::call(call))
    }

    /// Whether an HTTP server answered by an event stream.
    pub fn is_stream(&self) -> bool {
        matches!(self.source, Source::Events(_))
    }

    /// The next item; `None` after the last. Dropping the future loses nothing; dropping the answer gives it up.
    ///
    /// # Errors
    /// [`Failure`]; nothing comes after it.
    pub async fn next(&mut self) -> Result<Option<Item>, Failure> {
        loop {
            match &mut self.source {
                Source::Sending(future) => {
                    let posted = future.await?;
                    self.source = match posted {
                        http::Posted::Accepted => Source::Whole(VecDeque::new()),
                        http::Posted::Whole { status, messages } => {
                            self.status = status;
                            Source::Whole(messages.into())
                        }
                        http::Posted::Events(events) => Source::Events(events),
                    };
                }
                Source::Whole(messages) => return Ok(messages.pop_front().map(Item::Message)),
                Source::Events(events) => return events.next().await,
                Source::Pipe(pipe) => return pipe.next().await,
            }
        }
    }
}
