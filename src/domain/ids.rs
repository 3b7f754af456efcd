//! Identifiers. Each noun has a type of its own, so that a fleet's id cannot stand where a device's belongs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            /// Accepts the canonical form only (lower or upper case, with hyphens).
            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                let canonical = text.len() == uuid::fmt::Hyphenated::LENGTH;
                let text = if canonical { text } else { "not canonical" };
                Uuid::try_parse(text).map($name)
            }
        }
    };
}

uuid_id!(
    /// A device: UUIDv7, made by the service at enrollment.
    DeviceId
);
uuid_id!(
    /// A fleet: UUIDv7.
    FleetId
);
uuid_id!(
    /// An operator: UUIDv7.
    OperatorId
);
uuid_id!(
    /// One `everbeat serve` process, new at each start; also the holder id of its leases.
    ReplicaId
);

impl DeviceId {
    const URN_PREFIX: &str = "urn:everbeat:device:";

    /// The URI in the subjectAltName of the device's certificates.
    pub fn urn(self) -> String {
        format!("{}{self}", Self::URN_PREFIX)
    }

    /// The inverse of [`Self::urn`].
    pub fn from_urn(text: &str) -> Option<Self> {
        text.strip_prefix(Self::URN_PREFIX)?.parse().ok()
    }
}

/// SHA-256 of a certificate's DER encoding: the name of a credential.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Display for Fingerprint {
    /// Lower-case hexadecimal, 64 characters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// The text was not 64 hexadecimal digits.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint is 64 hexadecimal digits")]
pub struct NotAFingerprint;

impl FromStr for Fingerprint {
    type Err = NotAFingerprint;

    fn from_str(text: &str) -> Result<Self, NotAFingerprint> {
        if text.len() != 64 || !text.is_ascii() {
            return Err(NotAFingerprint);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| NotAFingerprint)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| NotAFingerprint)?;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_survives_its_text() {
        let print = Fingerprint(std::array::from_fn(|i| u8::try_from(i * 7 % 256).unwrap()));
        assert_eq!(print.to_string().parse(), Ok(print));
        assert_eq!("zz".repeat(32).parse::<Fingerprint>(), Err(NotAFingerprint));
        assert_eq!("é".repeat(32).parse::<Fingerprint>(), Err(NotAFingerprint));
    }

    #[test]
    fn a_device_has_a_urn() {
        let device = DeviceId(Uuid::from_u128(7));
        assert_eq!(device.urn(), "urn:everbeat:device:00000000-0000-0000-0000-000000000007");
        assert_eq!(DeviceId::from_urn(&device.urn()), Some(device));
        assert_eq!(DeviceId::from_urn(&device.to_string()), None);
    }

    #[test]
    fn only_canonical_ids_are_ids() {
        assert!("0192f6d0-7b7a-7c3e-9d5e-0123456789ab".parse::<DeviceId>().is_ok());
        assert!("0192f6d07b7a7c3e9d5e0123456789ab".parse::<DeviceId>().is_err());
        assert!("{0192f6d0-7b7a-7c3e-9d5e-0123456789ab}".parse::<DeviceId>().is_err());
    }
}
