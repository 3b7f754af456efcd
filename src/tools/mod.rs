//! Programs over the client: the development set-up, the device agent, the operators' command line.

pub mod admin_cli;
pub mod deploy;
pub mod dev;
pub mod device;
