//! Programs over the client: the development set-up, the device agent, the operators' command line.

pub mod dev;
