//! The keys in use: what the database publishes, and what this replica has the private halves of.

use std::sync::Arc;

use super::ca::Issuer;
use super::held::Held;
use super::jwt::{Audience, TokenKeys};
use crate::domain::ids::Fingerprint;
use crate::store::keys::{KeyState, PublicKeys};

/// What signs now. A replica that lacks an active key signs nothing of that kind: what it would sign with another key
/// could be refused tomorrow.
#[derive(Clone, Default)]
pub struct Ring {
    pub tokens: Option<TokenKeys>,
    pub issuer: Option<Arc<Issuer>>,
    /// The other issuing CAs that are trusted and of which this replica has the key.
    pub(super) others: Vec<Arc<Issuer>>,
    /// The first issuing CA of this installation: it signed what does not say who did.
    first: Option<Fingerprint>,
    retired: Vec<Fingerprint>,
}

impl Ring {
    pub(super) fn of(held: &Held, published: &PublicKeys) -> Self {
        let token = |audience: Audience| {
            let active = published
                .token_keys
                .iter()
                .find(|row| row.state == KeyState::Active && row.audience == audience.column());
            // A file under the name of another audience would sign for that one.
            let held = active.and_then(|row| held.signer(&row.kid));
            held.filter(|held| held.signer.public().audience == audience).map(|held| held.signer.clone())
        };
        let issuing = || published.certificates.iter().filter(|row| row.kind == "issuing");
        let active = issuing().find(|row| row.state == KeyState::Active);
        let retired = issuing().filter(|row| row.state == KeyState::Retired).map(|row| row.fingerprint);
        let others = issuing().filter(|row| !matches!(row.state, KeyState::Active | KeyState::Retired));
        let issuer = |fingerprint| held.issuer(fingerprint).map(|held| held.issuer.clone());
        Self {
            tokens: token(Audience::Device)
                .zip(token(Audience::Operator))
                .and_then(|(device, operator)| TokenKeys::of(device, operator).ok()),
            issuer: active.and_then(|row| issuer(row.fingerprint)),
            others: others.filter_map(|row| issuer(row.fingerprint)).collect(),
            first: issuing().next().map(|row| row.fingerprint),
            retired: retired.collect(),
        }
    }

    /// Can this replica sign everything that it is asked for?
    pub fn is_whole(&self) -> bool {
        self.tokens.is_some() && self.issuer.is_some()
    }

    /// Is what this CA signed accepted no more? `None`: the CA is not on record.
    pub(super) fn refuses(&self, issuer: Option<Fingerprint>) -> bool {
        !self.retired.is_empty() && issuer.or(self.first).is_some_and(|issuer| self.retired.contains(&issuer))
    }
}
