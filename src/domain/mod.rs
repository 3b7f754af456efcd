//! Nouns and rules. No async, no I/O, and no clock reads outside [`time`].

pub mod access;
pub mod candidacy;
pub mod database_clock;
pub mod digest;
pub mod enrollment;
pub mod ids;
pub mod lease;
pub mod name;
pub mod presence;
pub mod random;
pub mod reading;
pub mod time;
