//! Who is at the other end, as far as the connection shows.

use std::any::Any;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

use crate::domain::ids::{DeviceId, Fingerprint};
use crate::domain::time::Boottime;
use crate::observe::net::{Port, Verdict};

/// The name of a device in its certificate: a URI in subjectAltName.
const DEVICE_URI: &str = "urn:everbeat:device:";

/// The listener a connection came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Listener {
    Device,
    Admin,
}

impl Listener {
    pub fn as_str(self) -> &'static str {
        self.port().as_str()
    }

    pub(super) fn port(self) -> Port {
        match self {
            Self::Device => Port::Device,
            Self::Admin => Port::Admin,
        }
    }
}

/// What is known of a connection. Every request carries it as an extension, `Arc<ConnInfo>`.
#[derive(Debug)]
pub struct ConnInfo {
    /// Counts the connections of this process.
    pub number: u64,
    /// The caller's address: the PROXY header's if there was one, else the socket's.
    pub remote: SocketAddr,
    pub listener: Listener,
    pub peer: Peer,
    pub memo: Memo,
    pub away: Away,
    pub pace: Pace,
    pub outcast: Outcast,
}

/// Was the certificate, which was good for the handshake, found to be none that counts? Then the connection has a
/// stranger's bounds from that moment on, and its place among the strangers.
#[derive(Debug, Default)]
pub struct Outcast(AtomicBool);

impl Outcast {
    pub fn make(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn is(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// How often the caller is to be heard, once that is known. In milliseconds; zero: unknown.
#[derive(Debug, Default)]
pub struct Pace(AtomicU64);

impl Pace {
    /// What is known of it before the device has said anything.
    pub fn begin(&self, interval_ms: i64) {
        let interval_ms = u64::try_from(interval_ms).unwrap_or(0);
        let _ = self.0.compare_exchange(0, interval_ms, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub fn keep(&self, interval_ms: i64) {
        self.0.store(u64::try_from(interval_ms).unwrap_or(0), Ordering::Relaxed);
    }

    /// One interval, but no longer than this.
    pub(super) fn within(&self, most: Duration) -> Duration {
        match self.0.load(Ordering::Relaxed) {
            0 => most,
            interval_ms => most.min(Duration::from_millis(interval_ms)),
        }
    }
}

/// Until when the caller was told to stay away, and with what.
#[derive(Debug, Default)]
pub struct Away(Mutex<Option<(&'static str, Boottime)>>);

impl Away {
    pub fn told(&self, what: &'static str, until: Boottime) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((what, until));
    }

    /// How much too soon somebody comes who comes now with it.
    pub fn left(&self, what: &'static str, now: Boottime) -> Duration {
        let told = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.filter(|(known, _)| *known == what).map_or(Duration::ZERO, |(_, until)| until.since(now))
    }
}

/// What others remember of a connection, for as long as it is open.
#[derive(Default)]
pub struct Memo(Mutex<Option<Arc<dyn Any + Send + Sync>>>);

impl Memo {
    /// What was remembered last, if it is a `T`.
    pub fn get<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()?.downcast().ok()
    }

    pub fn set<T: Any + Send + Sync>(&self, value: Arc<T>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
    }
}

impl std::fmt::Debug for Memo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Memo")
    }
}

/// The verdict on the client certificate, made at the handshake. A connection outlives it: `not_after` must be
/// compared with the clock again at each request.
#[derive(Clone, Debug)]
pub enum Peer {
    /// The caller showed no certificate. On the admin listener also: a good one that names no device.
    None,
    /// The caller has the key of a certificate that is not good. The certificate is there if it names a device.
    /// Only with [`Rejection::Expired`] and [`Rejection::NotYetValid`] is it certain that one of our CAs issued it.
    Rejected(Rejection, Option<Arc<PeerCert>>),
    /// The caller has the key of a certificate that one of our CAs issued for a device, and it is valid now.
    Verified(Arc<PeerCert>),
}

/// Why a certificate is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// One of ours, for a device, past its end.
    Expired,
    /// One of ours, for a device, before its beginning: most often the clock of one of the two is wrong.
    NotYetValid,
    /// No path to a CA of the bundle.
    UntrustedIssuer,
    /// A CA's certificate, or one without the extended key usage clientAuth.
    WrongUse,
    /// Unreadable, too long a chain, or it does not name exactly one device.
    Malformed,
}

impl Rejection {
    pub fn as_str(self) -> &'static str {
        self.verdict().as_str()
    }

    pub(super) fn verdict(self) -> Verdict {
        match self {
            Self::Expired => Verdict::Expired,
            Self::NotYetValid => Verdict::NotYetValid,
            Self::UntrustedIssuer => Verdict::UntrustedIssuer,
            Self::WrongUse => Verdict::WrongUse,
            Self::Malformed => Verdict::Malformed,
        }
    }
}

/// A device's certificate, as far as anybody asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCert {
    /// SHA-256 of its DER encoding.
    pub fingerprint: Fingerprint,
    /// SHA-256 of its SubjectPublicKeyInfo (RFC 7469, 2.4).
    pub spki_sha256: [u8; 32],
    pub device: DeviceId,
    pub not_before: OffsetDateTime,
    /// The last moment of validity (RFC 5280, 4.1.2.5).
    pub not_after: OffsetDateTime,
}

impl PeerCert {
    /// Reads a certificate that names exactly one device. `None` for any other. Checks no signature.
    pub fn from_der(der: &[u8]) -> Option<Self> {
        let (rest, certificate) = X509Certificate::from_der(der).ok()?;
        if rest.is_empty() { Self::read(der, &certificate) } else { None }
    }

    pub(super) fn read(der: &[u8], certificate: &X509Certificate<'_>) -> Option<Self> {
        Some(Self {
            fingerprint: Fingerprint(sha256(der)),
            spki_sha256: sha256(certificate.public_key().raw),
            device: device_of(certificate)?,
            not_before: certificate.validity().not_before.to_datetime(),
            not_after: certificate.validity().not_after.to_datetime(),
        })
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut sum = [0; 32];
    sum.copy_from_slice(digest(&SHA256, bytes).as_ref());
    sum
}

fn device_of(certificate: &X509Certificate<'_>) -> Option<DeviceId> {
    let names = certificate.subject_alternative_name().ok()??;
    let mut devices = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix(DEVICE_URI),
        _ => None,
    });
    let device = devices.next()?.parse().ok()?;
    if devices.next().is_none() { Some(device) } else { None }
}

/// Is it an end entity's, made for clients? An absent extended key usage would mean "any use" (RFC 5280, 4.2.1.12):
/// our CA always writes it, so its absence is wrong too.
pub(super) fn is_for_clients(certificate: &X509Certificate<'_>) -> bool {
    let for_clients = matches!(certificate.extended_key_usage(), Ok(Some(usage)) if usage.value.client_auth);
    for_clients && !is_ca(certificate)
}

pub(super) fn is_ca(certificate: &X509Certificate<'_>) -> bool {
    let extensions = certificate.extensions();
    extensions.iter().any(|e| matches!(e.parsed_extension(), ParsedExtension::BasicConstraints(bc) if bc.ca))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_was_told_counts_and_not_its_fleets_interval() {
        let pace = Pace::default();
        let within = || pace.within(Duration::from_secs(20)).as_secs();
        assert_eq!(within(), 20);
        pace.begin(30_000);
        assert_eq!(within(), 20);
        pace.keep(2_000);
        pace.begin(30_000);
        assert_eq!(within(), 2);
    }
}
