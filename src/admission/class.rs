//! What a request is worth when not all can be served.

/// From what is shed last to what is shed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// What answers from memory and tells callers how we are: time, the CA, the contract.
    Health,
    /// Signs of life.
    Heartbeats,
    Readings,
    /// Messages, single reads, credentials, and changes by operators.
    Exchange,
    /// Lists and exports.
    Lists,
}

impl Class {
    /// In the order of their worth.
    pub const ALL: [Self; 5] = [Self::Health, Self::Heartbeats, Self::Readings, Self::Exchange, Self::Lists];

    /// Its guaranteed part of the limit, in percent.
    pub const fn share(self) -> u32 {
        match self {
            Self::Health => 5,
            Self::Heartbeats => 25,
            Self::Readings => 40,
            Self::Exchange => 20,
            Self::Lists => 10,
        }
    }

    /// How far above the limit the last of it is refused, in percent of the way to the most.
    pub(super) const fn patience(self) -> u32 {
        match self {
            Self::Health | Self::Heartbeats => 100,
            Self::Readings => 75,
            Self::Exchange => 50,
            Self::Lists => 0,
        }
    }

    /// The name of its limit, as refusals tell it.
    pub const fn limit_name(self) -> &'static str {
        match self {
            Self::Health => "concurrency_health",
            Self::Heartbeats => "concurrency_heartbeats",
            Self::Readings => "concurrency_readings",
            Self::Exchange => "concurrency_exchange",
            Self::Lists => "concurrency_lists",
        }
    }

    /// The same as metrics label it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Heartbeats => "heartbeats",
            Self::Readings => "readings",
            Self::Exchange => "exchange",
            Self::Lists => "lists",
        }
    }

    /// Heartbeats are answered before they are flushed.
    pub(super) const fn waits_for_commits(self) -> bool {
        !matches!(self, Self::Health | Self::Heartbeats)
    }

    /// How many of a class may have a connection to the database or wait for one, where most of them take one each: of
    /// lists, whose connections are others, a quarter. Readings share theirs.
    pub(super) fn of_database(self, most: u32) -> Option<u32> {
        match self {
            Self::Exchange => Some(most),
            Self::Lists => Some(most.div_ceil(4)),
            Self::Health | Self::Heartbeats | Self::Readings => None,
        }
    }

    pub(super) const fn place(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_are_the_whole() {
        assert_eq!(Class::ALL.iter().map(|class| class.share()).sum::<u32>(), 100);
        assert!(Class::ALL.is_sorted(), "the order is that of their worth");
        assert!(Class::ALL.iter().enumerate().all(|(place, class)| class.place() == place));
    }
}
