//! What is sent.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::mix::{BATCH_MAX, Kind, Mix};
use crate::client::ClientError;
use crate::client::transport::Call;
use crate::domain::random::Random;

/// Of a mix without weights, how many requests are heartbeats.
const HEARTBEATS_OF_MIX: f64 = 0.5;

/// What is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// `POST /v1/heartbeat`.
    Heartbeat,
    /// `POST /v1/readings`, one reading of five metrics.
    Reading,
    /// The same with so many in a request.
    Batch(usize),
    /// Heartbeats and single readings, half of each.
    Mix,
    /// What it says, as often as it says.
    Weighted(Mix),
    /// A new connection, with its handshake, and a heartbeat on it.
    Storm,
}

impl FromStr for Work {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "heartbeat" => Ok(Self::Heartbeat),
            "reading" => Ok(Self::Reading),
            "mix" => Ok(Self::Mix),
            "storm" => Ok(Self::Storm),
            _ => match text.split_once(':') {
                Some(("mix", shares)) => shares.parse().map(Self::Weighted),
                Some(("batch", count)) => match count.parse() {
                    Ok(count @ 1..=BATCH_MAX) => Ok(Self::Batch(count)),
                    _ => Err(format!("a batch has 1 to {BATCH_MAX} readings, as in batch:100")),
                },
                _ => Err("one of heartbeat, reading, batch:N, mix, mix:KIND=WEIGHT,…, storm".to_owned()),
            },
        }
    }
}

/// As on the command line.
impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Heartbeat => f.write_str("heartbeat"),
            Self::Reading => f.write_str("reading"),
            Self::Batch(count) => write!(f, "batch:{count}"),
            Self::Mix => f.write_str("mix"),
            Self::Weighted(mix) => write!(f, "mix:{mix}"),
            Self::Storm => f.write_str("storm"),
        }
    }
}

impl Work {
    /// Readings that one request carries, on average.
    pub fn readings(&self) -> f64 {
        match self {
            Self::Heartbeat | Self::Storm => 0.0,
            Self::Reading => 1.0,
            Self::Batch(count) => Kind::Readings(*count).readings(),
            Self::Mix => 1.0 - HEARTBEATS_OF_MIX,
            Self::Weighted(mix) => mix.readings(),
        }
    }

    fn draw(&self, random: &Random) -> Kind {
        match self {
            Self::Heartbeat | Self::Storm => Kind::Heartbeat,
            Self::Batch(count) => Kind::Readings(*count),
            Self::Mix if random.chance(HEARTBEATS_OF_MIX) => Kind::Heartbeat,
            Self::Reading | Self::Mix => Kind::Readings(1),
            Self::Weighted(mix) => mix.draw(random),
        }
    }

    /// One request. Readings have ids of their own: none is a duplicate.
    pub fn call(&self, token: &str, random: &Random) -> Result<Call, ClientError> {
        let (path, body) = match self.draw(random) {
            Kind::Heartbeat => ("/v1/heartbeat", "{}".to_owned()),
            Kind::Readings(count) => ("/v1/readings", readings(count, random)),
        };
        let call = Call { content_type: Some("application/json"), ..Call::post(path, Bytes::from(body)) };
        call.bearer(token)
    }
}

fn readings(count: usize, random: &Random) -> String {
    let mut body = String::with_capacity(count * 160 + 2);
    if count != 1 {
        body.push('[');
    }
    for n in 0..count {
        if n > 0 {
            body.push(',');
        }
        let _ = write!(
            body,
            r#"{{"id":"{}","values":{{"temperature":{}.5,"humidity":40.25,"pressure":1013,"door":false,"mode":"auto"}}}}"#,
            Uuid::now_v7(),
            random.below(40)
        );
    }
    if count != 1 {
        body.push(']');
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write() {
        let table = [
            ("heartbeat", Work::Heartbeat),
            ("reading", Work::Reading),
            ("batch:100", Work::Batch(100)),
            ("mix", Work::Mix),
            ("mix:heartbeat=1,batch:7=3", Work::Weighted("heartbeat=1,batch:7=3".parse().unwrap())),
            ("storm", Work::Storm),
        ];
        for (text, work) in table {
            assert_eq!(text.parse(), Ok(work.clone()));
            assert_eq!(work.to_string(), text);
        }
        let bad = [
            ("", "one of heartbeat"),
            ("readings", "one of heartbeat"),
            ("batch", "one of heartbeat"),
            ("batch:0", "1 to 1000 readings"),
            ("batch:1001", "1 to 1000 readings"),
            ("mix:", "has no weight"),
            ("mix:storm=1", "\"storm\" is none of"),
        ];
        for (text, said) in bad {
            let error = text.parse::<Work>().unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn bodies_are_json_and_no_two_readings_are_the_same() {
        let random = Random::seeded(1);
        let body =
            |work: Work| serde_json::from_slice::<serde_json::Value>(&work.call("t", &random).unwrap().body).unwrap();
        assert_eq!(body(Work::Reading)["values"].as_object().unwrap().len(), 5);
        let batch = body(Work::Batch(50));
        let ids: std::collections::HashSet<_> =
            batch.as_array().unwrap().iter().map(|one| one["id"].to_string()).collect();
        assert_eq!(ids.len(), 50);
    }
}
