//! Where a bundle comes from: a file, or a feed through the one door out.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail};
use bartizan_egress::{Endpoint, Peer, TlsOptions};
use bartizan_shield::bundle::{BUNDLE_BYTES, Refusal};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use url::Url;

use super::Unfit;
use crate::{config::Config, endpoints};

/// How long a feed may take to answer, and again to send all of it.
const WITHIN: Duration = Duration::from_secs(30);

/// The longest `ETag` that is kept, in bytes.
const TAG: usize = 256;

/// What a file is by its entry in the folder: a change of any of it may be another content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    /// The file's, if there is one.
    pub fn of(path: &Path) -> Option<Self> {
        let about = fs::metadata(path).ok()?;
        let modified = (about.mtime(), about.mtime_nsec());
        Some(Self { inode: about.ino(), size: about.size(), modified })
    }
}

/// The file, if it is not too large.
pub async fn read(path: &Path) -> Result<Vec<u8>, Unfit> {
    let shown = path.display().to_string();
    let path = path.to_owned();
    let reading = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        fs::File::open(&path)?.take(BUNDLE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
        Ok::<_, io::Error>(bytes)
    });
    let bytes = reading.await.map_err(|error| Unfit::Unreadable(error.to_string()))?;
    let bytes = bytes.map_err(|error| Unfit::Unreadable(format!("{shown}: {error}")))?;
    if bytes.len() > BUNDLE_BYTES {
        return Err(Refusal::Size.into());
    }
    Ok(bytes)
}

/// Keeps a copy, in one step, for us alone.
pub fn keep(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("fresh");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(fresh, path)
}

impl Fetched {
    /// The content, and what it is called.
    pub fn into_parts(self) -> (Vec<u8>, Option<HeaderValue>) {
        (self.bytes, self.tag)
    }
}

/// A feed, asked now and then.
pub struct Feed {
    endpoint: Endpoint,
    /// What it said an answer was called that need not be looked at again.
    tag: Mutex<Option<HeaderValue>>,
}

/// What a feed had.
pub struct Fetched {
    bytes: Vec<u8>,
    tag: Option<HeaderValue>,
}

impl Feed {
    /// The feed at `url`, https alone; `ca` in place of the system's authorities.
    pub fn new(url: &str, ca: Option<PathBuf>, config: &Config) -> anyhow::Result<Self> {
        let url = Url::parse(url).context("url")?;
        if url.scheme() != "https" {
            bail!("url: a feed is fetched by https:// only");
        }
        let tls = TlsOptions { ca, ..TlsOptions::default() };
        let endpoint = endpoints::egress(config).endpoint(&Peer { url, tls, dangerous_plaintext: false })?;
        Ok(Self { endpoint, tag: Mutex::default() })
    }

    /// What it has, unless it says that this is what was [`Self::examined`] last.
    pub async fn fetch(&self) -> Result<Option<Fetched>, Unfit> {
        let unreachable = |error: bartizan_egress::Error| match error {
            bartizan_egress::Error::TooLong => Unfit::Refused(Refusal::Size),
            error => Unfit::Unreachable(error.to_string()),
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let tag = self.tag.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(tag) = tag {
            headers.insert(header::IF_NONE_MATCH, tag);
        }
        let answer = self.endpoint.send(Method::GET, headers, bytes::Bytes::new(), WITHIN).await;
        let answer = answer.map_err(unreachable)?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_MODIFIED => return Ok(None),
            status => return Err(Unfit::Unreachable(format!("it answers {}", status.as_u16()))),
        }
        let tag = answer.headers().get(header::ETAG).filter(|tag| tag.len() <= TAG).cloned();
        let bytes = answer.into_body().collect_within(BUNDLE_BYTES, WITHIN).await.map_err(unreachable)?;
        Ok(Some(Fetched { bytes, tag }))
    }

    /// That it is known what there is to know of what was called so: it need not be sent again.
    pub fn examined(&self, tag: Option<HeaderValue>) {
        *self.tag.lock().unwrap_or_else(PoisonError::into_inner) = tag;
    }
}
