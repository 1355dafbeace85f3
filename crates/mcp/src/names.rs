//! The keys a message is decided by, and look-alikes of them: keys that differ, and that a reader which folds letter case
//! would take for one of them (attacks.md PH-12, PO-08; CVE-2026-27896).
//!
//! Many readers fold (Go's `encoding/json`, .NET's web defaults), and where a key stands twice then they take the last. What
//! we judged under `tools` would be shown to nobody, and what stands under `Tools` to everybody. So a look-alike is refused
//! wherever the protocol gives an object its keys. Where keys are data (`arguments`, structured results, schemas, answers to
//! forms) they may be spelt as they like, and nobody is sent back for that.

use std::sync::LazyLock;

use crate::json::Value;

/// An object whose keys the protocol gives.
struct Place {
    names: &'static [&'static str],
    inner: &'static [(&'static str, Inner)],
}

/// What stands under a key.
enum Inner {
    /// Such an object, or a list of them.
    One(&'static Place),
    /// An object of such objects, under keys of somebody's own.
    Members(&'static Place),
    /// Content blocks, or one; an object beside no `role` is an answer to a form.
    Content,
}

static ENVELOPE: Place = Place {
    names: &["jsonrpc", "id", "method", "params", "result", "error"],
    inner: &[("params", Inner::One(&PARAMS)), ("result", Inner::One(&RESULT)), ("error", Inner::One(&ERROR))],
};

/// Parameters of every method: of requests, notifications and questions.
static PARAMS: Place = Place {
    names: &[
        "_meta",
        "argument",
        "arguments",
        "capabilities",
        "clientInfo",
        "cursor",
        "data",
        "elicitationId",
        "error",
        "includeContext",
        "inputRequests",
        "inputResponses",
        "level",
        "maxTokens",
        "message",
        "messages",
        "mode",
        "modelPreferences",
        "name",
        "notifications",
        "progress",
        "progressToken",
        "protocolVersion",
        "ref",
        "requestId",
        "requestState",
        "requestedSchema",
        "result",
        "status",
        "statusMessage",
        "systemPrompt",
        "task",
        "taskId",
        "toolChoice",
        "tools",
        "uri",
        "url",
    ],
    inner: &[
        ("_meta", Inner::One(&META)),
        ("argument", Inner::One(&ARGUMENT)),
        ("capabilities", Inner::One(&CAPABILITIES)),
        ("error", Inner::One(&ERROR)),
        ("inputRequests", Inner::Members(&QUESTION)),
        ("inputResponses", Inner::Members(&RESULT)),
        ("messages", Inner::One(&SAID)),
        ("notifications", Inner::One(&NOTIFICATIONS)),
        ("ref", Inner::One(&REFERENCE)),
        ("result", Inner::One(&RESULT)),
        ("task", Inner::One(&TASK)),
        ("tools", Inner::One(&DEFINITION)),
    ],
};

/// Results of every method, of either side.
static RESULT: Place = Place {
    names: &[
        "_meta",
        "action",
        "cacheScope",
        "capabilities",
        "completion",
        "content",
        "contents",
        "description",
        "error",
        "inputRequests",
        "instructions",
        "isError",
        "messages",
        "nextCursor",
        "prompts",
        "protocolVersion",
        "requestState",
        "resourceTemplates",
        "resources",
        "result",
        "resultType",
        "role",
        "roots",
        "serverInfo",
        "status",
        "statusMessage",
        "structuredContent",
        "supportedVersions",
        "task",
        "taskId",
        "tasks",
        "tools",
        "ttlMs",
    ],
    inner: &[
        ("_meta", Inner::One(&META)),
        ("capabilities", Inner::One(&CAPABILITIES)),
        ("completion", Inner::One(&COMPLETION)),
        ("content", Inner::Content),
        ("contents", Inner::One(&BLOCK)),
        ("error", Inner::One(&ERROR)),
        ("inputRequests", Inner::Members(&QUESTION)),
        ("messages", Inner::One(&SAID)),
        ("prompts", Inner::One(&PROMPT)),
        ("resourceTemplates", Inner::One(&BLOCK)),
        ("resources", Inner::One(&BLOCK)),
        ("result", Inner::One(&RESULT)),
        ("roots", Inner::One(&BLOCK)),
        ("task", Inner::One(&TASK)),
        ("tasks", Inner::One(&TASK)),
        ("tools", Inner::One(&DEFINITION)),
    ],
};

static ERROR: Place =
    Place { names: &["code", "message", "data"], inner: &[("data", Inner::One(&ERROR_DATA))] };

static ERROR_DATA: Place = Place {
    names: &["elicitations", "requiredCapabilities", "supported"],
    inner: &[("elicitations", Inner::One(&PARAMS)), ("requiredCapabilities", Inner::One(&CAPABILITIES))],
};

static META: Place = Place {
    names: &[
        "io.modelcontextprotocol/clientCapabilities",
        "io.modelcontextprotocol/clientInfo",
        "io.modelcontextprotocol/logLevel",
        "io.modelcontextprotocol/protocolVersion",
        "io.modelcontextprotocol/related-task",
        "io.modelcontextprotocol/serverInfo",
        "io.modelcontextprotocol/subscriptionId",
        "progressToken",
        "traceparent",
        "tracestate",
        "ui",
        "ui/resourceUri",
    ],
    inner: &[
        ("io.modelcontextprotocol/clientCapabilities", Inner::One(&CAPABILITIES)),
        ("io.modelcontextprotocol/related-task", Inner::One(&TASK)),
        ("ui", Inner::One(&APP)),
    ],
};

/// `_meta.ui` of an MCP App.
static APP: Place =
    Place { names: &["csp", "domain", "permissions", "resourceUri", "visibility"], inner: &[] };

/// What a client or a server says that it can do.
static CAPABILITIES: Place = Place {
    names: &[
        "completions",
        "context",
        "elicitation",
        "extensions",
        "form",
        "io.modelcontextprotocol/tasks",
        "io.modelcontextprotocol/ui",
        "logging",
        "prompts",
        "resources",
        "roots",
        "sampling",
        "tasks",
        "tools",
        "url",
    ],
    inner: &[
        ("elicitation", Inner::One(&CAPABILITIES)),
        ("extensions", Inner::One(&CAPABILITIES)),
        ("sampling", Inner::One(&CAPABILITIES)),
    ],
};

/// A question in the place of an answer.
static QUESTION: Place = Place { names: &["method", "params"], inner: &[("params", Inner::One(&PARAMS))] };

/// What a completion is for.
static REFERENCE: Place = Place { names: &["type", "name", "uri"], inner: &[] };

static ARGUMENT: Place = Place { names: &["name", "value"], inner: &[] };

static COMPLETION: Place = Place { names: &["values", "total", "hasMore"], inner: &[] };

/// What a modern client listens to.
static NOTIFICATIONS: Place = Place {
    names: &[
        "promptsListChanged",
        "resourceSubscriptions",
        "resourcesListChanged",
        "taskIds",
        "toolsListChanged",
    ],
    inner: &[],
};

static TASK: Place = Place { names: &["status", "statusMessage", "taskId", "ttl", "ttlMs"], inner: &[] };

/// A tool; its schemas have keys of their own.
static DEFINITION: Place = Place {
    names: &[
        "_meta",
        "annotations",
        "description",
        "execution",
        "icons",
        "inputSchema",
        "name",
        "outputSchema",
        "title",
    ],
    inner: &[("_meta", Inner::One(&META)), ("annotations", Inner::One(&ANNOTATIONS))],
};

static ANNOTATIONS: Place = Place {
    names: &[
        "audience",
        "destructiveHint",
        "idempotentHint",
        "lastModified",
        "openWorldHint",
        "priority",
        "readOnlyHint",
        "title",
    ],
    inner: &[],
};

static PROMPT: Place = Place {
    names: &["_meta", "arguments", "description", "icons", "name", "required", "title"],
    inner: &[("_meta", Inner::One(&META)), ("arguments", Inner::One(&PROMPT))],
};

/// Something said: a prompt's message, or a message to a model.
static SAID: Place = Place { names: &["role", "content"], inner: &[("content", Inner::Content)] };

/// A content block, a resource or its contents.
static BLOCK: Place = Place {
    names: &[
        "_meta",
        "annotations",
        "blob",
        "content",
        "data",
        "description",
        "icons",
        "mimeType",
        "name",
        "resource",
        "structuredContent",
        "text",
        "title",
        "type",
        "uri",
        "uriTemplate",
    ],
    inner: &[
        ("_meta", Inner::One(&META)),
        ("annotations", Inner::One(&ANNOTATIONS)),
        ("content", Inner::Content),
        ("resource", Inner::One(&BLOCK)),
    ],
};

static PLACES: [&Place; 19] = [
    &ENVELOPE,
    &PARAMS,
    &RESULT,
    &ERROR,
    &ERROR_DATA,
    &META,
    &APP,
    &CAPABILITIES,
    &QUESTION,
    &REFERENCE,
    &ARGUMENT,
    &COMPLETION,
    &NOTIFICATIONS,
    &TASK,
    &DEFINITION,
    &ANNOTATIONS,
    &PROMPT,
    &SAID,
    &BLOCK,
];

/// Every name there is, by its length.
static NAMES: LazyLock<Vec<Names>> = LazyLock::new(|| {
    let mut names: Vec<Names> = Vec::new();
    for name in PLACES.iter().flat_map(|place| place.names) {
        if names.len() <= name.len() {
            names.resize_with(name.len() + 1, Names::default);
        }
        if let Some(known) = names.get_mut(name.len()).filter(|known| !known.has(name)) {
            let [firsts, lasts] = ends(name.as_bytes());
            known.firsts |= firsts;
            known.lasts |= lasts;
            known.names.push(([firsts, lasts], name));
        }
    }
    names
});

/// The names of one length.
#[derive(Default)]
struct Names {
    /// Each with its own [`ends`].
    names: Vec<([u32; 2], &'static str)>,
    /// Their first and their last bytes, as bits of [`ends`]: most keys are none of them by these alone.
    firsts: u32,
    lasts: u32,
}

impl Names {
    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|(_, known)| *known == name)
    }
}

/// One bit each for the first and for the last byte of a key, whatever their letter case.
fn ends(key: &[u8]) -> [u32; 2] {
    [key.first(), key.last()].map(|byte| byte.map_or(0, |byte| 1 << (byte & 31)))
}

/// Whether `key` looks like a name of the protocol and is none. Asked of every key of every message, wherever it stands, so that
/// the few messages that hold such a key are the only ones whose places are looked at.
pub(crate) fn is_odd(key: &[u8]) -> bool {
    if key.is_ascii() {
        let Some(known) = NAMES.get(key.len()) else { return false };
        let [first, last] = ends(key);
        if known.firsts & first == 0 || known.lasts & last == 0 {
            return false;
        }
        let alike = known.names.iter().filter(|(ends, _)| *ends == [first, last]);
        return alike
            .map(|(_, name)| name.as_bytes())
            .any(|name| name != key && name.eq_ignore_ascii_case(key));
    }
    let longest = NAMES.len().saturating_sub(1);
    // ſ and K are the two letters outside ASCII that fold into it; they take up to three bytes for one.
    let Some(key) = std::str::from_utf8(key).ok().filter(|key| key.len() <= longest * 3) else {
        return false;
    };
    let folded = folded(key);
    NAMES
        .get(folded.len())
        .is_some_and(|known| known.names.iter().any(|(_, name)| name.eq_ignore_ascii_case(&folded)))
}

/// Whether `message` has, where the protocol gives the keys, one that only looks like a name of that place.
pub(crate) fn has_look_alike(message: Value<'_>) -> bool {
    ENVELOPE.has_look_alike(message)
}

impl Place {
    fn has_look_alike(&'static self, object: Value<'_>) -> bool {
        object.members().any(|member| {
            let key = member.key();
            if !self.names.contains(&key.as_ref()) {
                let folded = folded(&key);
                return self.names.iter().any(|name| name.eq_ignore_ascii_case(&folded));
            }
            let Some((_, inner)) = self.inner.iter().find(|(name, _)| *name == key) else { return false };
            match inner {
                Inner::One(place) => place.in_one_or_each(member.value),
                Inner::Members(place) => member.value.members().any(|m| place.has_look_alike(m.value)),
                Inner::Content => {
                    let is_list = member.value.elements().next().is_some();
                    (is_list || object.get("role").is_some()) && BLOCK.in_one_or_each(member.value)
                }
            }
        })
    }

