//! The callers: devices with certificates and connections of their own, enrolled through the API like any other.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use secrecy::SecretString;

use crate::client::transport::{Call, Transport};
use crate::client::{AdminClient, ClientError, ClientSettings, Context, DeviceClient, Enrollment, Identity, StateDir};
use crate::domain::enrollment::EnrollmentToken;
use crate::domain::random::Random;
use crate::domain::time::Clock;
use crate::tools::enrolling;
use crate::wire::admin as adm;
use crate::wire::device::TokenAnswer;

const FLEET: &str = "bench";
/// Enrollments under way at a time: each makes a key and a certificate.
const ENROLLING_MAX: usize = 8;
const TOKEN_TRIES: u32 = 20;
const TOKEN_BASE: Duration = Duration::from_millis(100);
const TOKEN_CAP: Duration = Duration::from_secs(2);
/// Longer than a service under too much load takes to refuse.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The deployment, and where the devices' keys are kept.
#[derive(Clone)]
pub struct Place {
    pub device_urls: Vec<String>,
    pub admin_urls: Vec<String>,
    pub ca_pem: String,
    pub admin_token: SecretString,
    /// Devices are enrolled once, and used again by the next run.
    pub dir: PathBuf,
    pub clock: Clock,
    pub random: Random,
}

/// One device on one connection.
#[derive(Clone)]
pub struct Caller {
    pub transport: Transport,
    pub url: Arc<str>,
    pub token: Arc<str>,
}

impl Place {
    fn context(&self, settings: ClientSettings) -> Context {
        Context { settings, clock: self.clock.clone(), random: self.random.clone() }
    }

    /// So many devices, each with an access token; the endpoints are spread over them.
    pub async fn callers(&self, count: usize) -> Result<Vec<Caller>, String> {
        let missing = (0..count).any(|index| !self.dir.join(name(index)).exists());
        let token = if missing { Some(self.enrollment_token(count).await?) } else { None };
        let make = |index| self.caller(index, token.as_ref());
        stream::iter((0..count).map(make)).buffered(ENROLLING_MAX).try_collect().await
    }

    async fn enrollment_token(&self, count: usize) -> Result<EnrollmentToken, String> {
        let context = self.context(ClientSettings::operator());
        let admin = AdminClient::new(&self.admin_urls, &self.ca_pem, self.admin_token.clone(), context);
        let admin = admin.map_err(|error| error.to_string())?;
        let fleet = adm::NewFleet {
            name: FLEET.to_owned(),
            heartbeat_interval_s: Some(60),
            certificate_ttl_s: None,
            renew_expired_within_s: None,
        };
        let uses_max = i32::try_from(count).unwrap_or(i32::MAX);
        let token = enrolling::fleet_and_token(&admin, &fleet, uses_max).await;
        token.map_err(|error| format!("the fleet {FLEET} cannot be prepared: {error}"))
    }

    async fn caller(&self, index: usize, token: Option<&EnrollmentToken>) -> Result<Caller, String> {
        let (name, url) = (name(index), &self.device_urls[index % self.device_urls.len()]);
        let say = |error: &dyn std::fmt::Display| format!("the device {name}: {error}");
        let identity = self.identity(&self.dir.join(&name), &name, token).await.map_err(|error| say(&error))?;
        let mut settings = ClientSettings::device();
        settings.request_timeout = REQUEST_TIMEOUT;
        // Idle between two requests of a slow run.
        settings.idle_timeout = Duration::from_mins(10);
        let transport = enrolling::transport(&identity, &self.ca_pem, &settings).map_err(|error| say(&error))?;
        let token = self.access_token(&transport, url).await.map_err(|error| {
            let hint = "; enrolled at another deployment? Remove the directory of --devices-dir";
            format!("{}{hint}", say(&error))
        })?;
        Ok(Caller { transport, url: url.as_str().into(), token: token.into() })
    }

    /// Asks again while the service has too much to do.
    async fn access_token(&self, transport: &Transport, url: &str) -> Result<String, ClientError> {
        let mut tries = 0;
        loop {
            let answer = transport.exchange(url, &Call::post("/v1/token", Bytes::new())).await?;
            if !matches!(answer.status, 429 | 503) || tries == TOKEN_TRIES {
                return Ok(answer.json::<TokenAnswer>()?.access_token);
            }
            tokio::time::sleep(self.random.full_jitter(TOKEN_BASE, TOKEN_CAP, tries)).await;
            tries += 1;
        }
    }

    async fn identity(&self, dir: &Path, name: &str, token: Option<&EnrollmentToken>) -> Result<Identity, ClientError> {
        let state = StateDir::open(dir.to_owned())?;
        if let Some(identity) = state.load()? {
            return Ok(identity);
        }
        let bad = |what: String| ClientError::Input(what);
        let asked = Enrollment {
            urls: self.device_urls.clone(),
            name: name.parse().map_err(|error| bad(format!("{name:?}: {error}")))?,
            token: token.cloned().ok_or_else(|| bad("its directory is there, and its identity is not".to_owned()))?,
            ca_pem: Some(self.ca_pem.clone()),
            tags: vec![FLEET.to_owned()],
        };
        DeviceClient::enroll(state.clone(), &asked, self.context(ClientSettings::device())).await?;
        state.load()?.ok_or_else(|| bad("it was enrolled, and its identity is not there".to_owned()))
    }
}

fn name(index: usize) -> String {
    format!("bench-{index:05}")
}
