//! The HTTP contract as a whole: every route by the same table of rules, and programs of others that know nothing of
//! Everbeat but its OpenAPI documents.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../support/app.rs"]
#[expect(dead_code, reason = "tests/api uses all of it")]
mod app;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/wire.rs"]
#[expect(dead_code, reason = "tests/api uses all of it")]
mod wire;

mod everywhere;
mod names;
mod programs;
