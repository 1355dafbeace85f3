//! How often one address may come, and how many decisions it may send: either can leave a row in the database for ten minutes, and
//! nobody needs to be signed in for it.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
};

use bartizan_model::Timestamp;

use super::PATIENCE;

/// Decisions of one address in ten minutes: a large office behind one address on a Monday morning.
pub(super) const DECISIONS: u32 = 1200;
/// The same for authorization requests. Each decision follows one, and so do the sign-ins of those who decided before.
pub(super) const VISITS: u32 = 2400;
/// Addresses that are counted at once. When there are more, counting starts anew rather than turning people away.
const ADDRESSES: usize = 16 * 1024;

/// The counts.
pub(super) struct Crowd {
    most: u32,
    counts: Mutex<HashMap<IpAddr, Count>>,
}

struct Count {
    since: Timestamp,
    sent: u32,
}

impl Crowd {
    /// With this limit for each address in ten minutes.
    pub fn new(most: u32) -> Self {
        Self { most, counts: Mutex::default() }
    }

    /// Counts one more; if it is one too many, the error is how many seconds are to be waited.
    pub fn count(&self, address: IpAddr, now: Timestamp) -> Result<(), u64> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let address = network(address);
        if counts.len() >= ADDRESSES && !counts.contains_key(&address) {
            counts.retain(|_, count| now.since(count.since) < PATIENCE);
            if counts.len() >= ADDRESSES {
                counts.clear();
            }
        }
        let count = counts.entry(address).or_insert(Count { since: now, sent: 0 });
        if now.since(count.since) >= PATIENCE {
            *count = Count { since: now, sent: 0 };
        }
        count.sent = count.sent.saturating_add(1);
        let left = PATIENCE.saturating_sub(now.since(count.since)).as_secs();
        if count.sent > self.most { Err(left) } else { Ok(()) }
    }
}

/// What one customer of a network provider holds: an IPv4 address, or 64 bits of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_address_is_held_back_and_its_neighbours_are_not() {
        let (crowd, now) = (Crowd::new(3), Timestamp::from_unix(0));
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let later = |seconds| now.plus(Duration::from_secs(seconds));
        for _ in 0..3 {
            assert_eq!(crowd.count(address("2001:db8::1"), now), Ok(()));
            assert_eq!(crowd.count(address("192.0.2.1"), now), Ok(()));
        }
        assert_eq!(crowd.count(address("2001:db8::2"), now), Err(600), "of the same network");
        assert_eq!(crowd.count(address("2001:db8:0:1::1"), now), Ok(()));
        assert_eq!(
            crowd.count(address("::ffff:192.0.2.1"), later(1)),
            Err(599),
            "the same in another notation"
        );
        assert_eq!(crowd.count(address("192.0.2.2"), now), Ok(()));
        assert_eq!(crowd.count(address("192.0.2.1"), later(600)), Ok(()));
    }

    #[test]
    fn any_number_of_addresses_takes_bounded_room() {
        let (crowd, now) = (Crowd::new(3), Timestamp::from_unix(0));
        for n in 0..u32::try_from(3 * ADDRESSES).unwrap() {
            assert_eq!(crowd.count(IpAddr::V4(n.into()), now), Ok(()));
        }
        assert!(crowd.counts.lock().unwrap().len() <= ADDRESSES);
    }
}
