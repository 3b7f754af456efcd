//! The sensors of a simulated device: smooth walks that stay where real values would.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::domain::random::Random;

/// A value that wanders around a centre and is drawn back to it.
struct Walk {
    centre: f64,
    value: f64,
    step: f64,
}

/// Share of the distance to the centre that is taken back at each step.
const PULL: f64 = 0.02;
/// A battery's life, from full to the level at which it is charged again.
const BATTERY_LIFE: Duration = Duration::from_hours(24);
const BATTERY_LOW: f64 = 15.0;

impl Walk {
    fn new(random: &Random, centre: f64, spread: f64, step: f64) -> Self {
        let centre = centre + random.uniform(-spread, spread);
        Self { centre, value: centre + random.uniform(-spread, spread) / 2.0, step }
    }

    fn next(&mut self, random: &Random) -> f64 {
        self.value += (self.centre - self.value) * PULL + random.uniform(-self.step, self.step);
        self.value
    }
}

/// Temperature (°C), humidity (%), battery (%), signal (dBm), and whether the battery is charging.
pub struct Sensors {
    random: Random,
    temperature: Walk,
    humidity: Walk,
    signal: Walk,
    battery: f64,
    charging: bool,
}

impl Sensors {
    pub fn new(random: Random) -> Self {
        Self {
            temperature: Walk::new(&random, 21.0, 4.0, 0.15),
            humidity: Walk::new(&random, 45.0, 10.0, 0.4),
            signal: Walk::new(&random, -67.0, 10.0, 1.0),
            battery: random.uniform(30.0, 100.0),
            charging: false,
            random,
        }
    }

    /// What the sensors show, `elapsed` after the last time.
    pub fn measure(&mut self, elapsed: Duration) -> Map<String, Value> {
        let drained = 100.0 * elapsed.as_secs_f64() / BATTERY_LIFE.as_secs_f64();
        self.battery = (self.battery + if self.charging { drained * 20.0 } else { -drained }).clamp(0.0, 100.0);
        self.charging = if self.charging { self.battery < 100.0 } else { self.battery < BATTERY_LOW };
        let random = &self.random;
        [
            ("temperature", number(self.temperature.next(random))),
            ("humidity", number(self.humidity.next(random).clamp(0.0, 100.0))),
            ("battery", number(self.battery)),
            ("signal", number(self.signal.next(random).clamp(-120.0, -20.0).round())),
            ("charging", Value::Bool(self.charging)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .collect()
    }
}

/// Two digits are what such a sensor has.
fn number(value: f64) -> Value {
    Value::from((value * 100.0).round() / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_week_of_values_is_smooth_and_in_bounds() {
        let mut sensors = Sensors::new(Random::seeded(5));
        let mut before = None;
        let mut charged = false;
        for _ in 0..120_000 {
            let values = sensors.measure(Duration::from_secs(5));
            let number = |name: &str| values[name].as_f64().unwrap();
            assert!((5.0..40.0).contains(&number("temperature")), "{values:?}");
            assert!((0.0..=100.0).contains(&number("humidity")) && (0.0..=100.0).contains(&number("battery")));
            let temperature = number("temperature");
            assert!(before.is_none_or(|b: f64| (b - temperature).abs() < 0.5), "a jump");
            before = Some(temperature);
            charged |= values["charging"] == Value::Bool(true);
        }
        assert!(charged);
    }
}
