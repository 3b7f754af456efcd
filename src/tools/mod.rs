//! Programs over the client: the development set-up, the device agent, the operators' command line, the load generator, the drill; and
//! what the people who run a deployment do with the database.

pub mod admin_cli;
pub mod bench;
pub mod check;
pub mod deploy;
pub mod dev;
pub mod device;
pub mod drill;
mod enrolling;
pub mod key_life;
pub mod operators;
mod page;
