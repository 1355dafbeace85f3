//! Which addresses may be connected to (spec.md G-21, G-24; attacks.md CD-03).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Whose idea an address was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zone {
    /// A stranger's: the public internet only.
    Public,
    /// The operator's: private networks too.
    Operator,
    /// The operator's, and the name says loopback: that, and nothing else.
    Loopback,
    /// Where the platform vouches for this machine: link-local or loopback, and nothing else.
    Platform,
}

/// Whether `address` may be connected to.
pub(crate) fn is_allowed(address: IpAddr, zone: Zone, dangerous_allow: &[IpNet]) -> bool {
    if zone == Zone::Platform {
        return match address {
            IpAddr::V4(v4) => v4.is_link_local() || v4.is_loopback(),
            IpAddr::V6(v6) => v6.is_loopback(),
        };
    }
    if dangerous_allow.iter().any(|net| net.contains(&address)) {
        return true;
    }
    match address {
        IpAddr::V4(v4) => is_allowed_v4(v4, zone),
        IpAddr::V6(v6) => is_allowed_v6(v6, zone),
    }
}

fn is_allowed_v4(address: Ipv4Addr, zone: Zone) -> bool {
    // `localhost` that resolves elsewhere would be spoken to in plain text.
    if address.is_loopback() || zone == Zone::Loopback {
        return address.is_loopback() && zone == Zone::Loopback;
    }
    // Metadata services outside link-local: Azure's platform address is public by number, Alibaba's lies in the
    // carriers' range, Oracle's among the protocol assignments.
    let metadata = [([168, 63, 129, 16], 32), ([100, 100, 100, 200], 32), ([192, 0, 0, 192], 32)];
    let never = address.is_unspecified()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || in_v4(address, &[([0, 0, 0, 0], 8), ([240, 0, 0, 0], 4)])
        || in_v4(address, &metadata);
    let special = address.is_private()
        || address.is_documentation()
        || in_v4(
            address,
            &[([100, 64, 0, 0], 10), ([192, 0, 0, 0], 24), ([192, 88, 99, 0], 24), ([198, 18, 0, 0], 15)],
        );
    !never && (zone != Zone::Public || !special)
}

fn is_allowed_v6(address: Ipv6Addr, zone: Zone) -> bool {
    if address.is_loopback() {
        return zone == Zone::Loopback;
    }
    if let Some(v4) = embedded_v4(address) {
        return is_allowed_v4(v4, zone);
    }
    if zone == Zone::Loopback {
        return false;
    }
    // The metadata service of EC2 lives inside the private range.
    let metadata = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    let never = address.is_unspecified()
        || address.is_unicast_link_local()
        || address.is_multicast()
        || address == metadata
        || in_v6(
            address,
            &[
                // Site-local, long deprecated.
                (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10),
                // Teredo (RFC 4380), and NAT64 beyond its well-known prefix (RFC 8215): they stand for IPv4 addresses
                // in bits we do not judge.
                (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32),
                (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 32),
            ],
        );
    // Only 2000::/3 is the public internet (RFC 4291 §2.4), less what IANA set aside in it.
    let special = !in_v6(address, &[(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3)])
        || in_v6(
            address,
            &[
                (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
                (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
                (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
            ],
        );
    !never && (zone != Zone::Public || !special)
}

/// The IPv4 address that an IPv6 address stands for: mapped, compatible, NAT64 (RFC 6052), 6to4 (RFC 3056).
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let from = |high: u16, low: u16| Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match (a, b, c, d, e, f) {
        (0, 0, 0, 0, 0, 0 | 0xffff) | (0, 0, 0, 0, 0xffff, 0) | (0x64, 0xff9b, 0, 0, 0, 0) => from(g, h),
        (0x2002, ..) => from(b, c),
        _ => None,
    }
}

fn in_v4(address: Ipv4Addr, nets: &[([u8; 4], u8)]) -> bool {
    nets.iter().any(|(net, length)| Ipv4Net::new((*net).into(), *length).is_ok_and(|n| n.contains(&address)))
}

fn in_v6(address: Ipv6Addr, nets: &[(Ipv6Addr, u8)]) -> bool {
    nets.iter().any(|(net, length)| Ipv6Net::new(*net, *length).is_ok_and(|n| n.contains(&address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_platform_is_on_this_machine_or_beside_it() {
        let may =
            |text: &str| is_allowed(text.parse().unwrap(), Zone::Platform, &["0.0.0.0/0".parse().unwrap()]);
        for platform in ["169.254.169.254", "169.254.129.3", "127.0.0.1", "::1"] {
            assert!(may(platform), "{platform}");
        }
        for other in
            ["1.1.1.1", "10.0.0.1", "168.63.129.16", "fe80::1", "::ffff:169.254.169.254", "2606:4700::1111"]
        {
            assert!(!may(other), "{other}");
        }
    }

    #[test]
    fn judges_addresses_by_zone() {
        let may = |text: &str, zone| is_allowed(text.parse().unwrap(), zone, &[]);
        for public in ["1.1.1.1", "2606:4700::1111", "64:ff9b::101:101", "2002:101:101::"] {
            assert!(may(public, Zone::Public) && may(public, Zone::Operator), "{public}");
        }
        for private in ["10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fd12::1", "::ffff:10.0.0.1"] {
            assert!(!may(private, Zone::Public) && may(private, Zone::Operator), "{private}");
            assert!(!may(private, Zone::Loopback), "a name that says loopback means it: {private}");
        }
        let loopbacks = "
            127.0.0.1 127.9.9.9 ::1 ::ffff:127.0.0.1 64:ff9b::7f00:1 2002:7f00:1:: ::7f00:1
        ";
        for loopback in loopbacks.split_whitespace() {
            assert!(!may(loopback, Zone::Public) && !may(loopback, Zone::Operator), "{loopback}");
            assert!(may(loopback, Zone::Loopback), "{loopback}");
        }
        let refused = "
            0.0.0.0 0.1.2.3 169.254.169.254 168.63.129.16 224.0.0.1 255.255.255.255 240.0.0.1 ::
            fe80::1 ff02::1 fec0::1 fd00:ec2::254 ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe
            2002:a9fe:a9fe:: 100.100.100.200 192.0.0.192 2001::1
            2001:0:4136:e378:8000:63bf:3fff:fdd2 64:ff9b:1:7f00:0:100:808:808 64:ff9b::1:808:808
        ";
        for never in refused.split_whitespace() {
            for zone in [Zone::Public, Zone::Operator, Zone::Loopback] {
                assert!(!may(never, zone), "{never} {zone:?}");
            }
        }
        let specials = "
            192.0.2.1 198.18.0.1 198.51.100.7 203.0.113.9 192.88.99.1 192.0.0.8 2001:db8::1
            2001:2::1 3fff::1 100::1 5f00::1 4000::1 ::ffff:0:10.0.0.1
        ";
        for special in specials.split_whitespace() {
            assert!(!may(special, Zone::Public), "{special}");
        }
        for public in ["1.1.1.1", "2606:4700::1111"] {
            assert!(!may(public, Zone::Loopback), "{public}");
        }
        assert!(is_allowed("127.0.0.1".parse().unwrap(), Zone::Public, &["127.0.0.1/32".parse().unwrap()]));
    }
}
