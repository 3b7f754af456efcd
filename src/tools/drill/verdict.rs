//! The invariants, and what the checker says of each.

use serde::{Deserialize, Serialize};

/// The promises that a drill decides. The numbers are part of the reports and only grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Invariant {
    /// I1: no acknowledged reading is lost; an answer "duplicate" is an acknowledgement.
    NothingLost,
    /// I2: no reading is stored twice, by the number inside its values.
    NothingTwice,
    /// I3: effects of leaders are in the order of (timeline, epoch).
    EffectsOrdered,
    /// I4: two replicas believe to lead at once only while one of them is paused.
    OneBelief,
    /// I5: no device that heartbeat within its promise turns offline; failed attempts count for the device.
    NoFalseOffline,
    /// I6: a device that was killed is offline in the time that the formula gives.
    SilenceSeen,
    /// I7: no success for a revoked identity after the bound.
    RevocationActs,
    /// I8: on one replica, what was read or written is never older afterwards.
    CachesForward,
    /// I9: nothing leaks.
    NothingLeaks,
    /// I10: the run was not vacuous, and nothing happened that its scenario excludes.
    NotVacuous,
    /// I11: nothing is acknowledged that only the primary can have.
    NothingAlone,
}

impl Invariant {
    pub const ALL: [Self; 11] = [
        Self::NothingLost,
        Self::NothingTwice,
        Self::EffectsOrdered,
        Self::OneBelief,
        Self::NoFalseOffline,
        Self::SilenceSeen,
        Self::RevocationActs,
        Self::CachesForward,
        Self::NothingLeaks,
        Self::NotVacuous,
        Self::NothingAlone,
    ];

    /// The promise in a few words, for tables.
    pub fn title(self) -> &'static str {
        match self {
            Self::NothingLost => "no acknowledged reading is lost",
            Self::NothingTwice => "no reading is stored twice",
            Self::EffectsOrdered => "leaders' effects are in order",
            Self::OneBelief => "one leader at a time",
            Self::NoFalseOffline => "no false offline",
            Self::SilenceSeen => "silence is seen in time",
            Self::RevocationActs => "a revocation acts in time",
            Self::CachesForward => "caches never go back",
            Self::NothingLeaks => "nothing leaks",
            Self::NotVacuous => "the run was not vacuous",
            Self::NothingAlone => "nothing is acknowledged by one node alone",
        }
    }

    /// `I1` to `I11`.
    pub fn code(self) -> String {
        let at = Self::ALL.iter().position(|known| *known == self).unwrap_or_default();
        format!("I{}", at + 1)
    }
}

/// What the evidence says of one invariant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    pub invariant: Invariant,
    pub held: bool,
    /// How many things were judged: acknowledged readings, belief spans, … Zero: nothing of this kind happened.
    pub judged: u64,
    /// Breaches, the first hundred, in words: who, what, when.
    pub breaches: Vec<String>,
    pub breaches_total: u64,
    /// What was judged apart, and how much: for people.
    #[serde(default)]
    pub notes: Vec<String>,
}

impl Verdict {
    /// How many breaches are told in words.
    pub const TOLD_MAX: usize = 100;

    pub fn new(invariant: Invariant, judged: u64, mut breaches: Vec<String>) -> Self {
        let breaches_total = breaches.len() as u64;
        breaches.truncate(Self::TOLD_MAX);
        Self { invariant, held: breaches_total == 0, judged, breaches, breaches_total, notes: Vec::new() }
    }

    #[must_use]
    pub fn note(mut self, note: Option<String>) -> Self {
        self.notes.extend(note);
        self
    }
}
