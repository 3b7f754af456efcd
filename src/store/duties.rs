//! The leases as operators see them. Who holds what is decided elsewhere; this only reads.

use time::OffsetDateTime;
use uuid::Uuid;

use super::{Abort, ControlStore, StoreError};

/// One row of `leader_lease`.
#[derive(Clone, Debug)]
pub struct LeaseRow {
    pub role: String,
    pub holder: Option<Uuid>,
    pub addr: String,
    pub epoch: i64,
    pub timeline: i32,
    pub acquired_at: OffsetDateTime,
    pub renewed_at: OffsetDateTime,
    pub expires_at: OffsetDateTime,
    /// By the database's clock.
    pub expired: bool,
}

/// Leases by role, those after `after`.
pub async fn leases(store: &ControlStore, after: Option<String>, rows_max: i64) -> Result<Vec<LeaseRow>, StoreError> {
    store
        .read("leases_list", move |c| {
            let after = after.clone();
            Box::pin(async move {
                let rows = sqlx::query_as!(
                    LeaseRow,
                    r#"-- leases_list: a page of the leases
                    select role, holder, addr, epoch, timeline, acquired_at, renewed_at, expires_at,
                           expires_at <= clock_timestamp() as "expired!"
                    from leader_lease
                    where $1::text is null or role > $1
                    order by role limit $2"#,
                    after,
                    rows_max
                )
                .fetch_all(c)
                .await?;
                Ok::<_, Abort<StoreError>>(rows)
            })
        })
        .await
}
