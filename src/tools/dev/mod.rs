//! `everbeat dev`: the whole service on one machine, with a database of its own.

pub mod postgres;
