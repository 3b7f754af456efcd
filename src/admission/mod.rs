//! May this request enter now? Refused early and cheaply, before its body is read.
//!
//! - [`Admission::enter`]: how many requests are under way, by [`Class`], under a limit that follows how long they wait for
//!   commits. In need, lists are shed first and heartbeats last. Of those that each take a connection to the database, how
//!   many have one or wait for one.
//! - [`Admission::in_time`]: a request that cannot be answered within its caller's deadline is not begun.
//! - [`Admission::wait`]: how many requests wait for their bodies, outside of their classes.
//! - [`Admission::spend`]: the rate of one device and of one fleet.
//! - [`Failures`]: how often one address, or one enrollment token, may fail to prove who it is.
//!
//! Nothing waits here: what cannot enter is told so at once, and how long to stay away (who does not, is answered later:
//! `http::frame`). A refusal costs its caller nothing but the pause: a bucket that refuses gives no token (that of a fleet
//! is asked after the device's, which has given one by then), and presence counts no shed heartbeat against its device.
//!
//! Deliberately absent: a queue before the limit (the committer's is the only one, and bounded); limits over several
//! replicas (each has its own, so a fleet's rate is that of one replica times those that it talks to).

mod bodies;
mod class;
mod failures;
mod limit;
mod pause;
mod rate;
mod shares;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use bodies::{Sender, Waiting};
pub use class::Class;
pub use failures::{FailureSettings, Failures};
pub use limit::{Limit, LimitSettings, Window};
pub use rate::{Buckets, Left, Rate};
pub use shares::{Room, Shares};

use self::bodies::{Bodies, Crowded};
use self::pause::Pause;
use crate::domain::ids::{DeviceId, FleetId};
use crate::domain::time::Clock;
use crate::ingest::Ingest;
use crate::lifecycle::shutdown::Shutdown;
use crate::lifecycle::tasks::Tasks;
use crate::observe::admission::{self as observe, ClassCounters, Stage};

/// Between two looks at how long requests wait for commits.
const WINDOW: Duration = Duration::from_millis(100);
/// The least of one in a probe; two waits, if they take longer, so that those from before it are over in its first.
const PROBE_WINDOW: Duration = Duration::from_millis(25);
/// How long to stay away when too many wait for the database, whose slowness the commits of readings do not show.
const DATABASE_PAUSE: Duration = Duration::from_secs(1);
/// How long to stay away when too many bodies are slow.
const BODIES_PAUSE: Duration = Duration::from_secs(1);
/// Buckets that are kept, of each kind.
const CALLERS_MAX: u64 = 1_000_000;

#[derive(Clone, Debug)]
pub struct AdmissionSettings {
    pub limit: LimitSettings,
    /// Changes, and single requests of devices, that may have a connection to the database or wait for one; of lists, a
    /// quarter. Too small: they are refused while connections are free. Too large: behind a slow database they wait until
    /// they are too late, instead of being told so at once.
    pub database_requests_max: u32,
    /// Requests of one device at one replica. Too small: a device that was away cannot send what it kept. Too large:
    /// one that has gone mad costs its neighbours their share.
    pub device_rate: Rate,
    /// Requests of all devices of a fleet at one replica.
    pub fleet_rate: Rate,
    pub failures: FailureSettings,
}

/// Why not, and how long to stay away, before jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("too many {} requests are under way", .class.as_str())]
    Full { class: Class, pause: Duration },
    #[error("too many requests are waiting for a connection to the database")]
    Database { pause: Duration },
    #[error("the caller's deadline is shorter than requests wait for their commits")]
    TooLate { pause: Duration },
    #[error("the device sends too often")]
    Device { pause: Duration },
    #[error("the fleet sends too often")]
    Fleet { pause: Duration },
    #[error("too many attempts failed from this address")]
    Address { pause: Duration },
    #[error("too many attempts with this enrollment token failed")]
    EnrollmentToken { pause: Duration },
    #[error("too many bodies of this caller are slow to come")]
    Bodies { pause: Duration },
    #[error("too many bodies are slow to come")]
    AllBodies { pause: Duration },
    #[error("no room is left in {limit}")]
    Queue { limit: &'static str, pause: Duration },
}

