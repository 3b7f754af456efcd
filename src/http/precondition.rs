//! `ETag`, `If-Match` (RFC 9110, 8.8.3 and 13.1.1) and `Idempotency-Key`.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::header::{ETAG, IF_MATCH};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::error::ApiError;
use crate::wire::problem::Slug;

const IDEMPOTENCY_KEY: &str = "idempotency-key";
const KEY_MAX: usize = 255;

/// The `ETag` header of a row version: strong.
pub fn etag(row_version: i64) -> [(HeaderName, HeaderValue); 1] {
    let value = HeaderValue::try_from(format!("\"{row_version}\""));
    [(ETAG, value.unwrap_or(HeaderValue::from_static("\"0\"")))]
}

/// What the caller believes the row's version to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IfMatch(Option<Vec<String>>);

impl IfMatch {
    /// # Errors
    /// `precondition-failed`, if the caller has seen another version. Comparison is strong: a weak tag never matches.
    pub fn check(&self, row_version: i64) -> Result<(), ApiError> {
        let current = format!("\"{row_version}\"");
        let fits = self.0.as_ref().is_none_or(|tags| tags.iter().any(|tag| tag == "*" || *tag == current));
        if fits {
            return Ok(());
        }
        Err(ApiError::because(Slug::PreconditionFailed, "Read the resource again, and decide anew."))
    }

    /// [`Self::check`], and the version that the row must still have when it is changed; `None`: any.
    pub fn expected(&self, row_version: i64) -> Result<Option<i64>, ApiError> {
        self.check(row_version)?;
        let any = self.0.as_ref().is_none_or(|tags| tags.iter().any(|tag| tag == "*"));
        Ok((!any).then_some(row_version))
    }

    fn of(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(IF_MATCH).iter().peekable();
        if values.peek().is_none() {
            return Self(None);
        }
        // Unreadable tags match nothing. Our tags are numbers, so a comma never stands inside one of ours.
        let tags = values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        Self(Some(tags.map(|tag| tag.trim().to_owned()).collect()))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.headers))
    }
}

/// The caller's `Idempotency-Key`: 1 to 255 visible ASCII characters.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let (Some(value), more) = (values.next(), values.next()) else {
        return Ok(None);
    };
    let bytes = value.as_bytes();
    let plain = (1..=KEY_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic) && more.is_none();
    match value.to_str() {
        Ok(key) if plain => Ok(Some(key.to_owned())),
        _ => Err(ApiError::because(Slug::Malformed, "Idempotency-Key is 1 to 255 visible ASCII characters, once.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn if_match() {
        let table = [
            ("*", true),
            ("\"7\"", true),
            ("\"6\" , \"7\"", true),
            ("\"6\"", false),
            ("W/\"7\"", false),
            ("7", false),
            ("", false),
        ];
        for (text, fits) in table {
            let headers = [(IF_MATCH, text.parse().unwrap())].into_iter().collect();
            assert_eq!(IfMatch::of(&headers).check(7).is_ok(), fits, "{text}");
        }
        assert!(IfMatch::of(&HeaderMap::new()).check(7).is_ok());
        let expected = |text: &str| {
            let headers = [(IF_MATCH, text.parse().unwrap())].into_iter().collect();
            IfMatch::of(&headers).expected(7).map_err(|error| error.slug())
        };
        assert_eq!(expected("\"7\""), Ok(Some(7)));
        assert_eq!(expected("*"), Ok(None));
        assert_eq!(expected("\"6\""), Err(Slug::PreconditionFailed));
        assert_eq!(etag(7)[0].1, "\"7\"");
    }

    #[test]
    fn keys() {
        let key = |text: &str| {
            let headers = [(HeaderName::from_static(IDEMPOTENCY_KEY), text.parse().unwrap())].into_iter().collect();
            idempotency_key(&headers).map_err(|error| error.slug())
        };
        assert_eq!(key("a-1"), Ok(Some("a-1".to_owned())));
        for bad in ["", "a b", &"a".repeat(256)] {
            assert_eq!(key(bad), Err(Slug::Malformed), "{bad}");
        }
        assert_eq!(idempotency_key(&HeaderMap::new()).map_err(|error| error.slug()), Ok(None));
    }
}
