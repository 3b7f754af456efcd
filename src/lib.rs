//! Everbeat: a highly available IoT device service on PostgreSQL. ARCHITECTURE.md has the map of these modules,
//! their ranks (a module imports only strictly lower ranks) and the invariants they keep.

pub mod admission;
pub mod app;
pub mod cli;
pub mod client;
pub mod config;
pub mod domain;
#[doc(hidden)]
pub mod fuzzing;
pub mod http;
pub mod identity;
pub mod ingest;
pub mod jobs;
pub mod lifecycle;
pub mod net;
pub mod observe;
pub mod presence;
pub mod store;
pub mod tools;
pub mod wire;
