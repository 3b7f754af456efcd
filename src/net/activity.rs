//! Counts what a connection is doing, from inside its service: hyper does not say when an HTTP/2 connection is idle.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HOST, HeaderMap, HeaderValue};
use hyper::http::uri::Authority;
use hyper::{Request, Response, StatusCode, Version};
use tokio::sync::Notify;
use tokio::time::Instant;
use tower::ServiceExt;

use super::peer::ConnInfo;

/// The requests of one connection. Whoever drives it looks when a deadline comes, and is told earlier only of what brings
/// its end nearer, so that requests need no turns of the scheduler but their own.
#[derive(Debug)]
pub(super) struct Activity {
    began: Instant,
    requests: AtomicU64,
    in_flight: AtomicUsize,
    /// Since when nothing is in flight, in microseconds after `began`.
    quiet_since_us: AtomicU64,
    /// From this request on, whoever waits is told of each change.
    told_from: AtomicU64,
    changed: Notify,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            requests: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            quiet_since_us: AtomicU64::new(0),
            told_from: AtomicU64::new(u64::MAX),
            changed: Notify::new(),
        }
    }
}

impl Activity {
    /// Requests that reached the service so far.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }

    /// Since when no request is being answered.
    pub(super) fn quiet_since(&self) -> Option<Instant> {
        // In this order: what ends in between has ended now, and not when one before it did.
        let is_quiet = self.in_flight.load(Ordering::SeqCst) == 0;
        is_quiet.then(|| self.began + Duration::from_micros(self.quiet_since_us.load(Ordering::SeqCst)))
    }

    /// From this request on, [`Activity::changed`] says when one begins or ends; of what has happened before, nothing.
    pub(super) fn tell_from(&self, request: u64) {
        self.told_from.store(request, Ordering::SeqCst);
    }

    /// Waits for a request to begin or to end, if that is told, or for its caller to become an outcast. One waiter.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn tell(&self, info: Option<&ConnInfo>) {
        let is_outcast = info.is_some_and(|info| info.outcast.is());
        if is_outcast || self.requests() >= self.told_from.load(Ordering::SeqCst) {
            self.changed.notify_one();
        }
    }
}

/// A request from its header section to the end of the response's body, or until it is dropped.
struct InFlight {
    activity: Arc<Activity>,
    info: Option<Arc<ConnInfo>>,
}

impl InFlight {
    fn begin(activity: &Arc<Activity>, info: Option<&Arc<ConnInfo>>) -> Self {
        activity.in_flight.fetch_add(1, Ordering::SeqCst);
        activity.requests.fetch_add(1, Ordering::SeqCst);
        activity.tell(None);
        Self { activity: Arc::clone(activity), info: info.cloned() }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let activity = &*self.activity;
        let us = u64::try_from(activity.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        activity.quiet_since_us.fetch_max(us, Ordering::SeqCst);
        activity.in_flight.fetch_sub(1, Ordering::SeqCst);
        activity.tell(self.info.as_deref());
    }
}

/// The service of one connection: counts, and gives each request the [`ConnInfo`].
#[derive(Clone)]
pub(super) struct Counted<S> {
    pub(super) inner: S,
    pub(super) activity: Arc<Activity>,
    /// Absent on the ops listener.
    pub(super) info: Option<Arc<ConnInfo>>,
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Counted<S>
where
    S: tower::Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<CountedBody<B>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let in_flight = InFlight::begin(&self.activity, self.info.as_ref());
        // Probes and scrapers send what they like.
        if self.info.is_some() && request.version() == Version::HTTP_11 && !has_one_host(request.headers()) {
            return Box::pin(async move { Ok(bad_request(in_flight)) });
        }
        if let Some(info) = &self.info {
            request.extensions_mut().insert(Arc::clone(info));
        }
        let inner = self.inner.clone();
        Box::pin(async move {
            let response = inner.oneshot(request).await?;
            Ok(response.map(|body| CountedBody { body: Some(body), _in_flight: in_flight }))
        })
    }
}

/// RFC 9112, 3.2: none, two, or one that cannot be a host's name must be refused. To others on the way, such a request may
/// be another one than to us.
fn has_one_host(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let names = |text: &str| text.parse::<Authority>().is_ok_and(|name| !name.as_str().contains('@'));
    host.is_empty() || host.to_str().is_ok_and(names)
}

/// As hyper answers what it cannot parse.
fn bad_request<B>(in_flight: InFlight) -> Response<CountedBody<B>> {
    let mut response = Response::new(CountedBody { body: None, _in_flight: in_flight });
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// A body whose request is in flight until it is dropped.
pub(super) struct CountedBody<B> {
    /// Absent where no service made the answer.
    body: Option<B>,
    _in_flight: InFlight,
}

impl<B: Body + Unpin> Body for CountedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.body.as_mut().map_or(Poll::Ready(None), |body| Pin::new(body).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_one_host() {
        let hosts = |names: &[&str]| {
            let mut headers = HeaderMap::new();
            for name in names {
                headers.append(HOST, HeaderValue::from_str(name).unwrap());
            }
            has_one_host(&headers)
        };
        for good in ["localhost", "localhost:8443", "192.0.2.7", "[2001:db8::1]:8443", ""] {
            assert!(hosts(&[good]), "{good}");
        }
        for bad in ["a b", "user@localhost", "localhost/path", "localhost:8443:1", "a,b c", "ü"] {
            assert!(!hosts(&[bad]), "{bad}");
        }
        assert!(!hosts(&[]) && !hosts(&["localhost", "localhost"]));
    }
}
