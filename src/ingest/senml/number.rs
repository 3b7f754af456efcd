//! Numbers of both encodings. A number is what it is worth: 1, 1.0 and CBOR's half-precision 1 are one number.

use crate::domain::reading::{Value, integer_of};

const NS_PER_S: i128 = 1_000_000_000;
/// No time is further away. In seconds.
const FAR_S: f64 = 1e12;

/// A finite number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    /// Every integer of [`Value`]'s range, however it was written.
    Whole(i128),
    Float(f64),
}

impl Number {
    pub const ZERO: Self = Self::Whole(0);

    #[expect(clippy::cast_precision_loss, reason = "beyond 64 bits a number is the nearest double, as JSON's are")]
    pub fn whole(number: i128) -> Self {
        const LOWEST: i128 = i64::MIN as i128;
        const HIGHEST: i128 = u64::MAX as i128;
        if (LOWEST..=HIGHEST).contains(&number) { Self::Whole(number) } else { Self::Float(number as f64) }
    }

    /// `None`: infinite, or not a number.
    pub fn float(number: f64) -> Option<Self> {
        match integer_of(number) {
            Some(integer) => Some(Self::Whole(integer)),
            None => number.is_finite().then_some(Self::Float(number)),
        }
    }

    /// The number of a text that is one in JSON's grammar.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(whole) = text.parse() {
            return Some(Self::whole(whole));
        }
        Self::float(text.parse().ok()?)
    }

    /// The sum; of two integers it is exact. `None`: it is infinite.
    pub fn plus(self, other: Self) -> Option<Self> {
        match (self, other) {
            (Self::Whole(one), Self::Whole(other)) => Some(Self::whole(one + other)),
            // A float plus nothing is itself, and so is not rounded.
            (number, Self::ZERO) | (Self::ZERO, number) => Some(number),
            (one, other) => Self::float(one.double() + other.double()),
        }
    }

    /// Seconds as nanoseconds. A double of today's time is exact to a quarter of a microsecond, so two of them can be
    /// added to the microsecond as integers; as doubles they could not. `None`: no time is that far away.
    #[expect(clippy::cast_possible_truncation, reason = "less than FAR_S, and the fraction is cut off on purpose")]
    pub fn seconds_as_ns(self) -> Option<i128> {
        match self {
            Self::Whole(seconds) => Some(seconds * NS_PER_S),
            Self::Float(seconds) if seconds.abs() > FAR_S => None,
            Self::Float(seconds) => Some(seconds.trunc() as i128 * NS_PER_S + (seconds.fract() * 1e9).round() as i128),
        }
    }

    /// As a metric's value.
    pub fn value(self) -> Option<Value> {
        match self {
            Self::Whole(number) => match i64::try_from(number) {
                Ok(number) => Some(number.into()),
                Err(_) => u64::try_from(number).ok().map(Value::from),
            },
            Self::Float(number) => Value::float(number),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "the sum with a float is one")]
    fn double(self) -> f64 {
        match self {
            Self::Whole(number) => number as f64,
            Self::Float(number) => number,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(text: &str) -> Number {
        Number::parse(text).unwrap()
    }

    #[test]
    fn a_number_is_what_it_is_worth() {
        for text in ["20", "20.0", "2e1", "2.0E+1", "200e-1"] {
            assert_eq!(number(text), Number::Whole(20), "{text}");
        }
        assert_eq!(number("-0"), Number::ZERO);
        assert_eq!(number("-0.0"), Number::ZERO);
        assert_eq!(number("18446744073709551615"), Number::Whole(u64::MAX.into()));
        assert_eq!(number("18446744073709551616"), Number::Float(18_446_744_073_709_551_616.0));
        assert_eq!(number("-9223372036854775809"), Number::Float(-9_223_372_036_854_775_808.0));
        assert_eq!(number(&"9".repeat(300)), Number::Float(1e300));
        assert_eq!(Number::parse("1e400"), None);
        assert_eq!(Number::float(f64::NAN), None);
    }

    #[test]
    fn sums() {
        assert_eq!(number("9007199254740993").plus(number("1")), Some(Number::Whole(9_007_199_254_740_994)));
        assert_eq!(number("20").plus(number("0.25")), Some(Number::Float(20.25)));
        assert_eq!(number("0.5").plus(number("0.5")), Some(Number::Whole(1)));
        assert_eq!(number("1e308").plus(number("1e308")), None);
        assert_eq!(number("18446744073709551615").plus(number("1")), Some(number("18446744073709551616")));
    }

    proptest! {
        #[test]
        fn microseconds_survive(us in 0_i64..8_000_000_000_000_000) {
            let text = format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
            let ns = number(&text).seconds_as_ns().unwrap();
            prop_assert!((ns - i128::from(us) * 1_000).abs() < 500, "{} {}", text, ns);
        }

        #[test]
        fn seconds_of_any_number(text in "-?[0-9]{1,25}(\\.[0-9]{1,20})?(e[+-]?[0-9]{1,3})?") {
            if let Some(number) = Number::parse(&text) {
                let _ = (number.seconds_as_ns(), number.plus(number), number.value());
            }
        }
    }
}
