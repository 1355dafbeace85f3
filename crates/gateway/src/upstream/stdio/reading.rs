//! Reading a process's two outputs: messages on one, words on the other.

use std::sync::{Arc, Weak};

use bartizan_mcp::Message;
use bartizan_model::ServerName;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::ChildStdout,
};

use super::{super::scrub::Scrub, SERVER_STDERR, routes::Shared};
use crate::{
    limits::{ANSWER_BYTES, STDERR_LINE},
    record::Voice,
};

/// What is said of a process whose standard output holds what is no JSON, as that of many does which greet people there. Clients read
/// this, and nobody has judged the line: the log alone shows it.
const CHATTER: &str = "it wrote on its standard output what is no JSON-RPC message, and nothing else belongs there: have it write \
                       what it logs, and its greeting, to standard error; the gateway's log shows the line";

/// How much of such a line the log shows.
const SHOWN: usize = 200;

/// Reads messages, one a line, until the end of the stream, a line that is none (spec.md C-35), or too many that nobody asked
/// for. Even before the handshake a line that is none ends it: what else is in its output by mistake may be taken for an answer.
pub(super) async fn read_messages(
    stdout: ChildStdout,
    shared: &Shared,
    voice: &Voice,
    secrets: &Scrub,
) -> Result<(), String> {
    let mut reader = BufReader::with_capacity(16 * 1024, stdout);
    let mut has_begun = false;
    loop {
        let Some(line) = read_line(&mut reader, ANSWER_BYTES).await? else { return Ok(()) };
        if !has_begun {
            shared.has_begun();
            has_begun = true;
        }
        match line.iter().find(|byte| !byte.is_ascii_whitespace()) {
            None => continue,
            Some(b'{' | b'[') => {}
            Some(_) => {
                let words = sanitise(line.get(..SHOWN).unwrap_or(&line), line.len() > SHOWN, secrets);
                tracing::warn!(server = %shared.server, line = %words, "its standard output holds what is no message");
                return Err(CHATTER.to_owned());
            }
        }
        let messages = Message::parse_batch(line)
            .map_err(|fault| format!("it wrote a line that is no message: {fault}"))?;
        for message in messages {
            if !shared.deliver(message) && voice.faulted(None) {
                return Err("it answered and asked again and again what it was not asked".into());
            }
        }
    }
}

async fn read_line(
    reader: &mut (impl AsyncBufReadExt + Unpin),
    limit: usize,
) -> Result<Option<Vec<u8>>, String> {
    let mut line = Vec::new();
    loop {
        let chunk = reader.fill_buf().await.map_err(|error| error.to_string())?;
        if chunk.is_empty() {
            return Ok(if line.is_empty() { None } else { Some(line) });
        }
        let end = chunk.iter().position(|b| *b == b'\n');
        let piece = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or_default();
        if line.len() + piece.len() > limit {
            return Err(format!(
                "it wrote a message of more than {} MiB, which is more than is read",
                limit >> 20
            ));
        }
        line.extend_from_slice(piece);
        let used = piece.len() + usize::from(end.is_some());
        reader.consume(used);
        if end.is_some() {
            return Ok(Some(line));
        }
    }
}

pub(super) async fn log_stderr(
    shared: Weak<Shared>,
    server: ServerName,
    stderr: impl AsyncRead + Unpin,
    secrets: Scrub,
    voice: Arc<Voice>,
    pid: Option<u32>,
) {
    let mut reader = BufReader::with_capacity(STDERR_LINE, stderr);
    let (mut line, mut is_cut) = (Vec::new(), false);
    loop {
        let (end, used) = match reader.fill_buf().await {
            Ok([]) | Err(_) => return,
            Ok(chunk) => {
                let end = chunk.iter().position(|b| *b == b'\n');
                let piece = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or_default();
                let room = STDERR_LINE.saturating_sub(line.len());
                line.extend_from_slice(piece.get(..room.min(piece.len())).unwrap_or_default());
                is_cut |= room < piece.len();
                (end.is_some(), piece.len() + usize::from(end.is_some()))
            }
        };
        reader.consume(used);
        if end {
            let words = sanitise(&line, is_cut, &secrets);
            let within = shared.upgrade().map(|shared| shared.within()).unwrap_or_default();
            // What is too much for one log is too much for the other.
            if voice.stderr(pid, within, &words) {
                tracing::info!(target: SERVER_STDERR, %server, "{words}");
            }
            (line, is_cut) = (Vec::new(), false);
        }
    }
}

/// A line that can do nothing to a terminal or a log: control characters shown, secrets hidden (attacks.md PH-23).
fn sanitise(line: &[u8], is_cut: bool, secrets: &Scrub) -> String {
    let text = secrets.hide(&String::from_utf8_lossy(line), is_cut);
    text.trim_end()
        .chars()
        .flat_map(|c| {
            let hidden = c.is_control()
                || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            let shown: Vec<char> = if hidden && c != '\t' { c.escape_unicode().collect() } else { vec![c] };
            shown
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use bartizan_model::Secret;

    use super::*;

    #[test]
    fn log_lines_are_harmless() {
        let line = b"key=abcdefgh1 \x1b[2Jforged\r\xff\xe2\x80\xa8next";
        assert_eq!(
            sanitise(line, false, &Scrub::new(["abcdefgh1", "key"].map(|s| Secret::new(s.into())))),
            "key=[redacted] \\u{1b}[2Jforged\\u{d}\u{fffd}\\u{2028}next"
        );
    }

    #[tokio::test]
    async fn lines_are_bounded() {
        let mut reader = BufReader::new(&b"one\ntwo"[..]);
        assert_eq!(read_line(&mut reader, 10).await.unwrap().unwrap(), b"one");
        assert_eq!(read_line(&mut reader, 10).await.unwrap().unwrap(), b"two");
        assert!(read_line(&mut reader, 10).await.unwrap().is_none());
        let mut reader = BufReader::with_capacity(4, &b"0123456789ab\n"[..]);
        assert!(read_line(&mut reader, 10).await.is_err());
    }
}
