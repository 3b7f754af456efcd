//! One row of the table of routes: where it is, who may call it, what it takes and answers.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodFilter, MethodRouter, on};
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::{IntoParams, ToSchema};

use super::api::Shared;
use super::dialect::Dialect;
use super::faults::Refusals;
use super::frame::{self, Row, Unmatched};
use super::openapi::Shape;
use crate::admission::Class;
use crate::domain::access::Action;
use crate::observe::http::{RouteMetrics, Series, UNMATCHED};
use crate::observe::net::Port;

pub const JSON: &str = "application/json";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }

    fn filter(self) -> MethodFilter {
        match self {
            Self::Get => MethodFilter::GET,
            Self::Post => MethodFilter::POST,
            Self::Put => MethodFilter::PUT,
            Self::Patch => MethodFilter::PATCH,
            Self::Delete => MethodFilter::DELETE,
        }
    }
}

/// Who may call a route. `http::guard` makes the proof that the handler asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Anybody; no proof.
    Public,
    /// Anybody with an enrollment token, in the body or by HTTP Basic; identity checks it first.
    EnrollmentToken,
    /// A device's current certificate: `WithCert`.
    Cert,
    /// A device's certificate, perhaps expired, for renewal only: `WithOldCert`.
    CertMaybeExpired,
    /// A device's current certificate and a token bound to it: `WithCertAndToken`.
    CertAndToken,
    /// An operator's token, and a role that allows the action: `Operator`.
    Operator(Action),
}

/// A body, by media type.
#[derive(Clone, Debug)]
pub struct Media {
    pub kind: &'static str,
    pub shape: Shape,
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub media: Option<Media>,
}

/// All that is known of a route apart from its code.
#[derive(Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a property of its own")]
pub struct RouteInfo {
    pub port: Port,
    pub method: Method,
    /// The template.
    pub path: &'static str,
    pub permission: Permission,
    /// What it is worth when not all can be served.
    pub class: Class,
    pub summary: &'static str,
    /// The bodies it takes; none: it reads no body.
    pub takes: Vec<Media>,
    /// An empty body is as good.
    pub takes_nothing_too: bool,
    pub query: Vec<Parameter>,
    pub answers: Vec<Answer>,
    /// Statuses of errors that the rest of the row does not imply, for its description.
    pub also: &'static [u16],
    /// `Cache-Control: no-store` on every answer.
    pub has_secrets: bool,
    /// How its errors are told.
    pub dialect: Dialect,
    /// The body limit is that of readings.
    pub takes_readings: bool,
    /// The guard tells presence of it. Not where the handler does so itself.
    pub is_contact: bool,
    /// Cached identities will do while the change log cannot be read.
    pub may_be_blind: bool,
    /// `ETag` in the answer of a GET; `If-Match` honoured elsewhere.
    pub has_versions: bool,
    /// `Idempotency-Key` honoured.
    pub is_idempotent_by_key: bool,
}

impl RouteInfo {
    /// The media type of its success, if it is always one and the same.
    pub fn produces(&self) -> Option<&'static str> {
        let mut kinds = self.answers.iter().filter_map(|answer| answer.media.as_ref()).map(|media| media.kind);
        let first = kinds.next()?;
        kinds.all(|kind| kind == first).then_some(first)
    }
}

/// A row: its description and its handler.
#[must_use]
pub struct Route<S> {
    pub info: RouteInfo,
    handler: MethodRouter<S, Infallible>,
}

