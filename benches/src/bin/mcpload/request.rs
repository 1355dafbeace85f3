//! What is sent: requests that a strict server of either era must accept (spec.md A-16, A-26…A-30, B-25, C-25).

use std::fmt::Write;

use clap::{Args, ValueEnum};
use memchr::memmem;

use crate::Error;
use crate::connection::{Answer, Connection};

/// The first request id. All have the same number of digits, so a request is written once and then only numbered.
const FIRST_ID: u64 = 1_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Era {
    /// 2026-07-28, stateless.
    Modern,
    /// The handshake, see --revision.
    Legacy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Session {
    None,
    Shared,
    Perconn,
}

/// Whom to ask for what.
#[derive(Args, Clone)]
pub struct Target {
    /// HOST:PORT of the endpoint.
    pub address: String,
    /// Path of the endpoint.
    pub path: String,
    /// How many connections.
    #[arg(short = 'c', default_value_t = 1)]
    pub connections: usize,
    /// How many bytes of text the tool returns.
    #[arg(short = 'n', default_value_t = 200)]
    pub bytes: usize,
    /// How many bytes of text the call carries besides.
    #[arg(long, default_value_t = 0)]
    pub arg_bytes: usize,
    #[arg(long, value_enum, default_value = "modern")]
    pub era: Era,
    /// Legacy sessions; by default one a connection, and none when modern.
    #[arg(long, value_enum)]
    pub session: Option<Session>,
    /// A file with the bearer token.
    #[arg(long, value_name = "FILE", value_parser = read_token)]
    pub token: Option<String>,
    #[arg(long, default_value = "echo")]
    pub tool: String,
    /// The legacy revision to ask for.
    #[arg(long, default_value = "2025-11-25")]
    pub revision: String,
    #[arg(long, default_value = "tools/call")]
    pub method: String,
    /// How many tools a list must name.
    #[arg(long, default_value_t = 1)]
    pub tools: usize,
}

impl Target {
    pub fn session(&self) -> Session {
        self.session.unwrap_or(if self.era == Era::Legacy { Session::Perconn } else { Session::None })
    }

    /// Whether this is the whole result: status 200 and the end of the tool's text, or all the tools.
    pub fn is_expected(&self, answer: &Answer<'_>) -> bool {
        answer.status == 200
            && match self.method.as_str() {
                "tools/call" => memmem::rfind(answer.body, b"END\"").is_some(),
                "tools/list" => memmem::find_iter(answer.body, b"\"inputSchema\"").count() == self.tools,
                _ => memmem::find(answer.body, b"\"result\"").is_some(),
            }
    }

    fn post(&self, headers: &str, body: &str) -> Vec<u8> {
        let (path, address, length) = (&self.path, &self.address, body.len());
        let authorization = self.authorization();
        format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
             Accept: application/json, text/event-stream\r\n{authorization}{headers}Content-Length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }

    fn authorization(&self) -> String {
        self.token.as_ref().map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default()
    }

    fn legacy_headers(&self, session: Option<&str>) -> String {
        let mut headers = format!("MCP-Protocol-Version: {}\r\n", self.revision);
        if let Some(session) = session {
            let _ = write!(headers, "Mcp-Session-Id: {session}\r\n");
        }
        headers
    }
}

fn read_token(path: &str) -> Result<String, std::io::Error> {
    Ok(std::fs::read_to_string(path)?.trim().to_owned())
}

/// One request, ready to be sent again and again under new ids.
pub struct Call {
    bytes: Vec<u8>,
    id_at: usize,
    id: u64,
}

impl Call {
    pub fn new(target: &Target, session: Option<&str>) -> Self {
        let Target { method, tool, bytes, .. } = target;
        let mut headers = match target.era {
            Era::Legacy => target.legacy_headers(session),
            Era::Modern => format!("MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: {method}\r\n"),
        };
        let mut params = Vec::new();
        if method == "tools/call" {
            if target.era == Era::Modern {
                let _ = write!(headers, "Mcp-Name: {tool}\r\n");
            }
            let text = match target.arg_bytes {
                0 => String::new(),
                length => format!(r#","text":"{}""#, "t".repeat(length)),
            };
            params.push(format!(r#""name":"{tool}","arguments":{{"n":{bytes}{text}}}"#));
        }
        if target.era == Era::Modern {
            params.push(
                r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"mcpload","version":"0"},"io.modelcontextprotocol/clientCapabilities":{}}"#
                    .to_owned(),
            );
        }
        let before = r#"{"jsonrpc":"2.0","id":"#;
        let after = format!(r#","method":"{method}","params":{{{}}}}}"#, params.join(","));
        let bytes = target.post(&headers, &format!("{before}{FIRST_ID}{after}"));
        let id_at = bytes.len() - after.len() - FIRST_ID.to_string().len();
        Self { bytes, id_at, id: FIRST_ID }
    }

    /// The request under the next id.
    pub fn next(&mut self) -> &[u8] {
        let mut rest = self.id;
        for digit in self.bytes.iter_mut().skip(self.id_at).take(10).rev() {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
        }
        self.id += 1;
        &self.bytes
    }
}

/// Opens a legacy session; its id, if the server names one.
pub async fn initialize(target: &Target, connection: &mut Connection) -> Result<Option<String>, Error> {
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"{}","capabilities":{{}},"clientInfo":{{"name":"mcpload","version":"0"}}}}}}"#,
        target.revision
    );
    let answer = connection.call(&target.post("", &body)).await?;
    if answer.status != 200 || memmem::find(answer.body, b"\"protocolVersion\"").is_none() {
        return Err(format!("initialize: {} {}", answer.status, answer.excerpt()).into());
    }
    let session = answer.header("mcp-session-id");
    let initialized = target.post(
        &target.legacy_headers(session.as_deref()),
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
    );
    let answer = connection.call(&initialized).await?;
    if answer.status != 202 {
        return Err(format!("notifications/initialized: {} {}", answer.status, answer.excerpt()).into());
    }
    Ok(session)
}

/// The request that ends a legacy session.
pub fn delete(target: &Target, session: &str) -> Vec<u8> {
    let (path, address) = (&target.path, &target.address);
    let (authorization, headers) = (target.authorization(), target.legacy_headers(Some(session)));
    format!("DELETE {path} HTTP/1.1\r\nHost: {address}\r\n{authorization}{headers}Content-Length: 0\r\n\r\n")
        .into_bytes()
}
