//! Clients of HTTP/2 that take nothing of what they asked for, or ask nothing and stay, or send frames without end: every
//! frame is written by hand (RFC 9113 §5.2, §10.5; CVE-2019-9517, CVE-2023-44487, CVE-2024-27316, CVE-2025-8671).

use std::{
    sync::{Mutex, mpsc},
    time::Duration,
};

use bartizan_trials::{Gate, PATIENCE, Upstream, modern_text};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Runtime,
    time::{sleep, timeout},
};
use tokio_rustls::client::TlsStream;

use super::tls::{Authority, tls};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What h2 says in the PING by which it learns that its GOAWAY was read.
const FAREWELL: [u8; 8] = [0x0b, 0x7b, 0xa2, 0xf0, 0x8b, 0x9b, 0xfe, 0x54];

/// The answer of the tool `long` is longer than this many bytes.
const LONG: u32 = 60_000;

/// A gate that is soon out of patience, in front of a server with a tool that says much and one that is silent for long.
struct Scene {
    authority: Authority,
    gate: Gate,
    up: Upstream,
    /// Lets the tool `silent` speak.
    go: mpsc::Sender<()>,
}

impl Scene {
    fn start() -> Self {
        let authority = Authority::new();
        authority.sign("localhost", "gate");
        let (go, wait) = mpsc::channel::<()>();
        let wait = Mutex::new(wait);
        let up = Upstream::modern(move |heard, pen| {
            if heard.rpc() != "tools/call" || heard.tool() == "echo" {
                return false;
            }
            let said = match heard.tool().as_str() {
                "long" => "word ".repeat(12_000),
                _ => "done".to_owned(),
            };
            let answer = format!(
                r#"{{"jsonrpc":"2.0","id":{},"result":{{"resultType":"complete","content":[{{"type":"text","text":"{said}"}}]}}}}"#,
                heard.id()
            );
            if heard.tool() == "silent" {
                pen.stream();
                let _ = wait.lock().unwrap().recv_timeout(2 * PATIENCE);
                pen.event(None, &answer);
            } else {
                pen.json(&answer);
            }
            true
        });
        let config =
            format!("{}write_timeout_s = 1\nidle_timeout_s = 1\n{}", tls(&authority), up.config("up", ""));
        Self { gate: Gate::start(&config), authority, up, go }
    }

    /// A connection whose streams begin with a window of `window` bytes.
    async fn connect(&self, window: u32) -> Frames {
        let mut frames = Frames(self.authority.connect(&self.gate, "h2", None).await);
        frames.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let initial_window_size = [&[0, 4][..], &window.to_be_bytes()].concat();
        frames.send(SETTINGS, 0, 0, &initial_window_size).await;
        // Of all streams together, more than any trial takes.
        frames.take(0, 1 << 20).await;
        frames
    }

    /// The header block (RFC 7541 §6.2.2, nothing indexed, nothing compressed) and the body of a call of `tool`.
    fn call(&self, tool: &str) -> (Vec<u8>, String) {
        let bearer = format!("Bearer {}", self.gate.token());
        let lines = [
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", &format!("localhost:{}", self.gate.address().port())),
            (":path", "/mcp/up"),
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", "tools/call"),
            ("mcp-name", tool),
            ("authorization", &bearer),
        ];
        let mut block = Vec::new();
        for (name, value) in lines {
            block.push(0);
            for text in [name, value] {
                block.extend(length(text.len()));
                block.extend(text.as_bytes());
            }
        }
        (block, modern_text("1", "tools/call", &format!(r#""name":"{tool}","arguments":{{}}"#), "{}"))
    }
}

/// An integer with a prefix of seven bits (RFC 7541 §5.1).
fn length(mut value: usize) -> Vec<u8> {
    let byte = |value: usize| u8::try_from(value).unwrap();
    if value < 127 {
        return vec![byte(value)];
    }
    value -= 127;
    let mut bytes = vec![127];
    while value >= 128 {
        bytes.push(byte(128 + value % 128));
        value /= 128;
    }
    bytes.push(byte(value));
    bytes
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    fn is(&self, kind: u8, flag: u8) -> bool {
        self.kind == kind && self.flags & flag == flag
    }
}

/// What a client sends without end, in its order.
type Flood<'f> = &'f dyn Fn(u32) -> Vec<u8>;

/// A client's end of a connection.
struct Frames(TlsStream<TcpStream>);

/// A frame's bytes.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

impl Frames {
    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        // The gate may have hung up; what it said before that can still be read.
        let _ = self.0.write_all(&frame(kind, flags, stream, payload)).await;
    }

    /// Asks, on this stream.
    async fn ask(&mut self, stream: u32, (block, body): (Vec<u8>, String)) {
        self.send(HEADERS, END_HEADERS, stream, &block).await;
        self.send(DATA, END_STREAM, stream, body.as_bytes()).await;
    }

    /// Takes `more` bytes of a stream.
    async fn take(&mut self, stream: u32, more: u32) {
        self.send(WINDOW_UPDATE, 0, stream, &more.to_be_bytes()).await;
    }

    /// The next frame, whatever it is; `None` if the gate has hung up.
    async fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap()];
        self.0.read_exact(&mut payload).await.ok()?;
        Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload })
    }

    /// The next frame of a stream, or that ends the connection; the others are answered as they should be.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            let frame = timeout(PATIENCE, self.read()).await.expect("the gate says something")?;
            match frame.kind {
                SETTINGS | PING if !frame.is(frame.kind, ACK) => {
                    let payload: &[u8] = if frame.kind == PING { &frame.payload } else { &[] };
                    self.send(frame.kind, ACK, 0, payload).await;
                }
                SETTINGS | PING | WINDOW_UPDATE => {}
                _ => return Some(frame),
            }
        }
    }

    /// What still comes of a stream, and whether it was reset.
    async fn rest(&mut self, stream: u32) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        loop {
            let frame = self.next().await.expect("the connection goes on");
            assert_ne!(frame.kind, GOAWAY, "the connection goes on");
            if frame.stream != stream {
                continue;
            }
            match frame.kind {
                RST_STREAM => return (bytes, true),
                DATA => bytes.extend(&frame.payload),
                _ => {}
            }
            if frame.flags & END_STREAM == END_STREAM {
                return (bytes, false);
            }
        }
    }

    /// Pings without end. Returns whether the gate asked it to go before it hung up.
    async fn linger(&mut self, is_rude: bool) -> bool {
        let mut is_told = false;
        self.send(PING, 0, 0, &[0; 8]).await;
        while let Some(frame) = self.read().await {
            match frame.kind {
                GOAWAY => is_told = true,
                PING if frame.is(PING, ACK) => {
                    sleep(Duration::from_millis(50)).await;
                    self.send(PING, 0, 0, &[0; 8]).await;
                }
                PING if !(is_rude && frame.payload == FAREWELL) => {
                    self.send(PING, ACK, 0, &frame.payload).await;
                }
                SETTINGS if !frame.is(SETTINGS, ACK) => self.send(SETTINGS, ACK, 0, &[]).await,
                _ => {}
            }
        }
        is_told
    }
}

