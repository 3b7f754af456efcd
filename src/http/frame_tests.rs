//! The frame, on routers without a database.

#![cfg(test)]

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode, header};
use axum::response::IntoResponse;
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use serde::Deserialize;
use tokio::sync::oneshot;
use tower::ServiceExt;

use super::api::Shared;
use super::authn::WithCert;
use super::extract::{Creation, Json, OptionalJson, PathOf, Query};
use super::openapi::Shape;
use super::page::{PageQuery, Paging};
use super::reference::DeviceRef;
use super::route::{JSON, Method, Permission, Route, build};
use super::*;
use crate::admission::{Admission, AdmissionSettings, Class, FailureSettings, LimitSettings, Permit, Rate, Refused};
use crate::domain::random::Random;
use crate::domain::time::Clock;
use crate::lifecycle::readiness::{Check, Readiness};
use crate::lifecycle::tasks;
use crate::observe::net::Port;
use crate::wire::problem::{Problem, Slug};

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sent {
    #[serde(default)]
    n: u8,
}

async fn json_in(Json(sent): Json<Sent>) -> String {
    sent.n.to_string()
}

async fn maybe_json_in(OptionalJson(sent): OptionalJson<Sent>) -> String {
    sent.n.to_string()
}

async fn creation(asked: Creation<Sent>) -> String {
    format!("{:?} {}", asked.key, asked.value.n)
}

async fn list(Query(asked): Query<PageQuery>) -> Result<axum::Json<Vec<u8>>, ApiError> {
    let paging = Paging::<u8>::asked("/list", &(), &asked)?;
    Ok(axum::Json(paging.page(vec![1, 2], |n| *n).items))
}

async fn device_in(PathOf(device): PathOf<DeviceRef>) -> String {
    format!("{device:?}")
}

async fn proof_in(_: WithCert) -> &'static str {
    "let in"
}

async fn overloaded() -> ApiError {
    ApiError::because(Slug::Overloaded, "Later.").limit("test_max")
}

async fn unauthorized() -> ApiError {
    ApiError::new(Slug::TokenExpired)
}

async fn panics() -> &'static str {
    panic!("on purpose")
}

fn shared() -> Shared {
    let settings = HttpSettings {
        body_max_bytes: 100,
        body_deadline: Duration::from_millis(200),
        submit_deadline: Duration::ZERO,
    };
    Shared {
        identity: None,
        presence: None,
        admission: None,
        readings_max_bytes: 1_000,
        clock: Clock::manual(1_700_000_000_000_000),
        random: Random::seeded(7),
        settings: Arc::new(settings),
        drill: None,
    }
}

fn router() -> Router {
    router_with(&shared())
}

