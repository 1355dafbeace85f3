//! Clients whose id is the address of their metadata (Client ID Metadata Documents; spec.md F-17 to F-23; attacks.md
//! AA-27, CD-07).

use std::{
    collections::HashMap,
    future::Future,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bartizan_egress::{Egress, FetchLimits, Fetched};
use bartizan_model::{Clock, Timestamp};
use http::{HeaderMap, header};
use tokio::sync::OnceCell;
use url::Url;

use super::{
    client::{Client, ClientKeys, Origin},
    described::{self, Allowed},
    limits::Rate,
};
use crate::{Deed, Document, Fetch, Fetching, Ledger, NamedBy, Report, json::Object};

/// Bytes of a document (CIMD draft §6.6).
const MAX_BYTES: usize = 5 * 1024;
/// Bytes of a set of keys.
const MAX_KEYS_BYTES: usize = 64 * 1024;
/// For a fetch, all together.
const WITHIN: Duration = Duration::from_secs(5);
/// Bounds of how long a document is believed, and for how long without a word about it (SEP-991).
const KEPT_AT_LEAST: u64 = 60;
const KEPT_AT_MOST: u64 = 24 * 3600;
const KEPT_USUALLY: u64 = 300;
/// Documents that are kept at once.
const ROOM: usize = 2000;
/// Fetches in a minute: for one address, and for all together.
const EACH_PER_MINUTE: u32 = 10;
const ALL_PER_MINUTE: u32 = 120;
/// The same for documents that were good before, so that strangers cannot use up what known clients need.
const KNOWN_EACH_PER_MINUTE: u32 = 60;
const KNOWN_PER_MINUTE: u32 = 1200;

/// A fetch that is under way.
pub type FetchingStranger<'a> =
    Pin<Box<dyn Future<Output = Result<Fetched, bartizan_egress::Error>> + Send + 'a>>;

/// Fetches documents from addresses that strangers gave: https and public addresses only, without redirects.
pub trait FetchStranger: Send + Sync {
    /// GETs a document of at most `max_bytes`.
    fn fetch<'a>(&'a self, url: &'a Url, max_bytes: usize) -> FetchingStranger<'a>;
}

impl FetchStranger for Egress {
    fn fetch<'a>(&'a self, url: &'a Url, max_bytes: usize) -> FetchingStranger<'a> {
        let limits = FetchLimits { max_bytes, timeout: WITHIN, max_redirects: 0 };
        Box::pin(Egress::fetch(self, url, limits))
    }
}

/// The key sets that documents name, fetched like the documents.
struct StrangersKeys(Arc<dyn FetchStranger>);

impl Fetch for StrangersKeys {
    fn get<'a>(&'a self, url: &'a Url, _: NamedBy) -> Fetching<'a> {
        Box::pin(async move {
            let fetched = self.0.fetch(url, MAX_KEYS_BYTES).await?;
            Ok(Document { status: fetched.status.as_u16(), body: fetched.body })
        })
    }
}

/// Why there is no such client. What exactly went wrong on the network is for the log alone (spec.md G-26).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoDocument {
    /// The id is no address of a document, or of one that does not count here.
    Id,
    /// Too much is being asked; the seconds to wait.
    Later(u64),
    /// There is none, or none that can be used.
    Unusable,
}

type Flight = Arc<OnceCell<Result<Arc<Client>, NoDocument>>>;

/// Somebody who waits for a flight, or has gone away. The last one takes it off the board.
struct Passenger<'a> {
    documents: &'a Documents,
    id: &'a str,
    flight: &'a Flight,
}

impl Drop for Passenger<'_> {
    fn drop(&mut self) {
        let mut flights = self.documents.flights.lock().unwrap_or_else(PoisonError::into_inner);
        // The board's own, and this one.
        if Arc::strong_count(self.flight) <= 2 || self.flight.initialized() {
            flights.remove(self.id);
        }
    }
}

