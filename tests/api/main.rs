//! The HTTP contract from outside: a whole replica, and callers who keep to it or do not. After each hostile request an
//! honest device on the same replica is still served.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../support/app.rs"]
mod app;
#[path = "../support/cbor.rs"]
mod cbor;
#[path = "../support/proxy.rs"]
mod proxy;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/wire.rs"]
#[expect(dead_code, reason = "tests/failover and tests/contract use the rest")]
mod wire;

mod admission;
mod blind;
mod bodies;
mod certificates;
mod commands;
mod crl;
mod cut;
mod drill;
mod enrollment;
mod est;
mod events;
mod failures;
mod forecast;
mod heartbeat;
mod http;
mod http2;
mod keys;
mod leave;
mod metrics;
mod promise;
mod proxied;
mod readings;
mod revocation;
mod senml;
mod tokens;
