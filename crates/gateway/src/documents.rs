//! Documents in answers: what travels as bytes is read for judging, and what cannot be read is found (attacks.md II-07).
//!
//! Plain text is read here. What takes a parser is read by [`Readers`], processes that can do nothing else.

mod readers;
mod turns;

use std::{
    borrow::Cow,
    sync::{Arc, LazyLock},
};

use bartizan_mcp::{
    Message,
    json::{Kind as Json, Value},
};
use bartizan_model::ServerName;
use bartizan_shield::{
    Finding, Fragment, Kind, Role,
    document::{self, Hidden, Limits, Unread, Words},
};
use base64::{
    Engine,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use memchr::memmem::Finder;
use tokio::time::Instant;

pub use readers::Readers;

use crate::{
    inspect::on_any_thread,
    limits::{MESSAGE_DOCUMENTS, READING_WAIT},
    upstream::Failure,
};

/// One document of a message.
#[derive(Debug)]
struct Document {
    /// Where it stands.
    at: String,
    media_type: String,
    /// None if it is not what it should be.
    bytes: Option<Vec<u8>>,
}

/// What was read of the documents of one message.
#[derive(Debug, Default)]
pub struct Read(Vec<(String, Words)>);

impl Read {
    /// Adds the words of every document to `fragments`; answers what else there is to say of them.
    pub fn add_to<'r>(&'r self, kind: Kind, fragments: &mut Vec<Fragment<'r>>) -> Vec<Finding> {
        let mut found = Vec::new();
        for (at, words) in &self.0 {
            found.extend(words.unread.map(|why| why.finding(kind, at.clone())));
            let mut reasons: Vec<Hidden> = words.parts.iter().filter_map(|part| part.hidden).collect();
            reasons.sort_unstable();
            reasons.dedup();
            found.extend(reasons.into_iter().map(|why| why.finding(kind, at.clone())));
            fragments.extend(words.parts.iter().map(|part| {
                let mut fragment = Fragment::new(kind, format!("{at}{}", part.name), part.text.as_str());
                // Whoever scans a page sees its words.
                if part.hidden.is_some_and(|why| why != Hidden::Scanned) {
                    fragment.role = Role::Hidden;
                }
                fragment
            }));
        }
        found
    }
}

/// What is known of the documents of the message that is being judged. Dropping a future loses nothing: they go on being
/// read.
#[derive(Debug, Default)]
pub enum Reading {
    /// Nobody looked.
    #[default]
    Fresh,
    /// They are being read.
    Begun(tokio::task::JoinHandle<Read>),
    /// They were read.
    Done(Arc<Read>),
}

impl Reading {
    /// What is in the documents of `message` of `server`, read once by `readers`.
    ///
    /// # Errors
    /// [`Failure::Limit`] if the reading was lost.
    pub async fn of(
        &mut self,
        server: &ServerName,
        message: &Message,
        readers: &Arc<Readers>,
    ) -> Result<Arc<Read>, Failure> {
        if matches!(self, Self::Fresh) {
            let documents = on_any_thread(message.text().len(), || documents(message));
            *self = if documents.is_empty() {
                Self::Done(Arc::default())
            } else {
                let (server, readers) = (server.clone(), Arc::clone(readers));
                Self::Begun(tokio::spawn(async move { read(&server, documents, &readers).await }))
            };
        }
        if let Self::Begun(task) = self {
            match task.await {
                Ok(read) => *self = Self::Done(Arc::new(read)),
                Err(_) => {
                    *self = Self::Fresh;
                    return Err(Failure::Limit("the documents in its answer were lost".into()));
                }
            }
        }
        match self {
            Self::Done(read) => Ok(Arc::clone(read)),
            Self::Fresh | Self::Begun(_) => {
                Err(Failure::Limit("the documents in its answer were lost".into()))
            }
        }
    }
}

/// What of the documents of `message` takes no reader, and that nobody read the others; for messages that have no business to carry
/// any.
pub fn unread(message: &Message) -> Read {
    let words = |document: Document| {
        let words = match document.bytes {
            None => Words::unread(Unread::Damaged),
            Some(bytes) => document::plain(&bytes, &document.media_type, Limits::default())
                .unwrap_or_else(|| Words::unread(Unread::Kind)),
        };
        (document.at, words)
    };
    Read(documents(message).into_iter().map(words).collect())
}

/// The documents of `message`.
fn documents(message: &Message) -> Vec<Document> {
    let mut found = Vec::new();
    for (at, resource) in resources(message) {
        let media_type = resource.get("mimeType").and_then(Value::as_str).unwrap_or_default();
        // Pictures and sound are `data`, or are said to be.
        for key in ["blob", "data"] {
            if let Some(packed) = resource.get(key).and_then(Value::as_str) {
                let (at, media_type) = (format!("{at}/{key}"), media_type.clone().into_owned());
                found.push(Document { at, media_type, bytes: unpacked(&packed) });
            }
        }
        if let Some(text) = resource.get("text").and_then(Value::as_str).filter(|_| is_mail(&media_type)) {
            let (at, bytes) = (format!("{at}/text"), Some(text.as_bytes().to_vec()));
            found.push(Document { at, media_type: media_type.into_owned(), bytes });
        }
    }
    found
}

