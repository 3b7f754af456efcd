//! Drives one HTTP connection from its first byte to its end, under deadlines that hyper does not have: first
//! request, idle time of HTTP/2, age, and the end itself.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::unconstrained;
use tokio::time::{Instant, sleep_until};

use super::activity::{Activity, Counted};
use super::clearing::Clearing;
use super::peer::ConnInfo;
use super::serve::HttpService;
use super::settings::{ConnectionSettings, UnverifiedSettings};
use crate::lifecycle::tasks::Tasks;
use crate::observe::net::Ending;

/// A header section, HTTP/1 (bytes) and HTTP/2 (RFC 9113, 6.5.2). Ours have about 1 KiB, half of it the token.
const HEADER_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
/// Enough for a device, and for a console page; h2's bounds on resets and CONTINUATION stay as they are.
const STREAMS_MAX: u32 = 32;
/// What a caller may send before the service has read it: of one stream, and of the connection.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
const FRAME_MAX: u32 = 16 * 1024;
/// What one stream may have waiting to be sent.
const SEND_BUFFER_MAX: usize = 64 * 1024;
/// PING, so that a caller who vanished behind a NAT is found while a stream is open.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a connection that was asked to end, and does nothing, may take to say goodbye.
const GOODBYE_MAX: Duration = Duration::from_secs(5);

/// The bounds of one connection.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    first_request: Duration,
    idle: Duration,
    age: Duration,
    linger: Duration,
    requests_max: u64,
}

impl Bounds {
    /// `number` spreads the age, so that connections made together do not end together.
    pub(super) fn new(settings: &ConnectionSettings, number: u64) -> Self {
        // Knuth's multiplicative hash; its upper bits as a fraction of 1.
        let hash = u32::try_from(number & 0xffff_ffff).unwrap_or(0).wrapping_mul(2_654_435_761);
        let spread = 0.8 + 0.4 * f64::from(hash) / f64::from(u32::MAX);
        Self {
            first_request: settings.first_request_deadline,
            idle: settings.idle_max,
            age: settings.age_max.mul_f64(spread),
            linger: settings.linger,
            requests_max: u64::MAX,
        }
    }

    /// For a caller without a good certificate, who has been here for `since` and asked so often. Its end is bounded by the
    /// same age again.
    #[must_use]
    pub(super) fn narrowed(self, unverified: &UnverifiedSettings, since: Duration, requests: u64) -> Self {
        Self {
            age: self.age.min(since + unverified.age_max),
            linger: self.linger.min(unverified.age_max),
            requests_max: requests + unverified.requests_max,
            ..self
        }
    }
}

/// What asks connections to end, apart from their own bounds.
pub(super) struct Signals<'a> {
    pub(super) tasks: &'a Tasks,
    pub(super) clearing: Clearing,
    /// Where a connection goes whose certificate turns out to be no good; `None` for one that is there.
    pub(super) strangers: Option<Strangers<'a>>,
}

/// The pool of connections without a good certificate.
pub(super) struct Strangers<'a> {
    pub(super) places: &'a Arc<Semaphore>,
    pub(super) settings: &'a UnverifiedSettings,
    pub(super) info: Arc<ConnInfo>,
}

impl Strangers<'_> {
    /// A place among them, if there is one.
    fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(self.places).try_acquire_owned().ok()
    }
}

/// Serves HTTP/1.1 until the connection ends.
pub(super) async fn http1<I, S>(io: I, service: Counted<S>, bounds: &Bounds, signals: Signals<'_>) -> Ending
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
    S: HttpService,
{
    let activity = service.activity.clone();
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.idle)
        .max_buf_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(io), service);
    drive(Box::pin(connection), &activity, bounds, signals).await
}

/// Serves HTTP/2 until the connection ends.
pub(super) async fn http2<I, S>(io: I, service: Counted<S>, bounds: &Bounds, signals: Signals<'_>) -> Ending
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
    S: HttpService,
{
    let activity = service.activity.clone();
    let connection = http2::Builder::new(Streams(signals.tasks.clone()))
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(HEADER_BYTES_MAX).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_MAX)
        .max_send_buf_size(SEND_BUFFER_MAX)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(io), service);
    drive(Box::pin(connection), &activity, bounds, signals).await
}

