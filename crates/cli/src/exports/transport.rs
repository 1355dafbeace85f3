//! What carries shipments: HTTP and streams over egress, and a file.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bartizan_audit::export::{Answer, Authorization, Shipment, Transport, Unreachable};
use bartizan_egress::{Egress, Endpoint, Peer, StreamEndpoint, TlsOptions};
use bartizan_model::Secret;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use super::credentials::Credentials;

/// How long a receiver may take to answer, or to read a stream.
const WITHIN: Duration = Duration::from_secs(30);

/// How much of an answer is read, in bytes.
const LONGEST: usize = 64 << 10;

/// The longest pause a receiver can ask for.
const PATIENCE: Duration = Duration::from_secs(3600);

const AGENT: &str = concat!("bartizan/", env!("CARGO_PKG_VERSION"));

type Carrying<'a> = Pin<Box<dyn Future<Output = Result<Answer, Unreachable>> + Send + 'a>>;

fn unreachable(error: impl ToString) -> Unreachable {
    Unreachable(error.to_string())
}

/// HTTP.
pub struct HttpTransport {
    egress: Egress,
    tls: TlsOptions,
    credentials: Option<Credentials>,
    endpoints: Mutex<BTreeMap<String, Endpoint>>,
}

impl HttpTransport {
    /// With `credentials` where the receiver wants access tokens.
    pub fn new(egress: Egress, tls: TlsOptions, credentials: Option<Credentials>) -> Self {
        Self { egress, tls, credentials, endpoints: Mutex::default() }
    }

    /// A receiver has one URL, so this map has one entry.
    fn endpoint(&self, url: &str) -> Result<Endpoint, Unreachable> {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(endpoint) = endpoints.get(url) {
            return Ok(endpoint.clone());
        }
        let peer = Peer {
            url: url.parse().map_err(unreachable)?,
            tls: self.tls.clone(),
            dangerous_plaintext: false,
        };
        let endpoint = self.egress.endpoint(&peer).map_err(unreachable)?;
        endpoints.insert(url.to_owned(), endpoint.clone());
        Ok(endpoint)
    }

    async fn post(&self, shipment: Shipment) -> Result<Answer, Unreachable> {
        let Shipment::Post { url, headers: lines, authorization, body } = shipment else {
            return Err(unreachable("this receiver takes posts"));
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, HeaderValue::from_static(AGENT));
        for (name, value) in lines {
            let value = HeaderValue::try_from(value).map_err(unreachable)?;
            headers.insert(HeaderName::from_static(name), value);
        }
        match authorization {
            Authorization::None => {}
            Authorization::Secret { scheme, secret } => {
                headers.insert(header::AUTHORIZATION, credential(scheme, &secret)?);
            }
            Authorization::AccessToken { scope } => {
                let credentials = self.credentials.as_ref();
                let credentials =
                    credentials.ok_or_else(|| unreachable("there is nobody to ask for a token"))?;
                let token = credentials.token(&scope).await.map_err(Unreachable)?;
                headers.insert(header::AUTHORIZATION, credential("Bearer", &token)?);
            }
        }
        let response = self.endpoint(&url)?.send(Method::POST, headers, body.into(), WITHIN).await;
        let response = response.map_err(unreachable)?;
        let status = response.status().as_u16();
        if status == 401
            && let Some(credentials) = &self.credentials
        {
            credentials.forget().await;
        }
        let asked = response.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
        let retry_after = asked.map(|seconds| Duration::from_secs(seconds).min(PATIENCE));
        // What a status means is known without the body, however long.
        let body = match response.into_body().collect_within(LONGEST, WITHIN).await {
            Ok(body) => body,
            Err(bartizan_egress::Error::TooLong) => Vec::new(),
            Err(error) => return Err(unreachable(error)),
        };
        Ok(Answer { status, retry_after, body })
    }
}

fn credential(scheme: &str, secret: &Secret) -> Result<HeaderValue, Unreachable> {
    let mut value = HeaderValue::try_from(format!("{scheme} {}", secret.reveal()))
        .map_err(|_| unreachable("its credential holds what no header can carry"))?;
    value.set_sensitive(true);
    Ok(value)
}

impl Transport for HttpTransport {
    fn carry(&self, shipment: Shipment) -> Carrying<'_> {
        Box::pin(self.post(shipment))
    }
}

/// A stream to a receiver that answers nothing: taken when it has read everything.
pub struct StreamTransport(pub StreamEndpoint);

impl Transport for StreamTransport {
    fn carry(&self, shipment: Shipment) -> Carrying<'_> {
        Box::pin(async move {
            let Shipment::Stream(bytes) = shipment else {
                return Err(unreachable("this receiver takes a stream"));
            };
            self.0.deliver(&bytes, WITHIN).await.map_err(unreachable)?;
            Ok(Answer { status: 200, ..Answer::default() })
        })
    }
}

/// A file of whole lines, renamed when it is long.
pub struct FileTransport {
    path: PathBuf,
    max_bytes: u64,
    keep: u32,
}

impl FileTransport {
    /// Appends to `path`, which is renamed before it is longer than `max_bytes`; `keep` renamed files are kept.
    pub fn new(path: PathBuf, max_bytes: u64, keep: u32) -> Self {
        Self { path, max_bytes, keep }
    }

    /// Durable when this returns.
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        // Several logs may be delivered into one file.
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = self.open()?;
        let length = file.metadata()?.len();
        if length > 0 && length + bytes.len() as u64 > self.max_bytes {
            self.rotate()?;
            file = self.open()?;
        }
        // A line that a crash or a full disk tore is ended, so that only itself is lost; it is written again.
        if is_torn(&mut file)? {
            file.write_all(b"\n")?;
        }
        file.write_all(bytes)?;
        file.sync_data()
    }

    fn open(&self) -> io::Result<File> {
        OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&self.path)
    }

    fn rotate(&self) -> io::Result<()> {
        for number in (1..self.keep).rev() {
            rename(&numbered(&self.path, number), &numbered(&self.path, number + 1))?;
        }
        match self.keep {
            0 => fs::remove_file(&self.path),
            _ => rename(&self.path, &numbered(&self.path, 1)),
        }
    }
}

fn is_torn(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl Transport for FileTransport {
    fn carry(&self, shipment: Shipment) -> Carrying<'_> {
        Box::pin(async move {
            let Shipment::Stream(bytes) = shipment else {
                return Err(unreachable("a file takes a stream"));
            };
            let file = Self { path: self.path.clone(), ..*self };
            let written = tokio::task::spawn_blocking(move || file.append(&bytes)).await;
            written.map_err(unreachable)?.map_err(unreachable)?;
            Ok(Answer { status: 200, ..Answer::default() })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_whole_lines_is_private_and_is_renamed_when_it_is_long() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let file = FileTransport::new(path.clone(), 10, 2);
        file.append(b"one\n").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"to").unwrap();
        file.append(b"2\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\nto\n2\n", "a torn line harms no other");
        for line in ["three\n", "fourth\n", "fifth\n"] {
            file.append(line.as_bytes()).unwrap();
        }
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).ok();
        assert_eq!(read("audit.jsonl").as_deref(), Some("fifth\n"));
        assert_eq!(read("audit.jsonl.1").as_deref(), Some("fourth\n"));
        assert_eq!(read("audit.jsonl.2").as_deref(), Some("three\n"));
        assert_eq!(read("audit.jsonl.3"), None, "two are kept");
    }
}
