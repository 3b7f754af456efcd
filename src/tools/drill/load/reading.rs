//! What the devices measure: a few numbers, a flag and a text, made up. All that counts is `n`, the reading's number.

use uuid::Uuid;

use crate::domain::random::Random;
use crate::domain::time::Clock;

/// A value that can be written in several ways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Metric {
    Whole(i64),
    /// `digits` × 10^-3
    Thousandths(i64),
    Flag(bool),
    Text(&'static str),
}

/// One reading. Sending it again, however it is written, stores nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    /// Counted for each device from 1; also one of the metrics.
    pub n: u64,
    pub ts_us: i64,
    pub id: Uuid,
    pub metrics: Vec<(&'static str, Metric)>,
}

/// Texts with what JSON escapes, and with what it need not.
const TEXTS: [&str; 4] = ["ok", "zu heiß", "say \"no\" \\ or /", "line\nbreak"];

impl Reading {
    /// A reading of now with the number `n`.
    pub fn measure(n: u64, clock: &Clock, random: &Random) -> Self {
        let now_us = clock.unix_us();
        // Whole milliseconds can be written as a number, too. Never a time before now: by its time a reading is told
        // from those of the scenario before.
        let to_the_millisecond = (-now_us).rem_euclid(1_000);
        let ts_us = if random.chance(0.5) { now_us + to_the_millisecond } else { now_us };
        let bits = u128::from(random.bits()) << 64 | u128::from(random.bits());
        let drift = i64::try_from(random.below(40_000)).unwrap_or(0);
        let metrics = vec![
            ("n", Metric::Whole(i64::try_from(n).unwrap_or(i64::MAX))),
            ("temperature", Metric::Thousandths(drift - 20_000)),
            ("rpm", Metric::Whole(drift * 10)),
            ("running", Metric::Flag(random.chance(0.5))),
            ("note", Metric::Text(TEXTS[random.below(TEXTS.len())])),
        ];
        Self { n, ts_us, id: uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid(), metrics }
    }
}
