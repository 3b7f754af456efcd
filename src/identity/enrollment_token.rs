//! Making enrollment tokens and comparing their secrets. Their text is [`crate::domain::enrollment`]'s.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;

use crate::domain::digest::hex;
use crate::domain::enrollment::{EnrollmentToken, Pin};

/// A new token: a secret of 256 bits, and an id of 64, which need not be secret and will not collide.
///
/// # Errors
/// When the system gives no randomness.
pub fn generate(pin: Pin) -> Result<EnrollmentToken, Unspecified> {
    let (mut id, mut secret) = ([0; 8], [0; 32]);
    rand::fill(&mut id)?;
    rand::fill(&mut secret)?;
    EnrollmentToken::new(&hex(&id), secret, pin).map_err(|_| Unspecified)
}

/// Is this the secret whose SHA-256 is stored? The time it takes tells nothing of either.
pub fn secret_matches(token: &EnrollmentToken, stored_sha256: &[u8]) -> bool {
    verify_slices_are_equal(&token.secret_sha256(), stored_sha256).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_token_is_new_and_matches_itself_only() {
        let pin = Pin::of_spki(b"key");
        let (one, two) = (generate(pin).unwrap(), generate(pin).unwrap());
        assert_ne!(one.id(), two.id());
        assert!(secret_matches(&one, &one.secret_sha256()));
        assert!(!secret_matches(&one, &two.secret_sha256()));
        assert!(!secret_matches(&one, &[]));
        let back: EnrollmentToken = one.to_string().parse().unwrap();
        assert!(secret_matches(&back, &one.secret_sha256()));
        assert_eq!(back.pin(), pin);
    }
}
