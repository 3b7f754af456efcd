//! The operators' endpoints on a real PostgreSQL.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use everbeat::domain::access::Role;
use everbeat::domain::lease::Fence;
use everbeat::domain::time::{Clock, rfc3339};
use everbeat::store::partitions::{Trim, Trimmed, trim};
use everbeat::store::retention::RetentionClock;
use everbeat::store::{Plane, Session};
use serde_json::{Value, json};
use support::TestCluster;
use support::admin::{Answer, Rig, get, post};

fn ids(answer: &Answer) -> Vec<String> {
    answer.each("id").iter().map(|id| id.as_str().map_or_else(|| id.to_string(), str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn fleets_are_made_once() {
    let rig = Rig::new().await;
    let admin = rig.admin().await;
    let new = || post(&admin, "/v1/fleets", Some(json!({ "name": "pumps", "heartbeat_interval_s": 60 })));
    let first = rig.call(new().header("idempotency-key", "k1")).await;
    assert_eq!(first.status, 201, "{}", first.text);
    assert_eq!(first.etag(), "\"1\"");
    assert!((first.json()["heartbeat_interval_s"].as_f64().unwrap() - 60.0).abs() < 1e-9);
    let location = first.headers["location"].to_str().unwrap().to_owned();
    for path in [location.as_str(), "/v1/fleets/name:pumps"] {
        assert_eq!(rig.call(get(&admin, path)).await.json(), first.json());
    }

    let again = rig.call(new().header("idempotency-key", "k1")).await;
    assert_eq!((again.status, again.json()), (201, first.json()));
    assert_eq!(again.headers["idempotency-replayed"], "true");
    let other = post(&admin, "/v1/fleets", Some(json!({ "name": "valves" }))).header("idempotency-key", "k1");
    let other = rig.call(other).await;
    assert_eq!((other.status, &*other.slug()), (409, "idempotency-conflict"));
    // Without a key, or with a fresh one, it is a second fleet of that name.
    assert_eq!(rig.call(new()).await.slug(), "conflict");
    assert_eq!(rig.call(new().header("idempotency-key", "k2")).await.slug(), "conflict");
    assert_eq!(rig.number("select count(*) from idempotency_keys").await, 1, "a refusal leaves no key behind");

    let bad =
        json!({ "name": "Pumps", "heartbeat_interval_s": 0, "certificate_ttl_s": 59, "renew_expired_within_s": -1 });
    let bad = rig.call(post(&admin, "/v1/fleets", Some(bad))).await;
    let pointers: Vec<Value> =
        bad.json()["errors"].as_array().unwrap().iter().map(|error| error["pointer"].clone()).collect();
    assert_eq!(pointers, ["/name", "/heartbeat_interval_s", "/certificate_ttl_s", "/renew_expired_within_s"]);
    assert_eq!(rig.number("select count(*) from fleets").await, 1);
    assert_eq!(rig.number("select count(*) from events where kind = 'fleet.created'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_flight_is_a_conflict() {
    let rig = Rig::new().await;
    let admin = rig.admin().await;
    // The first request waits for this name, inside its transaction.
    let (holder, _driver) = TestCluster::shared().owner(&rig.store.settings.database).await;
    holder.batch_execute("begin; insert into fleets (id, name) values (gen_random_uuid(), 'pumps')").await.unwrap();
    let new = || post(&admin, "/v1/fleets", Some(json!({ "name": "pumps" }))).header("idempotency-key", "k");
    let second = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let second = rig.call(new()).await;
        holder.batch_execute("rollback").await.unwrap();
        second
    };
    let (first, second) = tokio::join!(rig.call(new()), second);
    assert_eq!(first.status, 201, "{}", first.text);
    assert_eq!((second.status, &*second.slug()), (409, "idempotency-conflict"));
    assert_eq!(rig.call(new()).await.json(), first.json(), "then it is a repetition");
}

#[tokio::test(flavor = "multi_thread")]
async fn enrollment_tokens_are_shown_once() {
    let rig = Rig::new().await;
    let admin = rig.admin().await;
    let fleet = rig.fleet("pumps").await;
    rig.fleet("valves").await;
    let new =
        || post(&admin, "/v1/enrollment-tokens", Some(json!({ "fleet": "pumps" }))).header("idempotency-key", "k");
    let first = rig.call(new()).await;
    assert_eq!((first.status, &first.headers["cache-control"]), (201, &"no-store".parse().unwrap()));
    let (id, token) = (first.json()["id"].clone(), first.json()["token"].clone());
    assert!(token.as_str().unwrap().starts_with("ebt_"), "{token}");
    assert_eq!(first.json()["token_omitted"], Value::Null);

    let again = rig.call(new()).await;
    assert_eq!((again.status, &again.json()["id"], &again.json()["token"]), (201, &id, &Value::Null));
    assert!(again.json()["token_omitted"].as_str().unwrap().contains("once"));
    let colleague = rig.operator("colleague", None, &[(fleet, Role::Operator)]).await;
    let theirs = post(&colleague, "/v1/enrollment-tokens", Some(json!({ "fleet": "pumps" })));
    let theirs = rig.call(theirs.header("idempotency-key", "k")).await;
    assert_ne!(theirs.json()["id"], id, "a key is the caller's own");
    rig.owner.execute("update idempotency_keys set created_at = now() - interval '25 hours'", &[]).await.unwrap();
    assert_ne!(rig.call(new()).await.json()["id"], id, "a key is forgotten after a day");

    let list = rig.call(get(&admin, "/v1/enrollment-tokens?fleet=pumps")).await;
    assert_eq!(list.each("id").len(), 3);
    assert!(!list.text.contains(token.as_str().unwrap()));
    assert!(rig.call(get(&admin, "/v1/enrollment-tokens?fleet=valves")).await.each("id").is_empty());
    for _ in 0..2 {
        let path = format!("/v1/enrollment-tokens/{}/revoke", id.as_str().unwrap());
        let revoked = rig.call(post(&colleague, path, None)).await;
        assert_eq!(revoked.status, 200);
        assert!(revoked.json()["revoked_at"].is_string());
    }
    for (body, pointer) in [
        (json!({ "fleet": "pumps", "uses_max": 0 }), "/uses_max"),
        (json!({ "fleet": "pumps", "expires_in_s": 59 }), "/expires_in_s"),
    ] {
        let bad = rig.call(post(&admin, "/v1/enrollment-tokens", Some(body))).await;
        assert_eq!(bad.json()["errors"][0]["pointer"], pointer);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_devices_are_stable_under_inserts() {
    let rig = Rig::new().await;
    let admin = rig.admin().await;
    let fleet = rig.fleet("pumps").await;
    for n in 0..5 {
        rig.device(fleet, &format!("old-{n}")).await;
    }
    let before: BTreeSet<String> = ids(&rig.call(get(&admin, "/v1/devices")).await).into_iter().collect();
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    for n in 0.. {
        let page = rig.call(get(&admin, format!("/v1/devices?limit=2{cursor}"))).await;
        assert_eq!(page.status, 200, "{}", page.text);
        seen.extend(ids(&page));
        let Some(next) = page.next() else { break };
        cursor = format!("&cursor={next}");
        if n < 2 {
            rig.device(fleet, &format!("new-{n}")).await;
        }
        let stranger = rig.call(get(&admin, format!("/v1/devices?limit=2&tag=all{cursor}"))).await;
        assert_eq!((stranger.status, &*stranger.slug()), (400, "bad-cursor"));
        assert_eq!(rig.call(get(&admin, format!("/v1/replicas?{}", &cursor[1..]))).await.slug(), "bad-cursor");
    }
    let once: BTreeSet<String> = seen.iter().cloned().collect();
    assert_eq!(once.len(), seen.len(), "none twice");
    assert!(once.is_superset(&before), "none left out");
    for bad in ["limit=0", "limit=1001", "page=2", "presence=asleep", "cursor=x"] {
        assert_eq!(rig.call(get(&admin, format!("/v1/devices?{bad}"))).await.status, 400, "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_and_what_a_list_carries() {
    let rig = Rig::new().await;
    let admin = rig.admin().await;
    let (pumps, valves) = (rig.fleet("pumps").await, rig.fleet("valves").await);
    let one = rig.device(pumps, "p-one").await;
    rig.device(pumps, "p-two").await;
    rig.device(valves, "v_one").await;
    let now = Clock::System.wall();
    rig.reading(one, now - time::Duration::hours(1), "level", 1).await;
    rig.reading(one, now, "level", 2).await;
    rig.owner.execute("update presence set state = 3, cause = 2 where device_id = $1", &[&one.0]).await.unwrap();
    for (query, names) in [
        ("", vec!["p-one", "p-two", "v_one"]),
        ("?fleet=pumps", vec!["p-one", "p-two"]),
        ("?presence=offline", vec!["p-one"]),
        ("?presence=online&fleet=pumps", vec!["p-two"]),
        ("?name_prefix=p-t", vec!["p-two"]),
        // Neither a pattern of LIKE nor of a regular expression.
        ("?name_prefix=p_", vec![]),
        ("?name_prefix=v_", vec!["v_one"]),
        ("?tag=v_one", vec!["v_one"]),
        ("?tag=none", vec![]),
    ] {
        assert_eq!(rig.call(get(&admin, format!("/v1/devices{query}"))).await.each("name"), names, "{query}");
    }
    assert_eq!(rig.call(get(&admin, "/v1/devices?fleet=none")).await.status, 404);
    let list = rig.call(get(&admin, "/v1/devices?limit=1")).await.json();
    assert_eq!(list["items"][0]["presence"]["state"], "offline");
    assert_eq!(list["items"][0]["latest"]["values"], json!({ "level": 2 }));
    let alone = rig.call(get(&admin, "/v1/devices/name:pumps:p-one")).await;
    assert_eq!((&alone.json()["presence"], &alone.json()["latest"]), (&Value::Null, &Value::Null));
    assert_eq!(alone.json()["id"], one.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn suspension_honours_versions() {
    let rig = Rig::new().await;
    let fleet = rig.fleet("pumps").await;
    let device = rig.device(fleet, "one").await;
    let operator = rig.operator("olga", None, &[(fleet, Role::Operator)]).await;
    let path = format!("/v1/devices/{device}");
    let suspend = || post(&operator, format!("{path}/suspend"), Some(json!({ "reason": "leaks" })));
    let seen = rig.call(get(&operator, path.as_str())).await;
    assert_eq!((seen.etag(), &seen.json()["state"]), ("\"1\"", &json!("active")));
    let stale = rig.call(suspend().header("if-match", "\"0\"")).await;
    assert_eq!((stale.status, &*stale.slug()), (412, "precondition-failed"));
    let done = rig.call(suspend().header("if-match", seen.etag())).await;
    assert_eq!((done.status, done.etag(), &done.json()["state"]), (200, "\"2\"", &json!("suspended")));
    assert_eq!(rig.call(suspend().header("if-match", "\"1\"")).await.status, 412);
    let again = rig.call(suspend()).await;
    assert_eq!((again.status, again.etag()), (200, "\"2\""), "a repetition changes nothing");
    rig.settled().await;
    let events = rig.call(get(&operator, format!("/v1/events?device={device}&kind=device.suspended"))).await;
    assert_eq!(events.each("cause"), ["leaks"]);
    assert_eq!(events.each("detail"), [json!({ "by": "olga" })]);

    let resume = post(&operator, format!("{path}/resume"), None).header("if-match", "*");
    let resumed = rig.call(resume).await;
    assert_eq!((resumed.etag(), &resumed.json()["state"]), ("\"3\"", &json!("active")));
    let long = json!({ "reason": "ä".repeat(257) });
    let long = rig.call(post(&operator, format!("{path}/suspend"), Some(long))).await;
    assert_eq!(long.json()["errors"][0]["pointer"], "/reason");
    let fits = json!({ "reason": "ä".repeat(256) });
    assert_eq!(rig.call(post(&operator, format!("{path}/suspend"), Some(fits))).await.status, 200);
    rig.owner.execute("update devices set state = 'decommissioned'", &[]).await.unwrap();
    assert_eq!(rig.call(post(&operator, format!("{path}/resume"), None)).await.slug(), "conflict");
}

#[tokio::test(flavor = "multi_thread")]
async fn revocations_show() {
    let rig = Rig::new().await;
    let admin = rig.admin().await;
    let fleet = rig.fleet("pumps").await;
    let device = rig.device(fleet, "one").await;
    let first = rig.certificate_of(device).await;
    let second = rig.certificate(device, Some(first)).await;
    let list = format!("/v1/devices/{device}/certificates");
    let newest_first = [second.to_string(), first.to_string()];
    assert_eq!(rig.call(get(&admin, list.as_str())).await.each("fingerprint"), newest_first);
    let page = rig.call(get(&admin, format!("{list}?limit=1"))).await;
    let rest = rig.call(get(&admin, format!("{list}?limit=1&cursor={}", page.next().unwrap()))).await;
    assert_eq!(rest.each("fingerprint"), newest_first[1..]);

    let path = format!("/v1/certificates/{first}");
    assert_eq!(rig.call(get(&admin, path.as_str())).await.json()["revoked_at"], Value::Null);
    let revoked = rig.call(post(&admin, format!("{path}/revoke"), Some(json!({ "reason": "stolen" })))).await;
    let prints: BTreeSet<String> = serde_json::from_value(revoked.json()["revoked"].clone()).unwrap();
    assert_eq!(prints, newest_first.iter().cloned().collect(), "the descendant too");
    assert_eq!(revoked.json()["certificate"]["revoke_reason"], "stolen");
    let again = rig.call(post(&admin, format!("{path}/revoke"), None)).await;
    assert_eq!((again.status, &again.json()["revoked"]), (200, &json!([])));
    assert_eq!(again.json()["certificate"]["revoke_reason"], "stolen");
    assert!(rig.call(get(&admin, list.as_str())).await.each("revoked_at").iter().all(Value::is_string));
    assert_eq!(rig.call(get(&admin, format!("/v1/certificates/{}", "0".repeat(63)))).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_by_time() {
    let rig = Rig::new().await;
    let admin = rig.admin().await;
    let fleet = rig.fleet("pumps").await;
    let device = rig.device(fleet, "one").await;
    let path = format!("/v1/devices/{device}/readings");
    assert_eq!(rig.call(get(&admin, format!("{path}/latest"))).await.slug(), "not-found");
    let begun = Clock::System.wall() - time::Duration::hours(30);
    let at = |n: i64| begun + time::Duration::hours(6 * n);
    for n in 0..5 {
        rig.reading(device, at(n), if n % 2 == 0 { "even" } else { "odd" }, n).await;
    }
    let numbers = async |query: String| -> (Vec<i64>, Option<String>) {
        let answer = rig.call(get(&admin, format!("{path}?{query}"))).await;
        assert_eq!(answer.status, 200, "{query}: {}", answer.text);
        let values = answer.each("values");
        (
            values.iter().map(|v| v.as_object().unwrap().values().next().unwrap().as_i64().unwrap()).collect(),
            answer.next(),
        )
    };
    assert_eq!(numbers(String::new()).await.0, [4, 3, 2, 1, 0]);
    assert_eq!(numbers("order=asc&metric=even".to_owned()).await.0, [0, 2, 4]);
    let range = format!("from={}&to={}", rfc3339(at(1)), rfc3339(at(3)));
    assert_eq!(numbers(range.clone()).await.0, [2, 1]);
    let millis = format!("order=asc&from={}", at(3).unix_timestamp() * 1_000);
    assert_eq!(numbers(millis).await.0, [3, 4]);
    for order in ["asc", "desc"] {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let (page, next) = numbers(format!("order={order}&limit=2{cursor}")).await;
            seen.extend(page);
            let Some(next) = next else { break };
            cursor = format!("&cursor={next}");
            let other = rig.call(get(&admin, format!("{path}?order={order}&metric=odd{cursor}"))).await;
            assert_eq!(other.slug(), "bad-cursor");
        }
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3, 4], "{order}");
    }
    let latest = rig.call(get(&admin, format!("{path}/latest"))).await;
    assert_eq!(latest.json()["values"], json!({ "even": 4 }));
    for bad in ["from=yesterday", "to=", "order=up"] {
        assert_eq!(rig.call(get(&admin, format!("{path}?{bad}"))).await.status, 400, "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn presence_says_why() {
    let rig = Rig::new().await;
    let admin = rig.admin().await;
    let fleet = rig.fleet("pumps").await;
    let device = rig.device(fleet, "one").await;
    let path = format!("/v1/devices/{device}/presence");
    let presence = rig.call(get(&admin, path.as_str())).await.json();
    assert_eq!((&presence["state"], &presence["cause"]), (&json!("online"), &json!("contact")));
    assert_eq!(presence["why"]["silent_from"], presence["last_seen"]);
    assert_eq!(presence["why"]["outage"], Value::Null);
    assert!(presence["why"]["suspect_at"].as_str() < presence["why"]["offline_at"].as_str());
    let outage = "insert into outages (started_at, ended_at, cause)
                  values (clock_timestamp(), clock_timestamp() + interval '5 s', 'gap') returning id";
    rig.owner.execute(outage, &[]).await.unwrap();
    let after = rig.call(get(&admin, path.as_str())).await.json();
    assert_eq!(after["why"]["silent_from"], after["why"]["outage"]["ended_at"]);
    assert!(after["why"]["offline_at"].as_str() > presence["why"]["offline_at"].as_str());
    let listed = rig.call(get(&admin, "/v1/outages")).await;
    assert_eq!(listed.each("cause"), ["gap"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_event_is_skipped() {
    let rig = Rig::new().await;
    let admin = rig.admin().await;
    let insert = |kind: &str| format!("insert into events (kind) values ('{kind}')");
    rig.owner.batch_execute(&insert("t.first")).await.unwrap();
    rig.settled().await;
    // Draws its numbers first, commits last.
    let (slow, _driver) = TestCluster::shared().owner(&rig.store.settings.database).await;
    slow.batch_execute(&format!("begin; {}", insert("t.slow"))).await.unwrap();
    rig.owner.batch_execute(&insert("t.fast")).await.unwrap();

    let page = rig.call(get(&admin, "/v1/events?kind=t.")).await;
    assert_eq!(page.each("kind"), ["t.first"], "what comes after an open transaction waits for it");
    let resume = page.json()["resume"].as_str().unwrap().to_owned();
    assert_eq!(page.next(), None);
    let path = format!("/v1/events?kind=t.&cursor={resume}");
    let idle = rig.call(get(&admin, path.as_str())).await;
    assert_eq!((idle.each("kind").len(), idle.json()["resume"].as_str()), (0, Some(resume.as_str())));
    slow.batch_execute("commit").await.unwrap();
    rig.settled().await;
    assert_eq!(rig.call(get(&admin, path.as_str())).await.each("kind"), ["t.slow", "t.fast"]);
    assert_eq!(rig.call(get(&admin, "/v1/events?kind=t.&order=desc&limit=2")).await.each("kind"), ["t.fast", "t.slow"]);

    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = rig.call(get(&admin, format!("/v1/events?kind=t.&limit=1{cursor}"))).await;
        seen.extend(page.each("kind"));
        let Some(next) = page.next() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, ["t.first", "t.slow", "t.fast"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_older_than_the_retention_is_told_so() {
    let rig = Rig::new().await;
    let admin = rig.admin().await;
    rig.owner.batch_execute("insert into leader_epoch values ('partitions', 3, current_timeline())").await.unwrap();
    let row = rig.owner.query_one("select current_timeline()", &[]).await.unwrap();
    let fence = Fence { role: "partitions", epoch: 3, timeline: row.get(0) };
    let session = Session::open(&rig.store.settings, &rig.store.settings.hosts[0], Plane::Lease, "").await.unwrap();
    let event =
        |n: i64| format!("insert into events (kind, at) values ('t.{n}', now() - interval '{} hours')", 100 - n);
    for n in 0..4 {
        rig.owner.batch_execute(&event(n)).await.unwrap();
    }
    rig.settled().await;
    let resume = async |query: &str| {
        let page = rig.call(get(&admin, format!("/v1/events?{query}"))).await;
        assert_eq!(page.status, 200, "{}", page.text);
        page.json()["resume"].as_str().unwrap().to_owned()
    };
    let (early, end) = (resume("limit=1").await, resume("kind=none").await);
    let with = |cursor: &str| format!("/v1/events?limit=1&cursor={cursor}");
    assert_eq!(rig.call(get(&admin, with(&early))).await.each("kind"), ["t.1"]);
    let limit = Duration::from_secs(5);
    let clock = RetentionClock::judge(Clock::System.wall(), Clock::System.wall()).unwrap();
    let events = |rows_max| Trim { table: Trimmed::Events, age: Duration::from_hours(50), rows_max };
    let gone = trim(&session, &fence, clock, events(1), limit).await.unwrap();
    assert_eq!(gone, Some(1));
    assert_eq!(rig.call(get(&admin, with(&early))).await.each("kind"), ["t.1"], "only what it had seen is gone");
    let gone = trim(&session, &fence, clock, events(100), limit).await.unwrap();
    assert_eq!(gone, Some(3));
    rig.owner.batch_execute(&event(99)).await.unwrap();
    rig.settled().await;
    let stale = rig.call(get(&admin, with(&early))).await;
    assert_eq!((stale.status, &*stale.slug()), (400, "bad-cursor"));
    assert!(stale.json()["detail"].as_str().unwrap().contains("start anew"));
    // Who had seen all of it goes on, and who begins now begins.
    assert_eq!(rig.call(get(&admin, format!("/v1/events?kind=none&cursor={end}"))).await.status, 200);
    assert_eq!(rig.call(get(&admin, "/v1/events?limit=1")).await.each("kind"), ["t.99"]);
    // A cursor of a future that this database does not have: its end was lost, or it is another database's.
    let ahead = resume("limit=1&kind=t.").await;
    rig.owner.batch_execute("delete from events where kind = 't.99'").await.unwrap();
    assert_eq!(rig.call(get(&admin, format!("/v1/events?limit=1&kind=t.&cursor={ahead}"))).await.slug(), "bad-cursor");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_without_a_fleet_are_for_those_who_see_all() {
    let rig = Rig::new().await;
    let (pumps, valves) = (rig.fleet("pumps").await, rig.fleet("valves").await);
    let insert = "insert into events (kind, fleet_id) values ('t.none', null), ('t.pumps', $1), ('t.valves', $2)";
    rig.owner.execute(insert, &[&pumps.0, &valves.0]).await.unwrap();
    rig.settled().await;
    let local = rig.operator("local", None, &[(pumps, Role::Admin)]).await;
    let all = rig.operator("all", Some(Role::Viewer), &[]).await;
    assert_eq!(rig.call(get(&local, "/v1/events?kind=t.")).await.each("kind"), ["t.pumps"]);
    let kinds = rig.call(get(&all, "/v1/events?kind=t.")).await.each("kind");
    assert_eq!(kinds, ["t.none", "t.pumps", "t.valves"]);
    assert_eq!(rig.call(get(&all, "/v1/events?kind=t.&fleet=valves")).await.each("kind"), ["t.valves"]);
    assert_eq!(rig.call(get(&local, "/v1/events?fleet=valves")).await.status, 404);
    assert_eq!(rig.call(get(&all, "/v1/events?device=x")).await.json()["errors"][0]["pointer"], "?device");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_itself() {
    let rig = Rig::new().await;
    let admin = rig.admin().await;
    let replicas = rig.call(get(&admin, "/v1/replicas")).await;
    assert_eq!(replicas.each("addr"), ["127.0.0.1:8443"], "the one that follows the change log");
    let whoami = rig.call(get(&admin, "/v1/whoami")).await.json();
    assert_eq!((&whoami["subject"], &whoami["roles"][0]["role"]), (&json!("root"), &json!("admin")));
    assert!(rig.call(get(&admin, "/v1/leases")).await.each("role").is_empty());
}
