//! Who is calling: certificates, tokens, and the keys behind them; enrollment, renewal and revocation.
//!
//! - TLS has proved that the caller holds a key; the database decides what that key may do. A certificate counts
//!   while it is a current credential of an active device, and its end is compared with the clock at each request.
//! - Answers come from caches that the change log keeps coherent ([`follow`]): a revocation acts within a second. A
//!   replica that cannot prove that it reads the log is *blind*, and says so (503) instead of trusting what it has.
//! - Enrollment and renewal do not use the caches: they judge and write in one transaction.
//! - An error of the database is never "unknown certificate": a fleet would enroll itself again during an outage.
//!
//! Deliberately absent: revocation lists as input ([`crl`] is an export), and any choice of status codes.

mod authn;
mod bundle;
pub mod ca;
mod cache;
pub mod crl;
pub mod csr;
mod enroll;
pub mod enrollment_token;
mod error;
pub mod est;
mod follow;
mod forecast;
pub mod held;
pub mod jwt;
pub mod keyring;
pub mod keys;
pub mod operators;
pub mod pki;
mod reached;
mod records;
mod ring;

use std::sync::Arc;

use self::follow::Follower;
use self::keyring::{Keeper, Keyring, Work};
use self::pki::Pki;
use self::records::Records;
use crate::domain::ids::ReplicaId;
use crate::domain::random::Random;
use crate::domain::time::Clock;
use crate::lifecycle::readiness::Readiness;
use crate::lifecycle::tasks::Tasks;
use crate::net::TlsHandle;
use crate::store::changes::{ChangeLog, Freshness};
use crate::store::{PrimaryWatch, StoreSettings};

pub use crate::store::devices::{DeviceRecord, DeviceState};
pub use authn::{Denied, DeviceCaller, OperatorCaller};
pub use bundle::CaBundle;
pub use enroll::{Csr, new_id};
pub use error::{AuthError, IdentityError};
pub use reached::Reached;
pub use records::CacheSettings;

/// What identity is set to.
#[derive(Clone, Debug)]
pub struct IdentitySettings {
    /// Base URLs of the device listener, told to devices at enrollment.
    pub endpoints: Vec<String>,
    pub caches: CacheSettings,
}

/// What identity stands on.
pub struct Parts {
    pub settings: IdentitySettings,
    pub store: Arc<StoreSettings>,
    pub log: ChangeLog,
    pub primary: PrimaryWatch,
    pub pki: Arc<Pki>,
    pub keyring: Keyring,
    /// The listeners, which are told whom to trust.
    pub tls: Vec<TlsHandle>,
    pub replica: ReplicaId,
    /// Where this replica is reached: shown to operators.
    pub addr: String,
    pub clock: Clock,
    pub random: Random,
    /// [`crate::lifecycle::readiness::Check::ChangeLog`] is set here.
    pub readiness: Readiness,
}

/// Clones share everything.
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

struct Inner {
    records: Arc<Records>,
    freshness: Freshness,
    log: ChangeLog,
    pki: Arc<Pki>,
    keyring: Keyring,
    keeper: Keeper,
    endpoints: Vec<String>,
    clock: Clock,
    crl: crl::Kept,
}

impl Identity {
    /// Starts to follow the change log. Until the first round is through, every caller is answered `Blind`.
    pub fn start(parts: Parts, tasks: &Tasks) -> Self {
        let records = Arc::new(Records::new(parts.log.control().clone(), parts.settings.caches));
        let freshness = Freshness::new(parts.clock.clone());
        let keeper = Keeper::new(Work {
            keyring: parts.keyring.clone(),
            bundle: parts.pki.ca_bundle.clone(),
            tls: parts.tls,
            control: parts.log.control().clone(),
            replica: parts.replica,
            readiness: parts.readiness.clone(),
            done: tokio::sync::Mutex::default(),
        });
        let follower = Follower {
            records: records.clone(),
            keyring: parts.keyring.clone(),
            freshness: freshness.clone(),
            readiness: parts.readiness,
            store: parts.store,
            replica: parts.replica,
            addr: parts.addr,
            clock: parts.clock.clone(),
            random: parts.random,
        };
        tasks.essential("keys", keeper.clone().run(tasks.shutdown().clone()));
        tasks.essential("forecast", forecast::run(parts.log.control().clone(), tasks.shutdown().clone()));
        tasks.foundation("change-log", follower.run(parts.primary, tasks.shutdown().clone()));
        Self(Arc::new(Inner {
            records,
            freshness,
            log: parts.log,
            pki: parts.pki,
            keyring: parts.keyring,
            keeper,
            endpoints: parts.settings.endpoints,
            clock: parts.clock,
            crl: crl::Kept::default(),
        }))
    }

    /// How far the change log was applied.
    pub fn reached(&self) -> Reached {
        self.0.records.reached.get()
    }

    /// How fresh the change log is.
    pub fn freshness(&self) -> &Freshness {
        &self.0.freshness
    }

    /// For changes by operators: the functions of `store::{credentials, devices, enrollment, operators}`.
    pub fn log(&self) -> &ChangeLog {
        &self.0.log
    }

    /// Reads files of keys and CAs again, on demand.
    pub fn keeper(&self) -> Keeper {
        self.0.keeper.clone()
    }

    /// What clients are to trust, PEM, as it is now.
    pub fn ca_bundle_pem(&self) -> Arc<str> {
        self.0.pki.ca_bundle.pem()
    }
}