#[test]
fn ph_20_a_stream_that_its_client_does_not_take_is_reset_and_a_silent_one_beside_it_stays() {
    let scene = Scene::start();
    Runtime::new().unwrap().block_on(async {
        let mut frames = scene.connect(0).await;
        frames.ask(1, scene.call("silent")).await;
        frames.take(1, 60_000).await;
        let begun = frames.next().await.unwrap();
        assert!(
            begun.is(HEADERS, END_HEADERS) && begun.stream == 1,
            "an event stream begins, and says nothing"
        );
        // Whether it takes nothing, or something and then no more.
        for (stream, window) in [(3, 0), (5, 1), (7, 20_000), (9, LONG)] {
            frames.ask(stream, scene.call("long")).await;
            if window > 0 {
                frames.take(stream, window).await;
            }
            let (taken, is_reset) = frames.rest(stream).await;
            assert_eq!((taken.len(), is_reset), (usize::try_from(window).unwrap(), true), "{window}");
        }
        scene.go.send(()).unwrap();
        let (answer, is_reset) = frames.rest(1).await;
        assert!(!is_reset && String::from_utf8_lossy(&answer).contains("done"));
    });
    assert_eq!(scene.up.heard_of("tools/call").len(), 5);
}

#[test]
fn ph_20_who_does_not_take_the_end_of_an_answer_is_hung_up_on() {
    let scene = Scene::start();
    Runtime::new().unwrap().block_on(async {
        let mut frames = scene.connect(10).await;
        frames.ask(1, scene.call("short")).await;
        let mut taken = 0;
        while let Some(frame) = frames.next().await {
            assert!(!frame.is(frame.kind, END_STREAM), "there was more");
            taken += if frame.kind == DATA { frame.payload.len() } else { 0 };
        }
        assert_eq!(taken, 10);
        // Somebody else, with room.
        let mut frames = scene.connect(60_000).await;
        frames.ask(1, scene.call("short")).await;
        let (answer, is_reset) = frames.rest(1).await;
        assert!(!is_reset && String::from_utf8_lossy(&answer).contains("done"));
    });
}

/// Behind a proxy they may be others'.
#[test]
fn ph_20_who_does_not_take_the_end_of_an_answer_takes_the_connection_from_nobody() {
    let scene = Scene::start();
    Runtime::new().unwrap().block_on(async {
        let mut frames = scene.connect(10).await;
        frames.ask(1, scene.call("silent")).await;
        frames.take(1, 60_000).await;
        frames.ask(3, scene.call("short")).await;
        let mut taken = 0;
        while taken < 10 {
            let frame = frames.next().await.expect("the connection goes on");
            taken += if frame.is(DATA, 0) && frame.stream == 3 { frame.payload.len() } else { 0 };
        }
        // For longer than it takes to find out.
        let later = sleep(Duration::from_secs(4));
        tokio::pin!(later);
        loop {
            tokio::select! {
                () = &mut later => break,
                frame = frames.next() => {
                    let frame = frame.expect("the connection goes on");
                    assert!(frame.kind != GOAWAY && frame.stream != 3, "{}", frame.kind);
                }
            }
        }
        // Once it was so, however short the answer is its stream alone is reset.
        for stream in [5, 7] {
            frames.ask(stream, scene.call("short")).await;
            let (taken, is_reset) = frames.rest(stream).await;
            assert_eq!((taken.len(), is_reset), (10, true));
        }
        scene.go.send(()).unwrap();
        let (answer, is_reset) = frames.rest(1).await;
        assert!(!is_reset && String::from_utf8_lossy(&answer).contains("done"));
        // Nobody is left whom it would be taken from.
        while frames.next().await.is_some() {}
    });
}

