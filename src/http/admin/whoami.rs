//! `GET /v1/whoami`

use axum::Json;

use crate::http::authn::Operator;
use crate::wire::admin::{Grant, WhoAmI};

pub async fn get(operator: Operator) -> Json<WhoAmI> {
    let caller = operator.caller();
    let everywhere = caller.grants.everywhere.map(|role| Grant { fleet_id: None, role });
    let mut fleets: Vec<_> = caller.grants.fleets.iter().collect();
    fleets.sort_unstable_by_key(|(fleet, _)| **fleet);
    let fleets = fleets.into_iter().map(|(fleet, role)| Grant { fleet_id: Some(fleet.0), role: *role });
    Json(WhoAmI {
        subject: caller.subject.clone(),
        roles: everywhere.into_iter().chain(fleets).collect(),
        expires_at: caller.expires_at,
    })
}
