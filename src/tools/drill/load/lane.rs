//! One request at a time, over connections of its own, each written down before the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::counters::Counters;
use super::outcome;
use super::roads::Closed;
use super::settings::LoadSettings;
use crate::client::exchange::{Answer, Call as Request};
use crate::client::transport::Transport;
use crate::domain::random::Random;
use crate::domain::time::{Boottime, Clock};
use crate::lifecycle::shutdown::Shutdown;
use crate::tools::drill::evidence::{Attempt, Call, Outcome};
use crate::wire::device::TokenAnswer;

/// A token is fetched anew after this share of its life.
const TOKEN_REFRESH_SHARE: f64 = 0.7;

/// What all workers of one scenario share.
pub(super) struct Run {
    pub settings: LoadSettings,
    pub clock: Clock,
    /// The drain: no new readings. The abort: the end, whatever is under way.
    pub stop: Shutdown,
    pub counters: Counters,
    pub closed: Closed,
    /// Until then nobody waits between two requests.
    pub rush_until: watch::Sender<Instant>,
}

impl Run {
    /// Resolves while requests are to follow one another without a pause.
    pub async fn rush(&self) {
        let mut until = self.rush_until.subscribe();
        // The sender lives as long as `self`.
        let _ = until.wait_for(|until| Instant::now() < *until).await;
    }
}

/// Who is calling.
#[derive(Clone)]
pub(super) struct Who {
    pub client: Arc<str>,
    pub device: Option<Uuid>,
    /// The client's attempts so far, in this scenario.
    pub attempts: Arc<AtomicU64>,
    /// Cancelled: the client is dead.
    pub killed: CancellationToken,
    /// Operators take its right to call: refusals are meant to be.
    pub victim: bool,
    /// It asks what a client would not, to see what each replica says ([`Attempt::probe`]).
    pub probe: bool,
}

impl Who {
    pub fn new(client: &str, device: Option<Uuid>) -> Self {
        let (client, killed) = (client.into(), CancellationToken::new());
        Self { client, device, attempts: Arc::default(), killed, victim: false, probe: false }
    }

    /// Stays at one endpoint, whatever it says.
    pub fn probe(client: &str) -> Self {
        Self { probe: true, ..Self::new(client, None) }
    }

    /// `before`: attempts that it has made already.
    pub fn victim(client: &str, device: Uuid, before: u64) -> Self {
        let attempts = Arc::new(AtomicU64::new(before));
        Self { victim: true, probe: true, attempts, ..Self::new(client, Some(device)) }
    }
}

pub(super) enum Bearer {
    Device(Option<Token>),
    Operator(SecretString),
}

pub(super) struct Token {
    text: SecretString,
    refresh_at: Boottime,
    ends_at: Boottime,
}

/// What an attempt came to.
pub(super) struct Told {
    pub number: u64,
    pub outcome: Outcome,
    /// Any answer, also one that refuses.
    pub answer: Option<Answer>,
}

impl Told {
    pub fn is_acknowledged(&self) -> bool {
        self.outcome.is_acknowledged()
    }
}

pub(super) struct Lane {
    pub run: Arc<Run>,
    pub who: Who,
    pub random: Random,
    history: mpsc::Sender<Attempt>,
    transport: Transport,
    urls: Arc<[String]>,
    at: usize,
    bearer: Bearer,
    /// Of requests before which it changes its connection without need.
    reconnect_share: f64,
}

/// What a lane is made of beside its caller.
pub(super) struct Road {
    pub transport: Transport,
    pub urls: Arc<[String]>,
    pub bearer: Bearer,
    pub reconnect_share: f64,
}

impl Lane {
    /// Begins at a random endpoint.
    pub fn new(run: Arc<Run>, who: Who, random: Random, history: mpsc::Sender<Attempt>, road: Road) -> Self {
        let at = random.below(road.urls.len());
        let Road { transport, urls, bearer, reconnect_share } = road;
        Self { run, who, random, history, transport, urls, at, bearer, reconnect_share }
    }

    /// Resolves when nothing more may be sent.
    pub async fn over(&self) {
        tokio::select! {
            () = self.who.killed.cancelled() => {}
            () = self.run.stop.aborting() => {}
            () = self.history.closed() => {}
        }
    }

    pub fn is_over(&self) -> bool {
        self.who.killed.is_cancelled() || self.run.stop.is_aborting() || self.history.is_closed()
    }