const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const PLAIN: GeneralPurpose = GeneralPurpose::new(&STANDARD, LENIENT);
const OF_URLS: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, LENIENT);

/// The bytes of Base64 as clients read it: in lines, in the alphabet of addresses, with its end or without.
fn unpacked(text: &str) -> Option<Vec<u8>> {
    let is_blank = |c: char| c.is_ascii_whitespace();
    let digits: Cow<'_, str> =
        if text.contains(is_blank) { text.replace(is_blank, "").into() } else { text.into() };
    let engine = if digits.contains(['-', '_']) { &OF_URLS } else { &PLAIN };
    engine.decode(digits.as_bytes()).ok()
}

/// Members that hold no resources of the protocol: structure is its tool's own.
const NO_RESOURCES: [&str; 4] = ["_meta", "inputSchema", "outputSchema", "structuredContent"];

/// What of the members of a resource stands in every text that holds one, however they are written.
static SIGNS: LazyLock<[Finder<'static>; 4]> =
    LazyLock::new(|| [r#""blob""#, r#""mimeType""#, r#""uri""#, r"\u"].map(Finder::new));

/// Everything that a server's `message` may embed, each with its place: what holds a `blob`, `data` beside a media type, or a `text`
/// beside a media type or an address. In results it stands in `contents` and `content`, in prompts in messages, and in what is told
/// of a task one result further in.
pub fn resources(message: &Message) -> Vec<(String, Value<'_>)> {
    let mut found = Vec::new();
    // Most messages name none of these, and every level of one that does is walked.
    let may_embed = |body: &Value<'_>| SIGNS.iter().any(|sign| sign.find(body.text().as_bytes()).is_some());
    if let Some(body) = message.result().or(message.params()).filter(may_embed) {
        embedded(body, String::new(), &mut found);
    }
    found
}

fn embedded<'m>(value: Value<'m>, at: String, to: &mut Vec<(String, Value<'m>)>) {
    match value.kind() {
        Json::Object => {
            let (mut blob, mut data, mut text, mut typed, mut named) = (false, false, false, false, false);
            let mut inside = Vec::new();
            // Once: to ask for a member is to walk over those before it.
            for member in value.members() {
                match member.value.kind() {
                    Json::String if member.is("blob") => blob = true,
                    Json::String if member.is("data") => data = true,
                    Json::String if member.is("text") => text = true,
                    Json::String if member.is("mimeType") => typed = true,
                    Json::String if member.is("uri") => named = true,
                    Json::Array | Json::Object if !NO_RESOURCES.iter().any(|name| member.is(name)) => {
                        inside.push(member);
                    }
                    _ => {}
                }
            }
            if blob || data && typed || text && (typed || named) {
                to.push((at.clone(), value));
            }
            for member in inside {
                // As in a JSON pointer (RFC 6901).
                let key = member.key().replace('~', "~0").replace('/', "~1");
                embedded(member.value, format!("{at}/{key}"), to);
            }
        }
        Json::Array => {
            let inside = value.elements().enumerate();
            let inside = inside.filter(|(_, value)| matches!(value.kind(), Json::Array | Json::Object));
            inside.for_each(|(nth, value)| embedded(value, format!("{at}/{nth}"), to));
        }
        _ => {}
    }
}

/// Mail is text whose words are in other words.
fn is_mail(media_type: &str) -> bool {
    media_type.trim_start().get(..8).is_some_and(|kind| kind.eq_ignore_ascii_case("message/"))
}

/// Reads the documents of one message of `server`. All of them have one deadline, and there are only so many that take a
/// reader: the others are said to be unread.
async fn read(server: &ServerName, documents: Vec<Document>, readers: &Readers) -> Read {
    let (limits, deadline) = (Limits::default(), Instant::now() + READING_WAIT);
    let mut left = MESSAGE_DOCUMENTS;
    let mut read = Vec::with_capacity(documents.len());
    for Document { at, media_type, bytes } in documents {
        let words = match bytes {
            None => Words::unread(Unread::Damaged),
            Some(bytes) => match document::plain(&bytes, &media_type, limits) {
                Some(words) => words,
                None if left == 0 => Words::unread(Unread::TooMuch),
                None => {
                    left -= 1;
                    readers.read(server, bytes, media_type, limits, deadline).await
                }
            },
        };
        read.push((at, words));
    }
    Read(read)
}
