//! The text of an enrollment token: `ebt_<id>_<secret>_<pin>`.
//!
//! - `id`: 8 to 32 of `a-z0-9`; names the row, and may be shown.
//! - `secret`: 256 bits, 64 lower-case hexadecimal digits. The database holds its SHA-256 only.
//! - `pin`: the key of the CA that made the token, 32 lower-case hexadecimal digits ([`Pin`]). A client compares it
//!   with the CA certificate it was given **before** it sends the token, so an impostor with another CA learns nothing.
//!
//! One token has one text: nothing is trimmed, and upper case is refused. Making tokens needs a secret's randomness
//! and stands in `identity`.

use std::fmt;
use std::str::FromStr;

use x509_parser::pem::Pem;

use super::digest::{hex, sha256, unhex};

/// The first half of the SHA-256 of the root CA's SubjectPublicKeyInfo: the root may be certified anew and keep it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pin([u8; 16]);

impl Pin {
    /// Of a SubjectPublicKeyInfo in DER (RFC 5280, 4.1).
    pub fn of_spki(spki_der: &[u8]) -> Self {
        let mut half = [0; 16];
        half.copy_from_slice(&sha256(spki_der)[..16]);
        Self(half)
    }

    /// The certificate, in DER, whose key is the pinned one. None if the bundle has none, or cannot be read to its
    /// end.
    ///
    /// Before it sends a token, a client trusts **this certificate alone**: whoever answers in the service's place
    /// can put a CA of their own beside the real one in the bundle.
    pub fn find(self, ca_pem: &str) -> Option<Vec<u8>> {
        let mut found = None;
        for block in Pem::iter_from_buffer(ca_pem.as_bytes()) {
            let block = block.ok()?;
            let own = Self::of_spki(block.parse_x509().ok()?.public_key().raw) == self;
            if own && found.is_none() {
                found = Some(block.contents);
            }
        }
        found
    }

    /// Is the pinned key that of a certificate in this PEM bundle? See [`Self::find`] for what to trust.
    pub fn matches(self, ca_pem: &str) -> bool {
        self.find(ca_pem).is_some()
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({self})")
    }
}

impl FromStr for Pin {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        unhex(text).map(Self).ok_or(NotAToken)
    }
}

/// The text is not an enrollment token. Says nothing of the text: it may be a secret of somebody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an enrollment token reads ebt_<id>_<secret>_<pin>, without spaces or line breaks")]
pub struct NotAToken;

/// A token, whole. [`fmt::Display`] writes the secret; [`fmt::Debug`] does not.
#[derive(Clone)]
pub struct EnrollmentToken {
    id: String,
    secret: [u8; 32],
    pin: Pin,
}

impl EnrollmentToken {
    /// # Errors
    /// When `id` is not 8 to 32 of `a-z0-9`.
    pub fn new(id: &str, secret: [u8; 32], pin: Pin) -> Result<Self, NotAToken> {
        let valid = (8..=32).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if valid { Ok(Self { id: id.to_owned(), secret, pin }) } else { Err(NotAToken) }
    }

    /// The name of the token's row.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn pin(&self) -> Pin {
        self.pin
    }

    /// SHA-256 of the secret's 32 bytes: what the database holds.
    pub fn secret_sha256(&self) -> [u8; 32] {
        sha256(&self.secret)
    }
}

impl FromStr for EnrollmentToken {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        let mut parts = text.strip_prefix("ebt_").ok_or(NotAToken)?.split('_');
        let (Some(id), Some(secret), Some(pin), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(NotAToken);
        };
        Self::new(id, unhex(secret).ok_or(NotAToken)?, pin.parse()?)
    }
}

impl fmt::Display for EnrollmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ebt_{}_{}_{}", self.id, hex(&self.secret), self.pin)
    }
}

impl fmt::Debug for EnrollmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EnrollmentToken({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_token_survives_its_text(id in "[a-z0-9]{8,32}", secret: [u8; 32], pin: [u8; 16]) {
            let token = EnrollmentToken::new(&id, secret, Pin(pin)).unwrap();
            let back: EnrollmentToken = token.to_string().parse().unwrap();
            prop_assert_eq!((back.id, back.secret, back.pin), (token.id, token.secret, token.pin));
        }

        #[test]
        fn one_token_has_one_text(text in "ebt_[a-zA-Z0-9]{6,34}_[0-9a-fA-F]{62,65}_[0-9a-fA-F]{31,33}") {
            if let Ok(token) = text.parse::<EnrollmentToken>() {
                prop_assert_eq!(token.to_string(), text);
            }
        }

        #[test]
        fn any_text_is_refused_or_kept(text in ".{0,200}") {
            prop_assert!(text.parse::<EnrollmentToken>().is_err());
        }
    }

    #[test]
    fn what_is_not_a_token() {
        let good = format!("ebt_pump0001_{}_{}", "0a".repeat(32), "0b".repeat(16));
        assert!(good.parse::<EnrollmentToken>().is_ok());
        let bad = [
            String::new(),
            good.replace("ebt_", "EBT_"),
            good.replace("pump", "Pump"),
            good.replace("pump0001", "pump001"),
            good.replace("0a", "0A"),
            format!("{good} "),
            format!(" {good}"),
            format!("{good}\n"),
            format!("{good}_"),
            format!("{good}_more"),
            good[..good.len() - 1].to_owned(),
            good.replacen("0a", "", 1),
            good.replace('_', "-"),
        ];
        for text in bad {
            assert!(text.parse::<EnrollmentToken>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_secret_stays_out_of_debug_output_and_errors() {
        let token = EnrollmentToken::new("pump0001", [0xab; 32], Pin([1; 16])).unwrap();
        assert_eq!(format!("{token:?}"), "EnrollmentToken(pump0001)");
        let broken = token.to_string() + "x";
        assert!(!broken.parse::<EnrollmentToken>().unwrap_err().to_string().contains("abab"));
    }

    #[test]
    fn the_pin_is_that_of_the_key() {
        let key = rcgen::KeyPair::generate().unwrap();
        let other = rcgen::KeyPair::generate().unwrap();
        let certificate = |key| rcgen::CertificateParams::default().self_signed(key).unwrap().pem();
        let pin = Pin::of_spki(&rcgen::PublicKeyData::subject_public_key_info(&key));
        assert!(pin.matches(&certificate(&key)));
        let both = certificate(&other) + &certificate(&key);
        let found = pin.find(&both).unwrap();
        assert!(found.windows(32).any(|part| part == &key.public_key_raw()[1..33]), "the pinned one of the two");
        assert!(!pin.matches(&certificate(&other)));
        assert!(!pin.matches(""));
        let cut = certificate(&key) + &certificate(&other)[..100];
        assert!(!pin.matches(&cut), "a bundle that was cut");
    }
}
