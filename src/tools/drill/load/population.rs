//! Who takes part: a fleet of the run's own, and devices with identities, enrolled through the API like any other.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{StreamExt, TryStreamExt, stream};
use uuid::Uuid;

use super::LoadError;
use super::settings::LoadSettings;
use crate::client::state::StateError;
use crate::client::transport::Transport;
use crate::client::trust::{self, Trust};
use crate::client::{AdminClient, ClientError, ClientSettings, Context, DeviceClient, Enrollment, StateDir};
use crate::domain::digest::{hex, sha256};
use crate::domain::enrollment::EnrollmentToken;
use crate::domain::random::Random;
use crate::domain::time::Clock;
use crate::tools::drill::target::Target;
use crate::tools::enrolling;
use crate::wire::admin as adm;

/// Enrollments under way at a time: each makes a key and a certificate.
const ENROLLING_MAX: usize = 4;
/// Of the token: every device of the run, and those that scenarios enroll to revoke.
const TOKEN_USES_MAX: i32 = 100_000;

/// How a device keeps in touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Habit {
    /// At the fleet's interval.
    Usual,
    /// At a longer interval, which it asked for.
    Slow,
    /// Says when it will be back, and sleeps, now and then.
    Naps,
}

impl Habit {
    /// Of the devices, one in eight is slow, and one in eight naps.
    fn of(index: usize) -> Self {
        match index % 8 {
            6 => Self::Slow,
            7 => Self::Naps,
            _ => Self::Usual,
        }
    }
}

/// A device with an identity.
pub(super) struct Member {
    pub name: String,
    pub id: Uuid,
    /// Of its certificate, hexadecimal.
    pub fingerprint: String,
    pub habit: Habit,
    /// Presents its certificate; every connection is made from it.
    pub transport: Transport,
    /// Readings measured so far, in all scenarios of the run.
    pub readings: AtomicU64,
}

/// Where a run keeps its devices, and what it is called.
pub struct Place {
    /// Takes the devices' identities; they are of no use after the run.
    pub dir: PathBuf,
    /// Names the run in the names of its fleet and devices: `[a-z0-9-]`, at most 20 characters.
    pub tag: String,
    pub clock: Clock,
    /// All draws of the load come from it.
    pub random: Random,
}

/// What devices are enrolled with.
pub(super) struct Office {
    pub target: Target,
    pub settings: LoadSettings,
    pub place: Place,
    token: EnrollmentToken,
}

/// The devices of a run. They are enrolled once, and serve all of its scenarios.
pub struct Population {
    pub(super) office: Office,
    /// Send heartbeats and readings.
    pub(super) devices: Vec<Arc<Member>>,
    /// Beat too late.
    pub(super) late: Vec<Arc<Member>>,
    /// Are suspended and resumed.
    pub(super) victims: Vec<Arc<Member>>,
    /// Never calls; its row's version is what operators change and read.
    pub(super) followed: Arc<Member>,
    /// For callers without a certificate.
    pub(super) anonymous: Transport,
    guests: AtomicU64,
}