impl Refused {
    /// How long to stay away, before jitter.
    pub fn pause(self) -> Duration {
        match self {
            Self::Full { pause, .. }
            | Self::Database { pause }
            | Self::TooLate { pause }
            | Self::Device { pause }
            | Self::Fleet { pause }
            | Self::Address { pause }
            | Self::EnrollmentToken { pause }
            | Self::Bodies { pause }
            | Self::AllBodies { pause }
            | Self::Queue { pause, .. } => pause,
        }
    }
}

/// What is left to a device after a request; `None` where there is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    pub device: Option<Left>,
    pub fleet: Option<Left>,
}

/// The gate. Clones share it.
#[derive(Clone)]
pub struct Admission(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// How long a request waits for its commit in the mean, in microseconds; zero: not known.
    wait_us: AtomicU32,
    database_requests_max: u32,
    /// How long to stay away, in milliseconds.
    pause_ms: AtomicU32,
    devices: Buckets<DeviceId>,
    fleets: Buckets<FleetId>,
    failures: Failures,
    bodies: Arc<Bodies>,
    clock: Clock,
    counters: [ClassCounters; Class::ALL.len()],
}

struct State {
    shares: Shares,
    room: Room,
    /// The same but for probes, which are about commits: health and heartbeats are not held back for them.
    unprobed_room: Room,
    seen: Seen,
}

/// Since the last window. Entered and refused are those that wait for commits; of the entered, some found a queue full.
#[derive(Clone, Copy, Default)]
struct Seen {
    under_way_max: u32,
    entered: u32,
    refused: u32,
    queue_full: u32,
}

impl State {
    fn take_seen(&mut self) -> Seen {
        let next = Seen { under_way_max: self.shares.total(), ..Seen::default() };
        std::mem::replace(&mut self.seen, next)
    }
}

/// One request under way; it leaves when this is dropped.
#[must_use]
pub struct Permit(Arc<Inner>, Class);

impl Admission {
    /// Starts what follows the commits.
    pub fn start(settings: &AdmissionSettings, ingest: Ingest, clock: Clock, tasks: &Tasks) -> Self {
        let limit = Limit::new(settings.limit.clone());
        let this = Self::fixed(settings, clock);
        tasks.foundation("admission-limit", this.clone().follow(limit, ingest, tasks.shutdown().clone()));
        this
    }

    /// Its limit stays what it is at first: nothing follows the commits.
    pub fn fixed(settings: &AdmissionSettings, clock: Clock) -> Self {
        let limit = Limit::new(settings.limit.clone());
        observe::limit(limit.get());
        let (room, unprobed_room) = (limit.room(), limit.unprobed_room());
        Self(Arc::new(Inner {
            state: Mutex::new(State { shares: Shares::default(), room, unprobed_room, seen: Seen::default() }),
            wait_us: 0.into(),
            database_requests_max: settings.database_requests_max,
            pause_ms: millis(pause::MIN).into(),
            devices: Buckets::new(settings.device_rate, CALLERS_MAX),
            fleets: Buckets::new(settings.fleet_rate, CALLERS_MAX),
            failures: Failures::new(settings.failures, clock.clone()),
            bodies: Arc::default(),
            clock,
            counters: Class::ALL.map(|class| ClassCounters::of(class.as_str())),
        }))
    }

