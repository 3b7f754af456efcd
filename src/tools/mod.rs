//! Programs over the client: what a person runs from the command line, and what stands in for a fleet.

pub mod admin_cli;
pub mod device;
