//! Bodies that are slow to come. A request whose body does not follow its head at once waits outside of its class, and asks
//! to enter again when the body is whole: who sends slowly, or never, takes no part of what others could use.
//!
//! How many wait is bounded, since each holds memory: of all, of those who show no certificate, and of one caller.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::failures::Source;
use crate::domain::ids::DeviceId;

/// Of all callers. Times the longest body: what slow bodies may hold.
const ALL_MAX: u32 = 512;
/// Of those who show no certificate of ours. The rest is for devices.
const STRANGERS_MAX: u32 = 128;
/// Of one device, or of one address.
const CALLER_MAX: u32 = 32;

/// Who sends a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sender {
    Device(DeviceId),
    Address(Source),
}

impl Sender {
    /// Somebody without a certificate of ours.
    pub fn at(address: IpAddr) -> Self {
        Self::Address(Source::of(address))
    }

    fn is_stranger(self) -> bool {
        matches!(self, Self::Address(_))
    }
}

/// Why a body may not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Crowded {
    /// This caller has as many as it may.
    Caller,
    /// There are too many of all, or of all strangers.
    All,
}

#[derive(Debug, Default)]
pub(super) struct Bodies(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    all: u32,
    strangers: u32,
    by_sender: HashMap<Sender, u32>,
}

/// One body that waits, until this is dropped.
#[must_use]
#[derive(Debug)]
pub struct Waiting(Arc<Bodies>, Sender);

impl Bodies {
    pub(super) fn wait(self: &Arc<Self>, sender: Sender) -> Result<Waiting, Crowded> {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.by_sender.get(&sender).is_some_and(|own| *own >= CALLER_MAX) {
            return Err(Crowded::Caller);
        }
        if state.all >= ALL_MAX || (sender.is_stranger() && state.strangers >= STRANGERS_MAX) {
            return Err(Crowded::All);
        }
        state.all += 1;
        state.strangers += u32::from(sender.is_stranger());
        *state.by_sender.entry(sender).or_default() += 1;
        Ok(Waiting(self.clone(), sender))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut guard = self.0.lock();
        let state = &mut *guard;
        state.all -= 1;
        state.strangers -= u32::from(self.1.is_stranger());
        if let Some(own) = state.by_sender.get_mut(&self.1) {
            *own -= 1;
            if *own == 0 {
                state.by_sender.remove(&self.1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn device(n: u128) -> Sender {
        Sender::Device(DeviceId(Uuid::from_u128(n)))
    }

    fn address(n: u32) -> Sender {
        Sender::at(IpAddr::V4(n.into()))
    }

    fn fill(bodies: &Arc<Bodies>, sender: impl Fn(u32) -> Sender) -> (Vec<Waiting>, Crowded) {
        let mut held = Vec::new();
        loop {
            match bodies.wait(sender(u32::try_from(held.len()).unwrap())) {
                Ok(waiting) => held.push(waiting),
                Err(crowded) => return (held, crowded),
            }
        }
    }

    #[test]
    fn one_caller_has_its_own_bound_and_strangers_leave_room_for_devices() {
        let bodies = Arc::new(Bodies::default());
        let (mad, why) = fill(&bodies, |_| device(1));
        assert_eq!((mad.len(), why), (32, Crowded::Caller));
        let (strangers, why) = fill(&bodies, address);
        assert_eq!((strangers.len(), why), (128, Crowded::All));
        let (devices, why) = fill(&bodies, |n| device(u128::from(n) + 2));
        assert_eq!((devices.len(), why), (512 - 128 - 32, Crowded::All));
        drop(strangers);
        drop((mad, devices));
        let state = bodies.lock();
        assert_eq!((state.all, state.strangers, state.by_sender.len()), (0, 0, 0));
    }

    #[test]
    fn a_network_of_version_6_is_one_caller() {
        let bodies = Arc::new(Bodies::default());
        let (held, why) = fill(&bodies, |n| Sender::at(IpAddr::V6(u128::from(n).into())));
        assert_eq!((held.len(), why), (32, Crowded::Caller));
    }
}
