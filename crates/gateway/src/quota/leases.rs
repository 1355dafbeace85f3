//! Places among the requests under way, the sessions and the streams that several gates count together: leases in Redis.
//!
//! A gate renews its leases for as long as what they are for goes on, and gives each back when that ends. A
//! gate that dies renews nothing: what it had counts for [`LEASE`] at most. One task of a gate does both, so that nothing is
//! renewed after it was given back.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::Script;
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::{MissedTickBehavior, interval, timeout},
};

use super::shared::{Unavailable, WAIT, Wire};

/// For how long a request counts that nobody renews.
pub(super) const LEASE: Duration = Duration::from_secs(30);
/// How often leases are renewed: twice they may be missed.
const RENEW: Duration = Duration::from_secs(10);
/// Leases that are renewed or given back in one go.
const AT_ONCE: usize = 512;

/// KEYS: the places of each lease. ARGV: how long leases live, in microseconds; then for each key whether it is kept (1) or
/// given back (0), and the lease's name.
const KEEP: &str = r"
local time = redis.call('TIME')
local ends = time[1] * 1000000 + time[2] + tonumber(ARGV[1])
for i, key in ipairs(KEYS) do
  if ARGV[2 * i] == '1' then
    redis.call('ZADD', key, string.format('%.0f', ends), ARGV[2 * i + 1])
    redis.call('PEXPIRE', key, math.ceil(tonumber(ARGV[1]) / 1000) + 1000)
  else
    redis.call('ZREM', key, ARGV[2 * i + 1])
  end
end
return #KEYS
";

/// The leases of one gate.
pub(super) struct Leases {
    /// Of this process and no other.
    gate: String,
    next: AtomicU64,
    to: UnboundedSender<Change>,
}

/// A request's places, given back when this is dropped.
#[must_use = "the request counts as over when this is dropped"]
pub(super) struct Lease {
    name: String,
    keys: Vec<String>,
    to: Option<UnboundedSender<Change>>,
}

enum Change {
    /// It counts from now on.
    Begun(String, Vec<String>),
    /// It may count no more.
    Ended(String, Vec<String>),
}

impl Leases {
    /// Leases under names that begin with `gate`, kept over `wire` until they and this are dropped. It needs a runtime.
    pub fn new(gate: String, wire: Arc<Wire>) -> Self {
        let (to, from) = unbounded_channel();
        tokio::spawn(keep(from, wire));
        Self { gate, next: AtomicU64::new(0), to }
    }

    /// A lease of the places at `keys`, before anybody has granted it: whatever becomes of the question, it is given back.
    pub fn ask(&self, keys: Vec<String>) -> Lease {
        let name = format!("{}:{}", self.gate, self.next.fetch_add(1, Ordering::Relaxed));
        Lease { name, keys, to: Some(self.to.clone()) }
    }
}

impl Lease {
    /// What it is called in Redis.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// It was granted: it is renewed from now on.
    pub fn granted(self) -> Self {
        if let Some(to) = &self.to {
            // Whoever keeps leases lives as long as one of them.
            let _ = to.send(Change::Begun(self.name.clone(), self.keys.clone()));
        }
        self
    }

    /// It was refused: there is nothing to give back.
    pub fn refused(mut self) {
        self.to = None;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(to) = self.to.take() {
            let _ = to.send(Change::Ended(std::mem::take(&mut self.name), std::mem::take(&mut self.keys)));
        }
    }
}

/// Renews what is under way and gives back what has ended, until nobody can begin anything any more.
async fn keep(mut from: UnboundedReceiver<Change>, wire: Arc<Wire>) {
    let script = Script::new(KEEP);
    let mut live: HashMap<String, Vec<String>> = HashMap::new();
    let mut ticks = interval(RENEW);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut changes = Vec::new();
    loop {
        let work: Vec<(bool, String, String)> = tokio::select! {
            count = from.recv_many(&mut changes, AT_ONCE) => {
                if count == 0 {
                    return;
                }
                let mut ended = Vec::new();
                for change in changes.drain(..) {
                    match change {
                        Change::Begun(name, keys) => drop(live.insert(name, keys)),
                        Change::Ended(name, keys) => {
                            live.remove(&name);
                            ended.extend(keys.into_iter().map(|key| (false, key, name.clone())));
                        }
                    }
                }
                ended
            }
            _ = ticks.tick() => {
                let all = live.iter().flat_map(|(name, keys)| keys.iter().map(move |key| (name, key)));
                all.map(|(name, key)| (true, key.clone(), name.clone())).collect()
            }
        };
        for part in work.chunks(AT_ONCE) {
            if let Err(error) = tell(&wire, &script, part).await {
                // Of what is not renewed there is another chance or two; what is not given back ends by itself.
                tracing::warn!(%error, "`[limits] shared` does not hear what is under way here");
                break;
            }
        }
    }
}

async fn tell(wire: &Wire, script: &Script, work: &[(bool, String, String)]) -> Result<(), Unavailable> {
    let mut line = wire.line().await?;
    let mut invocation = script.prepare_invoke();
    invocation.arg(u64::try_from(LEASE.as_micros())?);
    for (is_kept, key, name) in work {
        invocation.key(key).arg(u8::from(*is_kept)).arg(name);
    }
    let told: Result<usize, Unavailable> =
        match timeout(WAIT, invocation.invoke_async(&mut line)).await.map_err(Unavailable::from) {
            Ok(answered) => answered.map_err(Unavailable::from),
            Err(error) => Err(error),
        };
    if let Err(error) = told {
        wire.rest().await;
        return Err(error);
    }
    Ok(())
}
