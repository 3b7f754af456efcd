//! Devices over real mutual TLS: with the SDK, which retries and fails over, and bare, where each answer is seen.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use everbeat::client::exchange::{Answer, Call};
use everbeat::client::transport::Transport;
use everbeat::client::trust::Trust;
use everbeat::client::{Batch, ClientError, ClientSettings, Context, DeviceClient, Enrollment, Reading, StateDir};
use everbeat::domain::random::Random;
use everbeat::domain::time::{Clock, unix_us};
use everbeat::lifecycle::tasks::spawn;
use everbeat::wire::device::{HeartbeatRequest, ReadingsAnswer, TokenAnswer};
use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::database::Owner;
use super::world::World;

fn context() -> Context {
    Context { settings: ClientSettings::device(), clock: Clock::System, random: Random::from_os() }
}

/// Enrolls a device; its state is kept in the directory of its name.
pub async fn enroll(world: &World, token: &str, name: &str) -> DeviceClient {
    let asked = Enrollment {
        urls: world.device_urls(),
        name: name.parse().unwrap(),
        token: token.parse().unwrap(),
        ca_pem: None,
        tags: Vec::new(),
    };
    let state = StateDir::open(world.path(name)).unwrap();
    DeviceClient::enroll(state, &asked, context()).await.unwrap()
}

pub fn reading(n: u64) -> Reading {
    let values: Map<String, Value> = [("n".to_owned(), Value::from(n))].into_iter().collect();
    Reading::fresh(Clock::System.wall(), values).unwrap()
}

/// A device at one replica, without retries.
pub struct Bare {
    transport: Transport,
    url: String,
    bearer: String,
}

impl Bare {
    pub async fn connect(client: &DeviceClient, url: String) -> Self {
        let identity = client.state().load().unwrap().unwrap();
        let trust = Trust::from_pem(&identity.ca_pem).unwrap();
        let tls = trust.as_device(&identity.certificate_pem, identity.key_pem.expose_secret()).unwrap();
        let mut settings = ClientSettings::device();
        settings.request_timeout = Duration::from_secs(8);
        let mut bare = Self { transport: Transport::new(tls, &settings), url, bearer: String::new() };
        let body = bytes::Bytes::from_static(b"grant_type=client_credentials");
        let call = Call { content_type: Some("application/x-www-form-urlencoded"), ..Call::post("/v1/token", body) };
        let answer = bare.transport.exchange(&bare.url, &call).await;
        bare.bearer = answer.unwrap().json::<TokenAnswer>().unwrap().access_token;
        bare
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Answer, ClientError> {
        let call = Call::post_json(path, body).unwrap().bearer(&self.bearer).unwrap();
        self.transport.exchange(&self.url, &call).await
    }

    pub async fn heartbeat(&self) -> Result<Answer, ClientError> {
        self.post("/v1/heartbeat", &json!({})).await
    }

    pub async fn reading(&self, n: u64) -> Result<Answer, ClientError> {
        self.post("/v1/readings", &serde_json::to_value([reading(n)]).unwrap()).await
    }
}

/// A device that sends heartbeats as it is asked to, until dropped.
pub fn keep_alive(client: &DeviceClient) -> AbortOnDropHandle<()> {
    let client = client.clone();
    AbortOnDropHandle::new(spawn(async move {
        loop {
            let pause = match client.heartbeat(&HeartbeatRequest::default()).await {
                Ok(answer) => answer.next_in_s,
                Err(_) => 0.5,
            };
            tokio::time::sleep(Duration::from_secs_f64(pause)).await;
        }
    }))
}

/// What a sender was told: for each number that was acknowledged, the time of its reading.
#[derive(Default)]
pub struct Told {
    pub acknowledged: BTreeMap<u64, i64>,
    pub errors: Vec<String>,
}

impl Told {
    fn hear(&mut self, n: u64, ts: i64, outcome: Result<ReadingsAnswer, ClientError>) {
        match outcome {
            Ok(answer) if answer.rejected_total == 0 => {
                self.acknowledged.insert(n, ts);
            }
            Ok(answer) => self.errors.push(format!("{n}: {answer:?}")),
            Err(error) => self.errors.push(format!("{n}: {error}")),
        }
    }
}

/// Sends numbered readings one after the other, through both replicas, until it is stopped.
pub struct Stream {
    device: Uuid,
    told: Arc<Mutex<Told>>,
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Stream {
    pub fn start(client: &DeviceClient, pause: Duration) -> Self {
        let (told, stop) = (Arc::new(Mutex::new(Told::default())), CancellationToken::new());
        let task = send(client.clone(), pause, told.clone(), stop.clone());
        Self { device: client.device().id.0, told, stop, task: AbortOnDropHandle::new(spawn(task)) }
    }

    pub fn acknowledged(&self) -> usize {
        self.told.lock().unwrap().acknowledged.len()
    }

    /// Ends after the reading that is under way.
    pub async fn finish(self) -> (Uuid, Told) {
        self.stop.cancel();
        self.task.await.unwrap();
        let told = std::mem::take(&mut *self.told.lock().unwrap());
        (self.device, told)
    }
}

async fn send(client: DeviceClient, pause: Duration, told: Arc<Mutex<Told>>, stop: CancellationToken) {
    let mut n = 0;
    while !stop.is_cancelled() {
        n += 1;
        let reading = reading(n);
        let ts = unix_us(everbeat::domain::time::parse_rfc3339(reading.ts()).unwrap());
        let outcome = client.readings(&Batch::new(&[reading]).unwrap()).await;
        told.lock().unwrap().hear(n, ts, outcome);
        tokio::time::sleep(pause).await;
    }
}

/// Every acknowledged reading is there with its time and value; nothing is there twice.
pub async fn assert_stored(owner: &Owner, device: Uuid, told: &Told) {
    let sql = "select (values->>'n')::bigint, (extract(epoch from ts) * 1000000)::bigint from readings
               where device_id = $1";
    let mut stored: BTreeMap<u64, i64> = BTreeMap::new();
    for row in owner.client.query(sql, &[&device]).await.unwrap() {
        let (n, ts): (i64, i64) = (row.get(0), row.get(1));
        assert_eq!(stored.insert(u64::try_from(n).unwrap(), ts), None, "{n} is stored twice");
    }
    let missing: Vec<_> = told.acknowledged.iter().filter(|(n, ts)| stored.get(n) != Some(ts)).collect();
    assert!(missing.is_empty(), "acknowledged, but not stored: {missing:?}");
}
