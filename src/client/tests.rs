//! The client against servers that answer, refuse, hang up and lie.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::endpoints::Endpoints;
use super::exchange::{Call, Http};
use super::loopback::{Ca, Said, Seen, Server, Temp, context, problem, says, service};
use super::trust::Trust;
use super::{Batch, ClientError, Context, DeviceClient, Enrollment, Reading, StateDir};
use crate::domain::random::Random;
use crate::wire::device::HeartbeatRequest;
use crate::wire::problem::Slug;

const DAY: Duration = Duration::from_hours(24);

/// A client that begins at the first of the URLs.
fn http(ca: &Ca, context: Context, urls: &[&str]) -> Http {
    let urls: Vec<String> = urls.iter().map(|url| (*url).to_owned()).collect();
    let first = |seed| Some(Endpoints::new(&urls, &Random::seeded(seed)).unwrap()).filter(|e| e.current().0 == 0);
    let endpoints = (0..).find_map(first).unwrap();
    Http::new(context, Trust::from_pem(&ca.pem).unwrap().anonymous().unwrap(), Arc::new(endpoints))
}

/// Answers from a list, the last one for ever.
fn script(answers: Vec<fn() -> Said>) -> impl Fn(&Seen) -> Said + Send + Sync {
    let at = AtomicU32::new(0);
    move |_| {
        let index = at.fetch_add(1, Ordering::SeqCst) as usize;
        answers[index.min(answers.len() - 1)]()
    }
}

fn fine() -> Said {
    says(200, &json!({"ok": true}))
}

fn overloaded() -> Said {
    problem(503, "overloaded")
}

#[tokio::test]
async fn a_dead_endpoint_is_left_at_once_and_the_good_one_remembered() {
    let ca = Ca::new("a");
    let good = Server::start(&ca, |_| fine()).await;
    let http = http(&ca, context(), &["https://127.0.0.1:1", &good.url]);
    for _ in 0..3 {
        http.send(&Call::get("/x")).await.unwrap();
    }
    assert_eq!(http.endpoints().current().1, good.url);
    let seen = good.seen("/x");
    assert_eq!(seen.iter().map(|seen| seen.connection).collect::<Vec<_>>(), [0, 0, 0], "one connection is kept");
}

#[tokio::test]
async fn an_endpoint_that_refuses_or_hangs_up_is_left() {
    let ca = Ca::new("a");
    let refuses = Server::start(&ca, |_| overloaded()).await;
    let hangs_up = Server::start(&ca, |_| None).await;
    let good = Server::start(&ca, |_| fine()).await;
    let http = http(&ca, context(), &[&refuses.url, &hangs_up.url, &good.url]);
    http.send(&Call::post("/x", "body".into())).await.unwrap();
    let count = |server: &Server| server.seen("/x").len();
    assert_eq!((count(&refuses), count(&hangs_up), count(&good)), (1, 1, 1));
    assert_eq!(good.seen("/x")[0].body, "body", "the body is sent again");
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_is_left() {
    let ca = Ca::new("a");
    // Accepts connections by its backlog, and never speaks.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_url = format!("https://{}", silent.local_addr().unwrap());
    let good = Server::start(&ca, |_| fine()).await;
    let mut context = context();
    context.settings.connect_timeout = Duration::from_millis(200);
    let http = http(&ca, context, &[&silent_url, &good.url]);
    let began = Instant::now();
    http.send(&Call::get("/x")).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "within the deadline for connecting");
}

#[tokio::test]
async fn retry_after_is_honoured_and_bounded() {
    let ca = Ca::new("a");
    let slow = || {
        let body = json!({"type": "urn:everbeat:problem:rate-limited", "retry_after_ms": 300});
        says(429, &body)
    };
    let server = Server::start(&ca, script(vec![slow, fine])).await;
    let began = Instant::now();
    http(&ca, context(), &[&server.url]).send(&Call::get("/x")).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(300));

    let endless = || {
        let mut said = problem(503, "unavailable").unwrap();
        said.headers_mut().insert("retry-after", "86400".parse().unwrap());
        Some(said)
    };
    let server = Server::start(&ca, script(vec![endless, fine])).await;
    let mut bounded = context();
    bounded.settings.retry.retry_after_max = Duration::from_millis(100);
    http(&ca, bounded, &[&server.url]).send(&Call::get("/x")).await.unwrap();

    // Longer than our patience: the answer is given to the caller at once.
    let server = Server::start(&ca, script(vec![endless])).await;
    let mut hasty = context();
    hasty.settings.retry.patience = Duration::from_millis(200);
    let error = http(&ca, hasty, &[&server.url]).send(&Call::get("/x")).await.unwrap_err();
    assert_eq!((error.slug(), server.seen("/x").len()), (Some(Slug::Unavailable), 1));
}

