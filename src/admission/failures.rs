//! How often somebody may fail to prove who they are: with an enrollment token that is not good, with an operator's
//! token that is none of ours. Counted by address, and by the id of an enrollment token, at each replica.
//!
//! Past the bound nothing is looked up and no signature is verified for that address until the pause is over. Only
//! failures count, so a caller with good credentials never comes nearer to it. Whoever has proved something already is
//! not asked (`http::guard`): a device with a certificate of ours, an operator whose token was verified here before.
//! Many devices share an address behind one router, and must not be locked out by one among them.
//!
//! What is remembered is bounded: see [`Buckets`]. Attempts that are under way at once are judged alike, so a burst may
//! exceed the bound by as many as the connections without a certificate allow.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use super::Refused;
use super::rate::{Buckets, Rate};
use crate::domain::digest::sha256;
use crate::domain::time::Clock;
use crate::observe::admission::{self as observe, Attempt, FailedBy};

/// What one customer of a provider has at least (RFC 6177): who owns one address of it has all of them.
const V6_PREFIX: u32 = 64;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FailureSettings {
    /// Of one address within the window. Zero: as many as it likes.
    pub address_max: u32,
    /// With one enrollment token, from all addresses. Zero: as many as they like.
    pub token_max: u32,
    pub window: Duration,
    /// How many of each are remembered.
    pub callers_max: u64,
}

impl FailureSettings {
    pub const UNLIMITED: Self = Self { address_max: 0, token_max: 0, window: Duration::from_secs(1), callers_max: 1 };

    /// So many at once, and as many again over each window.
    fn rate(&self, max: u32) -> Rate {
        Rate { per_second: f64::from(max) / self.window.as_secs_f64().max(1.0), burst: max.max(1) }
    }
}

/// An address, or the network of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source(IpAddr);

impl Source {
    pub(super) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << (128 - V6_PREFIX)))),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

/// Clones share the counts.
#[derive(Clone)]
pub struct Failures {
    addresses: Buckets<Source>,
    /// By the digest of the id: callers choose how long theirs is.
    tokens: Buckets<[u8; 32]>,
    clock: Clock,
}

impl Failures {
    pub fn new(settings: FailureSettings, clock: Clock) -> Self {
        observe::zero_failures();
        Self {
            addresses: Buckets::new(settings.rate(settings.address_max), settings.callers_max),
            tokens: Buckets::new(settings.rate(settings.token_max), settings.callers_max),
            clock,
        }
    }

    pub(super) fn address(&self, from: IpAddr) -> Result<(), Refused> {
        let looked = self.addresses.look(&Source::of(from), self.clock.boottime());
        looked.map_err(|pause| Refused::Address { pause })
    }

    pub(super) fn token(&self, id: &str) -> Result<(), Refused> {
        let looked = self.tokens.look(&sha256(id.as_bytes()), self.clock.boottime());
        looked.map_err(|pause| Refused::EnrollmentToken { pause })
    }

    /// An attempt from this address failed.
    pub fn failed(&self, attempt: Attempt, from: IpAddr) {
        observe::failed(attempt);
        // Past the bound it stays there.
        let _ = self.addresses.take(Source::of(from), self.clock.boottime());
    }

    /// An attempt with this enrollment token failed.
    pub fn failed_with(&self, token_id: &str) {
        let _ = self.tokens.take(sha256(token_id.as_bytes()), self.clock.boottime());
    }

    pub(super) fn observe(&self) {
        observe::failing(FailedBy::Address, self.addresses.callers());
        observe::failing(FailedBy::EnrollmentToken, self.tokens.callers());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: FailureSettings =
        FailureSettings { address_max: 3, token_max: 5, window: Duration::from_secs(30), callers_max: 1_000 };

    fn failures() -> (Failures, Clock) {
        let clock = Clock::manual(1_700_000_000_000_000);
        (Failures::new(SETTINGS, clock.clone()), clock)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn failures_of_one_address_end_in_a_pause_and_success_costs_nothing() {
        let (failures, clock) = failures();
        let (one, other) = (address("192.0.2.7"), address("192.0.2.8"));
        for _ in 0..3 {
            for _ in 0..100 {
                assert_eq!(failures.address(one), Ok(()));
            }
            failures.failed(Attempt::Enrollment, one);
        }
        assert_eq!(failures.address(one), Err(Refused::Address { pause: Duration::from_secs(10) }));
        assert_eq!(failures.address(other), Ok(()));
        // More of the same make it no longer: the pause was told.
        failures.failed(Attempt::Enrollment, one);
        clock.advance(Duration::from_secs(10));
        assert_eq!(failures.address(one), Ok(()));
        failures.failed(Attempt::Operator, one);
        assert!(failures.address(one).is_err(), "one more in each third of the window");
        clock.advance(Duration::from_secs(30));
        assert_eq!(failures.address(one), Ok(()));
    }

    #[test]
    fn a_network_of_ipv6_is_one_caller_and_ipv4_is_the_same_in_either_writing() {
        let (failures, _) = failures();
        for host in ["2001:db8:0:1::1", "2001:db8:0:1::2", "2001:db8:0:1:ffff::"] {
            failures.failed(Attempt::Enrollment, address(host));
        }
        assert!(failures.address(address("2001:db8:0:1::3")).is_err());
        assert_eq!(failures.address(address("2001:db8:0:2::1")), Ok(()));
        for writing in ["192.0.2.7", "::ffff:192.0.2.7", "::ffff:c000:207"] {
            failures.failed(Attempt::Enrollment, address(writing));
        }
        assert!(failures.address(address("192.0.2.7")).is_err());
        assert_eq!(failures.address(address("192.0.2.8")), Ok(()), "not all of IPv4 is one network");
    }

    #[test]
    fn a_token_is_counted_apart_from_addresses() {
        let (failures, _) = failures();
        for _ in 0..5 {
            assert_eq!(failures.token("abc"), Ok(()));
            failures.failed_with("abc");
        }
        assert_eq!(failures.token("abc"), Err(Refused::EnrollmentToken { pause: Duration::from_secs(6) }));
        assert_eq!((failures.token("abd"), failures.address(address("192.0.2.7"))), (Ok(()), Ok(())));
    }

    #[test]
    fn whoever_comes_from_everywhere_fills_no_memory() {
        let (failures, _) = failures();
        for n in 0..50_000_u32 {
            failures.failed(Attempt::Enrollment, IpAddr::V4(n.into()));
            failures.failed_with(&n.to_string());
        }
        failures.addresses.settle();
        failures.tokens.settle();
        let (addresses, tokens) = (failures.addresses.callers(), failures.tokens.callers());
        assert!((1..=1_000).contains(&addresses) && (1..=1_000).contains(&tokens), "{addresses}, {tokens}");
        // Nor does it let those go who come most.
        let bad = address("198.51.100.1");
        for n in 0..5_000_u32 {
            let _ = failures.address(bad);
            failures.failed(Attempt::Enrollment, bad);
            failures.failed(Attempt::Enrollment, IpAddr::V4((1_000_000 + n).into()));
        }
        assert!(failures.address(bad).is_err());
    }

    #[test]
    fn without_a_bound_nobody_is_counted() {
        let failures = Failures::new(FailureSettings::UNLIMITED, Clock::manual(0));
        let one = address("192.0.2.7");
        for _ in 0..100 {
            failures.failed(Attempt::Enrollment, one);
            failures.failed_with("abc");
        }
        assert_eq!((failures.address(one), failures.token("abc")), (Ok(()), Ok(())));
        assert_eq!(failures.addresses.callers() + failures.tokens.callers(), 0);
    }
}
