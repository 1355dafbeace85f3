//! A Streamable HTTP MCP server that costs as little as one can, so that what stands in front of it is what gets
//! measured. It answers any path, keeps no state, and its one tool `echo {n}` returns `n` bytes ending in `END`.
#![expect(clippy::print_stderr, reason = "a bench tool talks to the terminal")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use clap::{Parser, ValueEnum};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::TcpListener;

/// The longest text that `echo` returns, in bytes.
const LONGEST: usize = 8 << 20;

/// What the text is made of: prose, as most results are, and nothing that JSON would escape. A text without words would have
/// whoever reads it look for what it hides.
const WORDS: [&str; 32] = [
    "the",
    "station",
    "reports",
    "rain",
    "from",
    "north",
    "and",
    "wind",
    "that",
    "were",
    "measured",
    "since",
    "last",
    "week",
    "customers",
    "ordered",
    "items",
    "each",
    "with",
    "price",
    "quantity",
    "shipped",
    "in",
    "boxes",
    "of",
    "twelve",
    "files",
    "changed",
    "their",
    "size",
    "to",
    "kilobytes",
];

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Era {
    Modern,
    Legacy,
    Both,
}

#[derive(Parser)]
#[command(about)]
struct Args {
    #[arg(default_value = "127.0.0.1:9100")]
    listen: SocketAddr,
    /// Which handshake it understands; the other is answered with -32601.
    #[arg(long, value_enum, default_value = "both")]
    era: Era,
    /// Hand out an Mcp-Session-Id on initialize; it is not checked afterwards.
    #[arg(long)]
    session: bool,
    /// Answer with a one-event stream instead of a JSON body.
    #[arg(long)]
    sse: bool,
    /// How many tools tools/list names (about 200 bytes each).
    #[arg(long, default_value_t = 1)]
    tools: usize,
    /// Show the headers and body of every request on stderr.
    #[arg(long)]
    log: bool,
}

struct Server {
    args: Args,
    /// `LONGEST` bytes of text without anything JSON would escape.
    text: Bytes,
    /// The elements of the tools array.
    tools: String,
    sessions: AtomicU64,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    method: Option<&'a str>,
    #[serde(borrow)]
    params: Option<Params<'a>>,
}

#[derive(Default, Deserialize)]
struct Params<'a> {
    #[serde(borrow, rename = "protocolVersion")]
    revision: Option<&'a RawValue>,
    #[serde(default)]
    arguments: Arguments,
    #[serde(borrow, rename = "_meta")]
    meta: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct Arguments {
    n: Option<usize>,
}

impl Server {
    fn new(args: Args) -> Self {
        let text = prose();
        let tools: Vec<_> = (0..args.tools)
            .map(|i| {
                let number = if i == 0 { String::new() } else { i.to_string() };
                format!(
                    r#"{{"name":"echo{number}","description":"Returns n bytes of text","inputSchema":{{"type":"object","properties":{{"n":{{"type":"integer","minimum":3}},"text":{{"type":"string"}}}},"additionalProperties":false}}}}"#
                )
            })
            .collect();
        Self { args, text: text.into(), tools: tools.join(","), sessions: AtomicU64::new(1) }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        match *request.method() {
            Method::POST => {}
            Method::DELETE => return empty(StatusCode::OK),
            _ => return empty(StatusCode::METHOD_NOT_ALLOWED),
        }
        if self.args.log {
            eprintln!("{} {:?}", request.uri(), request.headers());
        }
        let Ok(body) = request.into_body().collect().await else { return empty(StatusCode::BAD_REQUEST) };
        let body = body.to_bytes();
        if self.args.log {
            eprintln!("  {}", String::from_utf8_lossy(&body));
        }
        let Ok(message) = serde_json::from_slice::<Message<'_>>(&body) else {
            return empty(StatusCode::BAD_REQUEST);
        };
        let (Some(id), Some(method)) = (message.id, message.method) else {
            return empty(StatusCode::ACCEPTED);
        };
        let params = message.params.unwrap_or_default();

