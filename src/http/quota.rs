//! `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10): how often a device and its fleet may
//! come, and how often they still may. Each is a list of structured fields (RFC 9651), one item for each limit:
//! `"device";q=200;w=10` with `"device";r=187;t=1`. The window `w` is the time in which an empty bucket fills; `t` is
//! the time until it is full, or, where there is nothing left, until there is something.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::admission::{Admission, Left, Rate, Refused, Spent};

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// What is left after a request that was admitted.
pub fn left(spent: &Spent) -> HeaderMap {
    let known = [("device", spent.device), ("fleet", spent.fleet)];
    let known = || known.iter().filter_map(|(name, left)| Some((*name, (*left)?)));
    let policy = known().map(|(name, Left { rate, .. })| policy(name, rate));
    let limit = known().map(|(name, left)| limit(name, left.requests, left.full_in));
    headers(policy.collect(), limit.collect())
}

/// What is left to whoever was refused: nothing of the one limit.
pub fn refused(admission: &Admission, refused: Refused) -> HeaderMap {
    let (device, fleet) = admission.rates();
    let (name, rate) = match refused {
        Refused::Device { .. } => ("device", device),
        Refused::Fleet { .. } => ("fleet", fleet),
        Refused::Full { .. }
        | Refused::Database { .. }
        | Refused::TooLate { .. }
        | Refused::Address { .. }
        | Refused::EnrollmentToken { .. }
        | Refused::Bodies { .. }
        | Refused::AllBodies { .. }
        | Refused::Queue { .. } => return HeaderMap::new(),
    };
    headers(vec![policy(name, rate)], vec![limit(name, 0, refused.pause())])
}

fn policy(name: &str, rate: Rate) -> String {
    format!("\"{name}\";q={};w={}", rate.burst, seconds(rate.refill()))
}

fn limit(name: &str, left: u32, time: Duration) -> String {
    format!("\"{name}\";r={left};t={}", seconds(time))
}

/// Rounded up: never sooner than said.
fn seconds(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}

fn headers(policy: Vec<String>, limit: Vec<String>) -> HeaderMap {
    let fields = [(POLICY, policy), (LIMIT, limit)].into_iter().filter(|(_, items)| !items.is_empty());
    fields.filter_map(|(name, items)| Some((name, HeaderValue::try_from(items.join(", ")).ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let rate = Rate { per_second: 20.0, burst: 200 };
        let half = Left { rate, requests: 100, full_in: Duration::from_millis(4_001) };
        let text = |headers: &HeaderMap, name| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        let one = left(&Spent { device: Some(half), fleet: None });
        assert_eq!(text(&one, POLICY).as_deref(), Some("\"device\";q=200;w=10"));
        assert_eq!(text(&one, LIMIT).as_deref(), Some("\"device\";r=100;t=5"));
        let both = left(&Spent { device: Some(half), fleet: Some(Left { requests: 7, ..half }) });
        assert_eq!(text(&both, LIMIT).as_deref(), Some("\"device\";r=100;t=5, \"fleet\";r=7;t=5"));
        assert!(left(&Spent::default()).is_empty());
    }
}
