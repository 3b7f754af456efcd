//! Many connections of strangers at once: those of devices stay, and new ones get in.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::net::TcpStream;

use crate::app::{TestApp, eventually, hex};
use crate::honest::undisturbed;
use crate::tls::until_closed;
use crate::wire::{Ask, Wire};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_do_not_take_the_place_of_devices() {
    let app = TestApp::with("[devices]\nunverified_connections_max = 10\n").await;
    let addr = app.replica.running.device_addr;
    let config = app.tls(None, crate::app::HTTP_1);
    let attack = async {
        let opened = (0..100).map(async |_| {
            let mut wire = Wire::tls(addr, config.clone()).await;
            let answer = wire.try_call(&Ask::get("/v1/ca")).await.map(|answer| answer.status);
            (wire, answer)
        });
        let opened = join_all(opened).await;
        opened.iter().filter(|(_, answer)| *answer == Some(200)).count()
    };
    let served = undisturbed(&app, attack).await;
    assert!((1..=60).contains(&served), "{served} of 100 strangers were served at once");
    // The pool is free again, for those who enroll.
    app.enroll("pump-1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_certificate_has_a_strangers_place_from_then_on() {
    let app = TestApp::with("[devices]\nunverified_connections_max = 3\nunverified_requests_max = 3\n").await;
    let mut thieves = Vec::new();
    for n in 0..4 {
        thieves.push(app.enroll(&format!("thief-{n}")).await);
    }
    let attack = async {
        for thief in &thieves {
            let path = format!("/v1/certificates/{}/revoke", hex(&thief.identity.fingerprint));
            app.admin_post(&path, &json!({})).await.ok(200);
        }
        for thief in &mut thieves {
            eventually(Duration::from_secs(10), async || thief.me().await.status == 401).await;
        }
        // There were three places.
        let mut last = thieves.pop().unwrap();
        eventually(Duration::from_secs(10), async || last.wire.has_ended().await).await;
        for thief in &mut thieves {
            let mut more = 0;
            while let Some(answer) = thief.wire.try_call(&Ask::get("/v1/me").bearer(&thief.token)).await {
                answer.refused(401, "certificate-revoked");
                more += 1;
            }
            assert!((3..=4).contains(&more), "{more}");
        }
    };
    undisturbed(&app, attack).await;
    // The places are free again.
    app.enroll("pump-1").await;
}

/// Who opens connections and says nothing makes room for those who do, and those who are in stay in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_silent_give_way() {
    let app = TestApp::with("[devices]\nconnections_max = 200\nhandshake_deadline_ms = 60000\n").await;
    let addr = app.replica.running.device_addr;
    let mut silent = Vec::new();
    let attack = async {
        for n in 0..800 {
            silent.push(TcpStream::connect(addr).await.unwrap());
            // A thousand a second: the whole house in a fifth of a second, and a handshake takes a tenth of that.
            if n % 5 == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    undisturbed(&app, attack).await;
    for stream in &mut silent[..600] {
        assert_eq!(until_closed(stream).await, b"", "closed without a word");
    }
}
