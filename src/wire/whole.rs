//! Whole numbers in requests. To JSON Schema `30.0` is an integer (JSON Schema Core, 6.3), and some programs write all
//! their numbers so; serde takes it for a fraction.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserializer, Error, Unexpected, Visitor};

/// 2^63: from here on, no `i64` is so large.
const BEYOND: f64 = 9_223_372_036_854_775_808.0;

/// The whole number that this is; `None` for a fraction, and for what no `i64` holds.
pub fn of(number: f64) -> Option<i64> {
    let is_whole = number.fract() == 0.0 && (-BEYOND..BEYOND).contains(&number);
    #[expect(clippy::cast_possible_truncation, reason = "it is whole, and within the bounds")]
    is_whole.then_some(number as i64)
}

struct Whole<T>(PhantomData<T>);

impl<T: TryFrom<i64> + TryFrom<u64>> Visitor<'_> for Whole<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number in its range")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        T::try_from(number).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        T::try_from(number).map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<T, E> {
        let whole = of(number).and_then(|number| T::try_from(number).ok());
        whole.ok_or_else(|| E::invalid_value(Unexpected::Float(number), &self))
    }
}

/// A whole number, however it is written.
pub fn deserialize<'de, D: Deserializer<'de>, T: TryFrom<i64> + TryFrom<u64>>(from: D) -> Result<T, D::Error> {
    from.deserialize_any(Whole(PhantomData))
}

/// The same for one that may be null.
pub mod option {
    use super::{Deserializer, Error, PhantomData, Visitor, Whole, fmt};

    struct Maybe<T>(PhantomData<T>);

    impl<'de, T: TryFrom<i64> + TryFrom<u64>> Visitor<'de> for Maybe<T> {
        type Value = Option<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a whole number, or null")
        }

        fn visit_none<E: Error>(self) -> Result<Option<T>, E> {
            Ok(None)
        }

        fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Option<T>, D::Error> {
            from.deserialize_any(Whole(PhantomData)).map(Some)
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>, T: TryFrom<i64> + TryFrom<u64>>(
        from: D,
    ) -> Result<Option<T>, D::Error> {
        from.deserialize_option(Maybe(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Numbers {
        #[serde(deserialize_with = "deserialize")]
        a: i64,
        #[serde(default, deserialize_with = "option::deserialize")]
        b: Option<u64>,
        #[serde(default, deserialize_with = "option::deserialize")]
        c: Option<i32>,
    }

    #[test]
    fn whole_numbers_however_they_are_written() {
        let read = |text: &str| serde_json::from_str::<Numbers>(text).ok();
        let good = |a, b, c| Some(Numbers { a, b, c });
        assert_eq!(read(r#"{"a": -7}"#), good(-7, None, None));
        assert_eq!(read(r#"{"a": 7.0, "b": 3e2, "c": null}"#), good(7, Some(300), None));
        assert_eq!(
            read(r#"{"a": 0, "b": 18446744073709551615, "c": -2147483648.0}"#),
            good(0, Some(u64::MAX), Some(i32::MIN))
        );
        for bad in [
            r#"{"a": 7.5}"#,
            r#"{"a": "7"}"#,
            r#"{"a": null}"#,
            r#"{"a": 9223372036854775808.0}"#,
            r#"{"a": 1, "b": -1}"#,
            r#"{"a": 1, "b": -1.0}"#,
            r#"{"a": 1, "c": 2147483648.0}"#,
            r#"{"a": 1, "c": 0.5}"#,
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