    /// Waits. False: it is over.
    pub async fn pause(&self, span: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(span) => !self.is_over(),
            () = self.over() => false,
        }
    }

    /// Waits before attempt number `failures + 1`: short, so that the end of a fault is seen soon. False: it is over.
    pub async fn back_off(&self, failures: u32) -> bool {
        let settings = &self.run.settings;
        self.pause(self.random.full_jitter(settings.backoff_base, settings.backoff_max, failures)).await
    }

    /// The next endpoint that is not known to refuse connections.
    pub fn move_on(&mut self) {
        self.go((self.at + 1) % self.urls.len().max(1));
    }

    fn go(&mut self, at: usize) {
        self.at = self.run.closed.open_from(&self.urls, at, self.run.clock.boottime());
    }

    /// The next request goes over a new connection.
    pub fn reconnect(&mut self) {
        self.transport = self.transport.reconnected();
    }

    /// One attempt, and an access token before it where there is none that is good; a token's request is an attempt of
    /// its own, since it proves the identity, too.
    pub async fn ask(&mut self, what: Call, request: Request) -> Told {
        let token = self.token().await;
        let request = token.and_then(|token| request.bearer(token.expose_secret()).ok());
        let told = match request {
            Some(request) => self.settled(what, &request).await,
            None if self.is_over() => return stopped(),
            None => self.unsent(what, "there is no access token").await,
        };
        match (&told.outcome, &mut self.bearer) {
            (Outcome::Refused { problem: Some(slug), .. }, Bearer::Device(token)) if slug.starts_with("token-") => {
                *token = None;
            }
            _ => {}
        }
        told
    }

    /// One request, and the move to another endpoint if that may do better.
    async fn settled(&mut self, what: Call, request: &Request) -> Told {
        let told = self.once(what, request).await;
        if outcome::elsewhere(&told.outcome) {
            self.move_on();
        }
        told
    }

    async fn token(&mut self) -> Option<SecretString> {
        let now = self.run.clock.boottime();
        match &self.bearer {
            Bearer::Operator(token) => return Some(token.clone()),
            Bearer::Device(Some(token)) if now < token.refresh_at => return Some(token.text.clone()),
            Bearer::Device(_) => {}
        }
        let request = Request {
            content_type: Some("application/x-www-form-urlencoded"),
            ..Request::post("/v1/token", Bytes::from_static(b"grant_type=client_credentials"))
        };
        let told = self.settled(Call::Me, &request).await;
        let answer = told.answer.filter(|_| told.outcome.is_acknowledged());
        let fetched = answer.and_then(|answer| answer.json::<TokenAnswer>().ok());
        let Bearer::Device(slot) = &mut self.bearer else { return None };
        if let Some(fetched) = fetched {
            let life = Duration::from_secs(fetched.expires_in);
            let refresh_at = now.plus(life.mul_f64(TOKEN_REFRESH_SHARE));
            *slot = Some(Token { text: fetched.access_token.into(), refresh_at, ends_at: now.plus(life) });
        }
        let good = slot.as_ref().filter(|token| now < token.ends_at);
        good.map(|token| token.text.clone())
    }

    /// After the end nothing is sent, and nothing written down.
    async fn once(&mut self, what: Call, request: &Request) -> Told {
        if self.random.chance(self.reconnect_share) {
            self.reconnect();
            self.go(self.random.below(self.urls.len()));
        }
        let endpoint = self.urls.get(self.at).cloned().unwrap_or_default();
        let connections = self.transport.connections();
        let sent_us = self.run.clock.boottime().as_us();
        // Looked at after the clock: nothing is sent later than the moment at which a device is said to be dead.
        if self.is_over() {
            return stopped();
        }
        let number = self.number();
        let result = {
            let _flight = self.run.counters.flight();
            tokio::select! {
                result = self.transport.exchange(&endpoint, request) => Some(result),
                () = self.over() => None,
            }
        };
        let outcome = outcome::of(&what, result.as_ref());
        let answer = result.and_then(Result::ok);
        let header = |name| answer.as_ref().and_then(|answer| answer.header(name));
        let attempt = Attempt {
            client: self.who.client.to_string(),
            device: self.who.device,
            number,
            call: outcome::versioned(what, header("etag")),
            endpoint,
            sent_us,
            done_us: self.run.clock.boottime().as_us(),
            replica: header("x-everbeat-replica").and_then(|text| text.parse().ok()),
            position: header("x-everbeat-position").map(str::to_owned),
            reused_connection: self.transport.connections() == connections,
            probe: self.who.probe,
            outcome,
        };
        self.run.closed.learn(&attempt.endpoint, &attempt.outcome, self.run.clock.boottime());
        Told { number, outcome: self.note(attempt).await, answer }
    }

    /// An attempt that failed before there was anything to send.
    pub async fn unsent(&mut self, what: Call, error: &str) -> Told {
        let now_us = self.run.clock.boottime().as_us();
        let attempt = Attempt {
            client: self.who.client.to_string(),
            device: self.who.device,
            number: self.number(),
            call: what,
            endpoint: self.urls.get(self.at).cloned().unwrap_or_default(),
            sent_us: now_us,
            done_us: now_us,
            outcome: Outcome::NotSent { error: error.to_owned() },
            replica: None,
            position: None,
            reused_connection: false,
            probe: self.who.probe,
        };
        Told { number: attempt.number, outcome: self.note(attempt).await, answer: None }
    }

    /// Writes an attempt down; waits while the history is behind.
    pub async fn note(&self, attempt: Attempt) -> Outcome {
        self.run.counters.count(&attempt, self.who.victim);
        let outcome = attempt.outcome.clone();
        // It fails only when the disk has; the load ends then, and says so.
        let _ = self.history.send(attempt).await;
        outcome
    }

    fn number(&self) -> u64 {
        self.who.attempts.fetch_add(1, Ordering::Relaxed) + 1
    }
}

fn stopped() -> Told {
    Told { number: 0, outcome: Outcome::NotSent { error: "the client has stopped".to_owned() }, answer: None }
}
