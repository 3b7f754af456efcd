//! What handlers take from a request, strictly: what was not understood is an error, never ignored.

use aws_lc_rs::digest::{SHA256, digest};
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::HeaderValue;
use axum::http::header::ACCEPT;
use axum::http::request::Parts;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;

use super::error::ApiError;
use super::{accept, body, form};
use crate::wire::problem::{FieldError, Slug};

/// RFC 8259, 9 lets us set it; serde_json's own limit is 128.
const DEPTH_MAX: usize = 32;

/// A JSON body. Unknown fields are refused by the type itself (`deny_unknown_fields`).
pub struct Json<T>(pub T);

/// The same; an empty body is `T::default()`, whatever its media type.
pub struct OptionalJson<T>(pub T);

/// The same for bodies with secrets: the error quotes nothing of them.
pub struct SecretJson<T>(pub T);

/// A JSON body of a request that creates, with what `Idempotency-Key` needs.
pub struct Creation<T> {
    pub value: T,
    /// The caller's key, 1 to 255 visible ASCII characters.
    pub key: Option<String>,
    /// Of the body as it was decoded.
    pub request_sha256: [u8; 32],
}

/// The query. The type denies unknown fields.
pub struct Query<T>(pub T);

/// The single parameter of a path. What cannot be one is not there: 404.
pub struct PathOf<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let body = json_body(request).await?;
        Ok(Self(parse(&body)?))
    }
}

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for OptionalJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let is_json = is_json(&request);
        let body = body::read(request).await?;
        match (body.is_empty(), is_json) {
            (true, _) => Ok(Self(T::default())),
            (false, true) => Ok(Self(parse(&body)?)),
            (false, false) => Err(not_json()),
        }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for SecretJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        Ok(Self(parse_quietly(&json_body(request).await?)?))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Creation<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let key = super::precondition::idempotency_key(request.headers())?;
        let body = json_body(request).await?;
        let mut request_sha256 = [0; 32];
        request_sha256.copy_from_slice(digest(&SHA256, &body).as_ref());
        Ok(Self { value: parse(&body)?, key, request_sha256 })
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let query = parts.uri.query().unwrap_or_default();
        let asked = form::pairs(query.as_bytes()).and_then(form::read);
        asked.map(Self).map_err(|bad| ApiError::field(format!("?{}", bad.name), bad.detail))
    }
}

impl<T: std::str::FromStr, S: Send + Sync> FromRequestParts<S> for PathOf<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(text) = Path::<String>::from_request_parts(parts, state).await.map_err(|_| ApiError::not_found())?;
        text.parse().map(Self).map_err(|_| ApiError::not_found())
    }
}

/// Collects what is wrong with fields, so that a caller hears of all of it at once.
#[derive(Default)]
pub struct Check(Vec<FieldError>);

impl Check {
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn that(mut self, holds: bool, pointer: &str, detail: &str) -> Self {
        if !holds {
            self.0.push(FieldError { pointer: pointer.to_owned(), detail: detail.to_owned() });
        }
        self
    }

    /// Of a parameter of the query, which may be absent.
    #[must_use]
    pub fn at_most(self, text: Option<&str>, chars_max: usize, pointer: &str) -> Self {
        let fits = text.is_none_or(|text| text.chars().count() <= chars_max);
        self.that(fits, pointer, &format!("at most {chars_max} characters"))
    }

    /// # Errors
    /// `invalid`, if anything did not hold.
    pub fn done(self) -> Result<(), ApiError> {
        if self.0.is_empty() { Ok(()) } else { Err(ApiError::fields(self.0)) }
    }
}

fn is_json(request: &Request) -> bool {
    accept::media_type(request.headers()).as_deref() == Some("application/json")
}

fn not_json() -> ApiError {
    ApiError::because(Slug::UnsupportedMediaType, "Send the body as application/json.")
        .header(ACCEPT, HeaderValue::from_static("application/json"))
}

async fn json_body(request: Request) -> Result<Bytes, ApiError> {
    if is_json(&request) { body::read(request).await } else { Err(not_json()) }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    scan(body)?;
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let (path, error) = (pointer(error.path()), error.into_inner());
        match error.classify() {
            serde_json::error::Category::Data => ApiError::field(path, error.to_string()),
            _ => malformed(&error),
        }
    })?;
    reader.end().map_err(|error| malformed(&error))?;
    Ok(value)
}

fn malformed(error: &serde_json::Error) -> ApiError {
    let detail = format!("The body is not JSON: fault at line {}, column {}.", error.line(), error.column());
    ApiError::because(Slug::Malformed, detail)
}

