//! Rates, places among what is under way, and what may be used once, that several gates count together, in Redis.
//!
//! One script reads and writes all the rates and places of a request at once, by Redis's own clock, so that gates need not
//! agree on the time and a request that does not fit one of them counts against none. Redis learns digests, no names. How
//! places are kept and given back is in [`super::leases`].

use std::{
    num::TryFromIntError,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bartizan_egress::{Egress, TlsOptions};
use bartizan_model::Secret;
use bartizan_policy::limits::{OverLimit, Rate, Room, Scope};
use bartizan_store::Digest;
use redis::{AsyncConnectionConfig, RedisConnectionInfo, Script, aio::MultiplexedConnection};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};
use url::Url;

use super::leases::{LEASE, Lease, Leases};

/// How long Redis may take to answer; to connect it has as long again.
pub(super) const WAIT: Duration = Duration::from_millis(500);
/// How long it is left alone after it failed.
const REST: Duration = Duration::from_secs(1);

/// KEYS: when the next request of each rate is due, in microseconds of Redis's clock; then the leases of each place, by when
/// they end. ARGV: how many rates there are, the lease's name, how long it lives in microseconds; interval and lead of each
/// rate, in microseconds; how many each place has room for. Answers the number of the key that asks for the longest wait (0 if
/// all let it pass), and that wait.
const TAKE: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local rates, name, lease = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local over, longest, due = 0, 0, {}
for i = 1, rates do
  local at = math.max(tonumber(redis.call('GET', KEYS[i]) or '0'), now)
  local wait = at - now - tonumber(ARGV[2 * i + 3])
  if wait > longest then over, longest = i, wait end
  due[i] = at + tonumber(ARGV[2 * i + 2])
end
for i = rates + 1, #KEYS do
  redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', string.format('%.0f', now))
  if over == 0 and redis.call('ZCARD', KEYS[i]) >= tonumber(ARGV[rates + i + 3]) then over = i end
end
if over == 0 then
  for i, key in ipairs(KEYS) do
    if i <= rates then
      redis.call('SET', key, string.format('%.0f', due[i]), 'PX', math.ceil((due[i] - now) / 1000) + 1)
    else
      redis.call('ZADD', key, string.format('%.0f', now + lease), name)
      redis.call('PEXPIRE', key, math.ceil(lease / 1000) + 1000)
    end
  end
end
return {over, math.ceil(longest)}
";

/// Where the rates are.
#[derive(Clone, Debug)]
pub struct Place {
    host: String,
    port: u16,
    database: i64,
    user: Option<String>,
    /// TLS, if it is spoken.
    tls: Option<TlsOptions>,
}

impl Place {
    /// Reads `redis://[user@]host[:port][/database]`, or `rediss://` for TLS by `tls`.
    ///
    /// # Errors
    /// What is wrong with it, for the operator.
    pub fn parse(text: &str, tls: TlsOptions) -> Result<Self, &'static str> {
        let url = Url::parse(text).map_err(|_| "it is no URL")?;
        let tls = match url.scheme() {
            "redis" => None,
            "rediss" => Some(tls),
            _ => return Err("it starts with neither `redis://` nor `rediss://`"),
        };
        if url.password().is_some() {
            return Err("it holds a password; put that into a file and name it in `shared_password_file`");
        }
        let host = url.host_str().filter(|h| !h.is_empty()).ok_or("it names no host")?.to_owned();
        let is_here = matches!(host.as_str(), "localhost" | "[::1]")
            || host.parse::<std::net::Ipv4Addr>().is_ok_and(|a| a.is_loopback());
        if tls.is_none() && !is_here {
            return Err("`redis://` is for this machine only; use `rediss://` (TLS)");
        }
        let database = match url.path().trim_start_matches('/') {
            "" => 0,
            number => number.parse().map_err(|_| "its path is no number of a database")?,
        };
        let user = Some(url.username()).filter(|u| !u.is_empty()).map(str::to_owned);
        Ok(Self { host, port: url.port().unwrap_or(6379), database, user, tls })
    }
}

