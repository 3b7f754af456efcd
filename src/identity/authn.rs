//! Connection and bearer token → caller. Touches no database for a caller who is known, and verifies no signature
//! twice; all that can change is compared again at each request.
//!
//! A connection remembers its caller ([`Known`]): as long as the change log brings nothing new, the caches need not be
//! asked again.

use std::sync::Arc;

use aws_lc_rs::constant_time;
use time::OffsetDateTime;
use uuid::Uuid;

use super::Identity;
use super::error::{AuthError, IdentityError, keyless};
use super::jwt::{Audience, DeviceClaims, LEEWAY, OperatorClaims, TokenError};
use super::records::Verified;
use crate::domain::access::Grants;
use crate::domain::digest::sha256;
use crate::domain::ids::OperatorId;
use crate::net::{ConnInfo, Peer, PeerCert, Rejection};
use crate::observe::identity as observe;
use crate::store::credentials::{Credential, Standing};
use crate::store::devices::{DeviceRecord, DeviceState};
use crate::wire::device::TokenAnswer;

/// A device that may call.
#[derive(Clone, Debug)]
pub struct DeviceCaller {
    pub device: Arc<DeviceRecord>,
    pub certificate: Arc<PeerCert>,
}

/// An operator who may call. What they may do is in `grants`, as it stands now.
#[derive(Clone, Debug)]
pub struct OperatorCaller {
    pub id: OperatorId,
    pub subject: String,
    pub jti: Uuid,
    pub grants: Arc<Grants>,
    pub expires_at: OffsetDateTime,
}

/// Why a device is not let in.
#[derive(Debug)]
pub enum Denied<R> {
    /// It has not shown who it is.
    Auth(AuthError),
    /// Whoever was asked to admit it has not.
    Turned(R),
}

impl<R> From<AuthError> for Denied<R> {
    fn from(error: AuthError) -> Self {
        Self::Auth(error)
    }
}

/// A device that has called on this connection before.
struct Known {
    /// Of the change log: what has been applied since then may concern this device.
    position: u64,
    bearer: Box<str>,
    claims: Arc<DeviceClaims>,
    credential: Arc<Credential>,
    caller: Arc<DeviceCaller>,
}

impl Identity {
    /// The device behind the connection's certificate.
    pub async fn device(&self, conn: &ConnInfo) -> Result<Arc<DeviceCaller>, AuthError> {
        counted(self.certified(conn).await).map(|(caller, _)| Arc::new(caller))
    }

    /// The same from the caches alone, also when blind: for heartbeats, which may be taken from known devices while
    /// the change log cannot be read. The token is judged as ever: that takes no database. [`AuthError::Blind`] for a
    /// device that is not in the caches.
    pub async fn device_cached<R>(
        &self,
        conn: &ConnInfo,
        bearer: &str,
        admit: impl FnOnce(&DeviceCaller) -> Result<(), R>,
    ) -> Result<Arc<DeviceCaller>, Denied<R>> {
        let caller = counted(self.remembered(conn).await)?;
        admit(&caller).map_err(Denied::Turned)?;
        counted(self.bound(&caller, bearer).await)?;
        Ok(Arc::new(caller))
    }

    /// The device behind the certificate, which must also show a token that is bound to it (RFC 8705, 3). `admit` is
    /// asked once, when the certificate is good and before the token is looked at: to verify a signature costs more than
    /// to refuse.
    pub async fn device_with_token<R>(
        &self,
        conn: &ConnInfo,
        bearer: &str,
        admit: impl FnOnce(&DeviceCaller) -> Result<(), R>,
    ) -> Result<Arc<DeviceCaller>, Denied<R>> {
        let known = self.known(conn, bearer);
        self.0.records.memo_look_ups.count(known.is_some());
        let Some(known) = known else { return self.looked_up(conn, bearer, admit).await };
        counted(self.still_well(conn, &known))?;
        admit(&known.caller).map_err(Denied::Turned)?;
        Ok(known.caller.clone())
    }

    /// Who called on this connection with this token, if nothing was applied since.
    fn known(&self, conn: &ConnInfo, bearer: &str) -> Option<Arc<Known>> {
        let position = self.0.records.position.now();
        conn.memo.get::<Known>().filter(|known| known.position == position && same(&known.bearer, bearer))
    }

    /// All that can change without the change log: clocks, freshness, the keys.
    fn still_well(&self, conn: &ConnInfo, known: &Known) -> Result<(), AuthError> {
        let now = self.0.clock.wall();
        let certificate = self.current(conn, now)?;
        self.sees()?;
        self.judge_credential(&certificate, &known.credential, now)?;
        judge_device(&known.caller.device)?;
        self.still_good(&known.claims.kid, Audience::Device, known.claims.expires_at, now)
    }

