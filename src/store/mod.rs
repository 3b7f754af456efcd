//! The only SQL. Two planes: *control* (sqlx, checked at compile time; everything a person triggers) and *fleet*
//! (tokio-postgres under deadpool; readings, heartbeats, sweeps), and dedicated [`session`]s for leases and the
//! change log. One [`primary`] tracker tells all of them who the primary is.
//!
//! Every statement has a name, is measured, and ends for its caller at a deadline of ours, because a frozen host
//! goes on acknowledging TCP and no timeout of the driver or the kernel ever fires. The statement itself goes on in
//! its own task: the connection counts against its pool until its fate is known (see [`gate`]).

pub mod capacity;
pub mod changes;
pub mod control;
pub mod credential_views;
pub mod credentials;
pub mod device_views;
pub mod devices;
pub mod drill_nodes;
pub mod drill_views;
pub mod durability;
pub mod enrollment;
pub mod error;
pub mod event_views;
pub mod expiry;
pub mod fleet;
pub mod fleets;
pub mod follow;
mod gate;
pub mod idempotency;
pub mod key_life;
pub mod key_views;
pub mod keys;
pub mod leases;
pub mod migrate;
pub mod operator_views;
pub mod operators;
pub mod partitions;
pub mod presence;
pub mod primary;
pub mod readings;
pub mod renewals;
pub mod replica_views;
pub mod retention;
pub mod revocations;
pub mod session;
pub mod settings;
pub mod statement;
pub mod sweep;

pub use control::{Abort, ControlStore};
pub use durability::{Durability, Policy};
pub use error::{Fault, Stage, StoreError};
pub use fleet::FleetStore;
pub use primary::{Primary, PrimaryWatch, StandbyWatch};
pub use session::Session;
pub use settings::{Login, Plane, StoreSettings};
pub use statement::Statement;
