//! What a certificate revocation list says: an export. Whether a certificate counts, [`super::credentials`] decides.

use time::OffsetDateTime;

use super::control::{Abort, ControlStore};
use super::error::StoreError;
use crate::domain::ids::Fingerprint;

/// A revoked certificate.
#[derive(Clone, Debug)]
pub struct Revoked {
    pub serial: Vec<u8>,
    pub revoked_at: OffsetDateTime,
    pub reason: Option<String>,
}

/// What is revoked as of a moment.
#[derive(Clone, Debug)]
pub struct Revocations {
    pub timeline: i32,
    /// On the database's clock. Everything that was committed before is in.
    pub as_of: OffsetDateTime,
    pub revoked: Vec<Revoked>,
}

/// Certificates of this CA that are revoked and would be valid otherwise, or would have been within the
/// last day (RFC 5280, 3.3: an entry stays until it was on a list from after the certificate's end). At most `rows_max`.
/// Rows that do not say who issued them are the first issuing CA's.
pub async fn of_issuer(store: &ControlStore, issuer: Fingerprint, rows_max: i64) -> Result<Revocations, StoreError> {
    store
        .read("revocations", move |c| {
            Box::pin(async move {
                let moment = sqlx::query!(
                    r#"-- revocations: the moment that a list is of
                    select current_timeline() as "timeline!", clock_timestamp() as "as_of!""#
                )
                .fetch_one(&mut *c)
                .await?;
                let revoked = sqlx::query_as!(
                    Revoked,
                    r#"-- revocations: certificates of one CA that are revoked
                    select serial, revoked_at as "revoked_at!", revoke_reason as reason
                    from credentials
                    where revoked_at is not null and not_after > now() - interval '1 day'
                      and coalesce(issuer, (select fingerprint from ca_certificates where kind = 'issuing'
                                            order by created_at, fingerprint limit 1)) = $1
                    order by revoked_at, fingerprint limit $2"#,
                    &issuer.0[..],
                    rows_max
                )
                .fetch_all(c)
                .await?;
                let (timeline, as_of) = (moment.timeline, moment.as_of);
                Ok::<_, Abort<StoreError>>(Revocations { timeline, as_of, revoked })
            })
        })
        .await
}
