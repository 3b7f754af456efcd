//! HTTP/2 used against the service: floods, resets, windows that never open, and headers that grow.

use futures_util::future::join_all;

use crate::app::TestApp;
use crate::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, HEADERS,
    Http2, NEWEST, PING, PREFACE, PROTOCOL_ERROR, RST_STREAM, SETTINGS, WINDOW_UPDATE, field, frame, remembered,
    request, setting,
};
use crate::honest::undisturbed;

/// Settings (RFC 9113, 6.5.2).
const HEADER_TABLE_SIZE: u16 = 1;
const INITIAL_WINDOW_SIZE: u16 = 4;

/// Odd numbers: streams that a client opens.
fn streams() -> impl Iterator<Item = u32> {
    (1..).step_by(2)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_reset() {
    let app = TestApp::new().await;
    let device = app.enroll("pump-1").await;
    let block = [request("GET", "/v1/me"), field("authorization", &format!("Bearer {}", device.token))].concat();
    // Ten thousand requests that nobody waits for, in as few records as they fit into, from ten connections.
    let attack = join_all((0..10).map(async |_| {
        let mut http2 = Http2::open(&app, Some(&device.identity), &[]).await;
        let mut sent = 0;
        for batch in streams().take(10_000).collect::<Vec<u32>>().chunks(500) {
            let pairs = batch.iter().flat_map(|stream| {
                let cancel = frame(RST_STREAM, 0, *stream, &8_u32.to_be_bytes());
                [frame(HEADERS, END_STREAM | END_HEADERS, *stream, &block), cancel].concat()
            });
            if !http2.try_send(&pairs.collect::<Vec<u8>>()).await {
                break;
            }
            sent += batch.len();
        }
        (sent, http2.ended_with().await)
    }));
    for (sent, code) in undisturbed(&app, attack).await {
        assert!(sent < 10_000, "{sent} resets were taken");
        assert!(code.is_none_or(|code| code == ENHANCE_YOUR_CALM), "{code:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_continuations() {
    let app = TestApp::new().await;
    let device = app.enroll("pump-1").await;
    let filler = field("x", &"y".repeat(8_000));
    let attack = join_all([&[][..], &filler].map(async |payload| {
        let mut http2 = Http2::open(&app, Some(&device.identity), &[]).await;
        http2.send(&frame(HEADERS, END_STREAM, 1, &request("GET", "/v1/me"))).await;
        let mut sent = 0;
        while sent < 100_000 && http2.try_send(&frame(CONTINUATION, 0, 1, payload).repeat(10)).await {
            sent += 10;
        }
        (sent, http2.ended_with().await)
    }));
    for (sent, code) in undisturbed(&app, attack).await {
        assert!(sent < 100_000, "a header section without an end was taken");
        assert!(code.is_none_or(|code| code == ENHANCE_YOUR_CALM), "{code:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_that_ask_for_answers() {
    let app = TestApp::new().await;
    let device = app.enroll("pump-1").await;
    let kinds = [
        ("settings", frame(SETTINGS, 0, 0, &setting(INITIAL_WINDOW_SIZE, 65_535))),
        ("pings", frame(PING, 0, 0, &[7; 8])),
    ];
    let attack = async {
        for (what, one) in &kinds {
            // Who does not take the answers is not read any more: 64 MiB do not go in.
            let deaf = async {
                let mut http2 = Http2::open(&app, Some(&device.identity), &[]).await;
                let many = one.repeat(1_000);
                let mut sent = 0;
                while sent < 64 << 20 && http2.try_send(&many).await {
                    sent += many.len();
                }
                assert!(sent < 64 << 20, "{what}: {sent} bytes were taken, and no answer");
            };
            // Who takes them gets one for each.
            let fair = async {
                let mut http2 = Http2::open(&app, Some(&device.identity), &[]).await;
                http2.send(&one.repeat(1_000)).await;
                let mut acks = 0;
                while acks < 1_000 {
                    let frame = http2.next().await.unwrap();
                    acks += u32::from(frame.flags & ACK != 0);
                }
                http2.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &request("GET", "/v1/ca"))).await;
                http2.wait_for(HEADERS, 1).await;
            };
            tokio::join!(deaf, fair);
        }
        // Answers to nothing: they cost a look each, and no line in a log (observe/log.rs).
        let mut http2 = Http2::open(&app, Some(&device.identity), &[]).await;
        http2.send(&frame(PING, ACK, 0, &[9; 8]).repeat(20_000)).await;
        http2.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &request("GET", "/v1/ca"))).await;
        http2.wait_for(HEADERS, 1).await;
    };
    undisturbed(&app, attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_that_never_open() {
    let app = TestApp::new().await;
    let device = app.enroll("pump-1").await;
    let attack = async {
        let mut open = Vec::new();
        for _ in 0..20 {
            let mut http2 = Http2::open(&app, Some(&device.identity), &setting(INITIAL_WINDOW_SIZE, 0)).await;
            let asks: Vec<u8> = streams()
                .take(32)
                .flat_map(|stream| frame(HEADERS, END_STREAM | END_HEADERS, stream, &request("GET", "/openapi.json")))
                .collect();
            http2.send(&asks).await;
            // The head of every answer comes, and no body.
            let mut heads = 0;
            while heads < 32 {
                let frame = http2.next().await.unwrap();
                assert!(frame.kind != DATA || frame.payload.is_empty(), "{frame:?}");
                heads += u32::from(frame.kind == HEADERS);
            }
            // No more than these at once.
            http2.send(&frame(HEADERS, END_STREAM | END_HEADERS, 65, &request("GET", "/v1/ca"))).await;
            assert_eq!(http2.wait_for(RST_STREAM, 65).await.number(0), 7, "REFUSED_STREAM");
            open.push(http2);
        }
        open
    };
    undisturbed(&app, attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_lists_that_grow() {
    let app = TestApp::new().await;
    let device = app.enroll("pump-1").await;
    let attack = async {
        // A large field is remembered once, and named again and again by one byte: 32 MB of 12 kB.
        for _ in 0..10 {
            let mut http2 = Http2::open(&app, Some(&device.identity), &[]).await;
            let bomb = [request("GET", "/v1/me"), remembered("x", &"y".repeat(4_000)), vec![NEWEST; 8_000]].concat();
            http2.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &bomb)).await;
            assert_eq!(http2.ended_with().await, Some(ENHANCE_YOUR_CALM));
        }
        // What is only too long is told so. Without a table of its own, the server's encoder repeats the status each time.
        let mut http2 = Http2::open(&app, Some(&device.identity), &setting(HEADER_TABLE_SIZE, 0)).await;
        let large = [request("GET", "/v1/me"), remembered("x", &"y".repeat(4_000)), vec![NEWEST; 5]].concat();
        let many = [request("GET", "/v1/me"), field("x", "y").repeat(1_000)].concat();
        for (stream, block) in [(1, &large), (3, &many), (5, &large)] {
            http2.send(&frame(HEADERS, END_STREAM | END_HEADERS, stream, block)).await;
            let head = http2.wait_for(HEADERS, stream).await;
            assert!(head.has_status(431), "{:?}", head.payload);
        }
        // The connection is still good.
        http2.send(&frame(HEADERS, END_STREAM | END_HEADERS, 7, &request("GET", "/v1/ca"))).await;
        http2.wait_for(DATA, 7).await;
    };
    undisturbed(&app, attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_http2_ends_the_connection() {
    let app = TestApp::new().await;
    let device = app.enroll("pump-1").await;
    let get =
        |fields: &[u8]| frame(HEADERS, END_STREAM | END_HEADERS, 1, &[&request("GET", "/v1/ca"), fields].concat());
    let after_preface = |bytes: Vec<u8>| [PREFACE, &frame(SETTINGS, 0, 0, &[]), &bytes].concat();
    let cases: Vec<(&str, Vec<u8>, u32)> = vec![
        ("HTTP/1.1", b"GET /v1/ca HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), PROTOCOL_ERROR),
        ("no preface", get(&[]), PROTOCOL_ERROR),
        ("a frame above the limit", after_preface(frame(DATA, 0, 1, &[0; 20_000])), FRAME_SIZE_ERROR),
        ("data of no stream", after_preface(frame(DATA, 0, 0, b"x")), PROTOCOL_ERROR),
        (
            "an even stream",
            after_preface(frame(HEADERS, END_STREAM | END_HEADERS, 2, &request("GET", "/"))),
            PROTOCOL_ERROR,
        ),
        (
            "a broken header block",
            after_preface(frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0xff; 20])),
            PROTOCOL_ERROR,
        ),
        (
            "a window beyond 2^31",
            after_preface(frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes()).repeat(2)),
            FLOW_CONTROL_ERROR,
        ),
        ("a settings frame of 5 bytes", after_preface(frame(SETTINGS, 0, 0, &[0; 5])), FRAME_SIZE_ERROR),
        ("a ping of 7 bytes", after_preface(frame(PING, 0, 0, &[0; 7])), FRAME_SIZE_ERROR),
    ];
    let attack = async {
        for (what, bytes, expected) in cases {
            let mut http2 = Http2::silent(&app, Some(&device.identity)).await;
            println!("{what}");
            let _ = http2.try_send(&bytes).await;
            let code = http2.ended_with().await;
            // The most general code will do, too.
            assert!(code.is_none_or(|code| code == expected || code == PROTOCOL_ERROR), "{what}: {code:?}");
        }
    };
    undisturbed(&app, attack).await;
}

/// RFC 9113, 8.2.2 and 8.3: what would mean one thing here and another in HTTP/1 is malformed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_that_http1_would_read_otherwise() {
    let app = TestApp::new().await;
    let device = app.enroll("pump-1").await;
    let token = format!("Bearer {}", device.token);
    let post = [request("POST", "/v1/heartbeat"), field("authorization", &token)].concat();
    let with = |fields: &[u8]| [post.as_slice(), fields].concat();
    let twice = [request("POST", "/v1/heartbeat"), field(":path", "/v1/goodbye")].concat();
    let late = with(&field(":path", "/v1/goodbye"));
    let blocks = [
        ("transfer-encoding", with(&field("transfer-encoding", "chunked"))),
        ("connection", with(&field("connection", "close"))),
        ("upper case", with(&field("X-Y", "z"))),
        ("a line break in a value", with(&field("x", "y\r\nhost: z"))),
        ("a NUL in a value", with(&field("x", "y\0"))),
        ("a line break in a name", with(&field("x\r\ny", "z"))),
        ("a colon in a name", with(&field("x:y", "z"))),
        ("a second path", twice),
        ("a path after the fields", late),
        ("no path", [field(":method", "POST"), field(":scheme", "https"), field("authorization", &token)].concat()),
        ("a length that is not the body's", with(&field("content-length", "9"))),
        ("a length that is none", with(&field("content-length", "x"))),
    ];
    let attack = async {
        for (what, block) in blocks {
            let mut http2 = Http2::open(&app, Some(&device.identity), &[]).await;
            let sent = [frame(HEADERS, END_HEADERS, 1, &block), frame(DATA, END_STREAM, 1, b"{}")].concat();
            let _ = http2.try_send(&sent).await;
            // A reset of the stream, or the end of the connection, or there is no such route: never a heartbeat.
            while let Some(frame) = http2.next().await {
                assert!(frame.kind != HEADERS || frame.has_status(400) || frame.has_status(404), "{what}: {frame:?}");
                if frame.kind == HEADERS {
                    break;
                }
                if frame.kind == RST_STREAM {
                    assert_eq!(frame.number(0), PROTOCOL_ERROR, "{what}");
                    break;
                }
            }
        }
    };
    undisturbed(&app, attack).await;
}
