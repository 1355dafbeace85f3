//! The event-stream decoder against a slow reading of the same rules (WHATWG HTML §9.2.6), and the frames we write.

use bartizan_mcp::sse::{Decoder, Event, Fault, frame, priming, retry};
use bytes::Bytes;

/// No input here is longer, so that the limit never decides.
const LIMIT: usize = 1 << 20;

/// However a stream is cut, its events are those of the standard; a small limit bounds what is kept. The first byte
/// says how the rest is cut.
pub fn sse(bytes: &[u8]) {
    let Some((cut, stream)) = bytes.split_first() else { return };
    let size = usize::from(*cut).max(1);
    let cut: Vec<&[u8]> = stream.chunks(size).collect();
    let whole = decode(&[stream], LIMIT);
    assert_eq!(decode(&cut, LIMIT), whole, "cut into {size}s");
    match std::str::from_utf8(stream) {
        Ok(text) => assert_eq!(whole.as_ref(), Ok(&reference(text))),
        // Bytes that are not UTF-8 may stand in what is ignored; in what is handed on they may not.
        Err(_) => assert!(!matches!(whole, Err(Fault::TooLong))),
    }
    if let Ok(events) = decode(&cut, 64) {
        assert!(events.iter().all(|e| e.data.len() <= 64));
        assert_eq!(Ok(events), whole, "a limit that is not reached changes nothing");
    }
    if let Ok(text) = std::str::from_utf8(stream) {
        written(text);
    }
}

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

/// The standard's algorithm, except that an event without data is reported too, since its id or retry counts.
fn reference(stream: &str) -> Vec<Event> {
    let stream = stream.strip_prefix('\u{feff}').unwrap_or(stream).replace("\r\n", "\n").replace('\r', "\n");
    let mut events = Vec::new();
    let mut event = Event::default();
    let mut data: Option<String> = None;
    let mut has_fields = false;
    // What follows the last line end is no line.
    let Some((lines, _)) = stream.rsplit_once('\n') else { return events };
    for line in lines.split('\n') {
        if line.is_empty() {
            if std::mem::take(&mut has_fields) {
                event.data = data.take().unwrap_or_default().into();
                events.push(std::mem::take(&mut event));
            }
            continue;
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "data" => match &mut data {
                Some(data) => *data = format!("{data}\n{value}"),
                None => data = Some(value.to_owned()),
            },
            "id" if !value.contains('\0') => event.id = Some(value.to_owned()),
            "event" => event.event = Some(value.to_owned()),
            "retry" => {
                if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
                    event.retry = Some(value.parse().unwrap_or(u64::MAX));
                }
            }
            _ => continue,
        }
        has_fields = true;
    }
    events
}

/// What we frame comes back as one event with the id and, line ends aside, the message.
fn written(text: &str) {
    let stream = [frame(Some("1-7"), text), priming("1-8"), retry(250), frame(None, "{}")].concat();
    let events = decode(&[&stream], LIMIT).expect("our own stream");
    let [message, priming, retry, last] = events.as_slice() else { panic!("{} events", events.len()) };
    assert_eq!(message.id.as_deref(), Some("1-7"));
    assert_eq!(message.data, text.replace(['\n', '\r'], " "));
    assert_eq!((priming.id.as_deref(), priming.data.is_empty()), (Some("1-8"), true));
    assert_eq!(retry.retry, Some(250));
    assert_eq!(last.data, "{}");
}
