//! Who is calling: certificates, tokens, and the keys behind them.

pub mod ca;
pub mod csr;
pub mod enrollment_token;
pub mod jwt;
pub mod pki;
