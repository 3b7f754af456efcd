//! What a deployment tells the load: where it is reached, and with which authority.

use std::sync::Arc;

use secrecy::SecretString;

use crate::store::StoreSettings;

/// A deployment that is running, seen from the drill's host. `Debug` shows no secret.
#[derive(Clone, Debug)]
pub struct Target {
    /// Base URLs of the device listener (`https://host:port`): load balancers, or replicas. Devices use all of them.
    pub device_urls: Vec<String>,
    /// Base URLs of the admin listener; the first is the one through which changes are made.
    pub admin_urls: Vec<String>,
    /// The CA bundle to trust.
    pub ca_pem: String,
    /// A token of an admin of every fleet, good for the whole run.
    pub admin_token: SecretString,
    /// The database as it is reached from the drill's host. Its `owner` reads what is left in the end.
    pub store: Arc<StoreSettings>,
}
