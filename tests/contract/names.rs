//! Names and times by API.md's two rows on them, in all JSON that goes over the wire: as both documents describe it
//! (those that are checked in are of this code: `src/http/table_tests.rs`), and as a replica answers.

use std::collections::BTreeSet;
use std::time::Duration;

use everbeat::domain::time::{parse_rfc3339, rfc3339};
use everbeat::http::Method;
use everbeat::http::openapi::document;
use everbeat::observe::net::Port;
use rcgen::KeyPair;
use serde_json::{Value, json};

use crate::app::{Identity, csr_of, eventually, hex, now, reading};
use crate::everywhere::{Ground, JSON, rows};
use crate::support::TestCluster;
use crate::wire::{Answer, Ask};

/// A name that ends in one of these words is a moment's, and no other name is.
const MOMENTS: &[&str] = &["at", "ts", "time", "since", "until", "through", "from", "to", "seen", "before", "after"];
/// Units, which stand last.
const UNITS: &[&str] = &["s", "ms", "us", "ns", "bytes", "percent"];
/// Objects whose members users name.
const USERS: &[&str] = &["values", "attributes"];

fn is_snake_case(name: &str) -> bool {
    let is_plain = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.split('_').all(is_plain)
}

fn has_its_unit_last(name: &str) -> bool {
    let before = name.rsplit_once('_').map_or("", |(before, _)| before);
    before.split('_').all(|word| !UNITS.contains(&word))
}

fn is_moment(name: &str) -> bool {
    name.rsplit('_').next().is_some_and(|last| MOMENTS.contains(&last))
}

/// RFC 3339, UTC, `Z`, six digits of a second: the one form of answers.
fn is_canonical(value: &Value) -> bool {
    value.as_str().is_some_and(|text| parse_rfc3339(text).is_some_and(|at| rfc3339(at) == text))
}

/// How a moment is described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A text: in answers.
    Text,
    /// A text, or a whole number of milliseconds: in requests.
    Either,
}

fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => document.pointer(&reference[1..]).unwrap(),
        None => value,
    }
}

/// `None`: the schema is no moment's.
fn form_of(document: &Value, schema: &Value) -> Option<Form> {
    let schema = resolved(document, schema);
    if schema["format"] == "date-time" {
        return Some(Form::Text);
    }
    let choices = schema["oneOf"].as_array()?;
    let form = choices.iter().find_map(|choice| form_of(document, choice))?;
    let or_a_number = choices.iter().any(|choice| choice["format"] == "int64");
    Some(if or_a_number { Form::Either } else { form })
}

/// What was found, and in how much.
#[derive(Default)]
struct Found {
    breaches: BTreeSet<String>,
    names: usize,
    /// Names of moments. In bodies: of those that are not null.
    moments: BTreeSet<String>,
}

impl Found {
    fn name(&mut self, place: &str, name: &str) {
        self.names += 1;
        if !is_snake_case(name) || !has_its_unit_last(name) {
            self.breaches.insert(format!("{place}: {name} is not snake_case with its unit last"));
        }
    }

    /// A body as it is.
    fn look_at(&mut self, place: &str, body: &Value) {
        match body {
            Value::Array(items) => items.iter().for_each(|item| self.look_at(place, item)),
            Value::Object(members) => members.iter().for_each(|(name, value)| self.member(place, name, value)),
            _ => {}
        }
    }

    fn member(&mut self, place: &str, name: &str, value: &Value) {
        self.name(place, name);
        let within = format!("{place}/{name}");
        if is_canonical(value) && is_moment(name) {
            self.moments.insert(name.to_owned());
        } else if is_moment(name) && !value.is_null() {
            self.breaches.insert(format!("{within}: {value} is not RFC 3339 in UTC, with microseconds and Z"));
        } else if !USERS.contains(&name) {
            self.look_at(&within, value);
        }
    }

    /// The schema of a body, and all that it leads to.
    fn described(&mut self, document: &Value, schema: &Value, place: &str, form: Form) {
        assert!(place.len() < 1_000, "it never ends: {place}");
        let schema = resolved(document, schema);
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            self.property(document, property, (place, name), form);
            self.described(document, property, &format!("{place}/{name}"), form);
        }
        let choices = ["oneOf", "anyOf", "allOf"].into_iter().filter_map(|kind| schema[kind].as_array()).flatten();
        for inner in choices.chain(schema.get("items")) {
            self.described(document, inner, place, form);
        }
    }

    fn property(&mut self, document: &Value, schema: &Value, (place, name): (&str, &str), form: Form) {
        self.name(place, name);
        let (described, meant) = (form_of(document, schema), is_moment(name).then_some(form));
        if described != meant {
            self.breaches.insert(format!("{place}: the moment {name} is described as {described:?}, not {meant:?}"));
        }
        self.moments.extend(described.map(|_| name.to_owned()));
    }
}

