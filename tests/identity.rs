//! Enrollment, callers and revocation, on two replicas that share a database.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use everbeat::domain::access::{Grants, Role};
use everbeat::domain::ids::{DeviceId, Fingerprint, FleetId, ReplicaId};
use everbeat::domain::time::Clock;
use everbeat::identity::keyring::Keyring;
use everbeat::identity::operators::{EnrollmentTokenRequest, Mint};
use everbeat::identity::pki::{self, Pki};
use everbeat::identity::{
    AuthError, CacheSettings, Denied, DeviceCaller, DeviceState, Identity, IdentityError, IdentitySettings, Parts, keys,
};
use everbeat::lifecycle::readiness::{Check, Readiness};
use everbeat::net::{Away, ConnInfo, Listener, Memo, Outcast, Pace, Peer, PeerCert, Rejection};
use everbeat::store::changes::{ChangeError, ChangeLog};
use everbeat::store::devices::{self, Switch};
use everbeat::store::keys::PublishRefusal;
use everbeat::store::{credentials, enrollment, operators};
use everbeat::wire::device::{EnrollAnswer, EnrollRequest};
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use support::{TestCluster, TestStore, scratch_dir};
use uuid::Uuid;

/// A revocation acts on every replica within this while the listener lives.
const WITHIN: Duration = Duration::from_secs(1);

/// As somebody whom nobody turns away.
async fn with_token(identity: &Identity, conn: &ConnInfo, bearer: &str) -> Result<Arc<DeviceCaller>, AuthError> {
    identity.device_with_token(conn, bearer, welcome).await.map_err(auth)
}

async fn cached(identity: &Identity, conn: &ConnInfo, bearer: &str) -> Result<Arc<DeviceCaller>, AuthError> {
    identity.device_cached(conn, bearer, welcome).await.map_err(auth)
}

#[expect(clippy::unnecessary_wraps, reason = "as admission answers")]
fn welcome(_: &DeviceCaller) -> Result<(), Infallible> {
    Ok(())
}

fn auth(denied: Denied<Infallible>) -> AuthError {
    match denied {
        Denied::Auth(error) => error,
        Denied::Turned(never) => match never {},
    }
}

struct Installation {
    store: TestStore,
    pki: Arc<Pki>,
    clock: Clock,
    fleet: FleetId,
}

impl Installation {
    async fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let store = TestStore::new().await;
        let clock = Clock::manual(Clock::System.unix_us());
        let dir = scratch_dir("pki");
        pki::create(&dir, &["localhost".to_owned()], &clock).unwrap();
        let pki = Arc::new(pki::load(&dir, true).unwrap());
        let log = ChangeLog::direct(store.control.clone());
        let halves = pki.public_halves();
        assert!(matches!(keys::check(&store.control, &halves).await, Err(keys::KeysError::Empty)));
        keys::publish(&log, &halves).await.unwrap();
        assert!(matches!(keys::publish(&log, &halves).await, Err(PublishRefusal::Exists)));
        keys::check(&store.control, &halves).await.unwrap();
        let fleet = Uuid::now_v7();
        let sql = format!("insert into fleets (id, name) values ('{fleet}', 'pumps')");
        TestCluster::shared().owner_batch(&store.settings.database, &sql).await;
        Self { store, pki, clock, fleet: FleetId(fleet) }
    }

    async fn replica(&self) -> Identity {
        let readiness = Readiness::default();
        let parts = Parts {
            settings: IdentitySettings {
                endpoints: vec!["https://localhost:8443".to_owned()],
                caches: CacheSettings { devices_max: 1_000, operators_max: 100 },
            },
            store: self.store.settings.clone(),
            log: ChangeLog::start(self.store.control.clone(), &self.store.tasks),
            primary: self.store.primary.clone(),
            pki: self.pki.clone(),
            keyring: Keyring::new(&self.pki),
            tls: Vec::new(),
            replica: ReplicaId(Uuid::now_v7()),
            addr: "127.0.0.1:8443".to_owned(),
            clock: self.clock.clone(),
            random: self.store.random.clone(),
            readiness: readiness.clone(),
        };
        let identity = Identity::start(parts, &self.store.tasks);
        assert!(!identity.freshness().is_fresh(), "nothing is proved before the first round");
        eventually(Duration::from_secs(5), async || readiness.get(Check::ChangeLog)).await;
        identity
    }

    async fn token(&self, identity: &Identity, uses_max: i32, pattern: Option<&str>) -> String {
        let request = EnrollmentTokenRequest {
            fleet: self.fleet,
            name_pattern: pattern.map(|pattern| pattern.parse().unwrap()),
            uses_max,
            expires_in: Duration::from_hours(1),
            by: "tests".to_owned(),
        };
        identity.create_enrollment_token(request).await.unwrap().1
    }

    async fn count(&self, sql: &str) -> i64 {
        let (owner, _connection) = TestCluster::shared().owner(&self.store.settings.database).await;
        owner.query_one(sql, &[]).await.unwrap().get(0)
    }
}

