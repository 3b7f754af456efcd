//! The only place that picks a status. Each error of a lower module becomes a [`Slug`], and the slug has the status.
//!
//! An [`ApiError`] that is returned to axum is only *raised*: it travels among the response's extensions to the frame
//! (`http::frame`), which knows the request id and renders it as `application/problem+json` (RFC 9457), or as the
//! route's [`Dialect`] has it. What was wrong inside goes to the log here, where it is known; the caller gets the slug
//! and a detail that says what to do. A database error is never "not found" nor "unauthorized".

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::response::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::dialect::Dialect;
use crate::domain::random::Random;
use crate::wire::problem::{FieldError, Problem, Slug};

/// Media type of an error's body (RFC 9457, 6.1).
pub const PROBLEM_JSON: &str = "application/problem+json";
/// Upper bound of an error's detail, in characters: what a parser says may quote the request.
const DETAIL_MAX: usize = 300;

/// What a handler answers in place of its result.
#[derive(Clone, Debug)]
pub struct ApiError(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    slug: Slug,
    detail: Option<Cow<'static, str>>,
    errors: Vec<FieldError>,
    limit: Option<&'static str>,
    is_counted: bool,
    retry_after: Option<Duration>,
    oauth: Option<&'static str>,
    headers: HeaderMap,
    beforehand: Option<Arc<Refusal>>,
}

/// An error on its way to the frame.
#[derive(Clone)]
struct Raised(ApiError);

/// Marks an answer with an error's status that is meant as it is: not a problem.
#[derive(Clone)]
pub struct AsItIs;

impl AsItIs {
    pub fn mark(response: impl IntoResponse) -> Response {
        let mut response = response.into_response();
        response.extensions_mut().insert(Self);
        response
    }
}

impl ApiError {
    pub fn new(slug: Slug) -> Self {
        Self(Box::new(Inner {
            slug,
            detail: None,
            errors: Vec::new(),
            limit: None,
            is_counted: false,
            retry_after: None,
            oauth: None,
            headers: HeaderMap::new(),
            beforehand: None,
        }))
    }

    /// With a detail: what happened and what to do, for the caller's eyes.
    pub fn because(slug: Slug, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(slug).detail(detail)
    }

    /// One field is wrong. `pointer`: JSON Pointer into the body, or `?name`.
    pub fn field(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::fields(vec![FieldError { pointer: pointer.into(), detail: short(detail.into()) }])
    }

    pub fn fields(errors: Vec<FieldError>) -> Self {
        let mut this = Self::because(Slug::Invalid, "See `errors`: each names a field and what is wrong with it.");
        this.0.errors = errors;
        this
    }

    /// Not there, or not theirs to know: the two look the same.
    pub fn not_found() -> Self {
        Self::because(Slug::NotFound, "There is no such resource, or you may not see it.")
    }

    /// A bug of ours. `what` goes to the log only.
    pub fn internal(what: &str) -> Self {
        tracing::error!(error = what, "internal error");
        Self::because(Slug::Internal, "The fault is ours and has been logged under the request id.")
    }

    #[must_use]
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// Names the limit that was hit.
    #[must_use]
    pub fn limit(mut self, name: &'static str) -> Self {
        self.0.limit = Some(name);
        self
    }

    /// A metric says how many of these there are: none needs a line of its own in the log.
    #[must_use]
    pub fn counted(mut self) -> Self {
        self.0.is_counted = true;
        self
    }

    /// The same, rendered beforehand.
    #[must_use]
    pub fn beforehand(mut self, refusal: Arc<Refusal>) -> Self {
        self.0.beforehand = Some(refusal);
        self
    }

    /// How long to wait, before jitter; for 429 and 503.
    #[must_use]
    pub fn retry_after(mut self, pause: Duration) -> Self {
        self.0.retry_after = Some(pause);
        self
    }

