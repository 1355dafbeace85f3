//! Event streams (WHATWG HTML §9.2; spec.md C-15, A-72): decoding what servers send, framing what clients get.

use std::collections::VecDeque;

use bytes::Bytes;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The `id` field, if this event had one; empty resets it.
    pub id: Option<String>,
    /// The `event` field.
    pub event: Option<String>,
    /// The `data` lines, joined by line feeds; empty for an event that only carries an id or `retry`.
    pub data: Bytes,
    /// The `retry` field in milliseconds.
    pub retry: Option<u64>,
}

/// Why a stream is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// More bytes than the limit without the end of an event.
    #[error("an event of its stream is too long")]
    TooLong,
    /// The stream is not UTF-8.
    #[error("its event stream is not UTF-8")]
    InvalidUtf8,
}

/// Reads events out of chunks, however they are cut.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    chunks: VecDeque<Bytes>,
    /// The beginning of a line whose end has not come.
    partial: Vec<u8>,
    /// The last chunk ended in CR: a LF that follows belongs to it.
    after_cr: bool,
    at_start: bool,
    event: Event,
    /// More than one `data` line so far.
    joined: Vec<u8>,
    has_data: bool,
    has_fields: bool,
    /// Bytes since the last event, comments included.
    used: usize,
}

impl Decoder {
    /// A decoder for one stream whose events take at most `limit` bytes each.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            chunks: VecDeque::new(),
            partial: Vec::new(),
            after_cr: false,
            at_start: true,
            event: Event::default(),
            joined: Vec::new(),
            has_data: false,
            has_fields: false,
            used: 0,
        }
    }

    /// Takes the next chunk of the stream.
    pub fn feed(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.chunks.push_back(chunk);
        }
    }

    /// The next whole event in what was fed; `None` if there is none yet.
    ///
    /// # Errors
    /// [`Fault`]; the stream is of no use after it.
    pub fn next_event(&mut self) -> Result<Option<Event>, Fault> {
        while let Some(line) = self.next_line()? {
            if line.is_empty() {
                // A comment alone is no event; its bytes are forgiven only here, so that endless ones are cut.
                if std::mem::take(&mut self.has_fields) {
                    self.used = 0;
                    return self.finish().map(Some);
                }
                continue;
            }
            self.field(&line)?;
        }
        Ok(None)
    }

    fn finish(&mut self) -> Result<Event, Fault> {
        let mut event = std::mem::take(&mut self.event);
        if !self.joined.is_empty() {
            event.data = Bytes::from(std::mem::take(&mut self.joined));
        }
        self.has_data = false;
        std::str::from_utf8(&event.data).map_err(|_| Fault::InvalidUtf8)?;
        Ok(event)
    }

    fn next_line(&mut self) -> Result<Option<Bytes>, Fault> {
        while let Some(mut chunk) = self.chunks.pop_front() {
            if std::mem::take(&mut self.after_cr) && chunk.first() == Some(&b'\n') {
                chunk = chunk.slice(1..);
            }
            let end = memchr::memchr2(b'\n', b'\r', &chunk);
            self.used += end.map_or(chunk.len(), |e| e + 1);
            if self.used > self.limit {
                return Err(Fault::TooLong);
            }
            let Some(end) = end else {
                self.partial.extend_from_slice(&chunk);
                continue;
            };
            let mut line = chunk.split_to(end);
            let is_cr = chunk.first() == Some(&b'\r');
            chunk = chunk.slice(1..);
            if is_cr {
                self.after_cr = chunk.is_empty();
                if chunk.first() == Some(&b'\n') {
                    chunk = chunk.slice(1..);
                }
            }
            if !chunk.is_empty() {
                self.chunks.push_front(chunk);
            }
            if !self.partial.is_empty() {
                self.partial.extend_from_slice(&line);
                line = Bytes::from(std::mem::take(&mut self.partial));
            }
            if std::mem::take(&mut self.at_start) && line.starts_with(b"\xef\xbb\xbf") {
                line = line.slice(3..);
            }
            return Ok(Some(line));
        }
        Ok(None)
    }

    fn field(&mut self, line: &Bytes) -> Result<(), Fault> {
        let colon = memchr::memchr(b':', line);
        let name = line.get(..colon.unwrap_or(line.len())).unwrap_or_default();
        let from = colon.map_or(line.len(), |at| at + 1);
        let from = from + usize::from(line.get(from) == Some(&b' '));
        let text =
            || std::str::from_utf8(line.get(from..).unwrap_or_default()).map_err(|_| Fault::InvalidUtf8);
        match name {
            b"data" => {
                let value = line.slice(from.min(line.len())..);
                if !self.has_data {
                    self.event.data = value;
                } else {
                    if self.joined.is_empty() {
                        self.joined.extend_from_slice(&self.event.data);
                    }
                    self.joined.push(b'\n');
                    self.joined.extend_from_slice(&value);
                }
                self.has_data = true;
            }
            b"id" if !text()?.contains('\0') => self.event.id = Some(text()?.to_owned()),
            b"event" => self.event.event = Some(text()?.to_owned()),
            b"retry" => {
                let digits = text()?;
                if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
                    self.event.retry = Some(digits.parse().unwrap_or(u64::MAX));
                }
            }
            _ => return Ok(()),
        }
        self.has_fields = true;
        Ok(())
    }
}

