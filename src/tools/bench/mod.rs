//! `everbeat bench`: load whose rate does not depend on the answers, and what came of it.
//!
//! Latency is measured from the moment at which a request was due (no coordinated omission: Gil Tene, "How NOT to measure
//! latency", 2013). Devices have certificates and connections of their own.
//!
//! Deliberately absent: a verdict. Machines differ; what counts are ratios within one run, and `--compare`.

mod arrivals;
mod command;
mod cpu;
mod crowd;
mod drive;
mod mix;
mod outcome;
mod page;
mod recorder;
mod run;
mod search;
mod work;

pub use command::{BenchArgs, run};