    fn in_one_or_each(&'static self, value: Value<'_>) -> bool {
        self.has_look_alike(value) || value.elements().any(|element| self.has_look_alike(element))
    }
}

/// `key` with the letters outside ASCII that fold into it as what they fold into.
fn folded(key: &str) -> String {
    key.chars()
        .map(|c| match c {
            '\u{17f}' => 's',
            '\u{212a}' => 'k',
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> bool {
        has_look_alike(Value::of(
            crate::json::check(text.as_bytes(), crate::json::Limits::default()).unwrap(),
        ))
    }

    #[test]
    fn look_alikes_are_found_wherever_the_protocol_gives_the_keys() {
        let result = |inside: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{{inside}}}}}"#);
        let params =
            |inside: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{{{inside}}}}}"#);
        for text in [
            r#"{"Method":"m"}"#.to_owned(),
            r#"{"error":{"code":1,"message":"m","Message":"n"}}"#.to_owned(),
            r#"{"error":{"code":1,"message":"m","data":{"elicitations":[{"Url":"u"}]}}}"#.to_owned(),
            result(r#""tools":[],"Tools":[]"#),
            result(r#""tools":[{"name":"a","Name":"b"}]"#),
            result(r#""tools":[{"inputSchema":{},"inputschema":{}}]"#),
            result(r#""tools":[{"annotations":{"readonlyhint":true}}]"#),
            result(r#""tools":[{"_meta":{"ui":{"resourceURI":"u"}}}]"#),
            result(r#""prompts":[{"arguments":[{"Description":"d"}]}]"#),
            result(r#""resources":[{"URI":"u"}]"#),
            result(r#""contents":[{"Text":"t"}]"#),
            result(r#""content":[{"type":"text","Text":"t"}]"#),
            result(r#""content":[{"type":"resource","resource":{"mimetype":"m"}}]"#),
            result(r#""role":"assistant","content":{"type":"text","TEXT":"t"}"#),
            result(r#""messages":[{"role":"user","content":{"Type":"text"}}]"#),
            result(r#""Content":[]"#),
            result(r#""Contents":[]"#),
            result(r#""structuredcontent":{}"#),
            result(r#""In\u017ftructions":"i""#),
            result(r#""inputrequests":{}"#),
            result(r#""inputRequests":{"q":{"method":"m","Params":{}}}"#),
            result(r#""inputRequests":{"q":{"params":{"Message":"m"}}}"#),
            result(r#""tasks":[{"TaskId":"t"}]"#),
            params(r#""Name":"n""#),
            params(r#""Uri":"u""#),
            params(r#""ARGUMENTS":{}"#),
            params(r#""Ref":{}"#),
            params(r#""ref":{"Name":"n"}"#),
            params(r#""Notifications":{}"#),
            params(r#""notifications":{"resourcesubscriptions":[]}"#),
            params(r#""RequestId":1"#),
            params(r#""tas\u212aid":"t""#),
            params(r#""_META":{}"#),
            params(r#""_meta":{"io.modelcontextprotocol/CLIENTCAPABILITIES":{}}"#),
            params(r#""capabilities":{"Sampling":{}}"#),
            params(r#""inputResponses":{"q":{"Action":"accept"}}"#),
        ] {
            assert!(refused(&text), "{text}");
            let read = crate::json::check_outlined(text.as_bytes(), crate::json::Limits::default()).unwrap();
            assert!(read.is_odd, "and its key is noticed: {text}");
        }
    }

    #[test]
    fn keys_that_are_data_are_spelt_as_they_like() {
        for text in [
            r#"{"params":{"name":"n","arguments":{"Name":"x","name":"y","METHOD":1,"Content":{"Text":1}}}}"#,
            r#"{"result":{"structuredContent":{"Name":"x","Tools":[{"Name":"y"}]},"content":[]}}"#,
            r#"{"result":{"tools":[{"name":"t","inputSchema":{"type":"object","properties":{"Name":{},"URI":{}}}}]}}"#,
            r#"{"result":{"action":"accept","content":{"Name":"Ann","Text":"t"}}}"#,
            r#"{"params":{"inputResponses":{"Q":{"action":"accept","content":{"Name":"Ann"}}}}}"#,
            r#"{"params":{"data":{"Name":"x"},"level":"info"}}"#,
            r#"{"result":{"_meta":{"com.example/Tools":1,"Name":2},"other":{"Tools":[]}}}"#,
            r#"{"error":{"code":1,"message":"m","data":{"Name":"x"}}}"#,
            r#"{"result":{"tools":"text","content":"text","inputRequests":[1],"messages":{"role":1}}}"#,
        ] {
            assert!(!refused(text), "{text}");
        }
    }

    #[test]
    fn names_of_the_protocol_are_not_odd_and_neither_is_what_looks_like_none() {
        for name in PLACES.iter().flat_map(|place| place.names) {
            assert!(!is_odd(name.as_bytes()), "{name}");
            assert!(is_odd(name.to_ascii_uppercase().as_bytes()), "{name}");
        }
        for place in PLACES {
            assert!(place.inner.iter().all(|(name, _)| place.names.contains(name)));
        }
        let long = "k".repeat(16 * 1024);
        for key in ["", "x", "Naam", "naïve", "\u{212a}", long.as_str(), "path", "Path"] {
            assert!(!is_odd(key.as_bytes()), "{key:?}");
        }
    }
}
