//! What enemies send, through the listeners of a whole replica: each test says what is answered, and honest devices on other
//! connections are served undisturbed meanwhile. docs/security.md has the table that these tests and others stand for.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[expect(dead_code, reason = "the API's tests use all of it")]
#[path = "../support/app.rs"]
mod app;
#[path = "../support/mod.rs"]
mod support;
#[expect(dead_code, reason = "the API's tests use all of it")]
#[path = "../support/wire.rs"]
mod wire;

mod bodies;
mod crowds;
mod frames;
mod honest;
mod http1;
mod http2;
mod paths;
mod proxied;
mod tls;
mod tls12;
mod tokens;
