//! The base URLs of the service, and which of them answered last.

use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::Uri;

use super::error::ClientError;
use crate::domain::random::Random;

/// At least one base URL; all callers share the current one and move on from it together.
#[derive(Debug)]
pub struct Endpoints {
    /// `https://host:port`, without a slash at the end.
    urls: Vec<String>,
    current: AtomicUsize,
}

impl Endpoints {
    /// Begins at a random one, so that a fleet spreads over the replicas. Repeated URLs count once.
    pub fn new(urls: &[String], random: &Random) -> Result<Self, ClientError> {
        let mut list: Vec<String> = Vec::new();
        for url in urls {
            let url = base_url(url)?;
            if !list.contains(&url) {
                list.push(url);
            }
        }
        if list.is_empty() {
            return Err(ClientError::Input("no endpoint: give at least one URL".to_owned()));
        }
        let count = u32::try_from(list.len()).unwrap_or(u32::MAX);
        // Each in turn wins against those that are left: all have the same chance.
        let start = (0..count).find(|index| random.uniform(0.0, f64::from(count - index)) < 1.0).unwrap_or(0);
        Ok(Self { current: AtomicUsize::new(start as usize), urls: list })
    }

    /// The endpoint to use now. The number is for [`Self::move_on`].
    pub fn current(&self) -> (usize, &str) {
        let index = self.current.load(Ordering::Relaxed) % self.urls.len();
        (index, &self.urls[index])
    }

    /// The endpoint `index` failed: go to the next, unless another caller has already moved on from it.
    pub fn move_on(&self, index: usize) {
        let next = (index + 1) % self.urls.len();
        let _ = self.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub fn count(&self) -> usize {
        self.urls.len()
    }

    pub fn urls(&self) -> &[String] {
        &self.urls
    }
}

/// `https://host[:port]`, with nothing after it but a slash.
pub(super) fn base_url(text: &str) -> Result<String, ClientError> {
    let bad = |why: &str| ClientError::Input(format!("{text:?} is not an endpoint: {why}"));
    let uri: Uri = text.parse().map_err(|_| bad("not a URL"))?;
    if uri.scheme_str() != Some("https") {
        return Err(bad("it must begin with https://"));
    }
    if uri.query().is_some() || !matches!(uri.path(), "" | "/") {
        return Err(bad("it must end after the host and port"));
    }
    let authority = uri.authority().ok_or_else(|| bad("it has no host"))?;
    if authority.host().is_empty() || authority.as_str().contains('@') {
        return Err(bad("it must name a host, and no user"));
    }
    Ok(format!("https://{authority}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Endpoints {
        let urls = ["https://a:8443", "https://b:8443/", "https://a:8443/", "https://c"].map(str::to_owned);
        Endpoints::new(&urls, &Random::seeded(1)).unwrap()
    }

    #[test]
    fn repeated_urls_count_once_and_bad_ones_are_named() {
        assert_eq!(three().urls(), ["https://a:8443", "https://b:8443", "https://c"]);
        for bad in ["http://a", "https://a/v1", "https://u:p@a", "https://a?x=1", "a:1", ""] {
            let error = Endpoints::new(&[bad.to_owned()], &Random::seeded(1)).unwrap_err();
            assert!(matches!(error, ClientError::Input(_)), "{bad}");
        }
        assert!(Endpoints::new(&[], &Random::seeded(1)).is_err());
    }

    #[test]
    fn many_failures_of_one_endpoint_move_one_step() {
        let endpoints = three();
        let (first, _) = endpoints.current();
        (0..50).for_each(|_| endpoints.move_on(first));
        assert_eq!(endpoints.current().0, (first + 1) % 3);
    }

    #[test]
    fn a_fleet_begins_everywhere() {
        let random = Random::seeded(3);
        let urls = ["https://a", "https://b", "https://c"].map(str::to_owned);
        let starts: std::collections::HashSet<_> =
            (0..50).map(|_| Endpoints::new(&urls, &random).unwrap().current().0).collect();
        assert_eq!(starts.len(), 3);
    }
}
