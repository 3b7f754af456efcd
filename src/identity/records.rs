//! Everything that identity caches, and what each kind of change takes away.

use std::sync::Arc;

use moka::future::Cache;
use uuid::Uuid;

use super::cache::{Coherent, Position};
use super::jwt::{Audience, BadTokenKey, DeviceClaims, OperatorClaims, TokenPublicKey, Verifier};
use super::reached::Mark;
use crate::domain::ids::{DeviceId, Fingerprint, OperatorId};
use crate::observe::identity as observe;
use crate::store::changes::ChangeKind;
use crate::store::credentials::{self, Credential};
use crate::store::devices::{self, DeviceRecord};
use crate::store::follow::{Batch, Change, uuid_key};
use crate::store::keys::{KeyState, TokenKeyRow};
use crate::store::operators::{self, OperatorRecord, OperatorToken};
use crate::store::{ControlStore, StoreError};

/// Entries at most. Too few: every request of a device loads its record again. An entry takes about 0.5 KiB.
#[derive(Clone, Copy, Debug)]
pub struct CacheSettings {
    /// Credentials, devices and verified tokens of devices: more than the devices that one replica may have to serve.
    pub devices_max: u64,
    pub operators_max: u64,
}

/// A token whose signature was verified.
#[derive(Clone, Debug)]
pub(super) enum Verified {
    Device(Arc<DeviceClaims>),
    Operator(Arc<OperatorClaims>),
}

pub(super) struct Records {
    control: ControlStore,
    pub(super) position: Arc<Position>,
    pub(super) reached: Mark,
    credentials: Arc<Coherent<Fingerprint, Credential>>,
    devices: Arc<Coherent<DeviceId, DeviceRecord>>,
    operators: Arc<Coherent<OperatorId, OperatorRecord>>,
    operator_tokens: Arc<Coherent<Uuid, OperatorToken>>,
    /// By the SHA-256 of the token: says that a signature is good, and nothing else.
    pub(super) verified: Cache<[u8; 32], Verified>,
    pub(super) verified_look_ups: observe::LookUps,
    /// What connections remember.
    pub(super) memo_look_ups: observe::LookUps,
    pub(super) verifier: Verifier,
}

impl Records {
    pub(super) fn new(control: ControlStore, settings: CacheSettings) -> Self {
        use observe::Cache as Label;
        let position = Arc::new(Position::default());
        let CacheSettings { devices_max, operators_max } = settings;
        Self {
            control,
            credentials: Coherent::new(Label::Credential, devices_max, position.clone()),
            devices: Coherent::new(Label::Device, devices_max, position.clone()),
            operators: Coherent::new(Label::Operator, operators_max, position.clone()),
            operator_tokens: Coherent::new(Label::OperatorToken, operators_max, position.clone()),
            verified: Cache::builder().max_capacity(devices_max).build(),
            verified_look_ups: observe::LookUps::of(Label::VerifiedToken),
            memo_look_ups: observe::LookUps::of(Label::Connection),
            verifier: Verifier::new(),
            position,
            reached: Mark::default(),
        }
    }

    pub(super) async fn credential(&self, print: Fingerprint) -> Result<Option<Arc<Credential>>, StoreError> {
        let load = || {
            let control = self.control.clone();
            async move { credentials::load(&control, print).await }
        };
        self.credentials.get(print, load).await
    }

    pub(super) async fn device(&self, id: DeviceId) -> Result<Option<Arc<DeviceRecord>>, StoreError> {
        let load = || {
            let control = self.control.clone();
            async move { devices::load(&control, id).await }
        };
        self.devices.get(id, load).await
    }

    pub(super) async fn operator(&self, id: OperatorId) -> Result<Option<Arc<OperatorRecord>>, StoreError> {
        let load = || {
            let control = self.control.clone();
            async move { operators::load(&control, id).await }
        };
        self.operators.get(id, load).await
    }

    pub(super) async fn operator_token(&self, jti: Uuid) -> Result<Option<Arc<OperatorToken>>, StoreError> {
        let load = || {
            let control = self.control.clone();
            async move { operators::load_token(&control, jti).await }
        };
        self.operator_tokens.get(jti, load).await
    }

    /// From the cache alone: the credential and its device.
    pub(super) async fn cached(&self, print: Fingerprint) -> Option<(Arc<Credential>, Arc<DeviceRecord>)> {
        let credential = self.credentials.peek(&print).await?;
        let device = self.devices.peek(&credential.device).await?;
        Some((credential, device))
    }

    /// Forgets what the log says has changed. Are the keys to be loaded again?
    pub(super) async fn apply(&self, batch: &Batch) -> bool {
        match batch {
            Batch::Changes(changes) if changes.iter().all(|change| change.kind.is_some()) => {
                if !changes.is_empty() {
                    self.position.advance();
                }
                for change in changes {
                    self.forget(change).await;
                }
                self.position.settle();
                observe::changes_applied(changes.len());
                changes.iter().any(|change| matches!(change.kind, Some(ChangeKind::TokenKey | ChangeKind::Ca)))
            }
            // What this binary does not understand may concern anything.
            Batch::Changes(_) | Batch::Everything => {
                self.position.advance();
                self.forget_all();
                self.position.settle();
                true
            }
        }
    }

    /// Another timeline, or too long an absence: nothing that was read before counts.
    pub(super) fn restart(&self, timeline: i32) {
        self.position.restart(timeline);
        self.forget_all();
        self.position.settle();
    }

    /// Trusts these token keys, and no others.
    pub(super) fn trust(&self, rows: &[TokenKeyRow]) -> Result<(), BadTokenKey> {
        let accepted = rows.iter().filter(|row| row.state != KeyState::Retired);
        let keys: Vec<TokenPublicKey> = accepted
            .filter_map(|row| {
                let audience = Audience::from_column(&row.audience)?;
                let (kid, public_key_pem) = (row.kid.clone(), row.public_key_pem.clone());
                Some(TokenPublicKey { kid, audience, public_key_pem })
            })
            .collect();
        self.verifier.replace(&keys)
    }

    fn forget_all(&self) {
        observe::caches_dropped();
        self.credentials.forget_all();
        self.devices.forget_all();
        self.operators.forget_all();
        self.operator_tokens.forget_all();
        self.verified.invalidate_all();
    }

    async fn forget(&self, change: &Change) {
        match change.kind {
            Some(ChangeKind::Device) => match uuid_key(change) {
                Some(id) => self.devices.forget(&DeviceId(id)).await,
                None => self.devices.forget_all(),
            },
            Some(ChangeKind::Credential) => match change.key.parse() {
                Ok(print) => self.credentials.forget(&print).await,
                Err(_) => self.credentials.forget_all(),
            },
            // Policies are in the records of the fleet's devices, which nobody lists here. They change rarely.
            Some(ChangeKind::Fleet) => self.devices.forget_all(),
            Some(ChangeKind::Operator) => match uuid_key(change) {
                Some(id) => self.operators.forget(&OperatorId(id)).await,
                None => self.operators.forget_all(),
            },
            Some(ChangeKind::OperatorToken) => match uuid_key(change) {
                Some(jti) => self.operator_tokens.forget(&jti).await,
                None => self.operator_tokens.forget_all(),
            },
            Some(ChangeKind::TokenKey) => self.verified.invalidate_all(),
            // Not cached.
            Some(ChangeKind::EnrollmentToken | ChangeKind::Ca) | None => {}
        }
    }
}
