//! All routes of the admin listener × all roles × two fleets. What is expected is computed from the permission that
//! the table declares and from the operator's grants, so a new route is covered as soon as it stands in the table; a
//! route with a parameter or a body that this test does not know fails it.

mod support;

use everbeat::domain::access::{Action, Grants, Role, Verdict};
use everbeat::http::{Method, Permission, RouteInfo, table};
use everbeat::observe::net::Port;
use futures_util::future::join_all;
use serde_json::{Value, json};
use support::admin::{Answer, Call, Fixture, Rig};
use uuid::Uuid;

struct Operator {
    name: &'static str,
    grants: Grants,
    token: String,
}

/// One way to call a route.
struct Case {
    path: String,
    body: Option<Value>,
    /// Does it name something in the fleet? Otherwise it is about all that the operator sees.
    in_fleet: bool,
}

fn routes() -> Vec<RouteInfo> {
    table().into_iter().filter(|info| info.port == Port::Admin).collect()
}

/// What a parameter of a path may be, for something in this fleet.
fn values(parameter: &str, fixture: &Fixture) -> Vec<String> {
    match parameter {
        "fleet" => vec![fixture.fleet.to_string(), format!("name:{}", fixture.fleet_name)],
        "device" => {
            vec![fixture.device.to_string(), format!("name:{}:{}", fixture.fleet_name, fixture.device_name)]
        }
        "fingerprint" => vec![fixture.fingerprint.to_string()],
        "token_id" => vec![fixture.enrollment_token.clone()],
        unknown => panic!("this test does not know the parameter {unknown}"),
    }
}

/// The body of a route that takes one, and whether it names a fleet.
fn body(info: &RouteInfo, fixture: &Fixture) -> (Option<Value>, bool) {
    match (info.method.as_str(), info.path) {
        _ if info.takes.is_empty() || info.takes_nothing_too => (None, false),
        ("POST", "/v1/fleets") => (Some(json!({ "name": format!("f{}", Uuid::new_v4().simple()) })), false),
        ("POST", "/v1/enrollment-tokens") => (Some(json!({ "fleet": fixture.fleet_name })), true),
        (method, path) => panic!("this test has no body for {method} {path}"),
    }
}

fn cases(info: &RouteInfo, fixture: &Fixture) -> Vec<Case> {
    let (body, body_names_fleet) = body(info, fixture);
    let mut paths = vec![String::new()];
    let mut parameters = 0;
    for part in info.path.split('/').skip(1) {
        let choices = match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
            Some(parameter) => {
                parameters += 1;
                values(parameter, fixture)
            }
            None => vec![part.to_owned()],
        };
        paths = paths.iter().flat_map(|path| choices.iter().map(move |part| format!("{path}/{part}"))).collect();
    }
    assert!(parameters <= 1, "{}: two parameters may be of two fleets; teach this test", info.path);
    let in_fleet = parameters > 0 || body_names_fleet;
    let case = |path: String, in_fleet| Case { path, body: body.clone(), in_fleet };
    let mut cases: Vec<Case> = paths.iter().map(|path| case(path.clone(), in_fleet)).collect();
    for (filter, value) in [("fleet", fixture.fleet_name.to_owned()), ("device", fixture.device.to_string())] {
        if info.query.iter().any(|parameter| parameter.name == filter) {
            cases.push(case(format!("{}?{filter}={value}", paths[0]), true));
        }
    }
    cases
}

fn verdict(action: Action, grants: &Grants, case: &Case, fixture: &Fixture) -> Verdict {
    match action {
        Action::SelfRead => Verdict::Allowed,
        _ if case.in_fleet => grants.in_fleet(action, fixture.fleet),
        // A list shows what there is to see, be it nothing.
        Action::FleetRead => Verdict::Allowed,
        Action::ServiceRead | Action::FleetAdmin => grants.anywhere(action),
        Action::FleetSteer => panic!("{}: steering without naming anything; teach this test", case.path),
    }
}

fn request<'a>(info: &RouteInfo, case: &Case, token: Option<&'a str>) -> Call<'a> {
    let method = match info.method {
        Method::Get => "GET",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Patch => "PATCH",
        Method::Delete => "DELETE",
    };
    Call { method, path: case.path.clone(), token, headers: Vec::new(), body: case.body.clone() }
}

async fn operators(rig: &Rig, a: &Fixture) -> Vec<Operator> {
    let roles = [
        ("none", None, None),
        ("viewer of a", None, Some(Role::Viewer)),
        ("operator of a", None, Some(Role::Operator)),
        ("admin of a", None, Some(Role::Admin)),
        ("viewer", Some(Role::Viewer), None),
        ("operator", Some(Role::Operator), None),
        ("admin", Some(Role::Admin), None),
        ("viewer, admin of a", Some(Role::Viewer), Some(Role::Admin)),
    ];
    let mut operators = Vec::new();
    for (name, everywhere, in_a) in roles {
        let fleets: Vec<_> = in_a.into_iter().map(|role| (a.fleet, role)).collect();
        let token = rig.operator(name, everywhere, &fleets).await;
        let grants = Grants { everywhere, fleets: fleets.into_iter().collect() };
        operators.push(Operator { name, grants, token });
    }
    operators
}