/// All that documents describe.
#[derive(Default)]
struct Described {
    /// Bodies and parameters of requests.
    asked: Found,
    answered: Found,
    /// The examples of answers.
    examples: Found,
}

impl Described {
    fn by(documents: &[Value]) -> Self {
        let mut all = Self::default();
        for document in documents {
            operations(document).for_each(|(place, operation)| all.add(document, &place, operation));
        }
        all
    }

    fn add(&mut self, document: &Value, place: &str, operation: &Value) {
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            // Headers have names of another kind.
            if parameter["in"] != "header" {
                let name = parameter["name"].as_str().unwrap();
                self.asked.property(document, &parameter["schema"], (place, name), Form::Either);
            }
        }
        for content in contents(document, &operation["requestBody"]) {
            self.asked.described(document, &content["schema"], place, Form::Either);
        }
        for (status, answer) in operation["responses"].as_object().into_iter().flatten() {
            let place = format!("{place} {status}");
            for content in contents(document, answer) {
                self.answered.described(document, &content["schema"], &place, Form::Text);
                self.examples.look_at(&place, &content["example"]);
            }
        }
    }

    fn breaches(&self) -> Vec<&String> {
        [&self.asked, &self.answered, &self.examples].into_iter().flat_map(|found| &found.breaches).collect()
    }
}

fn operations(document: &Value) -> impl Iterator<Item = (String, &Value)> {
    let paths = document["paths"].as_object().into_iter().flatten();
    paths.flat_map(|(path, item)| {
        let methods = item.as_object().into_iter().flatten();
        methods.map(move |(method, operation)| (format!("{method} {path}"), operation))
    })
}

/// What is said of the JSON of this body or answer, and of forms, whose fields have names as well.
fn contents<'a>(document: &'a Value, body: &'a Value) -> impl Iterator<Item = &'a Value> {
    let all = resolved(document, body)["content"].as_object().into_iter().flatten();
    let named = all.filter(|(media, _)| media.ends_with("json") || media.ends_with("form-urlencoded"));
    named.map(|(_, content)| content)
}

fn ours() -> Described {
    Described::by(&[document(Port::Device), document(Port::Admin)])
}

#[test]
fn the_documents_name_all_things_and_describe_all_moments_by_one_rule() {
    let ours = ours();
    let breaches = ours.breaches();
    assert!(breaches.is_empty(), "{breaches:#?}");
    // So much is there to be looked at.
    assert!(ours.asked.names > 80 && ours.answered.names > 1_000 && ours.examples.names > 300);
    assert!(ours.answered.moments.len() > 20, "{:?}", ours.answered.moments);
    for moment in ["ts", "back_at", "from", "to", "expires_before"] {
        assert!(ours.asked.moments.contains(moment), "{moment}: {:?}", ours.asked.moments);
    }
}

#[test]
fn a_breach_is_seen() {
    let good = "2026-11-23T10:41:25.000001Z";
    let mut found = Found::default();
    let body = json!({
        "expires_at": good,
        "revoked_at": null,
        "values": {"Room 7": 1, "at": "noon"},
        "items": [{"createdAt": good, "wait_ms_max": 1, "at": "2026-11-23T10:41:25Z"}],
        "since": "2026-11-23T12:41:25.000001+02:00",
        "last_seen": 1_795_428_000,
    });
    found.look_at("body", &body);
    assert_eq!(found.breaches.len(), 5, "{:#?}", found.breaches);
    assert_eq!(found.moments, BTreeSet::from(["expires_at".to_owned()]));

    let of = |properties: Value| json!({"content": {"application/json": {"schema": {"properties": properties}}}});
    let operation = json!({
        "parameters": [{"name": "from", "in": "query", "schema": {"type": "string"}}],
        "requestBody": of(json!({"back_at": {"type": "string", "format": "date-time"}})),
        "responses": {"200": of(json!({
            "seen_at": {"type": ["string", "null"]},
            "birthday": {"type": "string", "format": "date-time"},
        }))},
    });
    let described = Described::by(&[json!({"paths": {"/v1/things": {"post": operation}}})]);
    assert_eq!((described.asked.breaches.len(), described.answered.breaches.len()), (2, 2));
}