        let mut out = BytesMut::with_capacity(256 + params.arguments.n.unwrap_or(0).min(LONGEST));
        if self.args.sse {
            out.put_slice(b"event: message\ndata: ");
        }
        out.put_slice(br#"{"jsonrpc":"2.0","id":"#);
        out.put_slice(id.get().as_bytes());
        out.put_slice(b",");
        let known = self.result(method, &params, &mut out);
        out.put_slice(b"}");
        if self.args.sse {
            out.put_slice(b"\n\n");
        }
        let mut response = Response::new(Full::new(out.freeze()));
        let media_type = if self.args.sse { "text/event-stream" } else { "application/json" };
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        // 404 with a JSON-RPC body would say "modern" to whoever probes (spec.md C-45).
        if !known && params.meta.is_some() && self.args.era != Era::Legacy {
            *response.status_mut() = StatusCode::NOT_FOUND;
        }
        if method == "initialize" && known && self.args.session {
            let session = format!("up-{:016x}", self.sessions.fetch_add(1, Ordering::Relaxed));
            if let Ok(value) = HeaderValue::from_str(&session) {
                response.headers_mut().insert("mcp-session-id", value);
            }
        }
        response
    }

    /// Writes the `result` or `error` member; whether the method is known.
    fn result(&self, method: &str, params: &Params<'_>, out: &mut BytesMut) -> bool {
        let modern =
            params.meta.is_some_and(|m| memchr::memmem::find(m.get().as_bytes(), b"2026-07-28").is_some());
        let (kind, cache) = if modern {
            (r#""resultType":"complete","#, r#""ttlMs":60000,"cacheScope":"private","#)
        } else {
            ("", "")
        };
        match method {
            "tools/call" => {
                let length = params.arguments.n.unwrap_or(16).clamp(3, LONGEST);
                out.put_slice(br#""result":{"#);
                out.put_slice(kind.as_bytes());
                out.put_slice(br#""content":[{"type":"text","text":""#);
                out.put_slice(self.text.get(..length - 3).unwrap_or_default());
                out.put_slice(br#"END"}],"isError":false}"#);
            }
            "tools/list" => {
                out.put_slice(br#""result":{"#);
                out.put_slice(kind.as_bytes());
                out.put_slice(cache.as_bytes());
                out.put_slice(br#""tools":["#);
                out.put_slice(self.tools.as_bytes());
                out.put_slice(b"]}");
            }
            "initialize" if self.args.era != Era::Modern => {
                out.put_slice(br#""result":{"protocolVersion":"#);
                out.put_slice(params.revision.map_or("\"2025-11-25\"", RawValue::get).as_bytes());
                out.put_slice(
                    br#","capabilities":{"tools":{}},"serverInfo":{"name":"bench-upstream","version":"0.1.0"}}"#,
                );
            }
            "server/discover" if self.args.era != Era::Legacy => out.put_slice(
                br#""result":{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"ttlMs":60000,"cacheScope":"private","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"bench-upstream","version":"0.1.0"}}}"#,
            ),
            "ping" => out.put_slice(br#""result":{}"#),
            _ => {
                out.put_slice(br#""error":{"code":-32601,"message":"method not found"}"#);
                return false;
            }
        }
        true
    }
}

/// Sentences of these words, in an order that is the same every time.
fn prose() -> Vec<u8> {
    let mut text = Vec::with_capacity(LONGEST + 32);
    let mut state = 7_u32;
    while text.len() < LONGEST {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text.extend(WORDS.get(state as usize >> 8 & 31).unwrap_or(&"and").bytes());
        text.extend(if state >> 28 == 0 { b". ".iter() } else { b" ".iter() });
    }
    text.truncate(LONGEST);
    text
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Arc::new(Server::new(Args::parse()));
    let listener = TcpListener::bind(server.args.listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let server = server.clone();
        let service = service_fn(move |request| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        let serve = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .pipeline_flush(true)
            .serve_connection(TokioIo::new(stream), service);
        // A client that goes away ends its connection and nothing else.
        tokio::spawn(async move { serve.await.ok() });
    }
}
