//! Renewal: a credential that asks for its successor, also for a while after its own end.

use std::time::Duration;

use serde_json::json;
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::changes::{self, ChangeLog, NewEvent, refuse};
use super::control::ControlStore;
use super::credentials::{NewCredential, Origin, Standing, insert, is_due, key_is_free, lock_key};
use super::devices::DeviceState;
use super::error::StoreError;
use crate::domain::ids::{DeviceId, Fingerprint};

/// Who asks for a renewal, read before the request is parsed.
#[derive(Clone, Debug)]
pub struct Renewable {
    pub device: DeviceId,
    pub name: String,
    pub fleet_name: String,
    pub certificate_ttl_s: i64,
}

/// Why a certificate is not renewed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RenewRefusal {
    #[error("the certificate is not known")]
    Unknown,
    #[error("the certificate was revoked")]
    Revoked,
    #[error("the device has newer certificates")]
    Superseded,
    /// Longer ago than its fleet allows.
    #[error("the certificate expired more than {} s ago", .window.as_secs())]
    Expired { window: Duration },
    #[error("the device is not active")]
    Suspended,
    #[error("the key cannot be certified")]
    KeyTaken,
    #[error("the device had too many certificates today")]
    TooOften,
    /// The CA that signed it is retired.
    #[error("the certificate's CA is trusted no more")]
    Untrusted,
    /// The one that was to sign, before this replica had heard of it.
    #[error("the issuing CA was retired meanwhile")]
    CaRetired,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// May this certificate be renewed at `now`? It may be expired for as long as the fleet's policy says.
pub async fn renewable(
    control: &ControlStore,
    print: Fingerprint,
    now: OffsetDateTime,
) -> Result<Renewable, RenewRefusal> {
    control.read("certificate_renewable", move |c| Box::pin(async move { judge(c, print, now).await })).await
}

async fn judge(
    c: &mut PgConnection,
    print: Fingerprint,
    now: OffsetDateTime,
) -> Result<Renewable, super::Abort<RenewRefusal>> {
    let row = sqlx::query!(
        r#"select d.id, d.name, d.state, f.name as fleet_name, f.certificate_ttl_s, f.renew_expired_within_s,
                  k.not_after, k.revoked_at is not null as "revoked!", k.revoke_reason,
                  exists (select from ca_certificates a where a.state = 'retired' and a.fingerprint = coalesce(k.issuer,
                    (select fingerprint from ca_certificates where kind = 'issuing'
                     order by created_at, fingerprint limit 1))) as "untrusted!"
           from credentials k join devices d on d.id = k.device_id join fleets f on f.id = d.fleet_id
           where k.fingerprint = $1"#,
        &print.0[..]
    );
    let Some(row) = row.fetch_optional(c).await? else { return refuse(RenewRefusal::Unknown) };
    let window = Duration::from_secs(u64::try_from(row.renew_expired_within_s).unwrap_or(0));
    match Standing::of(row.revoked, row.revoke_reason.as_deref()) {
        Standing::Current => {}
        Standing::Superseded => return refuse(RenewRefusal::Superseded),
        Standing::Revoked => return refuse(RenewRefusal::Revoked),
    }
    if row.untrusted {
        return refuse(RenewRefusal::Untrusted);
    }
    if DeviceState::from_column(&row.state) != DeviceState::Active {
        return refuse(RenewRefusal::Suspended);
    }
    if now > row.not_after.saturating_add(window.try_into().unwrap_or(time::Duration::ZERO)) {
        return refuse(RenewRefusal::Expired { window });
    }
    Ok(Renewable {
        device: DeviceId(row.id),
        name: row.name,
        fleet_name: row.fleet_name,
        certificate_ttl_s: row.certificate_ttl_s,
    })
}

/// Records the renewal of `parent` at `now`, everything judged again under the locks.
pub async fn renew(
    log: &ChangeLog,
    parent: Fingerprint,
    new: NewCredential,
    now: OffsetDateTime,
) -> Result<(), RenewRefusal> {
    log.write("certificate_renew", move |c| {
        let new = new.clone();
        Box::pin(async move {
            lock_key(c, &new.spki_sha256).await?;
            let device = sqlx::query!(
                "select d.id, d.fleet_id from credentials k join devices d on d.id = k.device_id
                 where k.fingerprint = $1 for update of d",
                &parent.0[..]
            );
            let Some(device) = device.fetch_optional(&mut *c).await? else { return refuse(RenewRefusal::Unknown) };
            let renewable = judge(c, parent, now).await?;
            if !key_is_free(c, &new.spki_sha256, Some(device.id)).await? {
                return refuse(RenewRefusal::KeyTaken);
            }
            if !is_due(c, device.id).await? {
                return refuse(RenewRefusal::TooOften);
            }
            if !insert(c, renewable.device, &new, Origin::Credential(parent)).await? {
                return refuse(RenewRefusal::CaRetired);
            }
            let event = NewEvent {
                kind: "device.renewed",
                fleet: Some(device.fleet_id),
                device: Some(device.id),
                cause: None,
                detail: json!({ "fingerprint": new.fingerprint.to_string(), "parent": parent.to_string() }),
            };
            changes::record(c, &event).await?;
            Ok(())
        })
    })
    .await
}