    async fn looked_up<R>(
        &self,
        conn: &ConnInfo,
        bearer: &str,
        admit: impl FnOnce(&DeviceCaller) -> Result<(), R>,
    ) -> Result<Arc<DeviceCaller>, Denied<R>> {
        let calm = self.0.records.position.calm();
        let (caller, credential) = counted(self.certified(conn).await)?;
        admit(&caller).map_err(Denied::Turned)?;
        let claims = counted(self.bound(&caller, bearer).await)?;
        let caller = Arc::new(caller);
        if let Some(position) = calm {
            conn.memo.set(Arc::new(Known {
                position,
                bearer: bearer.into(),
                claims,
                credential,
                caller: caller.clone(),
            }));
        }
        Ok(caller)
    }

    /// The operator behind a bearer token.
    pub async fn operator(&self, bearer: &str) -> Result<OperatorCaller, AuthError> {
        counted(self.signed_in(bearer).await)
    }

    /// Was the signature of this bearer token verified here before? Says nothing else of it, and looks nothing up.
    pub async fn has_verified(&self, bearer: &str) -> bool {
        match token_key(bearer) {
            Ok(key) => self.0.records.verified.get(&key).await.is_some(),
            Err(_) => false,
        }
    }

    /// A short access token for a device that calls, bound to its certificate.
    pub fn device_token(&self, caller: &DeviceCaller) -> Result<TokenAnswer, IdentityError> {
        let now = self.0.clock.wall();
        let keys = self.0.keyring.ring().tokens.clone().ok_or_else(|| keyless("token_key"))?;
        let token = keys.device_token(caller.device.id, caller.certificate.fingerprint, now);
        let token = token.map_err(|error| IdentityError::Internal(error.to_string()))?;
        let expires_in = u64::try_from((token.expires_at - now).whole_seconds()).unwrap_or(0);
        Ok(TokenAnswer { access_token: token.text, token_type: "Bearer".to_owned(), expires_in })
    }

    async fn certified(&self, conn: &ConnInfo) -> Result<(DeviceCaller, Arc<Credential>), AuthError> {
        let now = self.0.clock.wall();
        let certificate = self.current(conn, now)?;
        self.sees()?;
        let credential = self.0.records.credential(certificate.fingerprint).await?;
        let credential = credential.ok_or(AuthError::CertificateUnknown)?;
        self.judge_credential(&certificate, &credential, now)?;
        let device = self.0.records.device(certificate.device).await?.ok_or(AuthError::CertificateUnknown)?;
        judge_device(&device)?;
        Ok((DeviceCaller { device, certificate }, credential))
    }

    async fn remembered(&self, conn: &ConnInfo) -> Result<DeviceCaller, AuthError> {
        let now = self.0.clock.wall();
        let certificate = self.current(conn, now)?;
        let (credential, device) = self.0.records.cached(certificate.fingerprint).await.ok_or(AuthError::Blind)?;
        self.judge_credential(&certificate, &credential, now)?;
        judge_device(&device)?;
        Ok(DeviceCaller { device, certificate })
    }

    /// The connection's certificate, if it is good now: a connection outlives the verdict of its handshake.
    fn current(&self, conn: &ConnInfo, now: OffsetDateTime) -> Result<Arc<PeerCert>, AuthError> {
        let certificate = match &conn.peer {
            Peer::None => return Err(AuthError::CertificateRequired),
            Peer::Rejected(rejection, _) => return Err(self.rejected(*rejection)),
            Peer::Verified(certificate) => certificate,
        };
        if now > certificate.not_after {
            return Err(AuthError::CertificateExpired);
        }
        Ok(certificate.clone())
    }

    fn judge_credential(
        &self,
        certificate: &PeerCert,
        credential: &Credential,
        now: OffsetDateTime,
    ) -> Result<(), AuthError> {
        if self.0.keyring.refuses(credential.issuer) {
            return Err(AuthError::CertificateUntrusted);
        }
        if credential.device != certificate.device {
            return Err(AuthError::CertificateUnknown);
        }
        match credential.standing {
            Standing::Current => {}
            Standing::Superseded => return Err(AuthError::CertificateSuperseded),
            Standing::Revoked => return Err(AuthError::CertificateRevoked),
        }
        if now > credential.not_after { Err(AuthError::CertificateExpired) } else { Ok(()) }
    }

    fn sees(&self) -> Result<(), AuthError> {
        if self.0.freshness.is_fresh() { Ok(()) } else { Err(AuthError::Blind) }
    }