/// [`parse`], which says no more than the place of what is wrong. An unknown field's own name is input, and stays out.
fn parse_quietly<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    scan(body)?;
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| match error.inner().classify() {
        serde_json::error::Category::Data => {
            let known = !error.inner().to_string().starts_with("unknown field");
            let place = if known { pointer(error.path()) } else { String::new() };
            ApiError::field(place, "missing, unknown, or not of its type")
        }
        _ => malformed(error.inner()),
    })?;
    reader.end().map_err(|error| malformed(&error))?;
    Ok(value)
}

/// JSON Pointer (RFC 6901) of a path.
fn pointer(path: &serde_path_to_error::Path) -> String {
    let mut text = String::new();
    for segment in path {
        let part = match segment {
            Segment::Seq { index } => index.to_string(),
            Segment::Map { key } => key.replace('~', "~0").replace('/', "~1"),
            Segment::Enum { variant } => variant.clone(),
            Segment::Unknown => continue,
        };
        text.push('/');
        text.push_str(&part);
    }
    text
}

/// The same for a body, which is no array either: serde would take its elements for the fields of the type, in their
/// order.
fn scan(body: &[u8]) -> Result<(), ApiError> {
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err(ApiError::field("", "must be an object"));
    }
    scan_any(body)
}

/// Depth, and NUL in strings: PostgreSQL takes it neither in text nor in jsonb.
pub(super) fn scan_any(body: &[u8]) -> Result<(), ApiError> {
    let (mut depth, mut in_string) = (0_usize, false);
    let mut at = 0;
    while let Some(byte) = body.get(at) {
        match (in_string, byte) {
            (true, b'\\') => {
                if body.get(at + 1..at + 6) == Some(b"u0000") {
                    return Err(ApiError::because(Slug::Invalid, "NUL is not allowed in strings."));
                }
                at += 1;
            }
            (_, b'"') => in_string = !in_string,
            (false, b'[' | b'{') => depth += 1,
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            let detail = format!("More than {DEPTH_MAX} brackets are open at byte {at}.");
            return Err(ApiError::because(Slug::Malformed, detail).limit("json_depth_max"));
        }
        at += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Shape {
        #[serde(default)]
        list: Vec<u8>,
        #[expect(dead_code, reason = "for its type")]
        #[serde(default)]
        any: serde_json::Value,
    }

    fn slug(body: &str) -> Result<Vec<u8>, Slug> {
        parse::<Shape>(body.as_bytes()).map(|shape| shape.list).map_err(|error| error.slug())
    }

    #[test]
    fn strict_json() {
        assert_eq!(slug(r#"{"list": [1, 2]}"#), Ok(vec![1, 2]));
        assert_eq!(slug(r#"{"any": "\\u0000 is not NUL"}"#), Ok(vec![]));
        let deep = |n: usize| format!("{{\"any\": {}{}}}", "[".repeat(n), "]".repeat(n));
        assert_eq!(slug(&deep(31)), Ok(vec![]));
        for (body, expected) in [
            ("", Slug::Malformed),
            ("{", Slug::Malformed),
            ("{} {}", Slug::Malformed),
            (&deep(32), Slug::Malformed),
            (&deep(100_000), Slug::Malformed),
            ("\u{feff}{}", Slug::Malformed),
            (r#"{"other": 1}"#, Slug::Invalid),
            (r#"{"list": [1, 300]}"#, Slug::Invalid),
            (r#"{"list": [], "list": []}"#, Slug::Invalid),
            ("[]", Slug::Invalid),
            (" [[1, 2]]", Slug::Invalid),
            (r#"{"any": "a\u0000"}"#, Slug::Invalid),
        ] {
            assert_eq!(slug(body), Err(expected), "{}", &body[..body.len().min(40)]);
        }
    }

    #[test]
    fn secrets_are_not_quoted() {
        for (body, slug) in [
            (r#"{"ebt_secret": 1}"#, Slug::Invalid),
            (r#"{"list": ["ebt_secret"]}"#, Slug::Invalid),
            (r#"{"list": ebt_secret}"#, Slug::Malformed),
            (r#"{"any": "ebt_secret"#, Slug::Malformed),
            (r#"{"any": "ebt_secret"} ebt_secret"#, Slug::Malformed),
        ] {
            let error = parse_quietly::<Shape>(body.as_bytes()).err().unwrap();
            assert_eq!(error.slug(), slug, "{body}");
            assert!(!format!("{error:?}").contains("ebt_secret"), "{error:?}");
        }
    }
}
