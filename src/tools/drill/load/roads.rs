//! Which endpoints refuse connections, as a load balancer's health check or a client's own memory would know it. All
//! clients of the load share it; without it each would run into the same dead replica, over and over, and the figures
//! would measure that.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::domain::time::Boottime;
use crate::tools::drill::evidence::Outcome;

/// A refusal is forgotten after it, or an endpoint that came back would never be tried again.
const REMEMBERED: Duration = Duration::from_secs(5);

/// The endpoints that refused a connection of late, each with the time at which that is forgotten.
#[derive(Debug, Default)]
pub(super) struct Closed(Mutex<HashMap<String, Boottime>>);

impl Closed {
    /// What an attempt tells of its endpoint.
    pub fn learn(&self, endpoint: &str, outcome: &Outcome, now: Boottime) {
        let mut closed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Outcome::NotSent { .. } => {
                closed.insert(endpoint.to_owned(), now.plus(REMEMBERED));
            }
            Outcome::Acknowledged { .. } | Outcome::Refused { .. } => {
                closed.remove(endpoint);
            }
            // It was there, and may be gone: the next connection tells.
            Outcome::Unknown { .. } => {}
        }
    }

    /// The first endpoint from `at` on that is not known to be closed; `at` itself if all are.
    pub fn open_from(&self, urls: &[String], at: usize, now: Boottime) -> usize {
        let closed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_open = |url: &String| closed.get(url).is_none_or(|until| *until <= now);
        let mut places = (0..urls.len()).map(|step| (at + step) % urls.len());
        places.find(|place| is_open(&urls[*place])).unwrap_or(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::Clock;

    #[test]
    fn a_refused_connection_is_remembered_until_an_answer_or_for_a_while() {
        let urls = ["https://a", "https://b", "https://c"].map(str::to_owned);
        let (closed, now) = (Closed::default(), Clock::manual(0).boottime());
        let open = |at, now| closed.open_from(&urls, at, now);
        assert_eq!((0..3).map(|at| open(at, now)).collect::<Vec<_>>(), [0, 1, 2]);
        let refused = Outcome::NotSent { error: "refused".to_owned() };
        closed.learn(&urls[1], &refused, now);
        closed.learn(&urls[2], &Outcome::Unknown { error: "cut".to_owned() }, now);
        assert_eq!((open(1, now), open(2, now)), (2, 2));
        assert_eq!(open(1, now.plus(REMEMBERED)), 1, "it is tried again");
        closed.learn(&urls[2], &refused, now);
        assert_eq!(open(1, now), 0, "around the end");
        closed.learn(&urls[0], &refused, now);
        assert_eq!(open(1, now), 1, "somewhere it must go");
        closed.learn(&urls[1], &Outcome::Refused { status: 503, problem: None, detail: None }, now);
        assert_eq!((open(0, now), open(2, now)), (1, 1), "it answered");
    }
}