impl<S: Clone + Send + Sync + 'static> Route<S> {
    pub fn new<H, T>(port: Port, method: Method, path: &'static str, permission: Permission, handler: H) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        let info = RouteInfo {
            port,
            method,
            path,
            permission,
            class: Class::Exchange,
            summary: "",
            takes: Vec::new(),
            takes_nothing_too: false,
            query: Vec::new(),
            answers: Vec::new(),
            also: &[],
            has_secrets: false,
            dialect: Dialect::Problems,
            takes_readings: false,
            is_contact: true,
            may_be_blind: false,
            has_versions: false,
            is_idempotent_by_key: false,
        };
        Self { info, handler: on(method.filter(), handler) }
    }

    /// Unless it says so: [`Class::Exchange`].
    pub fn class(self, class: Class) -> Self {
        self.with(|info| info.class = class)
    }

    /// What it does, in one sentence.
    pub fn summary(self, summary: &'static str) -> Self {
        self.with(|info| info.summary = summary)
    }

    /// A JSON body.
    pub fn takes<T: ToSchema>(self) -> Self {
        self.takes_as(JSON, Shape::of::<T>())
    }

    /// A JSON body, or an empty one.
    pub fn takes_maybe<T: ToSchema>(self) -> Self {
        self.takes::<T>().takes_nothing()
    }

    /// An empty body will do as well.
    pub fn takes_nothing(self) -> Self {
        self.with(|info| info.takes_nothing_too = true)
    }

    pub fn takes_as(self, kind: &'static str, shape: Shape) -> Self {
        self.with(|info| info.takes.push(Media { kind, shape }))
    }

    /// A JSON answer.
    pub fn answers<T: ToSchema>(self, status: u16) -> Self {
        self.answers_as(status, JSON, Shape::of::<T>())
    }

    /// A page of a list, 200.
    pub fn lists<T: ToSchema>(self) -> Self {
        self.answers_as(200, JSON, Shape::page_of::<T>()).class(Class::Lists)
    }

    pub fn answers_as(self, status: u16, kind: &'static str, shape: Shape) -> Self {
        self.with(|info| info.answers.push(Answer { status, media: Some(Media { kind, shape }) }))
    }

    /// An answer without a body, 204.
    pub fn answers_nothing(self) -> Self {
        self.with(|info| info.answers.push(Answer { status: 204, media: None }))
    }

    /// May be refused with these, too.
    pub fn also(self, statuses: &'static [u16]) -> Self {
        self.with(|info| info.also = statuses)
    }

    pub fn query<Q: IntoParams>(self) -> Self {
        self.with(|info| info.query = Q::into_params(|| Some(ParameterIn::Query)))
    }

    pub fn secret(self) -> Self {
        self.with(|info| info.has_secrets = true)
    }

    pub fn oauth(self) -> Self {
        self.with(|info| info.dialect = Dialect::OAuth)
    }

    /// A path of RFC 7030.
    pub fn est(self) -> Self {
        self.with(|info| info.dialect = Dialect::Est)
    }

    pub fn readings(self) -> Self {
        self.with(|info| info.takes_readings = true).class(Class::Readings)
    }

    /// The handler tells presence itself.
    pub fn own_contact(self) -> Self {
        self.with(|info| info.is_contact = false)
    }

    pub fn may_be_blind(self) -> Self {
        self.with(|info| info.may_be_blind = true)
    }

    pub fn versioned(self) -> Self {
        self.with(|info| info.has_versions = true)
    }

    pub fn idempotent_by_key(self) -> Self {
        self.with(|info| info.is_idempotent_by_key = true)
    }

    fn with(mut self, change: impl FnOnce(&mut RouteInfo)) -> Self {
        change(&mut self.info);
        self
    }
}

/// The router of one listener. Each row gets its own layers, so that none needs to ask which route it serves.
pub(super) fn build<S: Clone + Send + Sync + 'static>(
    port: Port,
    routes: Vec<Route<S>>,
    shared: &Shared,
    state: S,
) -> Router {
    let shared = Arc::new(shared.clone());
    let mut app = Router::new();
    for Route { info, handler } in routes {
        let metrics = RouteMetrics::new(Series { port, route: info.path, method: info.method.as_str() });
        let refusals = Refusals::of(&info);
        let row = Row { info, shared: shared.clone(), metrics, refusals };
        let (path, row) = (row.info.path, Arc::new(row));
        // `route_layer`: the fallback for other methods is not this row's.
        let handler = handler.route_layer(from_fn_with_state(row, frame::frame));
        app = app.route(path, handler);
    }
    // A method is text of the caller's: no label has it.
    let metrics = RouteMetrics::new(Series { port, route: UNMATCHED, method: "other" });
    let unmatched = from_fn_with_state(Arc::new(Unmatched { shared: shared.clone(), metrics }), frame::frame_unmatched);
    let unknown_path = frame::unknown_path.layer(unmatched.clone());
    let unknown_method = frame::unknown_method.layer(unmatched);
    app.fallback(unknown_path).method_not_allowed_fallback(unknown_method).with_state(state)
}