#[test]
fn ph_20_who_takes_an_answer_slowly_gets_all_of_it() {
    let scene = Scene::start();
    Runtime::new().unwrap().block_on(async {
        let mut frames = scene.connect(0).await;
        frames.ask(1, scene.call("long")).await;
        let mut answer = Vec::new();
        loop {
            let frame = frames.next().await.expect("the gate waits for who is slow");
            assert!(matches!(frame.kind, HEADERS | DATA), "{}", frame.kind);
            if frame.kind == DATA {
                answer.extend(&frame.payload);
            }
            if frame.is(DATA, END_STREAM) {
                break;
            }
            // Little by little, in longer than nothing at all may take.
            sleep(Duration::from_millis(250)).await;
            frames.take(1, 4096).await;
        }
        let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        let said = crate::text(&answer, "/result/content/0/text");
        assert_eq!(said.matches("word").count(), 12_000);
    });
}

#[test]
fn ph_20_who_asks_nothing_is_sent_away_and_who_waits_for_an_answer_is_not() {
    let scene = Scene::start();
    Runtime::new().unwrap().block_on(async {
        let mut waiting = scene.connect(60_000).await;
        waiting.ask(1, scene.call("silent")).await;
        assert!(waiting.next().await.is_some_and(|frame| frame.kind == HEADERS));
        for is_rude in [false, true] {
            let mut idle = scene.connect(60_000).await;
            idle.ask(1, scene.call("short")).await;
            assert!(!idle.rest(1).await.1);
            let lingering = timeout(PATIENCE, idle.linger(is_rude));
            assert!(lingering.await.expect("the gate hangs up"), "it says so before");
        }
        // Not even a greeting.
        let mut mute = scene.authority.connect(&scene.gate, "h2", None).await;
        let hearing = async { while matches!(mute.read(&mut [0; 64]).await, Ok(1..)) {} };
        timeout(PATIENCE, hearing).await.expect("the gate hangs up");
        scene.go.send(()).unwrap();
        let (answer, is_reset) = waiting.rest(1).await;
        assert!(!is_reset && String::from_utf8_lossy(&answer).contains("done"));
    });
}

#[test]
fn ph_20_who_sends_frames_without_end_is_hung_up_on() {
    let scene = Scene::start();
    let (block, _) = scene.call("short");
    let reset = 8_u32.to_be_bytes();
    let line = [0, 1, b'a', 1, b'b'].repeat(1000);
    let ping = frame(PING, 0, 0, &[0; 8]).repeat(1000);
    let floods: [(&str, bool, Flood<'_>); 4] = [
        ("streams that are reset at once", true, &|n| {
            let begun = frame(HEADERS, END_HEADERS, 2 * n + 1, &block);
            [begun, frame(RST_STREAM, 0, 2 * n + 1, &reset)].concat()
        }),
        ("streams that the gate must reset", true, &|n| {
            let begun = frame(HEADERS, END_HEADERS, 2 * n + 1, &block);
            [begun, frame(WINDOW_UPDATE, 0, 2 * n + 1, &i32::MAX.to_be_bytes())].concat()
        }),
        ("a head without an end", true, &|n| match n {
            0 => frame(HEADERS, 0, 1, &block),
            _ => frame(CONTINUATION, 0, 1, &line),
        }),
        ("questions whose answers nobody reads", false, &|_| ping.clone()),
    ];
    Runtime::new().unwrap().block_on(async {
        for (name, reads, flood) in floods {
            let (mut reader, mut writer) = tokio::io::split(scene.connect(60_000).await.0);
            let flooding = async {
                let mut n = 0;
                while writer.write_all(&flood(n)).await.is_ok() {
                    n += 1;
                }
            };
            let reading = async {
                let mut bytes = vec![0; 64 * 1024];
                while reads && matches!(reader.read(&mut bytes).await, Ok(1..)) {}
            };
            let both = async { tokio::join!(flooding, reading) };
            assert!(timeout(PATIENCE, both).await.is_ok(), "{name}");
            let mut honest = scene.connect(60_000).await;
            honest.ask(1, scene.call("short")).await;
            assert!(!honest.rest(1).await.1, "{name}");
        }
    });
    assert_eq!(scene.up.heard_of("tools/call").len(), 4, "nothing of it was done");
}
