//! What is left of a request's body when the request is refused.
//!
//! A client that is still sending may never look at the answer: over HTTP/2 the reset of its stream overtakes the
//! answer, and over HTTP/1 the rest of the body stands where the next request should. So the rest is taken in first,
//! chunk by chunk and thrown away, within [`REST_MAX`] and [`REST_DEADLINE`]; what is longer or slower costs an HTTP/1
//! client its connection.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, EXPECT};
use axum::http::{HeaderMap, Version};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::time::timeout;

/// Twice the longest body that any route takes by default: who sends a little too much is told so.
const REST_MAX: usize = 2 * 1024 * 1024;
/// Shorter: clients on slow links miss their refusals. Longer: strangers hold requests open.
const REST_DEADLINE: Duration = Duration::from_secs(1);

type Slot = Arc<Mutex<Option<Body>>>;

/// Where the rest of a request's body turns up once nobody reads it any more.
pub(super) struct Unread {
    slot: Slot,
    sender: Sender,
}

/// What the head of a request says about who sends its body.
struct Sender {
    is_http1: bool,
    /// The caller said that the rest is longer than we take, or waits to be told to send it.
    is_pointless: bool,
}

/// Takes in the body of a request that was refused before anybody looked at it. False: an HTTP/1 connection cannot be
/// used again.
pub(super) async fn take_in_unseen(request: Request) -> bool {
    let sender = Sender::of(&request);
    let body = request.into_body();
    body.is_end_stream() || sender.take_in(body).await
}

impl Unread {
    /// Watches the request's body.
    pub(super) fn of(request: Request) -> (Request, Self) {
        let slot = Slot::default();
        let unread = Self { slot: slot.clone(), sender: Sender::of(&request) };
        if request.body().is_end_stream() {
            return (request, unread);
        }
        (request.map(|body| Body::new(Watched { body: Some(body), slot })), unread)
    }

    /// Takes in what is left. False: an HTTP/1 connection cannot be used again.
    pub(super) async fn take_in(self) -> bool {
        let rest = self.slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(rest) = rest else {
            return true;
        };
        self.sender.take_in(rest).await
    }
}

impl Sender {
    fn of(request: &Request) -> Self {
        let is_http1 = request.version() < Version::HTTP_2;
        let is_pointless = is_too_long(request.headers()) || (is_http1 && request.headers().contains_key(EXPECT));
        Self { is_http1, is_pointless }
    }

    async fn take_in(&self, rest: Body) -> bool {
        let is_through = !self.is_pointless && timeout(REST_DEADLINE, discard(rest)).await.unwrap_or(false);
        is_through || !self.is_http1
    }
}

fn is_too_long(headers: &HeaderMap) -> bool {
    let declared = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    declared.is_some_and(|length| length > REST_MAX as u64)
}

/// Was that all of it?
async fn discard(mut rest: Body) -> bool {
    let mut taken = 0_usize;
    while let Some(frame) = rest.frame().await {
        let Ok(frame) = frame else {
            return false;
        };
        taken = taken.saturating_add(frame.data_ref().map_or(0, Bytes::len));
        if taken > REST_MAX {
            return false;
        }
    }
    true
}

/// A body that goes to its slot when it is dropped before its end.
struct Watched {
    /// `None` after the end.
    body: Option<Body>,
    slot: Slot,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(body) = self.body.as_mut() else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) {
            *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::{StreamExt, stream};

    use super::*;

    const CHUNK: usize = 64 * 1024;

    /// A body of so many chunks that counts those that were taken.
    fn body(chunks: usize) -> (Body, Arc<AtomicUsize>) {
        let taken = Arc::new(AtomicUsize::new(0));
        let counter = taken.clone();
        let chunks = stream::iter(0..chunks).map(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
            Ok::<_, std::io::Error>(Bytes::from(vec![0; CHUNK]))
        });
        (Body::from_stream(chunks), taken)
    }

    /// Reads so many chunks as a handler would, then refuses. Can the connection go on, and how much was taken?
    async fn refuse(request: Request, taken: Arc<AtomicUsize>, read: usize) -> (bool, usize) {
        let (request, unread) = Unread::of(request);
        let mut body = request.into_body();
        for _ in 0..read {
            body.frame().await.unwrap().unwrap();
        }
        drop(body);
        (unread.take_in().await, taken.load(Ordering::SeqCst))
    }

    #[tokio::test]
    async fn the_rest_is_taken_in_within_bounds() {
        // (version, chunks, read by the handler) → (goes on, taken)
        let all = REST_MAX / CHUNK;
        for (version, chunks, read, expected) in [
            (Version::HTTP_11, 10, 0, (true, 10)),
            (Version::HTTP_11, 10, 3, (true, 10)),
            (Version::HTTP_11, 10, 10, (true, 10)),
            (Version::HTTP_11, all, 0, (true, all)),
            (Version::HTTP_11, 10 * all, 0, (false, all + 1)),
            (Version::HTTP_2, 10 * all, 0, (true, all + 1)),
        ] {
            let (body, taken) = body(chunks);
            let request = Request::post("/").version(version).body(body).unwrap();
            assert_eq!(refuse(request, taken, read).await, expected, "{version:?} {chunks} {read}");
        }
    }

    #[tokio::test]
    async fn nothing_is_taken_in_for_nothing() {
        for (name, value) in [(EXPECT, "100-continue".to_owned()), (CONTENT_LENGTH, (REST_MAX + 1).to_string())] {
            let (body, taken) = body(1);
            let request = Request::post("/").header(&name, value).body(body).unwrap();
            assert_eq!(refuse(request, taken, 0).await, (false, 0), "{name}");
        }
    }

    #[tokio::test]
    async fn a_slow_rest_is_given_up() {
        let never = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        let request = Request::post("/").body(never).unwrap();
        let (request, unread) = Unread::of(request);
        drop(request);
        let began = tokio::time::Instant::now();
        assert!(!unread.take_in().await);
        assert!(began.elapsed() >= REST_DEADLINE);
    }
}
