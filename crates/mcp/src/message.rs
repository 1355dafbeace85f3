//! One JSON-RPC message, read once and kept as it was written.

use std::ops::Range;

use crate::{
    code,
    json::{self, Kind as Json, Limits, Member, Outline, OutlineMember, Outlined, Value, quote},
    names,
    splice::Splice,
};

/// The longest id that is believed, in bytes as written.
const LONGEST_ID: usize = 1024;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `method` and `id`
    Request,
    /// `method`, no `id`
    Notification,
    /// `result` or `error`
    Response,
}

/// A JSON-RPC 2.0 message that passed every check that does not depend on who sent it.
///
/// Holds the text as it came; readers borrow from it, writers make a new text by [`Splice`].
#[derive(Clone, Debug)]
pub struct Message {
    text: String,
    kind: Kind,
    id: Option<Range<usize>>,
    method: Option<Range<usize>>,
    params: Option<Range<usize>>,
    outcome: Option<(bool, Range<usize>)>,
    /// Key (between its quotes) and value of each member of `params` or `result`.
    fields: Vec<(Range<usize>, Range<usize>)>,
    /// Key and value of each member of the message that is none of JSON-RPC's.
    beside: Vec<(String, Range<usize>)>,
}

/// Why a text is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The text is not strictly JSON ([`code::PARSE_ERROR`]).
    #[error("{0}")]
    Json(#[from] json::Fault),
    /// JSON, but not one message ([`code::INVALID_REQUEST`]).
    #[error("{0}")]
    Shape(&'static str),
    /// An array where the revision has no batches ([`code::INVALID_REQUEST`], attacks.md PH-13).
    #[error("batches are only part of revision 2025-03-26; send one message at a time")]
    Batch,
    /// A known method with parameters that cannot be its own ([`code::INVALID_PARAMS`]).
    #[error("{0}")]
    Params(&'static str),
}

impl Fault {
    /// The JSON-RPC error code that names it.
    pub fn code(&self) -> i32 {
        match self {
            Self::Json(json::Fault::DuplicateKey(_)) | Self::Shape(_) | Self::Batch => code::INVALID_REQUEST,
            Self::Json(_) => code::PARSE_ERROR,
            Self::Params(_) => code::INVALID_PARAMS,
        }
    }
}

/// A request id as written, with its JSON type: `7` and `"7"` differ.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Id(String);

impl Id {
    /// The id as a JSON text.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// An id for table look-ups: the same whatever escapes a string was written with.
    pub fn of(value: Value<'_>) -> Self {
        Self(match value.as_str() {
            Some(text) => quote(&text),
            None => value.text().to_owned(),
        })
    }
}

impl From<u64> for Id {
    fn from(number: u64) -> Self {
        Self(number.to_string())
    }
}

impl Message {
    /// Reads one message.
    ///
    /// # Errors
    /// A [`Fault`] if `bytes` is not strict JSON, is a batch, or is no JSON-RPC 2.0 message (spec.md A-06…A-08;
    /// attacks.md PH-03, PH-05, PH-12, PH-15).
    pub fn parse(bytes: Vec<u8>) -> Result<Self, Fault> {
        let Outlined { outline, is_odd } = json::check_outlined(&bytes, Limits::default())?;
        // The check proved UTF-8; the fallback keeps the code total.
        let text = String::from_utf8(bytes).map_err(|_| Fault::Shape("the message is not UTF-8"))?;
        Self::of_checked(text, outline, is_odd)
    }

    /// Reads a message or, from a 2025-03-26 peer, a batch of them (0326/base; spec.md B-10, C-31).
    ///
    /// # Errors
    /// As [`Message::parse`]; also an empty batch and batches within batches.
    pub fn parse_batch(bytes: Vec<u8>) -> Result<Vec<Self>, Fault> {
        let Outlined { outline, is_odd } = json::check_outlined(&bytes, Limits::default())?;
        let text = String::from_utf8(bytes).map_err(|_| Fault::Shape("the message is not UTF-8"))?;
        let root = Value::of_checked(&text);
        if root.kind() != Json::Array {
            return Ok(vec![Self::of_checked(text, outline, is_odd)?]);
        }
        let batch: Vec<_> = root
            .elements()
            .map(|e| Self::of_checked(e.text().to_owned(), None, is_odd))
            .collect::<Result<_, _>>()?;
        if batch.is_empty() { Err(Fault::Shape("the batch is empty")) } else { Ok(batch) }
    }

    /// `is_odd`: some key in it may only look like a name of the protocol.
    fn of_checked(text: String, outline: Option<Outline>, is_odd: bool) -> Result<Self, Fault> {
        let outline = outline.unwrap_or_else(|| walk(&text));
        let root = Value::of_checked(&text);
        match root.kind() {
            Json::Object => {}
            Json::Array => return Err(Fault::Batch),
            _ => return Err(Fault::Shape("a message is a JSON object")),
        }
        if is_odd && names::has_look_alike(root) {
            return Err(Fault::Shape("a key differs from one of the protocol's only in letter case"));
        }
        let (mut version, mut id, mut method, mut params, mut result, mut error) =
            (None, None, None, None, None, None);
        let mut beside = Vec::new();
        for member in members_at(&outline, &text, 1, 0..text.len()) {
            let key = member.key();
            match key.as_ref() {
                "jsonrpc" => version = Some(member.value),
                "id" => id = Some(member.value),
                "method" => method = Some(member.value),
                "params" => params = Some(member.value),
                "result" => result = Some(member.value),
                "error" => error = Some(member.value),
                _ => beside.push((key.into_owned(), member.value.span_in(&text))),
            }
        }
        if version.and_then(Value::as_str).as_deref() != Some("2.0") {
            return Err(Fault::Shape("`jsonrpc` must be \"2.0\""));
        }
        let kind = match (method, result, error) {
            (Some(method), None, None) => {
                let name = method.as_str().ok_or(Fault::Shape("`method` must be a string"))?;
                if name.is_empty() || name.chars().any(char::is_control) || name.len() > LONGEST_ID {
                    return Err(Fault::Shape("`method` is not a method name"));
                }
                match params {
                    Some(params) if params.kind() != Json::Object => {
                        return Err(Fault::Shape("`params` must be an object"));
                    }
                    Some(params) => {
                        check_params(members_at(&outline, &text, 2, params.span_in(&text)))?;
                    }
                    None => {}
                }
                if id.is_some() { Kind::Request } else { Kind::Notification }
            }
            (None, Some(_), None) => Kind::Response,
            (None, None, Some(error)) => {
                let is_error = error.get("code").is_some_and(Value::is_integer)
                    && error.get("message").is_some_and(|m| m.kind() == Json::String);
                if !is_error {
                    return Err(Fault::Shape("`error` must hold an integer `code` and a string `message`"));
                }
                Kind::Response
            }
            _ => return Err(Fault::Shape("a message has exactly one of `method`, `result` and `error`")),
        };
        if kind == Kind::Response && params.is_some() {
            // Readers would differ about which of the two the message is about.
            return Err(Fault::Shape("a response has no `params`"));
        }
        match id {
            Some(id) => check_id(id, error.is_some())?,
            None if kind == Kind::Response && error.is_none() => {
                return Err(Fault::Shape("a result needs an `id`"));
            }
            None => {}
        }
        let span = |value: Option<Value<'_>>| value.map(|v| v.span_in(&text));
        let (id, method, params) = (span(id.filter(|id| !id.is_null())), span(method), span(params));
        let outcome = span(result).map(|at| (true, at)).or(span(error).map(|at| (false, at)));
        let fields = match params.as_ref().or(outcome.as_ref().filter(|(ok, _)| *ok).map(|(_, at)| at)) {
            Some(holder) => outline
                .members
                .into_iter()
                .filter(|m| m.depth == 2 && holder.contains(&m.key.start))
                .map(|m| (m.key, m.value))
                .collect(),
            None => Vec::new(),
        };
        Ok(Self { kind, id, method, params, outcome, fields, beside, text })
    }

    fn piece(&self, span: Option<&Range<usize>>) -> Option<Value<'_>> {
        self.text.get(span?.clone()).map(Value::of_checked)
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The text as it came.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text as it came, without a copy.
    pub fn into_text(self) -> String {
        self.text
    }

    /// The whole message as a JSON value.
    pub fn root(&self) -> Value<'_> {
        Value::of_checked(&self.text)
    }

    /// `id`, if there is one and it is not null.
    pub fn id_value(&self) -> Option<Value<'_>> {
        self.piece(self.id.as_ref())
    }

    /// `id` for table look-ups.
    pub fn id(&self) -> Option<Id> {
        self.id_value().map(Id::of)
    }

    /// `method`; empty for a response.
    pub fn method(&self) -> std::borrow::Cow<'_, str> {
        self.piece(self.method.as_ref()).and_then(Value::as_str).unwrap_or_default()
    }

    /// `params`.
    pub fn params(&self) -> Option<Value<'_>> {
        self.piece(self.params.as_ref())
    }

    /// The member `name` of `params`.
    pub fn param(&self, name: &str) -> Option<Value<'_>> {
        self.params.as_ref()?;
        self.field(name)
    }

    /// The member `name` of `params` or `result`, whichever there is: found without reading the message again.
    pub fn field(&self, name: &str) -> Option<Value<'_>> {
        self.fields().find(|m| m.is(name)).map(|m| m.value)
    }

    /// The members of `params` or `result`, whichever there is, in order.
    pub fn fields(&self) -> impl Iterator<Item = Member<'_>> {
        self.fields.iter().filter_map(|(key, value)| {
            Some(Member::new(self.text.get(key.clone())?, self.piece(Some(value))?))
        })
    }

    /// Members that JSON-RPC does not know, each by its key: they travel with the message, and some readers see them.
    pub fn beside(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        self.beside.iter().filter_map(|(key, value)| Some((key.as_str(), self.piece(Some(value))?)))
    }

    /// The member `key` of `params._meta`.
    pub fn meta(&self, key: &str) -> Option<Value<'_>> {
        self.param("_meta")?.get(key)
    }

    /// `result`.
    pub fn result(&self) -> Option<Value<'_>> {
        self.outcome.as_ref().filter(|(ok, _)| *ok).and_then(|(_, at)| self.piece(Some(at)))
    }

    /// `error`.
    pub fn error(&self) -> Option<Value<'_>> {
        self.outcome.as_ref().filter(|(ok, _)| !*ok).and_then(|(_, at)| self.piece(Some(at)))
    }

    /// `error.code`, if it fits.
    pub fn error_code(&self) -> Option<i64> {
        self.error()?.get("code")?.as_i64()
    }

    /// A set of changes to this message.
    pub fn splice(&self) -> Splice<'_> {
        Splice::new(&self.text)
    }

    /// The text with `id` replaced (or, where there was none, added).
    pub fn with_id(&self, id: &str) -> String {
        let mut splice = self.splice();
        splice.set(self.root(), "id", id);
        splice.finish()
    }

    /// Reads again a text that was made from a checked one by [`Splice`].
    ///
    /// # Errors
    /// As [`Message::parse`]: what we wrote is held to the same rules.
    pub fn from_spliced(text: String) -> Result<Self, Fault> {
        debug_assert!(json::check(text.as_bytes(), Limits::default()).is_ok(), "a splice made invalid JSON");
        Self::of_checked(text, None, true)
    }
}