    /// Runs until the abort: what is under way in a drain is admitted, too.
    async fn follow(self, mut limit: Limit, ingest: Ingest, shutdown: Shutdown) {
        let mut pause = Pause::new();
        loop {
            let window = if limit.is_probing() { probe_window(self.wait_for_commit()) } else { WINDOW };
            tokio::select! {
                () = tokio::time::sleep(window) => {}
                () = shutdown.aborting() => return,
            }
            let commits = ingest.take_commits();
            ingest.measure_queue();
            let Seen { under_way_max, entered, refused, queue_full } = self.0.lock().take_seen();
            let latency_s = commits.mean_wait().as_secs_f64();
            // What stands still is no rush: when it goes on, there is room.
            if !limit.is_probing() && commits.ended > 0 {
                pause.learn(entered.saturating_sub(queue_full), refused.saturating_add(queue_full));
            }
            let (commits, lost, is_idle) = (commits.ended, commits.lost, commits.is_idle);
            let now = limit.learn(&Window { commits, latency_s, lost, under_way_max, refused, is_idle });
            {
                let mut state = self.0.lock();
                (state.room, state.unprobed_room) = (limit.room(), limit.unprobed_room());
            }
            let mean = Duration::try_from_secs_f64(limit.recent_s()).unwrap_or_default();
            self.0.wait_us.store(u32::try_from(mean.as_micros()).unwrap_or(u32::MAX), Ordering::Relaxed);
            // What stands still is no probe either: nobody knows how long it lasts.
            let is_probing = limit.is_probing() && commits > 0;
            self.0.pause_ms.store(millis(away(is_probing, &pause, self.wait_for_commit())), Ordering::Relaxed);
            observe::limit(now);
            self.0.failures.observe();
            for class in Class::ALL {
                observe::under_way(class.as_str(), self.under_way(class));
            }
        }
    }

    /// One request of `class`, until the permit is dropped.
    pub fn enter(&self, class: Class) -> Result<Permit, Refused> {
        self.counters(class).offered();
        self.enter_once(class, true)
    }

    /// The same for one that has left to wait for its body: it was offered once, and had entered.
    pub fn enter_again(&self, class: Class) -> Result<Permit, Refused> {
        self.enter_once(class, false)
    }

    fn enter_once(&self, class: Class, is_new: bool) -> Result<Permit, Refused> {
        let entered = {
            let mut guard = self.0.lock();
            let state = &mut *guard;
            if class.of_database(self.0.database_requests_max).is_some_and(|most| state.shares.of(class) >= most) {
                drop(guard);
                self.counters(class).shed(Stage::Database);
                return Err(Refused::Database { pause: DATABASE_PAUSE });
            }
            let room = if class.waits_for_commits() { state.room } else { state.unprobed_room };
            let entered = state.shares.enter(class, room);
            // A refusal shows that more than the limit would have come.
            let most = if entered { state.shares.total() } else { room.limit };
            state.seen.under_way_max = state.seen.under_way_max.max(most);
            if class.waits_for_commits() {
                state.seen.entered += u32::from(entered && is_new);
                state.seen.refused += u32::from(!entered);
            }
            entered
        };
        if entered {
            Ok(Permit(self.0.clone(), class))
        } else {
            self.counters(class).shed(Stage::Concurrency);
            Err(Refused::Full { class, pause: self.pause() })
        }
    }

    /// One request of `class` that waits for its body, until what is returned is dropped. It has left its class before.
    pub fn wait(&self, class: Class, sender: Sender) -> Result<Waiting, Refused> {
        self.0.bodies.wait(sender).map_err(|crowded| {
            self.counters(class).shed(Stage::SlowBodies);
            match crowded {
                Crowded::Caller => Refused::Bodies { pause: BODIES_PAUSE },
                Crowded::All => Refused::AllBodies { pause: BODIES_PAUSE },
            }
        })
    }

    /// One request of `class` that had entered, and found no room in what `limit` bounds.
    pub fn queue_full(&self, class: Class, limit: &'static str) -> Refused {
        self.counters(class).shed(Stage::Queue);
        if class.waits_for_commits() {
            self.0.lock().seen.queue_full += 1;
        }
        Refused::Queue { limit, pause: self.pause() }
    }

    /// Can what needs a commit be answered before the caller gives up?
    pub fn in_time(&self, class: Class, deadline: Duration) -> Result<(), Refused> {
        if deadline > self.wait_for_commit() {
            return Ok(());
        }
        self.counters(class).shed(Stage::Deadline);
        Err(Refused::TooLate { pause: self.pause() })
    }

    /// How often a device and a fleet may come.
    pub fn rates(&self) -> (Rate, Rate) {
        (self.0.devices.rate(), self.0.fleets.rate())
    }

    /// One request of this device, of this fleet.
    pub fn spend(&self, class: Class, device: DeviceId, fleet: FleetId) -> Result<Spent, Refused> {
        let now = self.0.clock.boottime();
        let shed = |stage| self.counters(class).shed(stage);
        let device = self.0.devices.take(device, now).map_err(|pause| {
            shed(Stage::DeviceRate);
            Refused::Device { pause }
        })?;
        let fleet = self.0.fleets.take(fleet, now).map_err(|pause| {
            shed(Stage::FleetRate);
            Refused::Fleet { pause }
        })?;
        Ok(Spent { device, fleet })
    }

