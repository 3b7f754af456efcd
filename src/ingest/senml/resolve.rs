//! Records become resolved ones (RFC 8428, 4.6): the base fields are applied, and times are absolute.

use std::borrow::Cow;

use super::number::Number;
use super::record::{Base, Bases, Measured, Record};
use crate::ingest::decode::DecodeError;

/// Without `bver` (RFC 8428, 4.1).
const DEFAULT_VERSION: i128 = 10;
/// From here on a time is absolute (RFC 8428, 4.5.3): 2^28 seconds.
const ABSOLUTE_FROM_NS: i128 = (1 << 28) * 1_000_000_000;

/// A record that stands alone.
#[derive(Debug, PartialEq)]
pub(super) struct Resolved<'a> {
    pub name: String,
    /// Empty: none.
    pub unit: Cow<'a, str>,
    /// Microseconds since 1970.
    pub ts_us: i64,
    pub value: Option<Measured<'a>>,
    pub sum: Option<Number>,
}

/// A base field in force.
enum Held<T> {
    Absent,
    Is(T),
    /// The record with this index has one that cannot be used.
    Broken(usize),
}

impl<T> Held<T> {
    fn replace(&mut self, base: Base<T>, index: usize) {
        match base {
            Base::Absent => {}
            Base::Is(value) => *self = Self::Is(value),
            Base::Broken => *self = Self::Broken(index),
        }
    }

    fn get(&self, label: &str) -> Result<Option<&T>, String> {
        match self {
            Self::Absent => Ok(None),
            Self::Is(value) => Ok(Some(value)),
            Self::Broken(index) => Err(format!("/{label}: that of the record with index {index} is not valid")),
        }
    }
}

/// What the records so far have said for those that follow.
pub(super) struct Resolver<'a> {
    now_us: i64,
    version: Option<i128>,
    name: Held<Cow<'a, str>>,
    time: Held<Number>,
    unit: Held<Cow<'a, str>>,
    value: Held<Number>,
    sum: Held<Number>,
}

impl<'a> Resolver<'a> {
    /// `now_us`: what times are relative to.
    pub fn new(now_us: i64) -> Self {
        Self {
            now_us,
            version: None,
            name: Held::Absent,
            time: Held::Absent,
            unit: Held::Absent,
            value: Held::Absent,
            sum: Held::Absent,
        }
    }

    /// Resolves the next record. `None`: it has base fields alone (as in RFC 8428, 5.1.7), and measures nothing.
    ///
    /// # Errors
    /// Outer: the pack has records of two versions. Inner: what is wrong with this record.
    pub fn resolve(
        &mut self,
        index: usize,
        record: Record<'a>,
    ) -> Result<Result<Option<Resolved<'a>>, String>, DecodeError> {
        let version = *self.version.get_or_insert(record.version.unwrap_or(DEFAULT_VERSION));
        if record.version.is_some_and(|other| other != version) {
            return Err(DecodeError::SenmlVersions);
        }
        let Record { bases, name, unit, value, sum, time, measures, fault, .. } = record;
        self.hold(bases, index);
        Ok(match fault {
            Some(fault) => Err(fault),
            None if !measures => Ok(None),
            None => self.apply(Parts { name, unit, value, sum, time }).map(Some),
        })
    }

    fn hold(&mut self, bases: Bases<'a>, index: usize) {
        self.name.replace(bases.name, index);
        self.time.replace(bases.time, index);
        self.unit.replace(bases.unit, index);
        self.value.replace(bases.value, index);
        self.sum.replace(bases.sum, index);
    }

    fn apply(&self, parts: Parts<'a>) -> Result<Resolved<'a>, String> {
        let base = self.name.get("bn")?.map_or("", |name| &**name);
        let name = format!("{base}{}", parts.name.unwrap_or_default());
        check_name(&name)?;
        let unit = match parts.unit {
            Some(unit) => unit,
            None => self.unit.get("bu")?.cloned().unwrap_or_default(),
        };
        let (base, time) = (self.time.get("bt")?.copied(), parts.time);
        let ts_us = self
            .at(base.unwrap_or(Number::ZERO), time.unwrap_or(Number::ZERO))
            .ok_or_else(|| "/t: there is no such time".to_owned())?;
        let value = match parts.value {
            Some(Measured::Number(number)) => Some(Measured::Number(plus(self.value.get("bv")?, number, "v")?)),
            value => value,
        };
        // With one of the two there is a sum (RFC 8428, 4.5.4).
        let sum = match (self.sum.get("bs")?, parts.sum) {
            (None, sum) => sum,
            (base, sum) => Some(plus(base, sum.unwrap_or(Number::ZERO), "s")?),
        };
        if value.is_none() && sum.is_none() {
            return Err("has no value: one of v, vs, vb and vd, or a sum (s)".to_owned());
        }
        Ok(Resolved { name, unit, ts_us, value, sum })
    }

    /// RFC 8428, 4.5.3, to the nearest microsecond.
    fn at(&self, base: Number, time: Number) -> Option<i64> {
        let ns = base.seconds_as_ns()? + time.seconds_as_ns()?;
        let us = (ns + 500).div_euclid(1_000);
        let relative = ns < ABSOLUTE_FROM_NS;
        i64::try_from(if relative { us + i128::from(self.now_us) } else { us }).ok()
    }
}

struct Parts<'a> {
    name: Option<Cow<'a, str>>,
    unit: Option<Cow<'a, str>>,
    value: Option<Measured<'a>>,
    sum: Option<Number>,
    time: Option<Number>,
}

fn plus(base: Option<&Number>, number: Number, label: &str) -> Result<Number, String> {
    base.map_or(Some(number), |base| base.plus(number))
        .ok_or_else(|| format!("/{label}: with its base it is not a finite number"))
}

/// RFC 8428, 4.5.1.
fn check_name(name: &str) -> Result<(), String> {
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err("/n: a name (bn and n together) must begin with a letter or a digit".to_owned());
    }
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || "-:./_".contains(c)) {
        return Err("/n: a name (bn and n together) has letters, digits and - : . / _ only".to_owned());
    }
    Ok(())
}
