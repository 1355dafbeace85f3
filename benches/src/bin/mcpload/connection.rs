//! The least HTTP/1.1 client that can be trusted with a measurement (RFC 9112): one request, one whole answer.

use std::io::{Error, ErrorKind, Result};
use std::ops::Range;

use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One keep-alive connection.
pub struct Connection {
    stream: TcpStream,
    /// What came since the last request.
    received: Vec<u8>,
    /// The body put together, when it came in pieces.
    joined: Vec<u8>,
}

/// An answer, in the connection's own buffers.
pub struct Answer<'a> {
    pub status: u16,
    /// Status line and header lines, the empty line included.
    pub head: &'a [u8],
    /// The body, transfer coding removed.
    pub body: &'a [u8],
}

impl Connection {
    pub async fn open(address: &str) -> Result<Self> {
        #[expect(clippy::disallowed_methods, reason = "a load generator is not the product")]
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: Vec::with_capacity(64 << 10), joined: Vec::new() })
    }

    /// Sends `request` and reads the whole answer.
    pub async fn call(&mut self, request: &[u8]) -> Result<Answer<'_>> {
        self.stream.write_all(request).await?;
        self.received.clear();
        self.joined.clear();
        let head_end = self.find(b"\r\n\r\n", 0).await? + 4;
        let head = self.received.get(..head_end).unwrap_or_default();
        let status = head.get(9..12).and_then(decimal).and_then(|s| u16::try_from(s).ok());
        let status = status.ok_or_else(|| invalid("status line"))?;
        let length =
            field(head, "content-length").map(|v| decimal(v).ok_or_else(|| invalid("Content-Length")));
        let in_chunks = field(head, "transfer-encoding").is_some();
        let mut body = head_end..head_end;
        if in_chunks {
            self.join_chunks(head_end).await?;
        } else if let Some(length) = length {
            body.end += length?;
            self.read_to(body.end).await?;
        }
        let body = if in_chunks { &self.joined } else { part(&self.received, body) };
        Ok(Answer { status, head: part(&self.received, 0..head_end), body })
    }

    /// Reads a chunked body (RFC 9112 §7.1) that begins at `at` into `joined`.
    async fn join_chunks(&mut self, mut at: usize) -> Result<()> {
        loop {
            let line_end = self.find(b"\r\n", at).await?;
            let line =
                std::str::from_utf8(part(&self.received, at..line_end)).map_err(|_| invalid("chunk"))?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| invalid("chunk size"))?;
            let data = line_end + 2..line_end + 2 + size;
            at = data.end + 2;
            self.read_to(at).await?;
            if size == 0 {
                return Ok(());
            }
            let Self { received, joined, .. } = self;
            joined.extend_from_slice(part(received, data));
        }
    }

    /// Where `needle` next stands at or after `from`, reading until it does.
    async fn find(&mut self, needle: &[u8], from: usize) -> Result<usize> {
        loop {
            let rest = self.received.get(from..).unwrap_or_default();
            if let Some(at) = memmem::find(rest, needle) {
                return Ok(from + at);
            }
            self.read_to(self.received.len() + 1).await?;
        }
    }

    async fn read_to(&mut self, length: usize) -> Result<()> {
        while self.received.len() < length {
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

impl Answer<'_> {
    /// The value of the header `name` (lower case).
    pub fn header(&self, name: &str) -> Option<String> {
        field(self.head, name).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    /// The beginning of the body, for a message.
    pub fn excerpt(&self) -> String {
        String::from_utf8_lossy(self.body.get(..300).unwrap_or(self.body)).into_owned()
    }
}

fn decimal(text: &[u8]) -> Option<usize> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}

fn field<'a>(head: &'a [u8], name: &str) -> Option<&'a [u8]> {
    head.split(|b| *b == b'\n').find_map(|line| {
        let (key, value) = line.split_at_checked(memchr::memchr(b':', line)?)?;
        key.eq_ignore_ascii_case(name.as_bytes()).then(|| value.get(1..).unwrap_or_default().trim_ascii())
    })
}

fn part(bytes: &[u8], range: Range<usize>) -> &[u8] {
    bytes.get(range).unwrap_or_default()
}

fn invalid(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("unreadable {what}"))
}
