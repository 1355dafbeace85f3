//! How many decisions one address may send: each leaves a row in the database for ten minutes, and nobody needs to be
//! signed in for it.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
};

use bartizan_model::Timestamp;

use super::PATIENCE;

/// Decisions of one address in ten minutes: a large office behind one address on a Monday morning.
const MOST: u32 = 1200;
/// Addresses that are counted at once. When there are more, counting starts anew rather than turning people away.
const ADDRESSES: usize = 16 * 1024;

/// The counts.
#[derive(Default)]
pub(super) struct Crowd(Mutex<HashMap<IpAddr, Count>>);

struct Count {
    since: Timestamp,
    sent: u32,
}

impl Crowd {
    /// Counts one more; the answer is whether it is one too many.
    pub fn is_too_big(&self, address: IpAddr, now: Timestamp) -> bool {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
        count.sent > MOST
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
        let (crowd, now) = (Crowd::default(), Timestamp::from_unix(0));
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!((0..MOST).all(|_| !crowd.is_too_big(address("2001:db8::1"), now)));
        assert!(crowd.is_too_big(address("2001:db8::2"), now), "of the same network");
        assert!(!crowd.is_too_big(address("2001:db8:0:1::1"), now));
        assert!((0..MOST).all(|_| !crowd.is_too_big(address("192.0.2.1"), now)));
        assert!(crowd.is_too_big(address("::ffff:192.0.2.1"), now), "the same in another notation");
        assert!(!crowd.is_too_big(address("192.0.2.2"), now));
        assert!(!crowd.is_too_big(address("192.0.2.1"), now.plus(Duration::from_secs(600))));
    }

    #[test]
    fn any_number_of_addresses_takes_bounded_room() {
        let (crowd, now) = (Crowd::default(), Timestamp::from_unix(0));
        for n in 0..u32::try_from(3 * ADDRESSES).unwrap() {
            assert!(!crowd.is_too_big(IpAddr::V4(n.into()), now));
        }
        assert!(crowd.0.lock().unwrap().len() <= ADDRESSES);
    }
}
