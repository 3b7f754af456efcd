//! Certificates as operators see them. Reads only; [`super::credentials`] has the rules and the changes.

use time::OffsetDateTime;
use uuid::Uuid;

use super::control::{Abort, ControlStore};
use super::error::StoreError;
use crate::domain::ids::{DeviceId, Fingerprint, FleetId};

/// One row of `credentials`, with the fleet of its device.
#[derive(Clone, Debug)]
pub struct CredentialView {
    pub fingerprint: Fingerprint,
    pub device: DeviceId,
    pub fleet: FleetId,
    pub parent: Option<Fingerprint>,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
    pub revoked_at: Option<OffsetDateTime>,
    pub revoke_reason: Option<String>,
    pub created_at: OffsetDateTime,
}

/// Which certificates, the newest first.
#[derive(Clone, Debug, Default)]
pub struct CredentialFilter {
    pub fingerprint: Option<Fingerprint>,
    pub device: Option<DeviceId>,
    /// Those that were made before this one.
    pub before: Option<(OffsetDateTime, Fingerprint)>,
}

/// Certificates, at most `rows_max`.
pub async fn list(
    store: &ControlStore,
    filter: CredentialFilter,
    rows_max: i64,
) -> Result<Vec<CredentialView>, StoreError> {
    store
        .read("credential_views", move |c| {
            let filter = filter.clone();
            Box::pin(async move {
                let rows = sqlx::query_as!(
                    Row,
                    r#"-- credential_views: certificates of a device, the newest first
                    select k.fingerprint, k.device_id, d.fleet_id, k.parent, k.not_before, k.not_after, k.revoked_at,
                           k.revoke_reason, k.created_at
                    from credentials k join devices d on d.id = k.device_id
                    where ($1::bytea is null or k.fingerprint = $1) and ($2::uuid is null or k.device_id = $2)
                      and ($3::timestamptz is null or (k.created_at, k.fingerprint) < ($3, $4::bytea))
                    order by k.created_at desc, k.fingerprint desc limit $5"#,
                    filter.fingerprint.as_ref().map(|print| &print.0[..]),
                    filter.device.map(|device| device.0),
                    filter.before.map(|before| before.0),
                    filter.before.as_ref().map(|before| &before.1.0[..]),
                    rows_max
                )
                .fetch_all(c)
                .await?;
                Ok::<_, Abort<StoreError>>(rows.into_iter().filter_map(Row::view).collect())
            })
        })
        .await
}

/// The certificate with this fingerprint.
pub async fn one(store: &ControlStore, print: Fingerprint) -> Result<Option<CredentialView>, StoreError> {
    let filter = CredentialFilter { fingerprint: Some(print), ..CredentialFilter::default() };
    Ok(list(store, filter, 1).await?.pop())
}

struct Row {
    fingerprint: Vec<u8>,
    device_id: Uuid,
    fleet_id: Uuid,
    parent: Option<Vec<u8>>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    revoked_at: Option<OffsetDateTime>,
    revoke_reason: Option<String>,
    created_at: OffsetDateTime,
}

impl Row {
    /// The column's constraint says 32 bytes.
    fn view(self) -> Option<CredentialView> {
        let print = |bytes: Vec<u8>| bytes.try_into().ok().map(Fingerprint);
        Some(CredentialView {
            fingerprint: print(self.fingerprint)?,
            device: DeviceId(self.device_id),
            fleet: FleetId(self.fleet_id),
            parent: self.parent.and_then(print),
            not_before: self.not_before,
            not_after: self.not_after,
            revoked_at: self.revoked_at,
            revoke_reason: self.revoke_reason,
            created_at: self.created_at,
        })
    }
}
