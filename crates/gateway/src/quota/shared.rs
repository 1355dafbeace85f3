//! Rates that several gates count together, in Redis.
//!
//! One script reads and writes all the rates of a request at once, by Redis's own clock, so that gates need not agree on
//! the time and a request that does not fit one rate counts against none. Redis learns digests, no names.

use std::{num::TryFromIntError, time::Duration};

use bartizan_egress::{Egress, TlsOptions};
use bartizan_model::Secret;
use bartizan_policy::limits::{OverLimit, Rate};
use bartizan_store::Digest;
use redis::{AsyncConnectionConfig, RedisConnectionInfo, Script, aio::MultiplexedConnection};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};
use url::Url;

/// How long Redis may take to answer; to connect it has as long again.
const WAIT: Duration = Duration::from_millis(500);
/// How long it is left alone after it failed.
const REST: Duration = Duration::from_secs(1);

/// KEYS: when the next request of each rate is due, in microseconds of Redis's clock. ARGV: interval and lead of each, in
/// microseconds. Answers the number of the rate that asks for the longest wait (0 if all let it pass), and that wait.
const TAKE: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local over, longest, due = 0, 0, {}
for i, key in ipairs(KEYS) do
  local at = math.max(tonumber(redis.call('GET', key) or '0'), now)
  local wait = at - now - tonumber(ARGV[2 * i])
  if wait > longest then over, longest = i, wait end
  due[i] = at + tonumber(ARGV[2 * i - 1])
end
if over == 0 then
  for i, key in ipairs(KEYS) do
    redis.call('SET', key, string.format('%.0f', due[i]), 'PX', math.ceil((due[i] - now) / 1000) + 1)
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

/// Rates in one Redis server.
pub struct Shared {
    place: Place,
    password: Option<Secret>,
    egress: Egress,
    script: Script,
    line: Mutex<Line>,
}

enum Line {
    Down { until: Instant },
    Up(MultiplexedConnection),
}

impl Shared {
    /// Rates at `place`. It is connected to when the first request comes.
    pub fn new(place: Place, password: Option<Secret>, egress: Egress) -> Self {
        let line = Mutex::new(Line::Down { until: Instant::now() });
        Self { place, password, egress, script: Script::new(TAKE), line }
    }

    /// Counts one request against all of `rates`, or against none.
    ///
    /// # Errors
    /// [`Unavailable`]: whether it counted is then unknown. Within: it is over a rate.
    pub async fn take(&self, rates: &[Rate]) -> Result<Result<(), OverLimit>, Unavailable> {
        if rates.is_empty() {
            return Ok(Ok(()));
        }
        let taken = self.ask(rates).await;
        match &taken {
            Ok(_) | Err(Unavailable::Resting) => {}
            Err(error) => {
                tracing::error!(%error, "`[limits] shared` cannot be asked");
                *self.line.lock().await = Line::Down { until: Instant::now() + REST };
            }
        }
        taken
    }

    async fn ask(&self, rates: &[Rate]) -> Result<Result<(), OverLimit>, Unavailable> {
        let mut line = self.line().await?;
        let mut invocation = self.script.prepare_invoke();
        for rate in rates {
            let key = Digest::of(rate.key.as_bytes());
            // The braces keep all keys in one slot of a cluster.
            invocation.key(format!("{{bartizan}}:rate:{}:{key}", rate.scope.as_str()));
            let microseconds = |time: Duration| u64::try_from(time.as_micros());
            invocation.arg(microseconds(rate.interval)?.max(1)).arg(microseconds(rate.ahead)?);
        }
        let (over, wait): (usize, u64) = timeout(WAIT, invocation.invoke_async(&mut line)).await??;
        let Some(at) = over.checked_sub(1) else { return Ok(Ok(())) };
        let rate = rates.get(at).ok_or(Unavailable::Answer)?;
        Ok(Err(OverLimit::Rate { scope: rate.scope, retry_after: Duration::from_micros(wait) }))
    }

    /// The connection, made if there is none. Whoever comes meanwhile waits for it.
    async fn line(&self) -> Result<MultiplexedConnection, Unavailable> {
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
        let shared = Shared::new(place, None, Egress::new(bartizan_egress::Config::default()));
        let rate = Rate {
            scope: bartizan_policy::limits::Scope::Caller,
            key: "ann".into(),
            interval: Duration::from_secs(1),
            ahead: Duration::ZERO,
        };
        let rates = [rate];
        assert!(matches!(shared.take(&rates).await, Err(Unavailable::Connect(_))));
        assert!(matches!(shared.take(&rates).await, Err(Unavailable::Resting)));
        assert!(matches!(shared.take(&[]).await, Ok(Ok(()))), "nothing to count");
    }
}