/// The documents, kept for as long as they say.
pub(crate) struct Documents {
    strangers: Arc<dyn FetchStranger>,
    clock: Arc<dyn Clock>,
    hosts: Vec<String>,
    ledger: Arc<dyn Ledger>,
    kept: Mutex<HashMap<String, (Arc<Client>, Timestamp)>>,
    /// Of many that ask for one document at once, one fetches it.
    flights: Mutex<HashMap<String, Flight>>,
    unknown: Rate,
    known: Rate,
}

impl Documents {
    pub fn new(
        strangers: Arc<dyn FetchStranger>,
        clock: Arc<dyn Clock>,
        hosts: Vec<String>,
        ledger: Arc<dyn Ledger>,
    ) -> Self {
        Self {
            strangers,
            clock,
            hosts,
            ledger,
            kept: Mutex::default(),
            flights: Mutex::default(),
            unknown: Rate::new(EACH_PER_MINUTE, ALL_PER_MINUTE),
            known: Rate::new(KNOWN_EACH_PER_MINUTE, KNOWN_PER_MINUTE),
        }
    }

    /// The client of a document, asked for by whoever is at `peer`; `None` if it is a person who has signed in.
    pub async fn find(&self, id: &str, peer: Option<IpAddr>) -> Result<Arc<Client>, NoDocument> {
        let now = self.clock.now();
        let url = address(id).ok_or(NoDocument::Id)?;
        let host = url.host_str().ok_or(NoDocument::Id)?.to_owned();
        if !self.hosts.is_empty() && !self.hosts.contains(&host) {
            return Err(NoDocument::Id);
        }
        let rate = match self.kept(id) {
            Some((client, until)) if now < until => return Ok(client),
            Some(_) => &self.known,
            None => &self.unknown,
        };
        let flight = {
            let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
            match flights.get(id) {
                Some(flight) => Arc::clone(flight),
                None => {
                    // Whoever starts a flight is counted; the others wait for its end.
                    if let Some(peer) = peer {
                        rate.count(peer, now).map_err(NoDocument::Later)?;
                    }
                    Arc::clone(flights.entry(id.to_owned()).or_default())
                }
            }
        };
        let _passenger = Passenger { documents: self, id, flight: &flight };
        flight.get_or_init(|| self.fetch(id, url, host, peer)).await.clone()
    }

    /// A client that was found before, and until when it is believed without asking again.
    fn kept(&self, id: &str) -> Option<(Arc<Client>, Timestamp)> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    async fn fetch(
        &self,
        id: &str,
        url: Url,
        host: String,
        peer: Option<IpAddr>,
    ) -> Result<Arc<Client>, NoDocument> {
        let lost = |what: String| {
            tracing::info!(
                client = id,
                %what,
                reason = "client.document",
                "a client's metadata document is unusable"
            );
            self.ledger.mention(Report {
                client: Some(without_query(id)),
                words: Some(what),
                address: peer,
                ..Report::new(Deed::ClientRefused, "client.document")
            });
            NoDocument::Unusable
        };
        let fetched = self.strangers.fetch(&url, MAX_BYTES).await.map_err(|error| lost(error.to_string()))?;
        if fetched.status != http::StatusCode::OK {
            return Err(lost(format!("it answers {}", fetched.status.as_u16())));
        }
        if !is_json(&fetched.headers) {
            return Err(lost("it is not served as JSON".to_owned()));
        }
        if fetched.body.len() > MAX_BYTES {
            return Err(lost("it is too long".to_owned()));
        }
        let text = Object::parse(&fetched.body).map_err(|_| lost("it is no JSON object".to_owned()))?;
        // Byte for byte: a document speaks for its own address only.
        if text.text("client_id") != Ok(Some(id)) {
            return Err(lost("its `client_id` is not its address".to_owned()));
        }
        if !text.has("client_name") {
            return Err(lost("it has no `client_name`".to_owned()));
        }
        let allowed = Allowed { secrets: false, keys_elsewhere: true };
        let described = described::read(id, &text, &allowed).map_err(|fault| lost(format!("{fault:?}")))?;
        let metadata = described.metadata;
        let fetch: Arc<dyn Fetch> = Arc::new(StrangersKeys(Arc::clone(&self.strangers)));
        let keys = ClientKeys::of(&metadata, fetch, Arc::clone(&self.clock));
        let client = Client { metadata, origin: Origin::Document(host), keys, introspects: false };
        let client = Arc::new(client);
        let now = self.clock.now();
        let until = now.plus(Duration::from_secs(kept_for(&fetched.headers)));
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let before = kept.get(id).map(|(client, _)| client.metadata.digest());
        let after = client.metadata.digest();
        let reason = match &before {
            None => "document.first",
            Some(before) if *before == after => "document.same",
            Some(_) => "document.changed",
        };
        self.ledger.mention(Report {
            client: Some(id.to_owned()),
            metadata: Some((before, after)),
            address: peer,
            ..Report::new(Deed::ClientFetched, reason)
        });
        if kept.len() >= ROOM {
            kept.retain(|_, (_, until)| now < *until);
            // Any one will do: it is fetched again when it is asked for.
            if kept.len() >= ROOM
                && let Some(any) = kept.keys().next().cloned()
            {
                kept.remove(&any);
            }
        }
        kept.insert(id.to_owned(), (Arc::clone(&client), until));
        Ok(client)
    }
}

