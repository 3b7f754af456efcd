//! Real sockets, real TLS, certificates made on the spot. Deadlines are short in the settings and generous in the
//! assertions: what is measured is that an end comes, and why.

mod connections;
mod deadlines;
mod pki;
mod rig;
mod verdicts;