fn check(what: &str, answer: &Answer, verdict: Verdict) {
    let fits = match verdict {
        Verdict::Allowed => (200..300).contains(&answer.status),
        Verdict::Forbidden => answer.status == 403 && answer.slug() == "forbidden",
        Verdict::Invisible => answer.status == 404 && answer.slug() == "not-found",
    };
    assert!(fits, "{what}: {verdict:?}, but the answer is {} {}", answer.status, answer.text);
}

/// Does a list show the fleets that the operator sees, and nothing of the others?
fn check_scope(what: &str, answer: &Answer, grants: &Grants, fixtures: &[Fixture]) {
    for fixture in fixtures {
        let marks = [
            fixture.fleet.to_string(),
            fixture.device.to_string(),
            fixture.enrollment_token.clone(),
            fixture.fingerprint.to_string(),
        ];
        let shown = marks.iter().any(|mark| answer.text.contains(mark.as_str()));
        assert_eq!(shown, grants.role_in(fixture.fleet).is_some(), "{what}: {} in {}", fixture.fleet_name, answer.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_asks_who_is_calling() {
    let rig = Rig::new().await;
    let fixture = rig.fixture("aa").await;
    for info in routes().iter().filter(|info| info.permission != Permission::Public) {
        for case in cases(info, &fixture) {
            let nobody = rig.call(request(info, &case, None)).await;
            assert_eq!((nobody.status, &*nobody.slug()), (401, "token-required"), "{}", case.path);
            assert!(nobody.headers.contains_key("www-authenticate"));
            for garbage in ["x", "a.b.c", "eyJhbGciOiJub25lIn0.e30."] {
                let garbage = rig.call(request(info, &case, Some(garbage))).await;
                assert_eq!((garbage.status, &*garbage.slug()), (401, "token-invalid"), "{}", case.path);
            }
        }
    }
    assert_eq!(rig.number("select count(*) from fleets").await, 1, "nobody made a fleet");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_routes_all_roles_two_fleets() {
    let rig = Rig::new().await;
    let fixtures = [rig.fixture("aa").await, rig.fixture("bb").await];
    let operators = operators(&rig, &fixtures[0]).await;
    rig.settled().await;
    let mut seen = std::collections::HashMap::new();
    for info in &routes() {
        let Permission::Operator(action) = info.permission else { continue };
        for operator in &operators {
            for fixture in &fixtures {
                for case in cases(info, fixture) {
                    let what = format!("{} {} by {}", info.method.as_str(), case.path, operator.name);
                    let expected = verdict(action, &operator.grants, &case, fixture);
                    let answer = rig.call(request(info, &case, Some(&operator.token))).await;
                    check(&what, &answer, expected);
                    *seen.entry(format!("{expected:?}")).or_insert(0) += 1;
                    if action == Action::FleetRead && !case.in_fleet {
                        check_scope(&what, &answer, &operator.grants, &fixtures);
                    }
                }
            }
        }
    }
    assert_eq!(seen.len(), 3, "the walk met every verdict: {seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_invisible_looks_like_what_is_not_there() {
    let rig = Rig::new().await;
    let there = rig.fixture("aa").await;
    let nowhere = Fixture {
        fleet: everbeat::domain::ids::FleetId(Uuid::now_v7()),
        fleet_name: "zz",
        device: everbeat::domain::ids::DeviceId(Uuid::now_v7()),
        device_name: "zz-pump".to_owned(),
        fingerprint: everbeat::domain::ids::Fingerprint([9; 32]),
        enrollment_token: "0123456789abcdef".to_owned(),
    };
    let blind = rig.operator("none", None, &[]).await;
    let all = rig.admin().await;
    for info in &routes() {
        for (hidden, missing) in cases(info, &there).iter().zip(cases(info, &nowhere)) {
            if !hidden.in_fleet {
                continue;
            }
            let hidden = rig.call(request(info, hidden, Some(&blind))).await;
            for token in [&blind, &all] {
                let missing = rig.call(request(info, &missing, Some(token))).await;
                assert_eq!((missing.status, missing.slug()), (404, "not-found".to_owned()), "{}", info.path);
                assert_eq!(missing.json()["detail"], hidden.json()["detail"], "{}", info.path);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_is_neither_absence_nor_refusal() {
    let rig = Rig::new().await;
    let fixture = rig.fixture("aa").await;
    let token = rig.admin().await;
    let whoami = Call { method: "GET", path: "/v1/whoami".into(), token: Some(&token), headers: vec![], body: None };
    assert_eq!(rig.call(whoami).await.status, 200, "the operator is known from before");
    let database = &rig.store.settings.database;
    let cut = format!(
        "alter database {database} with allow_connections false;
         select pg_terminate_backend(pid) from pg_stat_activity where datname = '{database}'"
    );
    support::TestCluster::shared().owner_batch("postgres", &cut).await;
    let infos: Vec<RouteInfo> = routes().into_iter().filter(|info| asks_the_database(info.permission)).collect();
    let calls = infos.iter().flat_map(|info| cases(info, &fixture).into_iter().map(move |case| (info, case)));
    let answers =
        join_all(calls.map(async |(info, case)| (info.path, rig.call(request(info, &case, Some(&token))).await)));
    for (path, answer) in answers.await {
        assert_eq!(answer.status, 503, "{path}: {}", answer.text);
        assert!(answer.headers.contains_key("retry-after"), "{path}");
    }
}

fn asks_the_database(permission: Permission) -> bool {
    !matches!(permission, Permission::Public | Permission::Operator(Action::SelfRead))
}