/// The outline of a checked text that has none yet.
fn walk(text: &str) -> Outline {
    let mut outline = Outline::default();
    let mut note = |depth, member: Member<'_>| {
        let start = member.raw_key().as_ptr() as usize - text.as_ptr() as usize;
        let key = start..start + member.raw_key().len();
        outline.members.push(OutlineMember { depth, key, value: member.value.span_in(text) });
    };
    for member in Value::of_checked(text).members() {
        member.value.members().for_each(|inner| note(2, inner));
        note(1, member);
    }
    outline
}

/// The members at `depth` that lie inside `within`.
fn members_at<'t>(
    outline: &Outline,
    text: &'t str,
    depth: usize,
    within: Range<usize>,
) -> impl Iterator<Item = Member<'t>> {
    outline.members.iter().filter(move |m| m.depth == depth && within.contains(&m.key.start)).filter_map(
        |m| Some(Member::new(text.get(m.key.clone())?, Value::of_checked(text.get(m.value.clone())?))),
    )
}

fn check_id(id: Value<'_>, is_error: bool) -> Result<(), Fault> {
    match id.kind() {
        Json::String if id.text().len() <= LONGEST_ID => Ok(()),
        Json::Number if id.is_integer() && id.text().len() <= 32 => Ok(()),
        // JSON-RPC 2.0 §5: the error of a request whose id could not be read.
        Json::Null if is_error => Ok(()),
        Json::Null => Err(Fault::Shape("`id` must not be null")),
        Json::String | Json::Number => {
            Err(Fault::Shape("`id` must be an integer or a string of at most 1 KiB"))
        }
        _ => Err(Fault::Shape("`id` must be a string or an integer")),
    }
}