/// Runs the streams of an HTTP/2 connection as tasks that the drain waits for and the abort ends.
#[derive(Clone)]
struct Streams(Tasks);

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let shutdown = self.0.shutdown().clone();
        self.0.tracked(async move {
            tokio::select! {
                biased;
                () = shutdown.aborting() => {}
                () = stream => {}
            }
        });
    }
}

async fn drive<C>(mut connection: Pin<Box<C>>, activity: &Activity, bounds: &Bounds, signals: Signals<'_>) -> Ending
where
    C: GracefulConnection<Error = hyper::Error>,
{
    let (shutdown, mut clearing) = (signals.tasks.shutdown(), signals.clearing.begin());
    let (mut aborting, mut draining) = (pin!(shutdown.aborting()), pin!(shutdown.draining()));
    let mut course = Course::begin(Instant::now());
    let mut timer = pin!(sleep_until(Instant::now()));
    let (mut bounds, mut strangers, mut held) = (bounds.clone(), signals.strangers, None);
    loop {
        let now = Instant::now();
        course.observe(activity);
        if let Some(among) = strangers.take_if(|strangers| strangers.info.outcast.is()) {
            bounds = bounds.narrowed(among.settings, now - course.began, course.requests);
            held = held.or(among.place());
            course.is_crowded = held.is_none();
        }
        // One that is to end soon has to hear at once that nothing is in flight any more.
        activity.tell_from(if course.asked.is_some() { 0 } else { bounds.requests_max });
        // What came before that was not told.
        course.observe(activity);
        let (at, step) = course.next(&bounds);
        if at <= now {
            match step {
                Step::Cut(why) => return why,
                Step::Ask(why) => course.asked = Some((why, now)),
            }
            connection.as_mut().graceful_shutdown();
            continue;
        }
        // Nobody says when the last request ends. No sooner than this is it idle too long.
        let is_busy = course.asked.is_none() && course.quiet_since.is_none();
        timer.as_mut().reset(if is_busy { at.min(now + bounds.idle) } else { at });
        let ask = tokio::select! {
            biased;
            () = aborting.as_mut() => return Ending::Abort,
            outcome = connection.as_mut() => return course.ended(outcome.err().as_ref()),
            () = draining.as_mut(), if course.asked.is_none() => Ending::Drain,
            () = activity.changed() => continue,
            leave_at = clearing.changed() => {
                course.leave_at = leave_at;
                continue;
            }
            // Requests since then may have moved it. Unconstrained: where one request follows the other without a
            // pause, they use up what a task may do in one turn, and nothing would be left for the timer.
            () = unconstrained(timer.as_mut()) => continue,
        };
        course.asked = Some((ask, Instant::now()));
        connection.as_mut().graceful_shutdown();
    }
}

/// What to do with a connection when its next deadline has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Ask it to end: finish what is in flight, take nothing new.
    Ask(Ending),
    /// Drop it.
    Cut(Ending),
}

/// Where a connection is in its life.
struct Course {
    began: Instant,
    requests: u64,
    /// Since when nothing is in flight.
    quiet_since: Option<Instant>,
    /// It was asked to end: why, and when.
    asked: Option<(Ending, Instant)>,
    /// When to leave for another replica, if this one is not well by then.
    leave_at: Option<Instant>,
    /// It belongs to the strangers, and there is no place among them.
    is_crowded: bool,
}

impl Course {
    fn begin(now: Instant) -> Self {
        Self { began: now, requests: 0, quiet_since: Some(now), asked: None, leave_at: None, is_crowded: false }
    }

    fn observe(&mut self, activity: &Activity) {
        self.quiet_since = activity.quiet_since();
        self.requests = activity.requests();
    }