async fn eventually(limit: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(limit, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "not within {limit:?}");
}

fn csr(key: &KeyPair) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn request(token: &str, name: &str, key: &KeyPair) -> EnrollRequest {
    let (token, name) = (token.to_owned(), name.to_owned());
    EnrollRequest { token, name, csr: csr(key), tags: Vec::new(), attributes: None }
}

fn certificate(answer: &EnrollAnswer) -> Arc<PeerCert> {
    let der = CertificateDer::from_pem_slice(answer.certificate.as_bytes()).unwrap();
    Arc::new(PeerCert::from_der(&der).unwrap())
}

fn connection(peer: Peer) -> ConnInfo {
    let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    ConnInfo {
        number: 1,
        remote,
        listener: Listener::Device,
        peer,
        memo: Memo::default(),
        away: Away::default(),
        pace: Pace::default(),
        outcast: Outcast::default(),
    }
}

fn calls(answer: &EnrollAnswer) -> ConnInfo {
    connection(Peer::Verified(certificate(answer)))
}

fn print(answer: &EnrollAnswer) -> Fingerprint {
    certificate(answer).fingerprint
}

fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enrollment_happens_once() {
    let here = Installation::new().await;
    let identity = here.replica().await;
    let token = here.token(&identity, 1, Some("pump-?")).await;
    let mine = key();

    let other_name = identity.enroll(&request(&token, "valve-1", &mine)).await;
    assert!(matches!(other_name, Err(IdentityError::EnrollmentToken)), "{other_name:?}");
    let mut forged = token.clone();
    forged.replace_range(30..34, if &token[30..34] == "0000" { "1111" } else { "0000" });
    let mut refused = request(&forged, "pump-1", &mine);
    refused.csr = "not a request".to_owned();
    let outcome = identity.enroll(&refused).await;
    assert!(matches!(outcome, Err(IdentityError::EnrollmentToken)), "the token is judged first: {outcome:?}");
    refused.token.clone_from(&token);
    assert!(matches!(identity.enroll(&refused).await, Err(IdentityError::BadCsr(_))));

    let first = identity.enroll(&request(&token, "pump-1", &mine)).await.unwrap();
    let again = identity.enroll(&request(&token, "pump-1", &mine)).await.unwrap();
    assert_eq!(first.device, again.device);
    assert_ne!(print(&first), print(&again));
    let caller = identity.device(&calls(&again)).await.unwrap();
    assert_eq!((caller.device.id, caller.device.fleet_name.as_str()), (first.device.id, "pumps"));
    assert_eq!(here.count("select uses::bigint from enrollment_tokens").await, 1);
    assert_eq!(here.count("select count(*) from presence where state = 0 and promise_ms = 30000").await, 1);

    let other_key = identity.enroll(&request(&token, "pump-1", &key())).await;
    assert!(matches!(other_key, Err(IdentityError::NameTaken)), "{other_key:?}");
    let used_up = identity.enroll(&request(&token, "pump-2", &key())).await;
    assert!(matches!(used_up, Err(IdentityError::EnrollmentToken)), "{used_up:?}");
    let fresh = here.token(&identity, 5, None).await;
    let same_key = identity.enroll(&request(&fresh, "pump-3", &mine)).await;
    assert!(matches!(same_key, Err(IdentityError::KeyTaken)), "{same_key:?}");
    let other_token = identity.enroll(&request(&fresh, "pump-1", &mine)).await;
    assert!(matches!(other_token, Err(IdentityError::NameTaken)), "{other_token:?}");
    assert_eq!(here.count("select sum(uses)::bigint from enrollment_tokens").await, 1, "a refusal consumes nothing");

    let id = fresh.split('_').nth(1).unwrap();
    enrollment::revoke(identity.log(), id, "tests").await.unwrap();
    enrollment::revoke(identity.log(), id, "tests").await.unwrap();
    let revoked = identity.enroll(&request(&fresh, "pump-4", &key())).await;
    assert!(matches!(revoked, Err(IdentityError::EnrollmentToken)), "{revoked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_who_race_for_a_name_one_gets_it() {
    let here = Installation::new().await;
    let (a, b) = (here.replica().await, here.replica().await);
    let token = here.token(&a, 100, None).await;
    for round in 0..8 {
        let (name, mine, theirs) = (format!("pump-{round}"), key(), key());
        let (mine, theirs) = (request(&token, &name, &mine), request(&token, &name, &theirs));
        let (first, second) = tokio::join!(a.enroll(&mine), b.enroll(&theirs));
        match (&first, &second) {
            (Ok(_), Err(IdentityError::NameTaken)) | (Err(IdentityError::NameTaken), Ok(_)) => {}
            neither => panic!("{neither:?}"),
        }
        let mine = request(&token, &format!("twin-{round}"), &key());
        let (first, second) = tokio::join!(a.enroll(&mine), b.enroll(&mine));
        assert_eq!(first.unwrap().device, second.unwrap().device);
    }
    assert_eq!(here.count("select uses::bigint from enrollment_tokens").await, 16);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_takes_descendants_along_and_acts_everywhere() {
    let here = Installation::new().await;
    let (a, b) = (here.replica().await, here.replica().await);
    let token = here.token(&a, 1, None).await;
    let first = a.enroll(&request(&token, "pump-1", &key())).await.unwrap();
    let renewed_key = key();
    let second = a.renew(&calls(&first), &csr(&renewed_key)).await.unwrap();
    for replica in [&a, &b] {
        replica.device(&calls(&first)).await.unwrap();
        replica.device(&calls(&second)).await.unwrap();
    }
    let caller = a.device(&calls(&second)).await.unwrap();
    let bearer = a.device_token(&caller).unwrap().access_token;
    for _ in 0..2 {
        with_token(&b, &calls(&second), &bearer).await.unwrap();
        let stolen = with_token(&b, &calls(&first), &bearer).await;
        assert!(matches!(stolen, Err(AuthError::TokenMismatch)), "{stolen:?}");
    }
    assert!(matches!(b.operator(&bearer).await, Err(AuthError::TokenInvalid)));

    let reason = Some(credentials::SUPERSEDED.to_owned());
    let revoked = credentials::revoke(a.log(), print(&first), reason, "tests".to_owned()).await.unwrap();
    assert_eq!(revoked.fingerprints.len(), 2);
    for replica in [&a, &b] {
        eventually(WITHIN, async || {
            matches!(replica.device(&calls(&second)).await, Err(AuthError::CertificateRevoked))
        })
        .await;
    }
    let again = credentials::revoke(a.log(), print(&first), None, "tests".to_owned()).await.unwrap();
    assert_eq!(again.fingerprints, []);
    let renewal = a.renew(&calls(&second), &csr(&key())).await;
    assert!(matches!(renewal, Err(IdentityError::Auth(AuthError::CertificateRevoked))), "{renewal:?}");
    let token = here.token(&a, 1, None).await;
    let banned = a.enroll(&request(&token, "pump-2", &renewed_key)).await;
    assert!(matches!(banned, Err(IdentityError::KeyTaken)), "{banned:?}");
    let nobody = credentials::revoke(a.log(), Fingerprint([7; 32]), None, String::new()).await;
    assert!(matches!(nobody, Err(ChangeError::NotFound)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_certificates_live_and_an_expired_one_may_be_renewed_for_a_while() {
    let here = Installation::new().await;
    let identity = here.replica().await;
    let token = here.token(&identity, 1, None).await;
    let mine = key();
    let first = identity.enroll(&request(&token, "pump-1", &mine)).await.unwrap();
    let mut newest = first.clone();
    for _ in 0..4 {
        newest = identity.renew(&calls(&first), &csr(&mine)).await.unwrap();
    }
    let live = "select count(*) from credentials where revoked_at is null";
    assert_eq!(here.count(live).await, credentials::LIVE_MAX);
    identity.device(&calls(&first)).await.expect("the one that asked stays");
    identity.renew(&calls(&newest), &csr(&mine)).await.expect("a superseded key is not a revoked one");

    let expired = connection(Peer::Rejected(Rejection::Expired, Some(certificate(&newest))));
    let ends = Duration::from_hours(90 * 24);
    here.clock.advance(ends + Duration::from_mins(1));
    let late = identity.device(&calls(&newest)).await;
    assert!(matches!(late, Err(AuthError::CertificateExpired)), "{late:?}");
    identity.renew(&expired, &csr(&mine)).await.expect("within the window");
    here.clock.advance(Duration::from_hours(30 * 24));
    let too_late = identity.renew(&expired, &csr(&mine)).await;
    let Err(IdentityError::RenewalTooLate { window }) = too_late else { panic!("{too_late:?}") };
    assert_eq!(window, Duration::from_hours(30 * 24));
}

async fn switched(
    identity: &Identity,
    device: DeviceId,
    to: DeviceState,
    expected: Option<i64>,
) -> Result<i64, ChangeError> {
    let switch = Switch { device, to, expected, reason: None, by: "tests".to_owned() };
    devices::switch(identity.log(), switch).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspension_acts_everywhere_also_after_the_listener_died() {
    let here = Installation::new().await;
    let (a, b) = (here.replica().await, here.replica().await);
    let token = here.token(&a, 1, None).await;
    let answer = a.enroll(&request(&token, "pump-1", &key())).await.unwrap();
    let (conn, device) = (calls(&answer), answer.device.id);
    b.device(&conn).await.unwrap();
    assert_eq!(switched(&a, device, DeviceState::Suspended, Some(1)).await.unwrap(), 2);
    eventually(WITHIN, async || matches!(b.device(&conn).await, Err(AuthError::DeviceSuspended))).await;
    let stale = switched(&a, device, DeviceState::Active, Some(1)).await;
    assert!(matches!(stale, Err(ChangeError::PreconditionFailed)));
    assert_eq!(switched(&a, device, DeviceState::Suspended, None).await.unwrap(), 2, "a repetition changes nothing");
    assert_eq!(switched(&a, device, DeviceState::Active, Some(2)).await.unwrap(), 3);
    eventually(WITHIN, async || b.device(&conn).await.is_ok()).await;

    // The sessions die, and nobody hears the bell of what happens next.
    let kill = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                where datname = current_database() and application_name = 'everbeat/lease'";
    here.count(kill).await;
    switched(&a, device, DeviceState::Suspended, None).await.unwrap();
    eventually(Duration::from_secs(4), async || matches!(b.device(&conn).await, Err(AuthError::DeviceSuspended))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_remembers_its_caller_until_the_log_brings_something() {
    let here = Installation::new().await;
    let identity = here.replica().await;
    let token = here.token(&identity, 2, None).await;
    let answer = identity.enroll(&request(&token, "pump-1", &key())).await.unwrap();
    let other = identity.enroll(&request(&token, "pump-2", &key())).await.unwrap();
    let (conn, device) = (calls(&answer), answer.device.id);
    let bearer = |caller: &DeviceCaller| identity.device_token(caller).unwrap().access_token;
    let mine = bearer(&identity.device(&conn).await.unwrap());
    let foreign = bearer(&identity.device(&calls(&other)).await.unwrap());
    let call = async || with_token(&identity, &conn, &mine).await;
    let remembers = async || Arc::ptr_eq(&call().await.unwrap(), &call().await.unwrap());
    // Not while the two enrollments are still being applied.
    eventually(WITHIN, remembers).await;

    // It is this token on this connection that is remembered, and nothing else.
    for (token, is_right) in [(foreign.as_str(), false), ("", false), (&mine[1..], false), (mine.as_str(), true)] {
        assert_eq!(with_token(&identity, &conn, token).await.is_ok(), is_right, "{token}");
    }
    let elsewhere = with_token(&identity, &calls(&other), &mine).await;
    assert!(matches!(elsewhere, Err(AuthError::TokenMismatch)), "{elsewhere:?}");

    switched(&identity, device, DeviceState::Suspended, None).await.unwrap();
    eventually(WITHIN, async || matches!(call().await, Err(AuthError::DeviceSuspended))).await;
    switched(&identity, device, DeviceState::Active, None).await.unwrap();
    eventually(WITHIN, async || call().await.is_ok()).await;
    eventually(WITHIN, remembers).await;
    // What no log tells: the token ends, and so does the certificate.
    here.clock.advance(Duration::from_mins(11));
    assert!(matches!(call().await, Err(AuthError::TokenExpired | AuthError::Blind)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blind_replica_remembers_for_heartbeats_only() {
    let here = Installation::new().await;
    let identity = here.replica().await;
    let token = here.token(&identity, 2, None).await;
    let known = identity.enroll(&request(&token, "pump-1", &key())).await.unwrap();
    let unknown = identity.enroll(&request(&token, "pump-2", &key())).await.unwrap();
    let operator = Mint { subject: "ann".to_owned(), grants: None, ttl: Duration::from_mins(10) };
    let operators = identity.mint(operator).await.unwrap();
    // A lock holds up the replica's next tick, due within two seconds: from then on no proof arrives, and no change is
    // applied either (the device's own enrollment would take it out of the cache once).
    let (owner, _connection) = TestCluster::shared().owner(&here.store.settings.database).await;
    owner.batch_execute("begin; lock table replicas in access exclusive mode").await.unwrap();
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let caller = identity.device(&calls(&known)).await.unwrap();
    let bearer = identity.device_token(&caller).unwrap().access_token;
    let elsewhere = DeviceCaller { certificate: certificate(&unknown), ..(*caller).clone() };
    let other = identity.device_token(&elsewhere).unwrap().access_token;
    here.clock.advance(Duration::from_secs(11));
    assert!(!identity.freshness().is_fresh());
    assert!(matches!(identity.device(&calls(&known)).await, Err(AuthError::Blind)));
    assert!(matches!(identity.operator("x").await, Err(AuthError::Blind)));
    assert_eq!(cached(&identity, &calls(&known), &bearer).await.unwrap().device.id, known.device.id);
    assert!(matches!(cached(&identity, &calls(&unknown), &bearer).await, Err(AuthError::Blind)));
    for wrong in ["", "x", &operators.text] {
        let refused = cached(&identity, &calls(&known), wrong).await;
        assert!(matches!(refused, Err(AuthError::TokenRequired | AuthError::TokenInvalid)), "{wrong:?}");
    }
    let of_another = cached(&identity, &calls(&known), &other).await;
    assert!(matches!(of_another, Err(AuthError::TokenMismatch)));
    owner.batch_execute("rollback").await.unwrap();
    eventually(Duration::from_secs(8), async || identity.device(&calls(&unknown)).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_have_the_roles_of_now() {
    let here = Installation::new().await;
    let (a, b) = (here.replica().await, here.replica().await);
    let everywhere = |role| Some(Grants { everywhere: Some(role), ..Grants::default() });
    let mint = |grants| Mint { subject: "ann".to_owned(), grants, ttl: Duration::from_mins(10) };
    let admin = a.mint(mint(everywhere(Role::Admin))).await.unwrap();
    assert_eq!(b.operator(&admin.text).await.unwrap().grants.everywhere, Some(Role::Admin));
    let local = Grants { everywhere: Some(Role::Viewer), fleets: [(here.fleet, Role::Operator)].into() };
    let second = a.mint(mint(Some(local.clone()))).await.unwrap();
    assert_eq!(second.operator, admin.operator);
    eventually(WITHIN, async || *b.operator(&admin.text).await.unwrap().grants == local).await;

    operators::revoke_token(a.log(), admin.jti).await.unwrap();
    eventually(WITHIN, async || matches!(b.operator(&admin.text).await, Err(AuthError::TokenInvalid))).await;
    b.operator(&second.text).await.expect("the other token goes on");
    here.clock.advance(Duration::from_secs(700));
    eventually(Duration::from_secs(4), async || matches!(b.operator(&second.text).await, Err(AuthError::TokenExpired)))
        .await;
    assert!(matches!(b.operator("").await, Err(AuthError::TokenRequired)));
}
