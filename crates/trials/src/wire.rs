//! Just enough HTTP/1.1 and SSE to read what a peer says, and nothing that judges it.

use std::io::{self, BufRead, BufReader, Read};

/// A start line and header lines.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// `POST /mcp HTTP/1.1`, or `HTTP/1.1 200 OK`.
    pub start: String,
    /// Names as they came, with their values.
    pub lines: Vec<(String, String)>,
}

impl Head {
    /// Reads a head; `None` if the peer closed instead.
    pub fn read(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut head = Self::default();
        if from.read_line(&mut head.start)? == 0 {
            return Ok(None);
        }
        head.start.truncate(head.start.trim_end().len());
        loop {
            let mut line = String::new();
            from.read_line(&mut line)?;
            match line.trim_end().split_once(':') {
                Some((name, value)) => head.lines.push((name.to_owned(), value.trim().to_owned())),
                None => return Ok(Some(head)),
            }
        }
    }

    /// The first line of this name.
    pub fn line(&self, name: &str) -> Option<&str> {
        self.lines.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// The body that follows. A response without a length goes on to the end of the connection.
    pub fn body<'a, R: BufRead + 'a>(&self, from: R, is_response: bool) -> Box<dyn Read + 'a> {
        if self.line("transfer-encoding").is_some_and(|t| t.eq_ignore_ascii_case("chunked")) {
            return Box::new(Chunks { from, left: 0, is_over: false });
        }
        match self.line("content-length").and_then(|l| l.parse().ok()) {
            Some(length) => Box::new(from.take(length)),
            None if is_response => Box::new(from),
            None => Box::new(io::empty()),
        }
    }
}

/// A chunked body (RFC 9112 §7.1).
struct Chunks<R> {
    from: R,
    left: usize,
    is_over: bool,
}

impl<R: BufRead> Read for Chunks<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && !self.is_over {
            let mut size = String::new();
            self.from.read_line(&mut size)?;
            self.left = usize::from_str_radix(size.trim(), 16)
                .map_err(|_| io::Error::new(io::ErrorKind::UnexpectedEof, "the stream was cut"))?;
            if self.left == 0 {
                self.is_over = true;
                self.from.read_line(&mut size)?;
            }
        }
        if self.is_over {
            return Ok(0);
        }
        let room = buffer.len().min(self.left);
        let read = self.from.read(buffer.get_mut(..room).unwrap_or_default())?;
        self.left -= read;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if self.left == 0 {
            self.from.read_line(&mut String::new())?;
        }
        Ok(read)
    }
}

/// One event of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `id`
    pub id: Option<String>,
    /// `data`, lines joined.
    pub data: String,
    /// `retry`
    pub retry: Option<u64>,
    /// Everything else, comments included.
    pub other: Vec<String>,
}

/// Reads the next event that is more than a comment; `None` at the end of the stream.
pub fn next_event(from: &mut BufReader<impl Read>) -> io::Result<Option<Event>> {
    let mut event = Event::default();
    let mut has_fields = false;
    loop {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_end_matches(['\r', '\n']);
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "" if line.is_empty() && has_fields => return Ok(Some(event)),
            "" if line.is_empty() => continue,
            "id" => event.id = Some(value.to_owned()),
            "retry" => event.retry = value.parse().ok(),
            "data" if event.data.is_empty() => value.clone_into(&mut event.data),
            "data" => event.data = format!("{}\n{value}", event.data),
            _ => event.other.push(line.to_owned()),
        }
        has_fields |= !name.is_empty();
    }
}
