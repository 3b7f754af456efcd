//! Requests of several kinds, each with a weight: `heartbeat=55,reading=35,batch:100=10`. Pure.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::domain::random::Random;

/// Readings in one request, at most: what the service takes by default.
pub const BATCH_MAX: usize = 1_000;
/// The sum of all weights stays far from overflowing.
const WEIGHT_MAX: u32 = 1_000_000;

/// What one request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `POST /v1/heartbeat`.
    Heartbeat,
    /// `POST /v1/readings` with so many.
    Readings(usize),
}

impl Kind {
    pub fn readings(self) -> f64 {
        match self {
            Self::Heartbeat => 0.0,
            Self::Readings(count) => f64::from(u32::try_from(count).unwrap_or(u32::MAX)),
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "heartbeat" => Ok(Self::Heartbeat),
            "reading" => Ok(Self::Readings(1)),
            _ => match text.strip_prefix("batch:").map(str::parse) {
                Some(Ok(count @ 1..=BATCH_MAX)) => Ok(Self::Readings(count)),
                _ => Err(format!("{text:?} is none of heartbeat, reading, batch:N (1 to {BATCH_MAX})")),
            },
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Heartbeat => f.write_str("heartbeat"),
            Self::Readings(1) => f.write_str("reading"),
            Self::Readings(count) => write!(f, "batch:{count}"),
        }
    }
}

/// How often a kind comes, beside the weights of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    pub kind: Kind,
    pub weight: u32,
}

/// At least one share, no kind twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mix(Vec<Share>);

impl Mix {
    fn weight(&self) -> u64 {
        self.0.iter().map(|share| u64::from(share.weight)).sum()
    }

    /// Readings that one request carries, on average.
    #[expect(clippy::cast_precision_loss, reason = "a sum of few weights")]
    pub fn readings(&self) -> f64 {
        let weighted = self.0.iter().map(|share| f64::from(share.weight) * share.kind.readings()).sum::<f64>();
        weighted / self.weight().max(1) as f64
    }

    pub fn draw(&self, random: &Random) -> Kind {
        let mut left = random.below(usize::try_from(self.weight()).unwrap_or(usize::MAX));
        for share in &self.0 {
            let weight = usize::try_from(share.weight).unwrap_or(usize::MAX);
            if left < weight {
                return share.kind;
            }
            left -= weight;
        }
        // Only a file that was edited by hand has no share.
        Kind::Heartbeat
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut shares: Vec<Share> = Vec::new();
        for part in text.split(',') {
            let share = share(part.trim())?;
            if shares.iter().any(|known| known.kind == share.kind) {
                return Err(format!("{} is in the mix twice", share.kind));
            }
            shares.push(share);
        }
        Ok(Self(shares))
    }
}

fn share(text: &str) -> Result<Share, String> {
    let as_in = "as in mix:heartbeat=55,reading=35,batch:100=10";
    let Some((kind, weight)) = text.split_once('=') else {
        return Err(format!("a mix is KIND=WEIGHT,…, {as_in}; {text:?} has no weight"));
    };
    let weight = weight.parse().ok().filter(|weight| (1..=WEIGHT_MAX).contains(weight)).ok_or_else(|| {
        format!("the weight of {kind} is a whole number from 1 to {WEIGHT_MAX}, {as_in}; {weight:?} is not")
    })?;
    Ok(Share { kind: kind.parse()?, weight })
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, share) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}={}", share.kind, share.weight)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "heartbeat=55,reading=35,batch:100=10";

    #[test]
    fn each_kind_comes_as_often_as_its_weight_says() {
        let (mix, random) = (TEXT.parse::<Mix>().unwrap(), Random::seeded(3));
        let drawn: Vec<Kind> = (0..10_000).map(|_| mix.draw(&random)).collect();
        for (kind, expected) in [(Kind::Heartbeat, 5_500), (Kind::Readings(1), 3_500), (Kind::Readings(100), 1_000)] {
            let count = drawn.iter().filter(|drawn| **drawn == kind).count();
            assert!(count.abs_diff(expected) < 250, "{kind}: {count}");
        }
        assert!((mix.readings() - 10.35).abs() < 1e-9);
    }

    #[test]
    fn it_is_written_as_it_is_read() {
        assert_eq!(TEXT.parse::<Mix>().unwrap().to_string(), TEXT);
        assert_eq!(
            " reading=1 , batch:1000=1000000".parse::<Mix>().unwrap().to_string(),
            "reading=1,batch:1000=1000000"
        );
        let mix: Mix = TEXT.parse().unwrap();
        assert_eq!(serde_json::from_str::<Mix>(&serde_json::to_string(&mix).unwrap()).unwrap(), mix);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let table = [
            ("", "\"\" has no weight"),
            ("heartbeat", "\"heartbeat\" has no weight"),
            ("heartbeat=1,", "\"\" has no weight"),
            ("heartbeat=", "the weight of heartbeat is a whole number from 1 to 1000000"),
            ("heartbeat=0", "\"0\" is not"),
            ("heartbeat=-1", "\"-1\" is not"),
            ("heartbeat=0.5", "\"0.5\" is not"),
            ("reading=1000001", "\"1000001\" is not"),
            ("heartbeat=1=2", "\"1=2\" is not"),
            ("storm=10", "\"storm\" is none of heartbeat, reading, batch:N (1 to 1000)"),
            ("batch:0=1", "\"batch:0\" is none of"),
            ("batch=1", "\"batch\" is none of"),
            ("reading=1,heartbeat=2,reading=3", "reading is in the mix twice"),
            ("reading=1,batch:1=3", "reading is in the mix twice"),
        ];
        for (text, said) in table {
            let error = text.parse::<Mix>().unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
