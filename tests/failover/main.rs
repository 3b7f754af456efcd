//! Nothing that was acknowledged is lost: a whole replica on a real primary with a synchronous standby that is frozen,
//! stopped and promoted under it. Bounds are generous, because machines differ; what was measured is printed.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[expect(dead_code, reason = "the API's tests use all of it")]
#[path = "../support/app.rs"]
mod app;
#[path = "../support/freeze.rs"]
mod freeze;
mod held_back;
mod pair;
mod policy;
mod pools;
mod promotion;
#[path = "../support/mod.rs"]
mod support;
#[expect(dead_code, reason = "the API's tests use all of it")]
#[path = "../support/wire.rs"]
mod wire;
mod writer;
