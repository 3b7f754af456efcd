//! The SDK: what a device or an operator's program needs to talk to Everbeat.
//!
//! A call goes `DeviceClient`/`AdminClient` → [`exchange::Http`] (endpoints, retries) → [`transport::Transport`] (one
//! request on one connection). What holds:
//! - Nothing but the given CA bundle is trusted; the one exception fetches that bundle and checks it against the pin
//!   in the enrollment token, before the token is sent.
//! - Every call may be sent twice: readings carry `ts` and `id`, enrollment keeps its key. So every outcome that is
//!   not known is retried, with full jitter and within a budget, so that retries never become the load.
//! - Answers are never assumed: what cannot be read, or does not add up, is an error.
//! - A kill at any point leaves an old identity or a new one on disk, never a mix ([`state`]).
//!
//! Deliberately absent: HTTP/2 (a device has one request in flight), the system's trust store, proxies, redirects.

pub mod admin;
mod authorize;
pub mod device;
pub mod endpoints;
mod enroll;
pub mod error;
pub mod events;
pub mod exchange;
mod keys;
#[cfg(test)]
pub(crate) mod loopback;
mod plain;
pub mod readings;
pub mod retry;
pub mod settings;
pub mod state;
#[cfg(test)]
mod tests;
pub mod transport;
pub mod trust;

pub use admin::AdminClient;
pub use device::DeviceClient;
pub use enroll::Enrollment;
pub use error::ClientError;
pub use events::EventFeed;
pub use plain::plain_get;
pub use readings::{Batch, Reading};
pub use settings::{ClientSettings, Context};
pub use state::{Identity, StateDir};