impl Population {
    /// Makes a fleet with the settings' heartbeat interval, and enrolls its devices, a few at a time.
    pub async fn enroll(target: Target, settings: LoadSettings, place: Place) -> Result<Arc<Self>, LoadError> {
        let fleet = format!("drill-{}", place.tag);
        let token = found(&target, &settings, &place, &fleet).await?;
        let office = Office { target, settings, place, token };
        let (count, late) = (office.settings.devices, office.settings.late_devices);
        let victims = office.settings.suspended_devices;
        let tag = &office.place.tag;
        let names = (0..count).map(|index| (format!("{tag}-{:03}", index + 1), Habit::of(index)));
        let victims = (0..victims).map(|index| (format!("{tag}-victim-{}", index + 1), Habit::Usual));
        let latecomers = (0..late).map(|index| (format!("{tag}-late-{}", index + 1), Habit::Usual));
        let all: Vec<_> =
            names.chain(latecomers).chain(victims).chain([(format!("{tag}-followed"), Habit::Usual)]).collect();
        let enroll = |(name, habit)| office.enroll(name, habit, &office.target.device_urls, ClientSettings::device());
        let mut members: Vec<Arc<Member>> =
            stream::iter(all.into_iter().map(enroll)).buffered(ENROLLING_MAX).map_ok(Arc::new).try_collect().await?;
        let followed = members.pop().ok_or_else(|| LoadError::SetUp("no device was enrolled".to_owned()))?;
        let mut late = members.split_off(count.min(members.len()));
        let victims = late.split_off(office.settings.late_devices.min(late.len()));
        let anonymous = Trust::from_pem(&office.target.ca_pem)?.anonymous()?;
        let anonymous = Transport::new(anonymous, &office.settings.client());
        Ok(Arc::new(Self { office, devices: members, late, victims, followed, anonymous, guests: AtomicU64::new(0) }))
    }

    /// The devices that send heartbeats, and most of them readings: whose rows of the final database tell what became of them.
    /// Those that operators suspend or revoke are not among them.
    pub fn device_ids(&self) -> Vec<Uuid> {
        self.devices.iter().chain(&self.late).map(|device| device.id).collect()
    }

    pub fn heartbeat_interval_ms(&self) -> u64 {
        self.office.settings.heartbeat_interval_ms()
    }

    /// The name of the next device that is enrolled only to be revoked.
    pub(super) fn next_guest(&self) -> String {
        format!("{}-guest-{}", self.office.place.tag, self.guests.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Enrolls it, in a single attempt at one endpoint. Asked again, it is the same device.
    pub(super) async fn enroll_guest(&self, name: String, url: &str) -> Result<Member, ClientError> {
        self.office.enroll(name, Habit::Usual, &[url.to_owned()], self.office.settings.client()).await
    }
}

fn context(settings: ClientSettings, place: &Place) -> Context {
    Context { settings, clock: place.clock.clone(), random: place.random.clone() }
}

/// Makes the fleet and its enrollment token.
async fn found(
    target: &Target,
    settings: &LoadSettings,
    place: &Place,
    fleet: &str,
) -> Result<EnrollmentToken, LoadError> {
    let context = context(ClientSettings::operator(), place);
    let admin = AdminClient::new(&target.admin_urls, &target.ca_pem, target.admin_token.clone(), context)?;
    let new = adm::NewFleet {
        name: fleet.to_owned(),
        heartbeat_interval_s: Some(settings.heartbeat_interval_s),
        certificate_ttl_s: None,
        renew_expired_within_s: None,
    };
    Ok(enrolling::fleet_and_token(&admin, &new, TOKEN_USES_MAX).await?)
}

impl Office {
    async fn enroll(
        &self,
        name: String,
        habit: Habit,
        urls: &[String],
        client: ClientSettings,
    ) -> Result<Member, ClientError> {
        let state = StateDir::open(self.place.dir.join(&name))?;
        let asked = Enrollment {
            urls: urls.to_vec(),
            name: name.parse().map_err(|error| ClientError::Input(format!("{name:?}: {error}")))?,
            token: self.token.clone(),
            ca_pem: Some(self.target.ca_pem.clone()),
            tags: vec!["drill".to_owned()],
        };
        let device = DeviceClient::enroll(state.clone(), &asked, context(client, &self.place)).await?.device();
        let identity = state.load()?.ok_or_else(|| StateError::Empty { path: state.path().to_owned() })?;
        let chain = trust::certificates(&identity.certificate_pem)?;
        let fingerprint = chain.first().map(|leaf| hex(&sha256(leaf))).unwrap_or_default();
        let transport = enrolling::transport(&identity, &self.target.ca_pem, &self.settings.client())?;
        Ok(Member { name, id: device.id.0, fingerprint, habit, transport, readings: AtomicU64::new(0) })
    }
}