    /// May somebody at this address try to prove who they are? For what nobody vouches for yet: neither a certificate
    /// nor a signature that was verified before.
    pub fn may_try(&self, class: Class, from: IpAddr) -> Result<(), Refused> {
        self.0.failures.address(from).inspect_err(|_| self.counters(class).shed(Stage::AddressFailures))
    }

    /// May somebody try with the enrollment token of this id?
    pub fn may_try_token(&self, class: Class, id: &str) -> Result<(), Refused> {
        self.0.failures.token(id).inspect_err(|_| self.counters(class).shed(Stage::TokenFailures))
    }

    /// Where failed attempts are noted.
    pub fn failures(&self) -> &Failures {
        &self.0.failures
    }

    pub fn under_way(&self, class: Class) -> u32 {
        self.0.lock().shares.of(class)
    }

    fn counters(&self, class: Class) -> &ClassCounters {
        &self.0.counters[class.place()]
    }

    fn wait_for_commit(&self) -> Duration {
        Duration::from_micros(self.0.wait_us.load(Ordering::Relaxed).into())
    }

    fn pause(&self) -> Duration {
        Duration::from_millis(self.0.pause_ms.load(Ordering::Relaxed).into())
    }
}

fn probe_window(wait: Duration) -> Duration {
    PROBE_WINDOW.max(wait * 2)
}

/// How long to stay away. Who is refused for the sake of a probe, about as long as that takes: away as in a rush, they would
/// leave the service idle for seconds behind it.
fn away(is_probing: bool, pause: &Pause, wait: Duration) -> Duration {
    let usual = pause.of(wait);
    if is_probing { usual.min(pause::MIN.max(probe_window(wait) * limit::PROBE_WINDOWS)) } else { usual }
}