#[tokio::test]
async fn what_will_not_change_is_not_tried_again() {
    let ca = Ca::new("a");
    for status in [400, 401, 403, 404, 409, 413, 422, 500] {
        let server = Server::start(&ca, move |_| says(status, &json!({"title": "no"}))).await;
        let error = http(&ca, context(), &[&server.url]).send(&Call::get("/x")).await.unwrap_err();
        assert_eq!((error.status(), server.seen("/x").len()), (Some(status), 1));
    }
}

#[tokio::test]
async fn a_service_that_is_down_is_not_stormed() {
    let ca = Ca::new("a");
    let server = Server::start(&ca, |_| overloaded()).await;
    let mut context = context();
    context.settings.retry.budget_per_second = 0.0;
    context.settings.retry.budget_max = 10.0;
    let http = http(&ca, context, &[&server.url]);
    for _ in 0..100 {
        http.send(&Call::get("/x")).await.unwrap_err();
    }
    let attempts = server.seen("/x").len();
    assert!((110..=121).contains(&attempts), "100 calls, 10 saved and 10 earned retries: {attempts}");
}

#[tokio::test]
async fn a_server_of_another_ca_is_not_trusted() {
    let (ours, theirs) = (Ca::new("ours"), Ca::new("theirs"));
    let server = Server::start(&theirs, |_| fine()).await;
    let error = http(&ours, context(), &[&server.url]).send(&Call::get("/x")).await.unwrap_err();
    assert!(matches!(error, ClientError::Untrusted { .. }), "{error}");
    assert!(server.seen("/x").is_empty());
}

#[tokio::test]
async fn an_answer_without_an_end_is_cut_off() {
    let ca = Ca::new("a");
    let server = Server::start(&ca, |_| says(200, &json!("x".repeat(5_000)))).await;
    let mut context = context();
    context.settings.answer_bytes_max = 4_096;
    let error = http(&ca, context, &[&server.url]).send(&Call::get("/x")).await.unwrap_err();
    assert!(matches!(error, ClientError::Answer { .. }), "{error}");
}

fn asked(ca: &Ca, url: &str) -> Enrollment {
    Enrollment {
        urls: vec![url.to_owned()],
        name: "pump-1".parse().unwrap(),
        token: ca.token(),
        ca_pem: None,
        tags: Vec::new(),
    }
}

#[tokio::test]
async fn the_token_is_not_sent_to_a_foreign_ca() {
    let (ours, theirs) = (Ca::new("ours"), Arc::new(Ca::new("theirs")));
    let impostor = Server::start(&theirs, service(&theirs, DAY)).await;
    let temp = Temp::new("pin");
    let outcome = DeviceClient::enroll(StateDir::open(&temp.0).unwrap(), &asked(&ours, &impostor.url), context()).await;
    assert!(matches!(outcome.err(), Some(ClientError::WrongPin { .. })));
    assert_eq!((impostor.seen("/v1/ca").len(), impostor.seen("/v1/enroll").len()), (1, 0));
}

