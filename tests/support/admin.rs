//! The admin listener's router in this process, on a database of its own, with two fleets to look at.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, header};
use everbeat::admission::{Admission, AdmissionSettings, FailureSettings, LimitSettings, Rate};
use everbeat::domain::access::{Grants, Role};
use everbeat::domain::ids::{DeviceId, Fingerprint, FleetId, ReplicaId};
use everbeat::domain::time::Clock;
use everbeat::http::{AdminApi, HttpSettings, admin_router};
use everbeat::identity::keyring::Keyring;
use everbeat::identity::operators::{EnrollmentTokenRequest, Mint};
use everbeat::identity::{CacheSettings, Identity, IdentitySettings, Parts, keys, pki};
use everbeat::lifecycle::readiness::{Check, Readiness};
use everbeat::presence::detector::Limits;
use everbeat::store::changes::ChangeLog;
use everbeat::store::readings;
use http_body_util::BodyExt;
use serde_json::Value;
use time::OffsetDateTime;
use tower::ServiceExt;
use uuid::Uuid;

use super::{TestCluster, TestStore, scratch_dir};

pub struct Rig {
    pub store: TestStore,
    pub owner: tokio_postgres::Client,
    pub identity: Identity,
    router: Router,
    _driver: tokio_util::task::AbortOnDropHandle<()>,
}

/// A fleet with one of everything.
#[derive(Clone, Debug)]
pub struct Fixture {
    pub fleet: FleetId,
    pub fleet_name: &'static str,
    pub device: DeviceId,
    pub device_name: String,
    pub fingerprint: Fingerprint,
    pub enrollment_token: String,
}

/// An answer, read.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// Of a problem.
    pub fn slug(&self) -> String {
        let json = self.json();
        json["type"].as_str().unwrap_or_default().trim_start_matches("urn:everbeat:problem:").to_owned()
    }

    pub fn etag(&self) -> &str {
        self.headers[header::ETAG].to_str().unwrap()
    }

    /// One member of each item of a page.
    pub fn each(&self, member: &str) -> Vec<Value> {
        self.json()["items"].as_array().unwrap().iter().map(|item| item[member].clone()).collect()
    }

    pub fn next(&self) -> Option<String> {
        self.json()["next"].as_str().map(str::to_owned)
    }
}

/// A request to be.
pub struct Call<'a> {
    pub method: &'a str,
    pub path: String,
    pub token: Option<&'a str>,
    pub headers: Vec<(&'static str, String)>,
    pub body: Option<Value>,
}

pub fn get(token: &str, path: impl Into<String>) -> Call<'_> {
    Call { method: "GET", path: path.into(), token: Some(token), headers: Vec::new(), body: None }
}

pub fn post(token: &str, path: impl Into<String>, body: Option<Value>) -> Call<'_> {
    Call { method: "POST", path: path.into(), token: Some(token), headers: Vec::new(), body }
}

