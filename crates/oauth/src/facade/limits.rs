//! How often strangers may make us work.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
};

use bartizan_model::Timestamp;

/// Seconds in which things are counted.
const WINDOW_S: u64 = 60;
/// Addresses that are remembered at once.
const ROOM: usize = 16 * 1024;

/// A limit for each address, and one for all together, both for one minute.
pub(crate) struct Rate {
    each: u32,
    all: u32,
    of_ourselves: u32,
    counted: Mutex<Counted>,
}

#[derive(Default)]
struct Counted {
    window: u64,
    by_address: HashMap<IpAddr, u32>,
    together: u32,
}

impl Rate {
    pub fn new(each: u32, all: u32) -> Self {
        Self { each, all, of_ourselves: each, counted: Mutex::default() }
    }

    /// The same, with another limit for this machine's own address, which all of its programs share.
    #[must_use]
    pub fn of_ourselves(self, limit: u32) -> Self {
        Self { of_ourselves: limit, ..self }
    }

    /// Counts one more for `peer`; the error is how many seconds it has to wait.
    pub fn count(&self, peer: IpAddr, now: Timestamp) -> Result<(), u64> {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        counted.begin(now);
        let of_peer = counted.of(peer);
        let is_full = counted.by_address.len() >= ROOM && of_peer == 0;
        let each = if peer.to_canonical().is_loopback() { self.of_ourselves } else { self.each };
        if of_peer >= each || counted.together >= self.all || is_full {
            return Err(left(now));
        }
        counted.together += 1;
        counted.by_address.insert(network(peer), of_peer + 1);
        Ok(())
    }
}

/// How often each address may be refused in a minute before it is not listened to: what an honest client gets wrong is little,
/// however many people stand behind it. Nobody is turned away for what others do.
pub(crate) struct Patience {
    each: u32,
    of_ourselves: u32,
    counted: Mutex<Counted>,
}

impl Patience {
    /// With these limits for others, and for this machine's own address, which all of its programs share.
    pub fn new(each: u32, of_ourselves: u32) -> Self {
        Self { each, of_ourselves, counted: Mutex::default() }
    }

    /// Whether `peer` is listened to; the error is how many seconds it has to wait.
    pub fn check(&self, peer: IpAddr, now: Timestamp) -> Result<(), u64> {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        counted.begin(now);
        let each = if peer.to_canonical().is_loopback() { self.of_ourselves } else { self.each };
        if counted.of(peer) < each { Ok(()) } else { Err(left(now)) }
    }

    /// Counts a refusal of `peer`. Addresses for which there is no room are not counted: they might be anybody's.
    pub fn tire(&self, peer: IpAddr, now: Timestamp) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        counted.begin(now);
        let of_peer = counted.of(peer);
        if of_peer > 0 || counted.by_address.len() < ROOM {
            counted.by_address.insert(network(peer), of_peer.saturating_add(1));
        }
    }
}

impl Counted {
    /// Counts anew in a new minute.
    fn begin(&mut self, now: Timestamp) {
        let window = now.as_unix() / WINDOW_S;
        if self.window != window {
            *self = Self { window, ..Self::default() };
        }
    }

    fn of(&self, peer: IpAddr) -> u32 {
        self.by_address.get(&network(peer)).copied().unwrap_or_default()
    }
}

/// Seconds until the next minute.
fn left(now: Timestamp) -> u64 {
    WINDOW_S - now.as_unix() % WINDOW_S
}

/// What one party can take addresses from at will: of IPv6, half of the bits.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_ends_for_the_address_that_tires_us_and_for_a_minute() {
        let patience = Patience::new(2, 3);
        let at = |seconds: u64| Timestamp::from_unix(6_000 + seconds);
        let (a, b): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        for _ in 0..2 {
            assert_eq!(patience.check(a, at(1)), Ok(()));
            patience.tire(a, at(1));
        }
        assert_eq!(patience.check(a, at(2)), Err(58));
        assert_eq!(patience.check(b, at(2)), Ok(()), "the neighbour");
        assert_eq!(patience.check(a, at(60)), Ok(()));
        // However many there are: nobody is turned away for them, and no more room is taken.
        for host in 0..u32::try_from(ROOM).unwrap() + 100 {
            patience.tire(std::net::Ipv4Addr::from_bits(0x0a00_0000 + host).into(), at(61));
        }
        assert_eq!(patience.counted.lock().unwrap().by_address.len(), ROOM);
        assert_eq!(patience.check(b, at(62)), Ok(()));
    }

    #[test]
    fn an_address_and_all_together_are_bounded_for_a_minute() {
        let rate = Rate::new(2, 3);
        let at = |seconds: u64| Timestamp::from_unix(6_000 + seconds);
        let (a, b, c): (IpAddr, IpAddr, IpAddr) =
            ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap(), "192.0.2.1".parse().unwrap());
        assert_eq!(rate.count(a, at(0)), Ok(()));
        assert_eq!(rate.count(b, at(1)), Ok(()));
        assert_eq!(rate.count(a, at(2)), Err(58), "both are of one network");
        assert_eq!(rate.count(c, at(3)), Ok(()));
        assert_eq!(rate.count("192.0.2.2".parse().unwrap(), at(4)), Err(56), "all together");
        let ours: IpAddr = "127.0.0.1".parse().unwrap();
        let rate = Rate::new(1, 3).of_ourselves(2);
        assert_eq!([0, 1, 2].map(|_| rate.count(ours, at(0))), [Ok(()), Ok(()), Err(60)]);
        assert_eq!([0, 1].map(|_| rate.count(c, at(0))), [Ok(()), Err(60)]);
        let rate = Rate::new(2, 3);
        assert_eq!(rate.count(a, at(60)), Ok(()));
    }
}
