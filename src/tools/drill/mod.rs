//! `everbeat drill`: faults injected into a running deployment under the load of real devices, and a checker that
//! decides from what the clients were told, what replicas believed and what the database holds in the end whether
//! any promise was broken.
//!
//! Data flows one way: a [`scenario::Scenario`] names a fault, the load writes [`evidence::Attempt`]s, the deployment
//! injects the fault and collects what is left, and all of it together is one [`evidence::Evidence`], which the checker
//! (pure) turns into [`verdict::Verdict`]s and the report shows. Nothing is judged while it runs, and nothing that is
//! judged is taken from memory that a fault could have spared.

mod beliefs;
pub mod check;
mod collect;
mod command;
pub mod compose;
mod deployment;
pub mod evidence;
pub mod figures;
pub mod judge_files;
pub mod load;
mod local;
mod proxy;
pub mod report;
mod round;
pub mod scenario;
pub mod scenarios;
mod screen;
pub mod stalls;
mod state;
pub mod target;
pub mod verdict;

pub use command::{DrillArgs, run};
