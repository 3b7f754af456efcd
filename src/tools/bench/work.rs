//! What one request is.

use std::fmt::Write as _;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::client::ClientError;
use crate::client::transport::Call;
use crate::domain::random::Random;

const BATCH_MAX: usize = 1_000;
/// Of a mix, how many requests are heartbeats.
const HEARTBEATS_OF_MIX: f64 = 0.5;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
            _ => match text.strip_prefix("batch:").map(str::parse) {
                Some(Ok(count @ 1..=BATCH_MAX)) => Ok(Self::Batch(count)),
                _ => Err(format!("one of heartbeat, reading, batch:N (1 to {BATCH_MAX}), mix, storm")),
            },
        }
    }
}

impl Work {
    /// Readings that one request carries, on average.
    pub fn readings(self) -> f64 {
        match self {
            Self::Heartbeat | Self::Storm => 0.0,
            Self::Reading => 1.0,
            Self::Batch(count) => f64::from(u32::try_from(count).unwrap_or(u32::MAX)),
            Self::Mix => 1.0 - HEARTBEATS_OF_MIX,
        }
    }

    /// One request. Readings have ids of their own: none is a duplicate.
    pub fn call(self, token: &str, random: &Random) -> Result<Call, ClientError> {
        let (path, body) = match self {
            Self::Heartbeat | Self::Storm => ("/v1/heartbeat", "{}".to_owned()),
            Self::Mix if random.chance(HEARTBEATS_OF_MIX) => ("/v1/heartbeat", "{}".to_owned()),
            Self::Reading | Self::Mix => ("/v1/readings", readings(1, random)),
            Self::Batch(count) => ("/v1/readings", readings(count, random)),
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
            ("storm", Work::Storm),
        ];
        for (text, work) in table {
            assert_eq!(text.parse(), Ok(work));
        }
        for bad in ["", "batch", "batch:0", "batch:1001", "readings"] {
            assert!(bad.parse::<Work>().is_err(), "{bad}");
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
