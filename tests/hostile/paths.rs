//! Paths that mean another path to somebody, and the parameters of lists.

use everbeat::http::table;
use everbeat::observe::net::Port;

use crate::app::TestApp;
use crate::honest::undisturbed;
use crate::wire::Ask;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_path_is_another_path() {
    let app = TestApp::new().await;
    let device = app.enroll("pump-1").await;
    let id = device.identity.device;
    let not_there = [
        "/v1%2fme".to_owned(),
        "/v1%2Fme".to_owned(),
        "/v1/me%00".to_owned(),
        "/v1/me/.".to_owned(),
        "/v1/./me".to_owned(),
        "/v1/x/../me".to_owned(),
        "/v1/%2e%2e/v1/me".to_owned(),
        "/v1/x/%2e%2e/me".to_owned(),
        "/v1/..%2fme".to_owned(),
        "/v1/..;/me".to_owned(),
        "/v1/me;x=1".to_owned(),
        "/v1/me%20".to_owned(),
        "/V1/ME".to_owned(),
        "/v1/%6d%65".to_owned(),
        "/v1//me".to_owned(),
        "//v1/me".to_owned(),
        "/v1\\me".to_owned(),
        "/v1/m%c0%e5".to_owned(),
        "/v1/%c0%afme".to_owned(),
        "/v1/%ff".to_owned(),
        "/v1/%".to_owned(),
        "/../../etc/passwd".to_owned(),
        "/%2e%2e/%2e%2e/etc/passwd".to_owned(),
        format!("/v1/{}", "a/".repeat(3_000)),
        format!("/v1/me/{}", "%2e%2e%2f".repeat(500)),
    ];
    let admin_not_there = [
        format!("/v1/devices/{id}%00"),
        format!("/v1/devices/{id}%2freadings"),
        format!("/v1/devices/../devices/{id}"),
        "/v1/devices/name:pumps:pump-1%00".to_owned(),
        "/v1/devices/name:pumps:..".to_owned(),
        "/v1/devices/name:pumps:pump-1:x".to_owned(),
        "/v1/devices/name%3apumps%3a%27%20or%201=1".to_owned(),
        format!("/v1/devices/{{{id}}}"),
        format!("/v1/devices/{}", "a".repeat(10_000)),
        "/v1/fleets/..".to_owned(),
        "/v1/fleets/%2e%2e".to_owned(),
        "/v1/fleets/pumps%2f..".to_owned(),
        "/v1/certificates/%ff".to_owned(),
    ];
    let attack = async {
        let mut wire = app.connect(Some(&device.identity)).await;
        for path in &not_there {
            let ask = Ask::get(path).bearer(&device.token);
            let answer = wire.call(&ask).await;
            // A backslash is not a character of paths (RFC 3986, 3.3): refused before any route.
            assert!(answer.status == 404 || (answer.status == 400 && path.contains('\\')), "{path}: {}", answer.status);
            if answer.status == 400 {
                wire = app.connect(Some(&device.identity)).await;
            }
        }
        let mut admin = app.connect_admin().await;
        for path in &admin_not_there {
            admin.call(&Ask::get(path).bearer(&app.admin)).await.refused(404, "not-found");
        }
        for bytes in
            [b"GET /v1/\0me HTTP/1.1\r\n".as_slice(), b"GET /v1/me\r/ HTTP/1.1\r\n", b"GET  /v1/me HTTP/1.1\r\n"]
        {
            let mut wire = app.connect(Some(&device.identity)).await;
            wire.send(&[bytes, b"Host: x\r\n\r\n"].concat()).await;
            assert_eq!(wire.answer().await.status, 400, "{}", String::from_utf8_lossy(bytes));
        }
    };
    undisturbed(&app, attack).await;
}

const GARBAGE: [&str; 32] = [
    "",
    "x",
    "-1",
    "0",
    "%00",
    "a%00b",
    "%ff",
    "%27",
    "%27%3bdrop%20table%20devices%3b--",
    "1e400",
    "NaN",
    "9223372036854775808",
    "-9223372036854775809",
    "99999999-99-99T99:99:99Z",
    "0000-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "-262143-01-01T00:00:00Z",
    "2026-01-01T00:00:00%2B99:99",
    "null",
    "[]",
    "%7b%7d",
    "*",
    "%25",
    "_",
    "%5c",
    "%f0%9f%98%80",
    "AAAA",
    "bnVsbA",
    "eyJhIjoxfQ",
    "%e2%80%ae",
    "..%2f..%2f",
    "name:pumps:pump-1",
];

/// Whatever stands in a parameter, it is the caller's mistake, or means nothing: never ours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cursors_and_filters_with_garbage() {
    let app = TestApp::new().await;
    let device = app.enroll("pump-1").await;
    let long = ["a".repeat(2_000), "A".repeat(10_000), "%41".repeat(1_000), "9".repeat(400)];
    let values: Vec<&str> = GARBAGE.into_iter().chain(long.iter().map(String::as_str)).collect();
    let attack = async {
        let mut admin = app.connect_admin().await;
        let mut asked = 0;
        for info in table().into_iter().filter(|info| info.port == Port::Admin && info.method.as_str() == "GET") {
            let path = info.path.replace("{device}", &device.identity.device.to_string()).replace("{fleet}", "pumps");
            for parameter in &info.query {
                for value in &values {
                    let ask = Ask::get(&format!("{path}?{}={value}", parameter.name)).bearer(&app.admin);
                    let answer = admin.call(&ask).await;
                    assert!(
                        matches!(answer.status, 200 | 400 | 404),
                        "{path}?{}={value}: {}",
                        parameter.name,
                        answer.text()
                    );
                    asked += 1;
                }
            }
        }
        assert!(asked > 500, "{asked}");
        // A cursor of one list is none of another's, and one that was edited is none.
        for n in 0..3 {
            app.enroll(&format!("more-{n}")).await;
        }
        let next = app.admin_get("/v1/devices?limit=1").await["next"].as_str().unwrap().to_owned();
        for n in 0..next.len() {
            let mut edited = next.clone().into_bytes();
            edited[n] = if edited[n] == b'A' { b'B' } else { b'A' };
            let edited = String::from_utf8(edited).unwrap();
            let ask = Ask::get(&format!("/v1/devices?limit=1&cursor={edited}")).bearer(&app.admin);
            let answer = admin.call(&ask).await;
            assert!(matches!(answer.status, 200 | 400), "{edited}: {}", answer.text());
        }
        let other = Ask::get(&format!("/v1/fleets?cursor={next}")).bearer(&app.admin);
        admin.call(&other).await.refused(400, "bad-cursor");
    };
    undisturbed(&app, attack).await;
}
