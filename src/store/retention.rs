//! The one rule by which anything is dropped for its age: two clocks have to agree that it is old enough, the
//! database's and the replica's, and the earlier one decides. One clock alone would, set forward, drop what is to be
//! kept. Where the two are far apart one of them is wrong, nobody knows which, and nothing is dropped.

use std::time::Duration;

use time::OffsetDateTime;

use super::error::{Fault, StoreError};
use super::session::Session;

/// Clocks further apart than this drop nothing. Far above any drift, far below a day.
const CLOCKS_APART_MAX: time::Duration = time::Duration::hours(1);

crate::statements! {
    /// The database's clock.
    CLOCK = "retention_clock";
}

/// The time that ages are counted from. Statements that drop take it from here, and read no clock themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionClock(pub(super) OffsetDateTime);

/// Why nothing may be dropped now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClocksDisagree {
    /// The database's clock less the replica's.
    pub database_ahead: time::Duration,
}

impl RetentionClock {
    /// The earlier of the two clocks.
    ///
    /// # Errors
    /// When they are more than an hour apart.
    pub fn judge(database: OffsetDateTime, own: OffsetDateTime) -> Result<Self, ClocksDisagree> {
        let database_ahead = database - own;
        if database_ahead.abs() > CLOCKS_APART_MAX {
            return Err(ClocksDisagree { database_ahead });
        }
        Ok(Self(database.min(own)))
    }
}

/// Reads the database's clock and judges it by `wall`, the replica's.
pub async fn clock(
    session: &Session,
    wall: OffsetDateTime,
    limit: Duration,
) -> Result<Result<RetentionClock, ClocksDisagree>, StoreError> {
    let rows = session.query(&CLOCK, &[], limit).await?;
    let row = rows.first().ok_or_else(|| StoreError::new(CLOCK.name, Fault::Refused, "no row"))?;
    Ok(RetentionClock::judge(row.get("now"), wall))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earlier_clock_decides_and_none_where_they_are_far_apart() {
        let at = OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000);
        let hour = time::Duration::hours(1);
        assert_eq!(RetentionClock::judge(at, at + hour), Ok(RetentionClock(at)));
        assert_eq!(RetentionClock::judge(at + hour, at), Ok(RetentionClock(at)));
        let far = hour + time::Duration::SECOND;
        assert_eq!(RetentionClock::judge(at + far, at), Err(ClocksDisagree { database_ahead: far }));
        assert_eq!(RetentionClock::judge(at, at + far), Err(ClocksDisagree { database_ahead: -far }));
    }
}