    /// RFC 6749's error code, at `/v1/token`.
    #[must_use]
    pub fn oauth(mut self, code: &'static str) -> Self {
        self.0.oauth = Some(code);
        self
    }

    #[must_use]
    pub fn header(mut self, name: axum::http::HeaderName, value: HeaderValue) -> Self {
        self.0.headers.insert(name, value);
        self
    }

    pub fn slug(&self) -> Slug {
        self.0.slug
    }

    fn problem(self, request_id: &str, retry_after: Option<Duration>, dialect: Dialect) -> Problem {
        let slug = self.0.slug;
        let code = self.0.oauth.or_else(|| (dialect == Dialect::OAuth).then(|| oauth_code(slug)));
        Problem {
            kind: slug.urn(),
            title: slug.title().to_owned(),
            status: slug.status(),
            detail: self.0.detail.map(|detail| short(detail.into_owned())),
            request_id: Some(request_id.to_owned()),
            errors: self.0.errors,
            limit: self.0.limit.map(str::to_owned),
            retry_after_ms: retry_after.map(|pause| u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)),
            error: code.map(str::to_owned),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = status(self.0.slug).into_response();
        response.extensions_mut().insert(Raised(self));
        response
    }
}

/// What the renderer needs of the request.
pub struct Rendering<'a> {
    pub request_id: &'a str,
    pub random: &'a Random,
    /// The route's.
    pub dialect: Dialect,
}

/// One and the same error, rendered beforehand but for what differs each time: the request's id and the pause.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    media: &'static str,
    /// The text before the request's id.
    head: String,
    /// Between it and the pause, and after that; none: neither is in the text.
    rest: Option<[String; 2]>,
}

impl Refusal {
    pub fn of(error: ApiError, dialect: Dialect) -> Self {
        // Neither occurs in the rest.
        const ID: &str = "{request-id}";
        const PAUSE: Duration = Duration::from_millis(u64::MAX);
        let status = status(error.0.slug);
        let text = dialect.write(&error.problem(ID, Some(PAUSE), dialect));
        let (head, rest) = text.split_once(ID).map_or((text.as_str(), None), |(head, rest)| (head, Some(rest)));
        let rest = rest.and_then(|rest| rest.split_once(&PAUSE.as_millis().to_string()));
        let rest = rest.map(|(middle, tail)| [middle.to_owned(), tail.to_owned()]);
        Self { status, media: dialect.media(), head: head.to_owned(), rest }
    }

    /// `request_id`: of characters that JSON leaves as they are.
    pub fn response(&self, request_id: &str, pause: Duration) -> Response {
        let body = match &self.rest {
            Some([middle, tail]) => {
                [self.head.as_str(), request_id, middle, &pause.as_millis().to_string(), tail].concat()
            }
            None => self.head.clone(),
        };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(pause)));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.media));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

/// Was it refused by admission, which counts by class and stage?
pub fn is_shed(response: &Response) -> bool {
    let raised = response.extensions().get::<Raised>();
    raised.is_some_and(|Raised(error)| error.0.is_counted)
}

/// The limit of what a handler found full, of which admission does not know yet.
pub fn full(response: &Response) -> Option<&'static str> {
    let Raised(error) = response.extensions().get::<Raised>()?;
    error.0.limit.filter(|_| error.0.slug == Slug::Overloaded && !error.0.is_counted)
}

/// What was raised, if anything.
pub fn raised(response: &Response) -> Option<Slug> {
    response.extensions().get::<Raised>().map(|Raised(error)| error.slug())
}

