//! Everbeat as its users have it: replicas and devices are processes, the database is a server that can be stopped and
//! frozen, and what is asserted is what a device or an operator would notice.
//!
//! Bounds are generous, because machines differ; nothing here measures speed. One test runs at a time: each has a
//! database and two replicas of its own, and a machine that is busy with another test's would look like a fault.
#![expect(clippy::unwrap_used, reason = "the helpers of tests fail by panicking")]
#![expect(clippy::expect_used, reason = "the helpers of tests fail by panicking")]

mod database;
mod devices;
mod drain;
#[path = "../support/freeze.rs"]
mod freeze;
mod outage;
mod process;
mod replay;
mod silence;
mod takeover;
mod walk;
mod world;