/// The address that a client id is: https, with a path, in its one spelling, so without dot segments (CIMD draft §3).
fn address(id: &str) -> Option<Url> {
    let url = Url::parse(id).ok().filter(|_| id.len() <= 512)?;
    let is_good = url.as_str() == id
        && url.scheme() == "https"
        && url.path() != "/"
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    is_good.then_some(url)
}

/// Whether a client id means a document rather than a client of ours.
pub(crate) fn is_address(id: &str) -> bool {
    id.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("https://"))
        || id.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("http://"))
}

/// A client id as it is recorded where it is not known to be one: what stands in a query may be somebody's secret.
fn without_query(id: &str) -> String {
    id.split('?').next().unwrap_or_default().to_owned()
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

/// For how many seconds a document is believed, by `Cache-Control` within our bounds (spec.md F-20).
fn kept_for(headers: &HeaderMap) -> u64 {
    let lines = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|line| line.to_str().ok());
    let directives: Vec<_> =
        lines.flat_map(|line| line.split(',')).map(|d| d.trim().to_ascii_lowercase()).collect();
    let is_not_kept = directives.iter().any(|d| matches!(d.as_str(), "no-store" | "no-cache"));
    let age =
        directives.iter().find_map(|d| d.strip_prefix("max-age=")?.trim_matches('"').parse::<u64>().ok());
    let wanted = if is_not_kept { 0 } else { age.unwrap_or(KEPT_USUALLY) };
    wanted.clamp(KEPT_AT_LEAST, KEPT_AT_MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_19_only_an_https_address_with_a_path_in_its_one_spelling_is_a_client_id() {
        for good in ["https://c.example/client.json", "https://c.example:8443/a/b?v=1"] {
            assert!(address(good).is_some(), "{good}");
        }
        for bad in [
            "http://c.example/client.json",
            "https://c.example",
            "https://c.example/",
            "https://u@c.example/c",
            "https://u:p@c.example/c",
            "https://c.example/a/../c",
            "https://c.example/./c",
            "https://c.example/%2e%2e/c",
            "https://c.example/c#f",
            "https://C.example/c",
            "https://c.example:443/c",
            "https://c.example\\c",
            "javascript:x",
            "editor",
            "",
        ] {
            assert!(address(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_document_is_kept_as_its_headers_say_within_bounds() {
        let kept = |line: &'static str| {
            kept_for(&HeaderMap::from_iter([(header::CACHE_CONTROL, line.parse().unwrap())]))
        };
        assert_eq!(kept("public, max-age=600"), 600);
        assert_eq!(kept("Max-Age=1"), 60);
        assert_eq!(kept("max-age=99999999"), 24 * 3600);
        assert_eq!(kept("max-age=600, no-store"), 60);
        assert_eq!(kept("max-age=soon"), 300);
        assert_eq!(kept_for(&HeaderMap::new()), 300);
    }
}