fn millis(span: Duration) -> u32 {
    u32::try_from(span.as_millis()).unwrap_or(u32::MAX)
}

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.lock().shares.leave(self.1);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const FREE: Rate = Rate { per_second: 0.0, burst: 1 };

    fn admission(limit: u32, device_rate: Rate, fleet_rate: Rate) -> (Admission, Clock) {
        let clock = Clock::manual(1_700_000_000_000_000);
        let limits = LimitSettings { min: limit, max: limit, initial: limit };
        let failures = FailureSettings::UNLIMITED;
        let settings =
            AdmissionSettings { limit: limits, database_requests_max: u32::MAX, device_rate, fleet_rate, failures };
        (Admission::fixed(&settings, clock.clone()), clock)
    }

    #[test]
    fn a_permit_is_given_back_however_the_request_ends() {
        let (admission, _) = admission(10, FREE, FREE);
        let held: Vec<Permit> = std::iter::from_fn(|| admission.enter(Class::Readings).ok()).collect();
        assert_eq!(held.len(), 7);
        assert_eq!(
            admission.enter(Class::Readings).err(),
            Some(Refused::Full { class: Class::Readings, pause: pause::MIN })
        );
        assert!(admission.enter(Class::Heartbeats).is_ok());
        drop(held);
        assert_eq!(Class::ALL.map(|class| admission.under_way(class)), [0; 5]);
    }

    #[test]
    fn few_wait_for_a_connection_to_the_database() {
        let admission = Admission::fixed(&free(), Clock::manual(0));
        let _list = admission.enter(Class::Lists).unwrap();
        let refused = Some(Refused::Database { pause: DATABASE_PAUSE });
        assert_eq!(admission.enter(Class::Lists).err(), refused, "a quarter of them");
        let one = admission.enter(Class::Exchange).unwrap();
        let _other = admission.enter(Class::Exchange).unwrap();
        assert_eq!(admission.enter(Class::Exchange).err(), refused, "lists take nothing of theirs");
        assert!(
            [Class::Readings, Class::Heartbeats, Class::Health].iter().all(|class| admission.enter(*class).is_ok())
        );
        drop(one);
        assert!(admission.enter(Class::Exchange).is_ok());
    }

    #[test]
    fn a_full_queue_is_no_small_limit() {
        let (admission, _) = admission(10, FREE, FREE);
        let permit = admission.enter(Class::Readings).unwrap();
        assert_eq!(
            admission.queue_full(Class::Readings, "readings_queue"),
            Refused::Queue { limit: "readings_queue", pause: pause::MIN }
        );
        drop(permit);
        drop(admission.enter_again(Class::Readings).unwrap());
        let Seen { entered, refused, queue_full, .. } = admission.0.lock().take_seen();
        assert_eq!((entered, refused, queue_full), (1, 0, 1));
    }

    #[test]
    fn a_probe_holds_back_only_what_waits_for_commits() {
        let (admission, _) = admission(10, FREE, FREE);
        admission.0.lock().room = Room { limit: 2, most: 2 };
        let held: Vec<Permit> = std::iter::from_fn(|| admission.enter(Class::Readings).ok()).collect();
        assert_eq!(held.len(), 1);
        let beats: Vec<Permit> = std::iter::from_fn(|| admission.enter(Class::Heartbeats).ok()).collect();
        assert_eq!(beats.len(), 9 - held.len(), "95 % of ten, and what is lent is lent");
    }

    #[test]
    fn a_probe_sends_nobody_away_as_a_rush_does() {
        let mut pause = Pause::new();
        for _ in 0..100 {
            pause.learn(100, 1_000);
        }
        let commit = Duration::from_millis(40);
        assert!(away(false, &pause, commit) >= Duration::from_secs(3), "a rush");
        assert_eq!(away(true, &pause, commit), pause::MIN, "its least");
        assert_eq!(away(true, &pause, commit * 4), probe_window(commit * 4) * 2, "two windows of two commits");
        assert_eq!(away(true, &pause, commit * 100), away(false, &pause, commit * 100), "never longer than in a rush");
    }

    #[test]
    fn what_cannot_be_in_time_is_not_begun() {
        let (admission, _) = admission(10, FREE, FREE);
        assert_eq!(admission.in_time(Class::Readings, Duration::from_millis(1)), Ok(()), "nothing is known yet");
        admission.0.wait_us.store(200_000, Ordering::Relaxed);
        assert_eq!(admission.in_time(Class::Readings, Duration::from_millis(201)), Ok(()));
        let pause = pause::MIN;
        assert_eq!(admission.in_time(Class::Readings, Duration::from_millis(200)), Err(Refused::TooLate { pause }));
    }

    #[test]
    fn a_device_spends_its_own_and_its_fleets() {
        let rate = |per_second, burst| Rate { per_second, burst };
        let (admission, clock) = admission(10, rate(1.0, 2), rate(10.0, 3));
        let fleet = FleetId(Uuid::from_u128(9));
        let device = |n| DeviceId(Uuid::from_u128(n));
        let spend = |n| {
            admission.spend(Class::Readings, device(n), fleet).map(|spent| {
                let left = |left: Option<Left>| left.map(|left| (left.requests, left.full_in.as_millis()));
                (left(spent.device), left(spent.fleet))
            })
        };
        assert_eq!(
            [spend(1), spend(1)],
            [Ok((Some((1, 1_000)), Some((2, 100)))), Ok((Some((0, 2_000)), Some((1, 200)))),]
        );
        assert_eq!(spend(1), Err(Refused::Device { pause: Duration::from_secs(1) }));
        assert_eq!(spend(2), Ok((Some((1, 1_000)), Some((0, 300)))));
        assert_eq!(spend(2), Err(Refused::Fleet { pause: Duration::from_millis(100) }));
        clock.advance(Duration::from_millis(100));
        assert_eq!(spend(3), Ok((Some((1, 1_000)), Some((0, 300)))));
        assert_eq!(Admission::fixed(&free(), clock).spend(Class::Readings, device(1), fleet), Ok(Spent::default()));
    }

    fn free() -> AdmissionSettings {
        AdmissionSettings {
            limit: LimitSettings { min: 10, max: 10, initial: 10 },
            database_requests_max: 2,
            device_rate: FREE,
            fleet_rate: FREE,
            failures: FailureSettings::UNLIMITED,
        }
    }
}