fn router_with(shared: &Shared) -> Router {
    use Permission::Public;
    let d = Port::Device;
    let routes: Vec<Route<()>> = vec![
        Route::new(d, Method::Post, "/json", Public, json_in).answers_as(200, JSON, Shape::Any),
        Route::new(d, Method::Post, "/maybe", Public, maybe_json_in),
        Route::new(d, Method::Post, "/creation", Public, creation).secret(),
        Route::new(d, Method::Get, "/list", Public, list).query::<PageQuery>(),
        Route::new(d, Method::Put, "/list", Public, list).query::<PageQuery>(),
        Route::new(d, Method::Get, "/devices/{d}", Public, device_in),
        Route::new(d, Method::Get, "/unproved", Public, proof_in),
        Route::new(d, Method::Get, "/cert", Permission::Cert, proof_in),
        Route::new(d, Method::Get, "/overloaded", Public, overloaded),
        Route::new(d, Method::Get, "/unauthorized", Public, unauthorized),
        Route::new(d, Method::Get, "/panics", Public, panics),
        Route::new(d, Method::Post, "/oauth", Public, json_in).oauth(),
        Route::new(d, Method::Post, "/.well-known/est/any", Public, json_in)
            .answers_as(200, JSON, Shape::Any)
            .query::<PageQuery>()
            .est(),
        Route::new(d, Method::Get, "/.well-known/est/unauthorized", Public, unauthorized).est(),
        Route::new(d, Method::Get, "/.well-known/est/panics", Public, panics).est(),
    ];
    build(d, routes, shared, ())
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

fn post(path: &str, kind: &str, body: &str) -> Request<Body> {
    Request::post(path).header(header::CONTENT_TYPE, kind).body(Body::from(body.to_owned())).unwrap()
}

async fn call(request: Request<Body>) -> Response<Body> {
    router().oneshot(request).await.unwrap()
}

async fn text(response: Response<Body>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// The problem, after checking what every one must be.
async fn problem(response: Response<Body>) -> Problem {
    assert_eq!(response.headers()[header::CONTENT_TYPE], error::PROBLEM_JSON);
    let (status, id) = (response.status().as_u16(), response.headers()["x-request-id"].clone());
    let problem: Problem = serde_json::from_str(&text(response).await).unwrap();
    assert_eq!(problem.status, status);
    assert_eq!(problem.request_id.as_deref(), id.to_str().ok());
    assert_eq!(
        Slug::from_urn(&problem.kind).map(|slug| (slug.status(), slug.title())),
        Some((status, &*problem.title))
    );
    problem
}

async fn slug(request: Request<Body>) -> &'static str {
    Slug::from_urn(&problem(call(request).await).await.kind).unwrap().as_str()
}

#[test]
fn only_what_there_is_too_much_of_is_shed() {
    use super::error::is_shed;

    let pause = Duration::from_secs(1);
    for refused in [Refused::Full { class: Class::Lists, pause }, Refused::TooLate { pause }, Refused::Device { pause }]
    {
        assert!(is_shed(&ApiError::from(refused).into_response()), "{refused:?}");
    }
    for slug in
        [Slug::Overloaded, Slug::Unavailable, Slug::OutcomeUnknown, Slug::Draining, Slug::Internal, Slug::NotFound]
    {
        assert!(!is_shed(&ApiError::new(slug).into_response()), "{slug:?}: whoever reads the log should know");
    }
}

/// A listener that has no room for another exchange while the permit is there.
fn full() -> (Shared, Permit) {
    crowded(0, u32::MAX)
}

fn crowded(limit: u32, database_requests_max: u32) -> (Shared, Permit) {
    let free = Rate { per_second: 0.0, burst: 1 };
    let settings = AdmissionSettings {
        limit: LimitSettings { min: limit, max: limit, initial: limit },
        database_requests_max,
        device_rate: free,
        fleet_rate: free,
        failures: FailureSettings::UNLIMITED,
    };
    let admission = Admission::fixed(&settings, Clock::manual(0));
    let only = admission.enter(Class::Exchange).unwrap();
    (Shared { admission: Some(admission), ..shared() }, only)
}

#[tokio::test]
async fn a_slow_body_is_waited_for_outside_of_the_class() {
    let (shared, only) = full();
    drop(only);
    let settings =
        HttpSettings { body_max_bytes: 100, body_deadline: Duration::from_secs(5), submit_deadline: Duration::ZERO };
    let shared = Shared { settings: Arc::new(settings), ..shared };
    let (admission, router) = (shared.admission.clone().unwrap(), router_with(&shared));
    let under_way = async |expected| {
        while admission.under_way(Class::Exchange) != expected {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let begin = async || {
        let (go, rest) = oneshot::channel::<()>();
        let rest = stream::once(async move { rest.await.map(|()| "}") });
        let body = Body::from_stream(stream::iter([Ok("{")]).chain(rest));
        let request = Request::post("/json").header(header::CONTENT_TYPE, "application/json").body(body).unwrap();
        let slow = tasks::spawn(router.clone().oneshot(request));
        under_way(1).await;
        // By its deadline at the latest, and then it gets another answer than is expected.
        under_way(0).await;
        (go, slow)
    };
    let (go, slow) = begin().await;
    let quick = router.clone().oneshot(post("/json", "application/json", "{}")).await.unwrap();
    assert_eq!(quick.status(), StatusCode::OK, "the only place is free");
    go.send(()).unwrap();
    assert_eq!(slow.await.unwrap().unwrap().status(), StatusCode::OK);
    assert_eq!(admission.under_way(Class::Exchange), 0);

    // Who comes back may find no room.
    let (go, slow) = begin().await;
    let only = admission.enter(Class::Exchange).unwrap();
    go.send(()).unwrap();
    let refused = problem(slow.await.unwrap().unwrap()).await;
    assert_eq!(refused.limit.as_deref(), Some("concurrency_exchange"));
    assert_eq!(admission.under_way(Class::Exchange), 1);
    drop(only);
}

#[tokio::test]
async fn where_there_is_no_room_the_refusal_is_a_problem_like_any_other() {
    use error::{Refusal, Rendering, render};

    for (path, limit, error) in
        [("/json", "concurrency_exchange", None), ("/oauth", "concurrency_exchange", Some("temporarily_unavailable"))]
    {
        let (shared, _only) = full();
        let router = router_with(&shared);
        // What it has sent is taken in: the connection can go on.
        let sent = router.clone().oneshot(post(path, "application/json", "{not JSON}")).await.unwrap();
        assert_eq!(sent.headers().get(header::CONNECTION), None);
        assert_eq!(sent.headers()[header::CACHE_CONTROL], "no-store");
        let seconds: u64 = sent.headers()[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
        let problem = problem(sent).await;
        assert_eq!(Slug::from_urn(&problem.kind), Some(Slug::Overloaded));
        assert_eq!((problem.limit.as_deref(), problem.error.as_deref()), (Some(limit), error));
        assert_eq!(problem.retry_after_ms.unwrap().div_ceil(1_000), seconds);
        // What is not going to be sent does not come.
        let waits = Request::post(path).header(header::EXPECT, "100-continue").body(Body::from("{}")).unwrap();
        assert_eq!(router.oneshot(waits).await.unwrap().headers()[header::CONNECTION], "close");
    }
    let (shared, _only) = crowded(100, 1);
    let waits = router_with(&shared).oneshot(post("/json", "application/json", "{}")).await.unwrap();
    assert_eq!(problem(waits).await.limit.as_deref(), Some("database_requests_max"));
    // Byte for byte what the renderer writes.
    let pause = Duration::from_millis(1_500);
    let refused = Refused::Full { class: Class::Lists, pause };
    for dialect in [Dialect::Problems, Dialect::OAuth, Dialect::Est] {
        let random = Random::seeded(1);
        let with = Rendering { request_id: "an-id", random: &random, dialect };
        let rendered = render(ApiError::from(refused).into_response(), &with);
        let drawn = Random::seeded(1).scale(pause, 1.0, 2.0);
        let short = Refusal::of(refused.into(), dialect).response("an-id", drawn);
        assert_eq!((short.status(), short.headers()), (rendered.status(), rendered.headers()));
        assert_eq!(text(short).await, text(rendered).await);
        // Also where the error comes from further inside, with headers of its own.
        let refused = Refused::Device { pause };
        let error = ApiError::from(refused).header(header::AGE, header::HeaderValue::from_static("1"));
        let written = Arc::new(Refusal::of(refused.into(), dialect));
        let [one, other] = [error.clone(), error.beforehand(written)].map(|error| {
            let random = Random::seeded(1);
            let mut raised = error.into_response();
            raised.headers_mut().insert("ratelimit", header::HeaderValue::from_static("of a layer"));
            render(raised, &Rendering { request_id: "an-id", random: &random, dialect })
        });
        assert_eq!((one.status(), one.headers()), (other.status(), other.headers()));
        assert_eq!(other.headers()["ratelimit"], "of a layer");
        assert_eq!(text(one).await, text(other).await);
    }
}

#[tokio::test]
async fn where_est_is_spoken_every_error_is_plain_text() {
    let est = |path: &str| format!("/.well-known/est/{path}");
    let long = format!("{{{}}}", " ".repeat(100));
    let html = Request::post(est("any")).header(header::ACCEPT, "text/html").body(Body::empty()).unwrap();
    let asks = [
        // Of the handler, its extractors, the guard, the router, and a panic.
        (get(&est("unauthorized")), 401, "The token has expired.\n"),
        (post(&est("any"), "application/json", "{"), 400, "The request cannot be read.\n"),
        (post(&est("any"), "text/plain", "{}"), 415, "Send the body as application/json.\n"),
        (post(&est("any"), "application/json", &long), 413, "At most 100 bytes"),
        (html, 406, "The answer is"),
        (post(&est("any?limit=1&limit=2"), "application/json", "{}"), 400, "A field is not valid.\n"),
        (get(&est("any")), 405, "The Allow header"),
        (get(&est("label/any")), 404, "There is no such path."),
        (get(&est("panics")), 500, "The fault is ours"),
    ];
    for (request, status, says) in asks {
        let path = request.uri().path().to_owned();
        let response = call(request).await;
        assert_eq!(response.status(), status, "{path}");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/plain; charset=utf-8", "{path}");
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store", "{path}");
        assert!(response.headers().contains_key("x-request-id"), "{path}");
        assert_eq!(response.headers().contains_key(header::ALLOW), status == 405, "{path}");
        let challenge =
            response.headers().get(header::WWW_AUTHENTICATE).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(challenge.as_deref(), (status == 401).then_some("Basic realm=\"everbeat-enrollment\""), "{path}");
        let text = text(response).await;
        assert!(text.contains(says) && text.ends_with('\n') && text.len() < 200, "{path}: {text}");
    }
    let (shared, _only) = full();
    let full = router_with(&shared).oneshot(post(&est("any"), "application/json", "{}")).await.unwrap();
    assert_eq!(full.headers()[header::CONTENT_TYPE], "text/plain; charset=utf-8");
    assert!(full.headers().contains_key(header::RETRY_AFTER) && full.status() == 503);
    assert_eq!(text(full).await, "The service has too much to do.\nNothing was done. Send it again after the pause.\n");
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems() {
    assert_eq!(slug(get("/nothing")).await, "not-found");
    assert_eq!(slug(get("/list/")).await, "not-found");
    let response = call(Request::delete("/list").body(Body::empty()).unwrap()).await;
    let allow = response.headers()[header::ALLOW].to_str().unwrap().to_owned();
    let mut allowed: Vec<_> = allow.split(',').collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["GET", "HEAD", "PUT"]);
    assert_eq!(problem(response).await.status, 405);
}

#[tokio::test]
async fn request_ids_are_taken_or_made_and_always_answered() {
    let with = |id: &str| Request::get("/list").header("x-request-id", id).body(Body::empty()).unwrap();
    assert_eq!(call(with("abc-1_2.Z")).await.headers()["x-request-id"], "abc-1_2.Z");
    for bad in ["", "a b", "ä", &"a".repeat(65)] {
        let response = call(with(bad)).await;
        let made: uuid::Uuid = response.headers()["x-request-id"].to_str().unwrap().parse().unwrap();
        assert_eq!(made.get_version_num(), 7, "{bad}");
    }
    assert!(call(get("/nothing")).await.headers().contains_key("x-request-id"));
}

#[tokio::test]
async fn bodies_are_strict() {
    let ok = call(post("/json", "application/json; charset=utf-8", r#"{"n": 7}"#)).await;
    assert_eq!((ok.status(), text(ok).await), (StatusCode::OK, "7".to_owned()));
    assert_eq!(slug(post("/json", "text/plain", "{}")).await, "unsupported-media-type");
    assert_eq!(slug(post("/json", "application/jsonx", "{}")).await, "unsupported-media-type");
    assert_eq!(slug(post("/json", "application/json", "")).await, "malformed");
    assert_eq!(slug(post("/json", "application/json", r#"{"m": 7}"#)).await, "invalid");
    let wrong = problem(call(post("/json", "application/json", r#"{"n": "x"}"#)).await).await;
    assert_eq!(wrong.errors[0].pointer, "/n");
    let empty = Request::post("/maybe").body(Body::empty()).unwrap();
    assert_eq!(text(call(empty).await).await, "0");
    assert_eq!(slug(post("/maybe", "text/plain", "{}")).await, "unsupported-media-type");
}

#[tokio::test]
async fn bodies_are_bounded() {
    let long = format!("{{\"n\": 1 {}}}", " ".repeat(100));
    let declared = Request::post("/json").header(header::CONTENT_TYPE, JSON).header(header::CONTENT_LENGTH, 101);
    // The body never comes: it is refused by its length.
    let response = call(
        declared
            .body(Body::from_stream(futures_util::stream::pending::<Result<bytes::Bytes, std::io::Error>>()))
            .unwrap(),
    )
    .await;
    assert_eq!(response.headers()[header::CONNECTION], "close");
    assert_eq!(problem(response).await.limit.as_deref(), Some("body_max_bytes"));
    let chunks = futures_util::stream::iter([Ok::<_, std::io::Error>(bytes::Bytes::from(long))]);
    let chunked = Request::post("/json").header(header::CONTENT_TYPE, JSON).body(Body::from_stream(chunks)).unwrap();
    assert_eq!(slug(chunked).await, "too-large");
    let coded = Request::post("/json").header(header::CONTENT_TYPE, JSON).header(header::CONTENT_ENCODING, "br");
    let response = call(coded.body(Body::from("{}")).unwrap()).await;
    assert_eq!(response.headers()[header::ACCEPT_ENCODING], "gzip, zstd");
    assert_eq!(problem(response).await.status, 415);
}

#[tokio::test]
async fn a_slow_body_is_a_timeout() {
    let never = Body::from_stream(futures_util::stream::pending::<Result<bytes::Bytes, std::io::Error>>());
    let slow = Request::post("/json").header(header::CONTENT_TYPE, JSON).body(never).unwrap();
    assert_eq!(slug(slow).await, "body-timeout");
}

#[tokio::test]
async fn queries_are_strict() {
    assert_eq!(text(call(get("/list?limit=1")).await).await, "[1]");
    let pointer = |path: &'static str| async move { problem(call(get(path)).await).await.errors[0].pointer.clone() };
    assert_eq!(pointer("/list?page=1").await, "?page");
    assert_eq!(pointer("/list?limit=x").await, "?limit");
    assert_eq!(pointer("/list?limit=0").await, "?limit");
    assert_eq!(pointer("/list?limit=1&limit=2").await, "?limit");
    assert_eq!(slug(get("/list?cursor=AAAA")).await, "bad-cursor");
}

#[tokio::test]
async fn paths_that_name_nothing_are_not_found() {
    assert!(text(call(get("/devices/name:f:x")).await).await.starts_with("Named"));
    assert_eq!(slug(get("/devices/x")).await, "not-found");
    assert_eq!(slug(get("/devices/%ff")).await, "not-found");
}

#[tokio::test]
async fn representations_that_are_not_there() {
    let html = Request::post("/json").header(header::ACCEPT, "text/html").body(Body::empty()).unwrap();
    assert_eq!(slug(html).await, "not-acceptable");
}

#[tokio::test]
async fn idempotency_keys_are_checked() {
    let with = |key: &str| {
        let request = Request::post("/creation").header(header::CONTENT_TYPE, JSON).header("idempotency-key", key);
        request.body(Body::from("{}")).unwrap()
    };
    let response = call(with("k-1")).await;
    assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
    assert_eq!(text(response).await, "Some(\"k-1\") 0");
    assert_eq!(slug(with("k 1")).await, "malformed");
}

#[tokio::test]
async fn a_handler_without_its_layer_does_nothing() {
    assert_eq!(slug(get("/unproved")).await, "internal");
    // Mounted right, but on a listener that knows nobody.
    assert_eq!(slug(get("/cert")).await, "internal");
}

#[tokio::test]
async fn a_panic_is_a_problem_that_tells_nothing() {
    let problem = problem(call(get("/panics")).await).await;
    assert_eq!(problem.status, 500);
    assert!(!problem.detail.unwrap().contains("purpose"));
}

#[tokio::test]
async fn refusals_say_when_to_come_back() {
    let response = call(get("/overloaded")).await;
    let seconds: u64 = response.headers()[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
    let problem = problem(response).await;
    let ms = problem.retry_after_ms.unwrap();
    assert!((2_000..=4_000).contains(&ms), "{ms}");
    assert_eq!(seconds, ms.div_ceil(1_000));
    assert_eq!(problem.limit.as_deref(), Some("test_max"));
}

#[tokio::test]
async fn challenges() {
    let response = call(get("/unauthorized")).await;
    let challenge = response.headers()[header::WWW_AUTHENTICATE].to_str().unwrap().to_owned();
    assert!(challenge.starts_with("Bearer realm=\"everbeat\", error=\"invalid_token\""), "{challenge}");
    assert_eq!(problem(response).await.status, 401);
    let oauth = problem(call(post("/oauth", "text/plain", "{}")).await).await;
    assert_eq!(oauth.error.as_deref(), Some("invalid_request"));
}

fn ops(readiness: &Readiness) -> Router {
    let shared = shared();
    let metrics = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder().handle();
    let (clock, random, settings) = (shared.clock, shared.random, shared.settings);
    ops_router(OpsApi { readiness: readiness.clone(), metrics, clock, random, settings })
}

#[tokio::test]
async fn ops_answers_what_readiness_says() {
    let readiness = Readiness::default();
    let ask = |path: &'static str| ops(&readiness).oneshot(get(path));
    assert_eq!(ask("/livez").await.unwrap().status(), 200);
    let response = ask("/readyz?verbose").await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()[header::CONTENT_TYPE]),
        (503, &"text/plain".parse().unwrap())
    );
    assert!(text(response).await.contains("failed database\n"));
    for check in Check::ALL {
        readiness.set(check, true);
    }
    let response = ask("/readyz?verbose").await.unwrap();
    assert_eq!(response.status(), 200);
    let lines = text(response).await;
    assert!(lines.ends_with("ok durability\n") && lines.lines().count() == Check::ALL.len() + 1, "{lines}");
    readiness.set_degraded(true);
    let response = ask("/readyz?verbose").await.unwrap();
    assert_eq!(response.status(), 200, "heartbeats need no standby");
    assert!(text(response).await.ends_with("degraded durability\n"));
    let response = ask("/metrics").await.unwrap();
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/plain; version=0.0.4");
    assert_eq!(ask("/nothing").await.unwrap().headers()[header::CONTENT_TYPE], error::PROBLEM_JSON);
}