fn check_params<'t>(params: impl Iterator<Item = Member<'t>>) -> Result<(), Fault> {
    for member in params {
        let key = member.key();
        match key.as_ref() {
            "name" | "uri" | "taskId" if member.value.as_str().is_some_and(|s| s.contains('\0')) => {
                return Err(Fault::Params("`params.name`, `uri` and `taskId` must not contain U+0000"));
            }
            "_meta" if member.value.kind() != Json::Object => {
                return Err(Fault::Params("`params._meta` must be an object"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A JSON-RPC error response. `id` is a JSON text; without one the error carries none (spec.md A-08).
pub fn error(id: Option<&str>, code: i32, message: &str, data: Option<&str>) -> String {
    let mut text = String::from(r#"{"jsonrpc":"2.0","#);
    if let Some(id) = id {
        text.push_str("\"id\":");
        text.push_str(id);
        text.push(',');
    }
    text.push_str(&format!(r#""error":{{"code":{code},"message":{}"#, quote(message)));
    if let Some(data) = data {
        text.push_str(",\"data\":");
        text.push_str(data);
    }
    text.push_str("}}");
    text
}

/// A JSON-RPC result response; `id` and `result` are JSON texts.
pub fn result(id: &str, result: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)
}

/// A JSON-RPC request; `id` and `params` are JSON texts.
pub fn request(id: &str, method: &str, params: Option<&str>) -> String {
    let params = params.map(|p| format!(",\"params\":{p}")).unwrap_or_default();
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":{}{params}}}"#, quote(method))
}

/// A JSON-RPC notification; `params` is a JSON text.
pub fn notification(method: &str, params: Option<&str>) -> String {
    let params = params.map(|p| format!(",\"params\":{p}")).unwrap_or_default();
    format!(r#"{{"jsonrpc":"2.0","method":{}{params}}}"#, quote(method))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Message, Fault> {
        Message::parse(text.as_bytes().to_vec())
    }

    #[test]
    fn what_stands_beside_is_known() {
        let message =
            parse(r#"{"note":"a","jsonrpc":"2.0","id":1,"result":{"x":1},"m\u006fre":{"y":[2]}}"#).unwrap();
        let beside: Vec<_> = message.beside().map(|(key, value)| (key, value.text())).collect();
        assert_eq!(beside, [("note", r#""a""#), ("more", r#"{"y":[2]}"#)]);
        assert_eq!(parse(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#).unwrap().beside().count(), 0);
    }

    #[test]
    fn reads_the_three_kinds() {
        let request =
            parse(r#" {"jsonrpc":"2.0","id":"a\u0062","method":"tools/call","params":{"name":"x"}} "#)
                .unwrap();
        assert_eq!(request.kind(), Kind::Request);
        assert_eq!(request.id().unwrap().text(), "\"ab\"");
        assert_eq!(request.method(), "tools/call");
        assert_eq!(request.param("name").unwrap().text(), "\"x\"");
        let note = parse(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).unwrap();
        assert_eq!(note.kind(), Kind::Notification);
        let answer = parse(r#"{"jsonrpc":"2.0","id":3,"result":{"x":1}}"#).unwrap();
        assert_eq!((answer.kind(), answer.result().unwrap().text()), (Kind::Response, r#"{"x":1}"#));
        let error = parse(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"no"}}"#).unwrap();
        assert_eq!((error.error_code(), error.id()), (Some(-32700), None));
    }

    #[test]
    fn refuses_what_is_no_message() {
        for text in [
            r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":1e3,"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":true,"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":[1],"method":"ping"}"#,
            r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#,
            r#"{"id":1,"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":""}}"#,
            r#"{"jsonrpc":"2.0","id":1}"#,
            r#"{"jsonrpc":"2.0","result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"params":{},"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"params":{},"error":{"code":1,"message":""}}"#,
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":"x","message":""}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":7}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"a\u0000b"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":[1]}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","Params":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","paramſ":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"Name":"x"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"taſKId":"x"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[],"Tools":[]}}"#,
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"","Message":""}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"a","method":"b"}"#,
            "[]",
            r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#,
            "7",
        ] {
            let fault = parse(text).expect_err(text);
            assert_eq!(fault.code(), code::INVALID_REQUEST, "{text}: {fault}");
        }
        let long = format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"ping"}}"#, "x".repeat(2000));
        assert_eq!(parse(&long).unwrap_err().code(), code::INVALID_REQUEST);
        assert_eq!(parse("{").unwrap_err().code(), code::PARSE_ERROR);
        assert_eq!(parse("\u{feff}{}").unwrap_err().code(), code::PARSE_ERROR);
        let nul = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a\u0000"}}"#;
        assert_eq!(parse(nul).unwrap_err().code(), code::INVALID_PARAMS);
        let meta = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":1}}"#;
        assert_eq!(parse(meta).unwrap_err().code(), code::INVALID_PARAMS);
    }

    #[test]
    fn reads_batches_only_when_asked() {
        let text = br#"[{"jsonrpc":"2.0","id":1,"result":{}},{"jsonrpc":"2.0","method":"n"}]"#;
        assert_eq!(Message::parse_batch(text.to_vec()).unwrap().len(), 2);
        assert!(Message::parse_batch(b"[]".to_vec()).is_err());
        let odd =
            br#"[{"jsonrpc":"2.0","id":1,"result":{}},{"jsonrpc":"2.0","id":2,"result":{"Content":[]}}]"#;
        assert!(Message::parse_batch(odd.to_vec()).is_err(), "each is held to the same rules");
        let spliced = r#"{"jsonrpc":"2.0","id":2,"result":{"content":[{"Text":""}]}}"#;
        assert!(Message::from_spliced(spliced.into()).is_err(), "what was made of messages too");
        assert!(Message::parse_batch(b"[[]]".to_vec()).is_err());
    }

    #[test]
    fn writes_an_id_in_place() {
        let message = parse(
            r#"{ "jsonrpc":"2.0", "id" : 900719925474099299999 , "result":{"big":12345678901234567890123}}"#,
        )
        .unwrap();
        assert_eq!(
            message.with_id("\"c\""),
            r#"{ "jsonrpc":"2.0", "id" : "c" , "result":{"big":12345678901234567890123}}"#
        );
        assert_eq!(parse(&error(Some("1"), -1, "a\nb", None)).unwrap().error_code(), Some(-1));
    }
}
