//! HTTP: the frame around every request, the table of routes, and the handlers. The only module that names axum.
//!
//! ```text
//! frame: request id, span, metrics, panics, errors rendered as problems
//!   -> guard: representation, declared length, who is calling (the route's `Permission`)
//!     -> extractors: body under limit and deadline, strict JSON, strict query
//!       -> handler
//! ```
//!
//! Invariants
//! - `routes` is the whole list: the routers, the OpenAPI documents and the metrics' labels are made of it.
//! - A handler names the proof it needs (`authn`); only the guard makes proofs, so that a handler behind the wrong
//!   permission answers 500 and does nothing.
//! - An operator's handler that succeeds without having asked whether it may is a 500.
//! - [`error`] alone picks statuses; every error answer is a problem (RFC 9457) with a request id, or plain text where
//!   EST is spoken ([`dialect`]).
//! - No body is read before the caller is known, nor without a limit and a deadline.
//!
//! Deliberately absent: compression of answers (it would change strong ETags, and secrets share pages with input),
//! CORS (there are no browser clients of other origins), a request timeout around handlers (statements have
//! deadlines, and a cancelled handler would not know its outcome).

mod accept;
mod api;
mod authn;
pub mod body;
mod dialect;
mod drill;
pub mod error;
pub mod extract;
mod faults;
mod form;
mod frame;
mod guard;
pub mod openapi;
pub mod page;
pub mod precondition;
mod quota;
pub mod reference;
pub mod route;
mod routes;
mod unread;

mod admin;
mod device;
mod ops;

pub use api::{AdminApi, DeviceApi, HttpSettings, OpsApi};
pub use authn::{Operator, WithCert, WithCertAndToken, WithOldCert};
pub use dialect::Dialect;
pub use error::ApiError;
pub use route::{Method, Permission, RouteInfo};
pub use routes::{admin_router, device_router, ops_router, table};

#[cfg(test)]
mod frame_tests;
#[cfg(test)]
mod table_tests;
