//! The clock is a parameter. Nothing outside this file reads one (held by lint and by the architecture test).

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A point on CLOCK_BOOTTIME: monotonic, and it counts the time a host was suspended (clock_gettime(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Boottime(Duration);

impl Boottime {
    /// How long ago `earlier` was; zero if it is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Microseconds since the host's boot: comparable between processes of one host, until it boots again.
    pub fn as_us(self) -> u64 {
        u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX)
    }

    /// The same in nanoseconds.
    pub fn as_ns(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }

    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }
}

/// Wall clock and boot clock. `Clone` shares it.
#[derive(Clone, Debug)]
pub enum Clock {
    System,
    /// Stands still until it is moved: both clocks read the same count of microseconds since 1970.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// A clock for tests, at `unix_us` microseconds since 1970.
    pub fn manual(unix_us: i64) -> Self {
        Self::Manual(Arc::new(AtomicI64::new(unix_us)))
    }

    /// Moves a manual clock on; the system's clock cannot be moved.
    pub fn advance(&self, span: Duration) {
        if let Self::Manual(micros) = self {
            micros.fetch_add(i64::try_from(span.as_micros()).unwrap_or(i64::MAX), Ordering::SeqCst);
        }
    }

    /// UTC, cut to microseconds (PostgreSQL's resolution).
    pub fn wall(&self) -> OffsetDateTime {
        from_unix_us(self.unix_us()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }

    /// Microseconds since 1970-01-01T00:00:00Z.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    pub fn unix_us(&self) -> i64 {
        match self {
            Self::System => i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX),
            Self::Manual(micros) => micros.load(Ordering::SeqCst),
        }
    }

    pub fn boottime(&self) -> Boottime {
        match self {
            Self::System => {
                let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
                let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
                Boottime(Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0)))
            }
            Self::Manual(micros) => {
                let micros = micros.load(Ordering::SeqCst);
                Boottime(Duration::from_micros(u64::try_from(micros).unwrap_or(0)))
            }
        }
    }
}

/// The point `micros` after 1970, if its year is 0001 to 9999: what RFC 3339 can write and PostgreSQL can hold.
pub fn from_unix_us(micros: i64) -> Option<OffsetDateTime> {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000).ok()?;
    (1..=9_999).contains(&at.year()).then_some(at)
}

/// Microseconds since 1970.
pub fn unix_us(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000)).unwrap_or(i64::MAX)
}

/// RFC 3339, UTC, `Z`, always six digits of fraction: the form of every time in answers.
pub fn rfc3339(at: OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC);
    let (date, clock) = (at.date(), at.time());
    // By hand: each heartbeat's answer has one.
    let mut text = String::with_capacity("2026-11-23T10:41:25.000001Z".len());
    digits(&mut text, u32::try_from(date.year()).unwrap_or(0), 1_000);
    for (mark, part) in [
        ('-', u8::from(date.month())),
        ('-', date.day()),
        ('T', clock.hour()),
        (':', clock.minute()),
        (':', clock.second()),
    ] {
        text.push(mark);
        digits(&mut text, part.into(), 10);
    }
    text.push('.');
    digits(&mut text, clock.microsecond(), 100_000);
    text.push('Z');
    text
}

/// In decimal, with leading zeros. `place`: that of the first digit.
fn digits(text: &mut String, value: u32, mut place: u32) {
    while place > 0 {
        text.push(char::from_digit(value / place % 10, 10).unwrap_or('0'));
        place /= 10;
    }
}

/// Parses any RFC 3339 time, cut to microseconds. Years 0001 to 9999, in UTC.
pub fn parse_rfc3339(text: &str) -> Option<OffsetDateTime> {
    let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    from_unix_us(unix_us(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_their_text() {
        for text in ["1970-01-01T00:00:00.000000Z", "2026-11-23T10:41:25.000001Z", "1969-12-31T23:59:59.999999Z"] {
            assert_eq!(rfc3339(parse_rfc3339(text).unwrap()), text);
        }
        assert_eq!(rfc3339(parse_rfc3339("2026-11-23T12:00:00.1234567+02:00").unwrap()), "2026-11-23T10:00:00.123456Z");
        for bad in ["", "2026-11-23", "2026-11-23T10:00:00", "2026-13-01T00:00:00Z"] {
            assert_eq!(parse_rfc3339(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_calendar_has_an_end_on_either_side() {
        let (first, last) = ("0001-01-01T00:00:00.000000Z", "9999-12-31T23:59:59.999999Z");
        for text in [first, last] {
            let at = parse_rfc3339(text).unwrap();
            assert_eq!((rfc3339(at), from_unix_us(unix_us(at))), (text.to_owned(), Some(at)));
        }
        let us = |text| unix_us(parse_rfc3339(text).unwrap());
        for beyond in [us(first) - 1, us(last) + 1, -300_000_000_000_000_000, i64::MIN, i64::MAX] {
            assert_eq!(from_unix_us(beyond), None, "{beyond}");
        }
        assert_eq!(parse_rfc3339("0000-12-31T23:59:59Z"), None);
        assert_eq!(parse_rfc3339("0001-01-01T00:00:00+01:00"), None, "in UTC it is a year earlier");
    }

    #[test]
    fn a_manual_clock_moves_only_when_moved() {
        let clock = Clock::manual(1_000_000);
        let before = clock.boottime();
        assert_eq!(clock.unix_us(), 1_000_000);
        clock.advance(Duration::from_millis(5));
        assert_eq!(clock.boottime().since(before), Duration::from_millis(5));
        assert_eq!(before.since(clock.boottime()), Duration::ZERO);
    }
}