/// Nobody could be asked.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// It failed a moment ago.
    #[error("it failed a moment ago")]
    Resting,
    /// No connection.
    #[error("it cannot be connected to: {0}")]
    Connect(#[from] bartizan_egress::Error),
    /// It answered by an error.
    #[error("{0}")]
    Redis(#[from] redis::RedisError),
    /// It answered nothing that makes sense.
    #[error("its answer makes no sense")]
    Answer,
    /// It did not answer in time.
    #[error("it did not answer in time")]
    Timeout,
}

impl From<tokio::time::error::Elapsed> for Unavailable {
    fn from(_: tokio::time::error::Elapsed) -> Self {
        Self::Timeout
    }
}

impl From<TryFromIntError> for Unavailable {
    fn from(_: TryFromIntError) -> Self {
        Self::Answer
    }
}

/// Rates and places in one Redis server.
pub struct Shared {
    /// What this process's leases begin with.
    gate: String,
    wire: Arc<Wire>,
    script: Script,
    leases: OnceLock<Leases>,
}

/// The connection.
pub(super) struct Wire {
    place: Place,
    password: Option<Secret>,
    egress: Egress,
    line: Mutex<Line>,
}

enum Line {
    Down { until: Instant },
    Up(MultiplexedConnection),
}

impl Shared {
    /// Rates and places at `place`, for the process that calls itself `gate` and no other does. It is connected to when the
    /// first request comes.
    pub fn new(place: Place, password: Option<Secret>, egress: Egress, gate: String) -> Self {
        let line = Mutex::new(Line::Down { until: Instant::now() });
        let wire = Arc::new(Wire { place, password, egress, line });
        Self { gate, wire, script: Script::new(TAKE), leases: OnceLock::new() }
    }

    /// Counts one request against all of `rates` and `rooms`, or against none. It has its places until the lease is dropped;
    /// none where there is no room to have one in.
    ///
    /// # Errors
    /// [`Unavailable`]: whether it counted is then unknown. Within: what it is over.
    pub(super) async fn take(
        &self,
        rates: &[Rate],
        rooms: &[Room],
    ) -> Result<Result<Option<Lease>, OverLimit>, Unavailable> {
        if rates.is_empty() && rooms.is_empty() {
            return Ok(Ok(None));
        }
        let keys: Vec<String> = rooms.iter().map(|room| name("held", room.scope, &room.key)).collect();
        let leases = || self.leases.get_or_init(|| Leases::new(self.gate.clone(), Arc::clone(&self.wire)));
        let lease = (!keys.is_empty()).then(|| leases().ask(keys.clone()));
        let asked = self.ask(rates, rooms, &keys, lease.as_ref().map_or("", Lease::name)).await;
        match asked {
            Ok(Ok(())) => Ok(Ok(lease.map(Lease::granted))),
            Ok(Err(over)) => {
                lease.into_iter().for_each(Lease::refused);
                Ok(Err(over))
            }
            Err(error) => Err(self.failed(error).await),
        }
    }

    /// Whether no gate has noted `id` before; it is noted now, for `life`.
    ///
    /// # Errors
    /// [`Unavailable`]: whether it is noted is then unknown.
    pub(super) async fn is_first(&self, id: &Digest, life: Duration) -> Result<bool, Unavailable> {
        match self.note(id, life).await {
            Ok(is_first) => Ok(is_first),
            Err(error) => Err(self.failed(error).await),
        }
    }

    async fn note(&self, id: &Digest, life: Duration) -> Result<bool, Unavailable> {
        let mut line = self.wire.line().await?;
        let mut set = redis::cmd("SET");
        set.arg(format!("{{bartizan}}:used:{id}")).arg(1).arg("NX");
        set.arg("PX").arg(u64::try_from(life.as_millis())?.max(1));
        let noted: Option<String> = timeout(WAIT, set.query_async(&mut line)).await??;
        Ok(noted.is_some())
    }

    /// Leaves it alone for a while after this.
    async fn failed(&self, error: Unavailable) -> Unavailable {
        if !matches!(error, Unavailable::Resting) {
            tracing::error!(%error, "`[limits] shared` cannot be asked");
            self.wire.rest().await;
        }
        error
    }

    async fn ask(
        &self,
        rates: &[Rate],
        rooms: &[Room],
        keys: &[String],
        lease: &str,
    ) -> Result<Result<(), OverLimit>, Unavailable> {
        let mut line = self.wire.line().await?;
        let microseconds = |time: Duration| u64::try_from(time.as_micros());
        let mut invocation = self.script.prepare_invoke();
        invocation.arg(rates.len()).arg(lease).arg(microseconds(LEASE)?);
        for rate in rates {
            invocation.key(name("rate", rate.scope, &rate.key));
            invocation.arg(microseconds(rate.interval)?.max(1)).arg(microseconds(rate.ahead)?);
        }
        for (room, key) in rooms.iter().zip(keys) {
            invocation.key(key).arg(room.most.get());
        }
        let (over, wait): (usize, u64) = timeout(WAIT, invocation.invoke_async(&mut line)).await??;
        let Some(at) = over.checked_sub(1) else { return Ok(Ok(())) };
        match (rates.get(at), at.checked_sub(rates.len()).and_then(|at| rooms.get(at))) {
            (Some(rate), _) => {
                Ok(Err(OverLimit::Rate { scope: rate.scope, retry_after: Duration::from_micros(wait) }))
            }
            (None, Some(room)) => Ok(Err(OverLimit::Concurrent { scope: room.scope })),
            (None, None) => Err(Unavailable::Answer),
        }
    }
}

/// What is counted for this key of this scope. The braces keep all keys in one slot of a cluster.
fn name(what: &str, scope: Scope, key: &str) -> String {
    format!("{{bartizan}}:{what}:{}:{}", scope.as_str(), Digest::of(key.as_bytes()))
}

impl Wire {
    /// Leaves it alone for a while, after it failed.
    pub async fn rest(&self) {
        *self.line.lock().await = Line::Down { until: Instant::now() + REST };
    }

    /// The connection, made if there is none. Whoever comes meanwhile waits for it.
    pub async fn line(&self) -> Result<MultiplexedConnection, Unavailable> {
        let mut line = self.line.lock().await;
        match &*line {
            Line::Up(line) => return Ok(line.clone()),
            Line::Down { until } if Instant::now() < *until => return Err(Unavailable::Resting),
            Line::Down { .. } => {}
        }
        let fresh = match timeout(WAIT, self.connect()).await.map_err(Unavailable::from).flatten() {
            Ok(fresh) => fresh,
            Err(error) => {
                // Before the next in line tries, who would wait as long.
                *line = Line::Down { until: Instant::now() + REST };
                return Err(error);
            }
        };
        *line = Line::Up(fresh.clone());
        Ok(fresh)
    }

    async fn connect(&self) -> Result<MultiplexedConnection, Unavailable> {
        let Place { host, port, database, user, tls } = &self.place;
        let stream = self.egress.connection(host, *port, tls.as_ref()).await?;
        let mut info = RedisConnectionInfo::default().set_db(*database).set_skip_set_lib_name();
        if let Some(user) = user {
            info = info.set_username(user);
        }
        if let Some(password) = &self.password {
            info = info.set_password(password.reveal());
        }
        let (line, driving) =
            MultiplexedConnection::new_with_config(&info, stream, AsyncConnectionConfig::default()).await?;
        // It ends with the last of the connection's owners.
        tokio::spawn(driving);
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_on_this_machine_or_behind_tls() {
        let parse = |text| Place::parse(text, TlsOptions::default());
        let place = parse("redis://gate@127.0.0.1/3").unwrap();
        assert_eq!((place.port, place.database, place.user.as_deref()), (6379, 3, Some("gate")));
        assert!(place.tls.is_none() && parse("rediss://redis.example:7000").unwrap().tls.is_some());
        assert!(parse("redis://[::1]:6380").is_ok() && parse("redis://localhost").is_ok());
        for (bad, because) in [
            ("redis://redis.example", "this machine only"),
            ("redis://10.0.0.1", "this machine only"),
            ("http://127.0.0.1", "neither"),
            ("redis://:secret@127.0.0.1", "shared_password_file"),
            ("redis://127.0.0.1/x", "database"),
            ("127.0.0.1:6379", "URL"),
        ] {
            let refused = parse(bad).unwrap_err();
            assert!(refused.contains(because), "{bad}: {refused}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_away_is_left_alone_for_a_while() {
        // Nobody listens where somebody did a moment ago.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = format!("redis://127.0.0.1:{}", listener.local_addr().unwrap().port());
        drop(listener);
        let place = Place::parse(&place, TlsOptions::default()).unwrap();
        let shared = Shared::new(place, None, Egress::new(bartizan_egress::Config::default()), "me".into());
        let rate = Rate {
            scope: Scope::Caller,
            key: "ann".into(),
            interval: Duration::from_secs(1),
            ahead: Duration::ZERO,
        };
        let rates = [rate];
        assert!(matches!(shared.take(&rates, &[]).await, Err(Unavailable::Connect(_))));
        assert!(matches!(shared.take(&rates, &[]).await, Err(Unavailable::Resting)));
        assert!(matches!(shared.take(&[], &[]).await, Ok(Ok(None))), "nothing to count");
    }
}