    /// What a handshake's verdict is to the caller. Who signed may be a CA that this replica has not heard of, if it hears
    /// nothing now.
    pub(super) fn rejected(&self, rejection: Rejection) -> AuthError {
        match rejection {
            Rejection::Expired => AuthError::CertificateExpired,
            Rejection::NotYetValid => AuthError::CertificateNotYetValid,
            Rejection::UntrustedIssuer => self.sees().err().unwrap_or(AuthError::CertificateUntrusted),
            Rejection::WrongUse | Rejection::Malformed => AuthError::CertificateUntrusted,
        }
    }

    async fn bound(&self, caller: &DeviceCaller, bearer: &str) -> Result<Arc<DeviceClaims>, AuthError> {
        let claims = self.device_claims(bearer).await?;
        let same = claims.device == caller.device.id && claims.certificate == caller.certificate.fingerprint;
        if same { Ok(claims) } else { Err(AuthError::TokenMismatch) }
    }

    async fn device_claims(&self, bearer: &str) -> Result<Arc<DeviceClaims>, AuthError> {
        let (records, now) = (&self.0.records, self.0.clock.wall());
        let key = token_key(bearer)?;
        let cached = records.verified.get(&key).await;
        records.verified_look_ups.count(cached.is_some());
        let claims = match cached {
            Some(Verified::Device(claims)) => claims,
            Some(Verified::Operator(_)) => return Err(AuthError::TokenInvalid),
            None => {
                let claims = Arc::new(records.verifier.verify_device(bearer, now).map_err(refused)?);
                records.verified.insert(key, Verified::Device(claims.clone())).await;
                claims
            }
        };
        self.still_good(&claims.kid, Audience::Device, claims.expires_at, now)?;
        Ok(claims)
    }

    async fn operator_claims(&self, bearer: &str) -> Result<Arc<OperatorClaims>, AuthError> {
        let (records, now) = (&self.0.records, self.0.clock.wall());
        let key = token_key(bearer)?;
        let cached = records.verified.get(&key).await;
        records.verified_look_ups.count(cached.is_some());
        let claims = match cached {
            Some(Verified::Operator(claims)) => claims,
            Some(Verified::Device(_)) => return Err(AuthError::TokenInvalid),
            None => {
                let claims = Arc::new(records.verifier.verify_operator(bearer, now).map_err(refused)?);
                records.verified.insert(key, Verified::Operator(claims.clone())).await;
                claims
            }
        };
        self.still_good(&claims.kid, Audience::Operator, claims.expires_at, now)?;
        Ok(claims)
    }

    /// What a verified signature does not say: that its key still counts, and that it is not over.
    fn still_good(
        &self,
        kid: &str,
        audience: Audience,
        expires_at: OffsetDateTime,
        now: OffsetDateTime,
    ) -> Result<(), AuthError> {
        if !self.0.records.verifier.accepts(kid, audience) {
            return Err(AuthError::TokenInvalid);
        }
        if now >= expires_at + LEEWAY { Err(AuthError::TokenExpired) } else { Ok(()) }
    }

    async fn signed_in(&self, bearer: &str) -> Result<OperatorCaller, AuthError> {
        if bearer.is_empty() {
            return Err(AuthError::TokenRequired);
        }
        self.sees()?;
        let claims = self.operator_claims(bearer).await?;
        let token = self.0.records.operator_token(claims.jti).await?.ok_or(AuthError::TokenInvalid)?;
        let operator = self.0.records.operator(claims.operator).await?.ok_or(AuthError::TokenInvalid)?;
        let recorded = token.operator == claims.operator && token.session_version == claims.session_version;
        let current = operator.session_version == claims.session_version && !operator.disabled;
        if token.revoked || !recorded || !current {
            return Err(AuthError::TokenInvalid);
        }
        Ok(OperatorCaller {
            id: operator.id,
            subject: operator.subject.clone(),
            jti: claims.jti,
            grants: operator.grants.clone(),
            expires_at: claims.expires_at,
        })
    }
}

/// Takes the same time wherever they differ.
fn same(known: &str, bearer: &str) -> bool {
    constant_time::verify_slices_are_equal(known.as_bytes(), bearer.as_bytes()).is_ok()
}

fn token_key(bearer: &str) -> Result<[u8; 32], AuthError> {
    if bearer.is_empty() { Err(AuthError::TokenRequired) } else { Ok(sha256(bearer.as_bytes())) }
}

fn judge_device(device: &DeviceRecord) -> Result<(), AuthError> {
    match device.state {
        DeviceState::Active => Ok(()),
        DeviceState::Suspended | DeviceState::Decommissioned => Err(AuthError::DeviceSuspended),
    }
}

fn refused(error: TokenError) -> AuthError {
    match error {
        TokenError::Expired => AuthError::TokenExpired,
        TokenError::Invalid => AuthError::TokenInvalid,
    }
}

fn counted<T>(outcome: Result<T, AuthError>) -> Result<T, AuthError> {
    outcome.inspect_err(|error| observe::refused(error.reason()))
}
