//! The proof of leadership that every effect carries.

/// The fencing token of one duty: an effect is done only while `leader_epoch` still says exactly this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The duty's name.
    pub role: &'static str,
    /// Grows with each take-over.
    pub epoch: i64,
    /// Of the primary under which the lease was won.
    pub timeline: i32,
}
