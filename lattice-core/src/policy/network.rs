//! What `internal-only` means: which addresses may be reached.
//!
//! **Invariant.** A name is judged by the address that it was resolved to, and that very address is connected to; asking
//! twice would let the answer change in between.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether `address` is private (RFC 1918, RFC 4193) or loopback. Link-local addresses are not: in a cloud the service that
/// hands out credentials has one.
pub fn is_internal(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_internal_v4(address),
        IpAddr::V6(address) => is_internal_v6(address),
    }
}

fn is_internal_v4(address: Ipv4Addr) -> bool {
    address.is_loopback() || address.is_private()
}

fn is_internal_v6(address: Ipv6Addr) -> bool {
    match address.to_ipv4_mapped() {
        Some(inner) => is_internal_v4(inner),
        None => address.is_loopback() || address.is_unique_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let check = |text: &str, expected: bool| assert_eq!(is_internal(text.parse().unwrap()), expected, "{text}");
        for inside in ["127.0.0.1", "127.8.8.8", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "::1", "fd00::1", "fc00::1"] {
            check(inside, true);
        }
        for outside in ["8.8.8.8", "172.32.0.1", "169.254.169.254", "0.0.0.0", "255.255.255.255", "100.64.0.1", "224.0.0.1", "192.0.2.1"] {
            check(outside, false);
        }
        // Other spellings of addresses outside, and of none.
        for outside in ["::", "2001:db8::1", "fe80::1", "ff02::1", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1", "::8.8.8.8"] {
            check(outside, false);
        }
        check("::ffff:10.0.0.1", true);
        check("::ffff:169.254.169.254", false);
    }
}