/// Makes an answer of a raised error, and of an error that the framework answered by itself. Headers that layers set
/// (`Allow`) stay.
pub fn render(response: Response, with: &Rendering<'_>) -> Response {
    let (mut parts, body) = response.into_parts();
    let error = match parts.extensions.remove::<Raised>() {
        Some(Raised(error)) => error,
        None if is_frameworks(&parts) => ApiError::new(slug_of(parts.status)),
        None => return Response::from_parts(parts, body),
    };
    let slug = error.0.slug;
    let base = error.0.retry_after.or_else(|| default_pause(slug));
    let pause = base.map(|pause| with.random.scale(pause, 1.0, 2.0));
    if let (Some(refusal), Some(pause)) = (error.0.beforehand.clone(), pause) {
        let mut response = refusal.response(with.request_id, pause);
        parts.headers.remove(CONTENT_LENGTH);
        parts.headers.extend(error.0.headers);
        parts.headers.extend(std::mem::take(response.headers_mut()));
        *response.headers_mut() = parts.headers;
        return response;
    }
    parts.status = status(slug);
    parts.headers.extend(error.0.headers.clone().into_iter().filter_map(|(name, value)| Some((name?, value))));
    if let Some(pause) = pause {
        parts.headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(pause)));
    }
    if let Some(challenge) = challenge(slug, with.dialect) {
        parts.headers.insert(WWW_AUTHENTICATE, challenge);
    }
    let problem = error.problem(with.request_id, pause, with.dialect);
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static(with.dialect.media()));
    parts.headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    Response::from_parts(parts, Body::from(with.dialect.write(&problem)))
}

/// Rounded up: never sooner than `retry_after_ms`.
fn whole_seconds(pause: Duration) -> u64 {
    pause.as_secs() + u64::from(pause.subsec_nanos() > 0)
}

fn status(slug: Slug) -> StatusCode {
    StatusCode::from_u16(slug.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Rejections of axum are text or empty; answers of ours with an error's status are JSON, or marked.
fn is_frameworks(parts: &Parts) -> bool {
    let failed = parts.status.is_client_error() || parts.status.is_server_error();
    let json = parts.headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    failed && !json && parts.extensions.get::<AsItIs>().is_none()
}

fn slug_of(status: StatusCode) -> Slug {
    match status.as_u16() {
        404 => Slug::NotFound,
        405 => Slug::MethodNotAllowed,
        406 => Slug::NotAcceptable,
        408 => Slug::BodyTimeout,
        413 => Slug::TooLarge,
        415 => Slug::UnsupportedMediaType,
        400..=499 => Slug::Malformed,
        503 => Slug::Unavailable,
        _ => Slug::Internal,
    }
}

/// How long a caller should wait when nobody knows better, before jitter: about one failover's probe.
fn default_pause(slug: Slug) -> Option<Duration> {
    match slug.status() {
        429 | 503 => Some(Duration::from_secs(if slug == Slug::Draining { 1 } else { 2 })),
        _ => None,
    }
}

/// `WWW-Authenticate` (RFC 6750, 3; RFC 7617, 2). No error code when nothing was shown at all.
fn challenge(slug: Slug, dialect: Dialect) -> Option<HeaderValue> {
    if slug.status() != 401 {
        return None;
    }
    let text = match slug {
        _ if dialect == Dialect::Est => "Basic realm=\"everbeat-enrollment\"".to_owned(),
        Slug::CertificateRequired | Slug::TokenRequired => "Bearer realm=\"everbeat\"".to_owned(),
        Slug::EnrollmentTokenInvalid => "Bearer realm=\"everbeat-enrollment\", error=\"invalid_token\"".to_owned(),
        _ => format!("Bearer realm=\"everbeat\", error=\"invalid_token\", error_description=\"{}\"", slug.title()),
    };
    HeaderValue::try_from(text).ok()
}

/// RFC 6749, 5.2; its two codes for the server's faults are those of 4.1.2.1.
fn oauth_code(slug: Slug) -> &'static str {
    match slug.status() {
        401 | 403 => "invalid_client",
        429 | 503 => "temporarily_unavailable",
        500..=599 => "server_error",
        _ => "invalid_request",
    }
}

fn short(text: String) -> String {
    match text.char_indices().nth(DETAIL_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