#[tokio::test]
async fn a_bundle_with_a_foreign_ca_added_does_not_help_the_impostor() {
    let (ours, theirs) = (Ca::new("ours"), Ca::new("theirs"));
    let both = ours.pem.clone() + &theirs.pem;
    let impostor =
        Server::start(&theirs, move |_| Some(hyper::Response::new(http_body_util::Full::new(both.clone().into()))));
    let impostor = impostor.await;
    let temp = Temp::new("added");
    let outcome = DeviceClient::enroll(StateDir::open(&temp.0).unwrap(), &asked(&ours, &impostor.url), context()).await;
    assert!(matches!(outcome.err(), Some(ClientError::Untrusted { .. })));
    assert!(impostor.seen("/v1/enroll").is_empty());
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_with_the_same_key() {
    let ca = Arc::new(Ca::new("a"));
    let (inner, lost) = (service(&ca, DAY), AtomicU32::new(0));
    let server = Server::start(&ca, move |seen| match seen.path.as_str() {
        // Longer than one call's retries, so that a second one has to do it, as after a kill.
        "/v1/enroll" if lost.fetch_add(1, Ordering::SeqCst) < 7 => None,
        _ => inner(seen),
    });
    let server = server.await;
    let temp = Temp::new("lost");
    let state = StateDir::open(&temp.0).unwrap();
    let asked = asked(&ca, &server.url);
    assert!(DeviceClient::enroll(state.clone(), &asked, context()).await.err().unwrap().is_retryable());
    let client = DeviceClient::enroll(state.clone(), &asked, context()).await.unwrap();
    assert_eq!(client.device().name, "pump-1");

    let key = |seen: &Seen| {
        let csr = seen.json()["csr"].as_str().unwrap().to_owned();
        rcgen::CertificateSigningRequestParams::from_pem(&csr).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(csr.as_bytes()).unwrap();
        let (_, csr) =
            <x509_parser::certification_request::X509CertificationRequest<'_> as x509_parser::prelude::FromDer<
                '_,
                x509_parser::error::X509Error,
            >>::from_der(&pem.contents)
            .unwrap();
        csr.certification_request_info.subject_pki.raw.to_vec()
    };
    let keys: Vec<_> = server.seen("/v1/enroll").iter().map(key).collect();
    assert!(keys.len() == 8 && keys.iter().all(|k| *k == keys[0]));

    // Once more, as after a kill just before the end: no request, the same device.
    DeviceClient::enroll(state, &asked, context()).await.unwrap();
    assert_eq!(server.seen("/v1/enroll").len(), 8);
}

#[tokio::test]
async fn a_certificate_for_another_key_is_refused() {
    let ca = Arc::new(Ca::new("a"));
    let (inner, other) = (service(&ca, DAY), ca.clone());
    let server = Server::start(&ca, move |seen| {
        if seen.path != "/v1/enroll" {
            return inner(seen);
        }
        let key = super::keys::generate().unwrap();
        let csr = super::keys::signing_request(&key, "pump-1").unwrap();
        says(
            201,
            &json!({"device": {"id": "0192f6d0-7b7a-7c3e-9d5e-0123456789ab", "name": "pump-1", "fleet": "plant"},
                "certificate": other.sign(&csr), "ca": other.pem, "endpoints": [],
                "not_after": "2030-01-01T00:00:00Z", "renew_after": "2029-01-01T00:00:00Z"}),
        )
    });
    let server = server.await;
    let temp = Temp::new("other-key");
    let state = StateDir::open(&temp.0).unwrap();
    let outcome = DeviceClient::enroll(state.clone(), &asked(&ca, &server.url), context()).await;
    assert!(matches!(outcome.err(), Some(ClientError::Answer { .. })));
    assert!(state.load().unwrap().is_none());
}

#[tokio::test]
async fn one_token_serves_many_calls_and_a_refused_one_is_replaced_once() {
    let ca = Arc::new(Ca::new("a"));
    let inner = service(&ca, DAY);
    let server = Server::start(&ca, move |seen| match seen.headers.get("authorization").map(String::as_str) {
        Some("Bearer token-1") if seen.path == "/v1/heartbeat" => inner(seen),
        _ if seen.path == "/v1/heartbeat" => problem(401, "token-expired"),
        _ => inner(seen),
    });
    let server = server.await;
    let temp = Temp::new("token");
    let state = StateDir::open(&temp.0).unwrap();
    let client = DeviceClient::enroll(state, &asked(&ca, &server.url), context()).await.unwrap();
    for _ in 0..3 {
        client.heartbeat(&HeartbeatRequest::default()).await.unwrap();
    }
    assert_eq!((server.seen("/v1/token").len(), server.seen("/v1/heartbeat").len()), (2, 4));
}

#[tokio::test]
async fn a_token_that_is_never_taken_ends_in_its_refusal() {
    let ca = Arc::new(Ca::new("a"));
    let inner = service(&ca, DAY);
    let server = Server::start(&ca, move |seen| match seen.path.as_str() {
        "/v1/heartbeat" => problem(401, "token-mismatch"),
        _ => inner(seen),
    });
    let server = server.await;
    let temp = Temp::new("never");
    let state = StateDir::open(&temp.0).unwrap();
    let client = DeviceClient::enroll(state, &asked(&ca, &server.url), context()).await.unwrap();
    let error = client.heartbeat(&HeartbeatRequest::default()).await.unwrap_err();
    assert_eq!((error.slug(), server.seen("/v1/heartbeat").len()), (Some(Slug::TokenMismatch), 2));
}

#[tokio::test]
async fn a_renewal_brings_a_new_key_new_connections_and_a_new_token() {
    let ca = Arc::new(Ca::new("a"));
    let server = Server::start(&ca, service(&ca, DAY)).await;
    let temp = Temp::new("renew");
    let state = StateDir::open(&temp.0).unwrap();
    let mut context = context();
    context.clock = crate::domain::time::Clock::manual(crate::domain::time::Clock::System.unix_us());
    let client = DeviceClient::enroll(state.clone(), &asked(&ca, &server.url), context.clone()).await.unwrap();
    client.heartbeat(&HeartbeatRequest::default()).await.unwrap();
    let before = state.load().unwrap().unwrap();
    assert!(server.seen("/v1/renew").is_empty(), "not before it is time");

    context.clock.advance(DAY * 9 / 10);
    client.heartbeat(&HeartbeatRequest::default()).await.unwrap();
    let after = state.load().unwrap().unwrap();
    assert_eq!(server.seen("/v1/renew").len(), 1);
    assert_ne!(before.certificate_pem, after.certificate_pem);
    assert_ne!(
        secrecy::ExposeSecret::expose_secret(&before.key_pem),
        secrecy::ExposeSecret::expose_secret(&after.key_pem)
    );
    let beats = server.seen("/v1/heartbeat");
    assert_ne!(beats[0].connection, beats[1].connection);
    assert_ne!(beats[0].headers["authorization"], beats[1].headers["authorization"]);
}

#[tokio::test]
async fn an_expired_certificate_is_renewed_and_the_call_goes_on() {
    let ca = Arc::new(Ca::new("a"));
    let (inner, renewed) = (service(&ca, DAY), AtomicU32::new(0));
    let server = Server::start(&ca, move |seen| match seen.path.as_str() {
        "/v1/token" if renewed.load(Ordering::SeqCst) == 0 => problem(401, "certificate-expired"),
        "/v1/renew" => {
            renewed.store(1, Ordering::SeqCst);
            inner(seen)
        }
        _ => inner(seen),
    });
    let server = server.await;
    let temp = Temp::new("expired");
    let state = StateDir::open(&temp.0).unwrap();
    let client = DeviceClient::enroll(state, &asked(&ca, &server.url), context()).await.unwrap();
    client.heartbeat(&HeartbeatRequest::default()).await.unwrap();
    assert_eq!(server.seen("/v1/renew").len(), 1);
}

#[tokio::test]
async fn readings_are_sent_with_time_and_id_and_the_answer_must_add_up() {
    let ca = Arc::new(Ca::new("a"));
    let (inner, tries) = (service(&ca, DAY), AtomicU32::new(0));
    let server = Server::start(&ca, move |seen| match seen.path.as_str() {
        "/v1/readings" => match tries.fetch_add(1, Ordering::SeqCst) {
            0 => None,
            1 => says(200, &json!({"stored": 2, "duplicates": 0, "rejected_total": 0, "rejected": []})),
            _ => says(200, &json!({"stored": 1, "duplicates": 0, "rejected_total": 0, "rejected": []})),
        },
        _ => inner(seen),
    });
    let server = server.await;
    let temp = Temp::new("readings");
    let state = StateDir::open(&temp.0).unwrap();
    let client = DeviceClient::enroll(state, &asked(&ca, &server.url), context()).await.unwrap();
    let reading = || Reading::fresh(crate::domain::time::Clock::System.wall(), serde_json::Map::new()).unwrap();
    let batch = Batch::new(&[reading(), reading()]).unwrap();
    assert_eq!(client.readings(&batch).await.unwrap().stored, 2);
    let sent = server.seen("/v1/readings");
    assert_eq!(sent[0].body, sent[1].body, "the retry is the same bytes");
    let items = sent[0].json();
    assert!(items[0]["ts"].is_string() && items[0]["id"].is_string() && items[0]["id"] != items[1]["id"]);

    let error = client.readings(&batch).await.unwrap_err();
    assert!(matches!(error, ClientError::Answer { .. }), "one of two is not accounted for: {error}");
}
