//! The admin listener's handlers, one file for each resource.

pub mod certificates;
mod creation;
pub mod devices;
pub mod enrollment_tokens;
pub mod events;
pub mod fleets;
pub mod leases;
pub mod outages;
pub mod presence;
pub mod readings;
pub mod replicas;
mod resolve;
pub mod whoami;