/// Makes something of each kind that has a moment; what the calls for it were answered.
async fn eventful(ground: &Ground) -> Vec<(&'static str, Answer)> {
    let app = &ground.app;
    let outage = "insert into outages (started_at, ended_at, cause)
                  values (clock_timestamp(), clock_timestamp() + interval '5 s', 'gap')";
    TestCluster::shared().owner_batch(&app.database.database, outage).await;
    let mut asleep = app.enroll("pump-2").await;
    let night = json!({"reason": "night", "back_at": rfc3339(now() + Duration::from_hours(1))});
    let goodbye = asleep.post("/v1/goodbye").json(&night);
    asleep.call(&goodbye).await.ok(204);
    let key = KeyPair::generate().unwrap();
    let asked = json!({"token": app.token, "name": "pump-3", "csr": csr_of(&key)});
    let enrolled = app.connect(None).await.call(&Ask::post("/v1/enroll").json(&asked)).await;
    let stolen = hex(&Identity::of(&enrolled.json(), key).fingerprint);
    let token = app.admin_post("/v1/enrollment-tokens", &json!({"fleet": "pumps"})).await;
    let given_up = format!("/v1/enrollment-tokens/{}/revoke", token.json()["id"].as_str().unwrap());
    let given_up = Ask::post(&given_up).bearer(&app.admin);
    let by_device = async |path: &str, body: Value| {
        let ask = ground.device.post(path).json(&body);
        app.connect(Some(&ground.device.identity)).await.call(&ask).await
    };
    let by_operator = async |path: &str| app.admin_post(path, &json!({"reason": "a test"})).await;
    vec![
        ("an enrollment", enrolled),
        ("a heartbeat", by_device("/v1/heartbeat", json!({"seq": 1, "status": "well"})).await),
        ("readings", by_device("/v1/readings", json!([reading(), {"values": {}}])).await),
        ("a renewal", by_device("/v1/renew", json!({"csr": csr_of(&KeyPair::generate().unwrap())})).await),
        ("a token", token),
        ("its end", app.connect_admin().await.call(&given_up).await),
        ("a revocation", by_operator(&format!("/v1/certificates/{stolen}/revoke")).await),
        ("a suspension", by_operator("/v1/devices/name:pumps:pump-2/suspend").await),
        ("a resumption", by_operator("/v1/devices/name:pumps:pump-2/resume").await),
        ("a fleet", app.admin_post("/v1/fleets", &json!({"name": "valves"})).await),
    ]
}

/// Every call that only reads is read, until each moment that the documents describe has been seen once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_answers_by_the_same_rule() {
    let ground = Ground::new().await;
    let mut found = Found::default();
    for (what, answer) in eventful(&ground).await {
        assert!((200..300).contains(&answer.status), "{what}: {}", answer.text());
        found.look_at(what, &answer.json());
    }
    let stranger = ground.app.connect(None).await.call(&Ask::get("/v1/me").bearer(&ground.device.token)).await;
    found.look_at("a problem", &stranger.refused(401, "certificate-required"));
    let mut described = ours().answered.moments;
    // It takes a replica that was cut off: the tests of src/http/admin/presence.rs have one.
    assert!(described.remove("cut_off_since"));
    // OpenAPI has names of its own.
    let reads = |info: &everbeat::http::RouteInfo| {
        info.method == Method::Get && info.produces() == Some(JSON) && info.path != "/openapi.json"
    };
    let routes: Vec<_> = rows().into_iter().filter(reads).collect();
    assert!(routes.len() >= 15, "{}", routes.len());
    // Contacts are there once they are flushed, leases once they are held, events once no older transaction is open.
    eventually(Duration::from_secs(30), async || {
        for info in &routes {
            found.look_at(info.path, &ground.call(info, &ground.ask(info)).await.ok(200));
        }
        let asleep = "/v1/devices/name:pumps:pump-2/presence";
        found.look_at(asleep, &ground.app.admin_get(asleep).await);
        let missing: Vec<&String> = described.difference(&found.moments).collect();
        eprintln!("not seen yet: {missing:?}");
        missing.is_empty()
    })
    .await;
    assert!(found.breaches.is_empty(), "{:#?}", found.breaches);
}