impl Call<'_> {
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl Rig {
    pub async fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let store = TestStore::new().await;
        let (owner, driver) = TestCluster::shared().owner(&store.settings.database).await;
        let identity = identity(&store).await;
        let settings = HttpSettings {
            body_max_bytes: 64 * 1024,
            body_deadline: Duration::from_secs(5),
            submit_deadline: Duration::from_secs(5),
        };
        let free = Rate { per_second: 0.0, burst: 1 };
        let admission = AdmissionSettings {
            limit: LimitSettings { min: 100, max: 100, initial: 100 },
            database_requests_max: 100,
            device_rate: free,
            fleet_rate: free,
            failures: FailureSettings::UNLIMITED,
        };
        let api = AdminApi {
            identity: identity.clone(),
            admission: Admission::fixed(&admission, Clock::System),
            store: store.control.clone(),
            fleet: store.fleet.clone(),
            clock: Clock::System,
            random: store.random.clone(),
            settings: Arc::new(settings),
            drill: None,
            limits: Limits {
                blind_max: time::Duration::seconds(10),
                restarts_max: 2,
                window: time::Duration::hours(1),
            },
        };
        Self { store, owner, identity, router: admin_router(api), _driver: driver }
    }

    /// A token of an operator with these roles.
    pub async fn operator(&self, subject: &str, everywhere: Option<Role>, fleets: &[(FleetId, Role)]) -> String {
        let grants = Grants { everywhere, fleets: fleets.iter().copied().collect() };
        let mint = Mint { subject: subject.to_owned(), grants: Some(grants), ttl: Duration::from_mins(10) };
        self.identity.mint(mint).await.unwrap().text
    }

    pub async fn admin(&self) -> String {
        self.operator("root", Some(Role::Admin), &[]).await
    }

    pub async fn call(&self, call: Call<'_>) -> Answer {
        let mut request = Request::builder().method(call.method).uri(&call.path);
        if let Some(token) = call.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        let body = match call.body {
            Some(json) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Body::from(json.to_string())
            }
            None => Body::empty(),
        };
        let response = self.router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Answer { status: parts.status.as_u16(), headers: parts.headers, text }
    }

    pub async fn fleet(&self, name: &str) -> FleetId {
        let id = Uuid::now_v7();
        self.owner.execute("insert into fleets (id, name) values ($1, $2)", &[&id, &name]).await.unwrap();
        FleetId(id)
    }

    /// A device that is online since a minute ago and was heard just now, with one certificate.
    pub async fn device(&self, fleet: FleetId, name: &str) -> DeviceId {
        let id = Uuid::now_v7();
        let tags = vec!["all", name];
        let insert = "with d as (insert into devices (id, fleet_id, name, tags) values ($1, $2, $3, $4) returning id)
            insert into presence (device_id, state, cause, promise_ms, state_since, last_seen)
            select id, 1, 1, 30000, clock_timestamp() - interval '1 minute', clock_timestamp() from d";
        self.owner.execute(insert, &[&id, &fleet.0, &name, &tags]).await.unwrap();
        self.certificate(DeviceId(id), None).await;
        DeviceId(id)
    }

    pub async fn certificate(&self, device: DeviceId, parent: Option<Fingerprint>) -> Fingerprint {
        let mut print = [0; 32];
        print[..16].copy_from_slice(Uuid::new_v4().as_bytes());
        let parent = parent.map(|parent| parent.0.to_vec());
        let insert = "insert into credentials
              (fingerprint, device_id, spki_sha256, parent, serial, certificate_pem, not_before, not_after)
            values ($1, $2, $1, $3, '\\x01', '', now() - interval '1 day', now() + interval '1 day')";
        self.owner.execute(insert, &[&print.as_slice(), &device.0, &parent]).await.unwrap();
        Fingerprint(print)
    }

    pub async fn certificate_of(&self, device: DeviceId) -> Fingerprint {
        let row = self.owner.query_one("select fingerprint from credentials where device_id = $1", &[&device.0]).await;
        let bytes: Vec<u8> = row.unwrap().get(0);
        Fingerprint(bytes.try_into().unwrap())
    }

    /// A reading with `n` as its only value.
    pub async fn reading(&self, device: DeviceId, ts: OffsetDateTime, metric: &str, n: i64) {
        readings::ensure_partition(&self.store.fleet, ts.date()).await.unwrap();
        let insert = "insert into readings (device_id, ts, digest, content, \"values\")
            values ($1, $2, $3, $3, jsonb_build_object($4::text, $3::bigint))";
        self.owner.execute(insert, &[&device.0, &ts, &n, &metric]).await.unwrap();
    }

    pub async fn fixture(&self, fleet_name: &'static str) -> Fixture {
        let fleet = self.fleet(fleet_name).await;
        let device_name = format!("{fleet_name}-pump");
        let device = self.device(fleet, &device_name).await;
        self.reading(device, Clock::System.wall(), "level", 1).await;
        let request = EnrollmentTokenRequest {
            fleet,
            name_pattern: None,
            uses_max: 5,
            expires_in: Duration::from_hours(1),
            by: "tests".to_owned(),
        };
        let enrollment_token = self.identity.create_enrollment_token(request).await.unwrap().0.id;
        let fingerprint = self.certificate_of(device).await;
        Fixture { fleet, fleet_name, device, device_name, fingerprint, enrollment_token }
    }

    /// Waits until every event that was committed may be given. Transactions of the whole cluster count, hence
    /// those of other tests too.
    pub async fn settled(&self) {
        let waiting = "select count(*) from events where xid >= pg_snapshot_xmin(pg_current_snapshot())";
        let settled = tokio::time::timeout(Duration::from_secs(20), async {
            while self.number(waiting).await > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        settled.await.expect("no transaction stays open for long");
    }

    pub async fn number(&self, sql: &str) -> i64 {
        self.owner.query_one(sql, &[]).await.unwrap().get(0)
    }
}

async fn identity(store: &TestStore) -> Identity {
    let (clock, readiness, dir) = (Clock::System, Readiness::default(), scratch_dir("pki"));
    pki::create(&dir, &["localhost".to_owned()], &clock).unwrap();
    let pki = Arc::new(pki::load(&dir, true).unwrap());
    std::fs::remove_dir_all(&dir).unwrap();
    keys::publish(&ChangeLog::direct(store.control.clone()), &pki.public_halves()).await.unwrap();
    let parts = Parts {
        settings: IdentitySettings {
            endpoints: Vec::new(),
            caches: CacheSettings { devices_max: 100, operators_max: 100 },
        },
        store: store.settings.clone(),
        log: ChangeLog::start(store.control.clone(), &store.tasks),
        primary: store.primary.clone(),
        keyring: Keyring::new(&pki),
        tls: Vec::new(),
        pki,
        replica: ReplicaId(Uuid::now_v7()),
        addr: "127.0.0.1:8443".to_owned(),
        clock,
        random: store.random.clone(),
        readiness: readiness.clone(),
    };
    let identity = Identity::start(parts, &store.tasks);
    let fresh = tokio::time::timeout(Duration::from_secs(10), async {
        while !readiness.get(Check::ChangeLog) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    fresh.await.expect("the change log is read");
    identity
}
