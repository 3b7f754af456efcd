//! Answers that say where they come from, for a drill that checks replicas from outside: `X-Everbeat-Replica`, the
//! replica's id, and `X-Everbeat-Position`, `<timeline>:<xmin>` of the change log.
//!
//! The position is taken before the request is judged. So an answer that let somebody in was given by a replica that
//! knew at least of every transaction before `xmin`, and one that contradicts such a transaction is a fault.

use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;

use super::api::Shared;
use crate::domain::ids::ReplicaId;
use crate::identity::{Identity, Reached};

const X_REPLICA: HeaderName = HeaderName::from_static("x-everbeat-replica");
const X_POSITION: HeaderName = HeaderName::from_static("x-everbeat-position");

/// Where the answer to one request will have come from.
pub(super) struct Origin {
    replica: ReplicaId,
    reached: Reached,
}

impl Origin {
    /// To be called before the caller is judged; `None` where no drill is on.
    pub(super) fn of(shared: &Shared) -> Option<Self> {
        let reached = shared.identity.as_ref().map(Identity::reached).unwrap_or_default();
        shared.drill.map(|replica| Self { replica, reached })
    }

    pub(super) fn mark(&self, response: &mut Response) {
        for (name, value) in [(X_REPLICA, self.replica.to_string()), (X_POSITION, self.reached.to_string())] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(name, value);
            }
        }
    }
}