/// What a silent stream says to show that it lives (spec.md A-72).
pub const KEEP_ALIVE: Bytes = Bytes::from_static(b":\n\n");

/// One event that carries a message. Line ends in `data`, which JSON only has between tokens, become spaces, so that
/// nothing in a message can end its line (attacks.md PH-21).
pub fn frame(id: Option<&str>, data: &str) -> Bytes {
    let mut out = String::with_capacity(data.len() + 64);
    if let Some(id) = id {
        out.push_str("id: ");
        out.push_str(id);
        out.push('\n');
    }
    out.push_str("event: message\ndata: ");
    if data.contains(['\n', '\r']) {
        out.push_str(&data.replace(['\n', '\r'], " "));
    } else {
        out.push_str(data);
    }
    out.push_str("\n\n");
    Bytes::from(out)
}

/// An event with an id and no data, by which a client can come back before the first message (spec.md B-13).
pub fn priming(id: &str) -> Bytes {
    Bytes::from(format!("id: {id}\ndata:\n\n"))
}

/// How long a client should wait before it comes back, in milliseconds (spec.md B-14).
pub fn retry(milliseconds: u64) -> Bytes {
    Bytes::from(format!("retry: {milliseconds}\n\n"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(chunks: &[&[u8]], limit: usize) -> Result<Vec<Event>, Fault> {
        let mut decoder = Decoder::new(limit);
        let mut events = Vec::new();
        for chunk in chunks {
            decoder.feed(Bytes::copy_from_slice(chunk));
            while let Some(event) = decoder.next_event()? {
                events.push(event);
            }
        }
        Ok(events)
    }

    fn data(text: &str) -> Event {
        Event { data: Bytes::copy_from_slice(text.as_bytes()), ..Event::default() }
    }

    #[test]
    fn reads_what_servers_send() {
        for (stream, expected) in [
            ("data: a\n\n", vec![data("a")]),
            ("\u{feff}data: a\r\rdata:b\r\n\r\n", vec![data("a"), data("b")]),
            (":comment\n\n:\ndata: a\ndata\ndata:  b\n\n", vec![data("a\n\n b")]),
            ("unknown: 1\ndata: x\n\ndata: lost", vec![data("x")]),
            ("id: 7\ndata:\n\n", vec![Event { id: Some("7".into()), ..Event::default() }]),
            ("id: a\0b\ndata: x\n\n", vec![data("x")]),
            ("retry: 10\n\n", vec![Event { retry: Some(10), ..Event::default() }]),
            ("retry: 1x\ndata: x\n\n", vec![data("x")]),
            (
                "event: message\ndata: {\"a\":1}\n\n",
                vec![Event { event: Some("message".into()), ..data("{\"a\":1}") }],
            ),
        ] {
            assert_eq!(decode(&[stream.as_bytes()], 1000).unwrap(), expected, "{stream:?}");
            let single: Vec<_> = stream.as_bytes().chunks(1).collect();
            assert_eq!(decode(&single, 1000).unwrap(), expected, "{stream:?} byte by byte");
        }
    }

    #[test]
    fn bounds_what_has_no_end() {
        let long = "x".repeat(2000);
        for stream in
            [format!("data: {long}"), format!(":{long}"), ":\n\n".repeat(1000), format!("data: {long}\n\n")]
        {
            assert_eq!(decode(&[stream.as_bytes()], 1000), Err(Fault::TooLong));
        }
        assert_eq!(decode(&[b"data: \xff\n\n"], 1000), Err(Fault::InvalidUtf8));
    }

    #[test]
    fn a_message_stays_inside_its_event() {
        let framed = frame(Some("1-2"), "{\"a\":\n\r\n\"data: x\"}");
        let events = decode(&[&framed], 1000).unwrap();
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].data, "{\"a\":   \"data: x\"}");
        assert_eq!(decode(&[&priming("1-1")], 1000).unwrap()[0].id.as_deref(), Some("1-1"));
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_events(
            messages in proptest::collection::vec("[ -~é]{0,40}", 1..8), cuts in proptest::collection::vec(1usize..20, 1..60),
        ) {
            let stream: Vec<u8> = messages.iter().flat_map(|m| frame(Some("i"), m)).collect();
            let mut chunks = Vec::new();
            let mut rest = stream.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (chunk, tail) = rest.split_at((*cut).min(rest.len()));
                chunks.push(chunk);
                rest = tail;
            }
            prop_assert_eq!(decode(&chunks, 10_000), decode(&[&stream], 10_000));
            prop_assert_eq!(decode(&chunks, 10_000).unwrap().len(), messages.len());
        }
    }
}
