//! The admin listener's handlers, one file for each resource.

pub mod fleets;
pub mod leases;
pub mod whoami;
