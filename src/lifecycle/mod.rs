//! How the process begins, goes on and ends: the two stages of a stop, the tasks, and readiness.

pub mod readiness;
pub mod shutdown;
pub mod tasks;
