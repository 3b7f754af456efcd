//! What every program that brings devices along does first: a fleet, a token to enroll with, and a transport for each
//! identity.

use secrecy::ExposeSecret;

use crate::client::transport::Transport;
use crate::client::trust::Trust;
use crate::client::{AdminClient, ClientError, ClientSettings, Identity};
use crate::domain::enrollment::EnrollmentToken;
use crate::wire::admin as adm;

const TOKEN_LIFE_S: i64 = 86_400;
/// A page lists a hundred at most; so many fleets are looked through.
const FLEETS_MAX: usize = 1_000;

/// Makes the fleet unless it is there, and a token for so many enrollments within a day.
pub(in crate::tools) async fn fleet_and_token(
    admin: &AdminClient,
    fleet: &adm::NewFleet,
    uses_max: i32,
) -> Result<EnrollmentToken, ClientError> {
    let fleets: Vec<adm::Fleet> = admin.pages("/v1/fleets", &[]).take(FLEETS_MAX).await?;
    if !fleets.iter().any(|known| known.name == fleet.name) {
        admin.post::<adm::Fleet>("/v1/fleets", fleet).await?;
    }
    let new = adm::NewEnrollmentToken {
        fleet: fleet.name.clone(),
        uses_max: Some(uses_max),
        expires_in_s: Some(TOKEN_LIFE_S),
        ..Default::default()
    };
    let made: adm::EnrollmentToken = admin.post("/v1/enrollment-tokens", &new).await?;
    let bad = |what: String| ClientError::Input(format!("the enrollment token: {what}"));
    let text = made.token.ok_or_else(|| bad("it was not shown".to_owned()))?;
    text.parse().map_err(|error| bad(format!("{error}")))
}

/// Presents the identity's certificate; every connection is made from it.
pub(in crate::tools) fn transport(
    identity: &Identity,
    ca_pem: &str,
    settings: &ClientSettings,
) -> Result<Transport, ClientError> {
    let tls = Trust::from_pem(ca_pem)?.as_device(&identity.certificate_pem, identity.key_pem.expose_secret())?;
    Ok(Transport::new(tls, settings))
}