    /// The next deadline and what it means.
    fn next(&self, bounds: &Bounds) -> (Instant, Step) {
        if let Some((why, asked)) = self.asked {
            let cut = match why {
                // The drain has a limit of its own, after which it aborts.
                Ending::Drain => None,
                _ => Some((asked + bounds.linger, Step::Cut(Ending::Linger))),
            };
            let goodbye = self.quiet_since.map(|since| (since.max(asked) + GOODBYE_MAX, Step::Cut(why)));
            let far = (asked + Duration::from_hours(24), Step::Cut(Ending::Linger));
            return cut.into_iter().chain(goodbye).min_by_key(|(at, _)| *at).unwrap_or(far);
        }
        if self.is_crowded {
            return (self.began, Step::Ask(Ending::Outcast));
        }
        if self.requests >= bounds.requests_max {
            return (self.began, Step::Ask(Ending::Requests));
        }
        let age = (self.began + bounds.age, Step::Ask(Ending::Age));
        let quiet = match self.quiet_since {
            _ if self.requests == 0 => (self.began + bounds.first_request, Step::Cut(Ending::FirstRequestTimeout)),
            Some(since) => (since + bounds.idle, Step::Ask(Ending::Idle)),
            None => age,
        };
        let leave = self.leave_at.map_or(age, |at| (at, Step::Ask(Ending::Blind)));
        [quiet, leave].into_iter().fold(age, |first, other| if other.0 < first.0 { other } else { first })
    }

    fn ended(&self, error: Option<&hyper::Error>) -> Ending {
        match (self.asked, error) {
            (Some((why, _)), _) => why,
            (None, None) => Ending::Peer,
            // HTTP/1: the next header section did not come, or not to its end.
            (None, Some(error)) if error.is_timeout() => Ending::Idle,
            (None, Some(_)) => Ending::Error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const BOUNDS: Bounds = Bounds { first_request: s(10), idle: s(75), age: s(3600), linger: s(60), requests_max: 8 };

    #[tokio::test]
    async fn each_part_of_a_life_has_its_deadline() {
        let t0 = Instant::now();
        let at = |requests, quiet: Option<u64>, asked: Option<(Ending, u64)>| Course {
            began: t0,
            requests,
            quiet_since: quiet.map(|seconds| t0 + s(seconds)),
            asked: asked.map(|(why, seconds)| (why, t0 + s(seconds))),
            leave_at: None,
            is_crowded: false,
        };
        let leaving = |seconds, course| Course { leave_at: Some(t0 + s(seconds)), ..course };
        let cases = [
            (at(0, Some(0), None), 10, Step::Cut(Ending::FirstRequestTimeout)),
            (at(3, Some(20), None), 95, Step::Ask(Ending::Idle)),
            (at(3, Some(3590), None), 3600, Step::Ask(Ending::Age)),
            (at(3, None, None), 3600, Step::Ask(Ending::Age)),
            (leaving(30, at(3, Some(20), None)), 30, Step::Ask(Ending::Blind)),
            (leaving(30, at(3, None, None)), 30, Step::Ask(Ending::Blind)),
            (leaving(100, at(3, Some(20), None)), 95, Step::Ask(Ending::Idle)),
            (leaving(5, at(3, Some(20), Some((Ending::Drain, 20)))), 25, Step::Cut(Ending::Drain)),
            (at(8, None, None), 0, Step::Ask(Ending::Requests)),
            (Course { is_crowded: true, ..at(3, None, None) }, 0, Step::Ask(Ending::Outcast)),
            (at(3, None, Some((Ending::Age, 3600))), 3660, Step::Cut(Ending::Linger)),
            (at(3, Some(3610), Some((Ending::Age, 3600))), 3615, Step::Cut(Ending::Age)),
            (at(3, Some(50), Some((Ending::Drain, 100))), 105, Step::Cut(Ending::Drain)),
            (at(3, None, Some((Ending::Drain, 100))), 100 + 24 * 3600, Step::Cut(Ending::Linger)),
        ];
        for (course, seconds, step) in cases {
            assert_eq!(course.next(&BOUNDS), (t0 + s(seconds), step));
        }
    }

    #[test]
    fn ages_are_spread_around_the_setting() {
        let settings = ConnectionSettings {
            connections_max: 1,
            first_request_deadline: s(10),
            idle_max: s(75),
            age_max: s(1000),
            linger: s(60),
        };
        let ages: Vec<_> = (0..1000).map(|number| Bounds::new(&settings, number).age).collect();
        assert!(ages.iter().all(|age| *age >= s(800) && *age <= s(1200)));
        let early = ages.iter().filter(|age| **age < s(900)).count();
        assert!((200..300).contains(&early), "{early} of 1000 in the first quarter");
    }
}
