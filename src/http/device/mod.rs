//! The device listener's handlers, one file for each resource.

pub mod ca;
pub mod crl;
pub mod enroll;
pub mod est;
pub mod heartbeat;
pub mod me;
pub mod readings;
pub mod senml;
pub mod token;
