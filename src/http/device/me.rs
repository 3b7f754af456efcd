//! `GET /v1/me`

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use crate::http::api::DeviceApi;
use crate::http::authn::WithCertAndToken;
use crate::identity::ca::renew_after;
use crate::wire::device::{DeviceRef, Me, MyCertificate};

pub async fn get(State(api): State<Arc<DeviceApi>>, proof: WithCertAndToken) -> Json<Me> {
    let (device, certificate) = (&proof.caller().device, &proof.caller().certificate);
    let limits = api.ingest.limits();
    Json(Me {
        device: DeviceRef { id: device.id, name: device.name.clone(), fleet: device.fleet_name.clone() },
        fleet_id: device.fleet,
        certificate: MyCertificate {
            fingerprint: certificate.fingerprint.to_string(),
            not_after: certificate.not_after,
            renew_after: renew_after(certificate.not_before, certificate.not_after),
        },
        heartbeat_interval_s: std::time::Duration::from_millis(device.heartbeat_interval_ms.unsigned_abs())
            .as_secs_f64(),
        readings_batch_max: limits.items_max as u64,
        readings_body_max_bytes: limits.body_max_bytes as u64,
    })
}
