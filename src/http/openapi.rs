//! OpenAPI 3.1, made of the table of routes and of the wire shapes. Nothing is listed by hand: a route that is in the
//! table is in its listener's document. Ops is not described: it is no API.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::dialect::{Dialect, PLAIN_TEXT};
use super::error::PROBLEM_JSON;
use super::page::LIMIT_MAX;
use super::route::{JSON, Media, Permission, RouteInfo};
use super::routes::table;
use crate::observe::net::Port;
use crate::wire::problem::{Problem, Slug};

static DEVICE: LazyLock<Bytes> = LazyLock::new(|| bytes_of(Port::Device));
static ADMIN: LazyLock<Bytes> = LazyLock::new(|| bytes_of(Port::Admin));

type Schemas = Vec<(String, RefOr<Schema>)>;

/// The schema of a body.
#[derive(Clone, Copy)]
pub enum Shape {
    /// A wire type: a component.
    Of(fn(&mut Schemas) -> String),
    /// A page of a wire type.
    PageOf(fn(&mut Schemas) -> String),
    /// Any JSON.
    Any,
    /// Text of its own media type.
    Text,
    /// Bytes as text.
    Base64,
    /// A schema of its own, of a standard's format.
    Own(fn() -> Value),
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Of(_) => "Of",
            Self::PageOf(_) => "PageOf",
            Self::Any => "Any",
            Self::Text => "Text",
            Self::Base64 => "Base64",
            Self::Own(_) => "Own",
        })
    }
}

impl Shape {
    pub fn of<T: ToSchema>() -> Self {
        Self::Of(component::<T>)
    }

    pub fn page_of<T: ToSchema>() -> Self {
        Self::PageOf(component::<T>)
    }

    fn schema(self, schemas: &mut Schemas) -> Value {
        match self {
            Self::Of(component) => reference(&component(schemas)),
            Self::PageOf(component) => json!({
                "type": "object",
                "required": ["items", "next"],
                "properties": {
                    "items": {"type": "array", "items": reference(&component(schemas)), "maxItems": LIMIT_MAX},
                    "next": {"type": ["string", "null"], "description": "The cursor of the next page."},
                },
            }),
            Self::Any => json!({}),
            Self::Text => json!({"type": "string"}),
            Self::Base64 => json!({"type": "string", "contentEncoding": "base64"}),
            Self::Own(schema) => schema(),
        }
    }
}

pub async fn device() -> impl IntoResponse {
    ([(CONTENT_TYPE, JSON)], DEVICE.clone())
}

pub async fn admin() -> impl IntoResponse {
    ([(CONTENT_TYPE, JSON)], ADMIN.clone())
}

/// The document of one listener.
pub fn document(port: Port) -> Value {
    let mut schemas = Schemas::new();
    component::<Problem>(&mut schemas);
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for info in table().iter().filter(|info| info.port == port) {
        let item = paths.entry(info.path).or_default();
        item.insert(info.method.as_str().to_ascii_lowercase(), operation(info, &mut schemas));
    }
    let schemas: BTreeMap<_, _> = schemas.into_iter().collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": format!("Everbeat, {} listener", port.as_str()),
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {"Problem": problem(), "PlainText": plain_text()},
            "securitySchemes": {
                "mutual_tls": {"type": "mutualTLS", "description": "The certificate that enrollment gave."},
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "enrollment": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "The device's name, and an enrollment token as the password.",
                },
            },
        },
    })
}

fn bytes_of(port: Port) -> Bytes {
    serde_json::to_vec(&document(port)).unwrap_or_default().into()
}

fn component<T: ToSchema>(schemas: &mut Schemas) -> String {
    let name = T::name().into_owned();
    if !schemas.iter().any(|(known, _)| *known == name) {
        schemas.push((name.clone(), <T as PartialSchema>::schema()));
        T::schemas(schemas);
    }
    name
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// The shared answer of operations: any error.
fn problem() -> Value {
    let slugs: Vec<String> = Slug::ALL.iter().map(|slug| format!("`{}` ({})", slug.as_str(), slug.status())).collect();
    json!({
        "description": format!("A problem (RFC 9457). `type` ends in one of: {}.", slugs.join(", ")),
        "headers": error_headers("On 401 (RFC 6750)."),
        "content": {PROBLEM_JSON: {"schema": reference("Problem")}},
    })
}

/// The same where EST is spoken.
fn plain_text() -> Value {
    json!({
        "description": "What is wrong and what to do, in words (RFC 7030).",
        "headers": error_headers("On 401 (RFC 7617)."),
        "content": {PLAIN_TEXT: {"schema": {"type": "string"}}},
    })
}

fn error_headers(challenge: &str) -> Value {
    let header = |text: &str| json!({"description": text, "schema": {"type": "string"}});
    json!({
        "X-Request-Id": header("The caller's, or made by us."),
        "Retry-After": header("On 429 and 503, in seconds."),
        "WWW-Authenticate": header(challenge),
    })
}

fn operation(info: &RouteInfo, schemas: &mut Schemas) -> Value {
    let mut operation = json!({
        "operationId": operation_id(info),
        "summary": info.summary,
        "parameters": parameters(info),
        "responses": responses(info, schemas),
        "security": security(info),
    });
    if !info.takes.is_empty() {
        let content = content(info.takes.iter(), schemas);
        operation["requestBody"] = json!({"required": !info.takes_nothing_too, "content": content});
    }
    if let Permission::Operator(action) = info.permission {
        operation["x-action"] = json!(format!("{action:?}"));
    }
    operation
}

fn content<'a>(media: impl Iterator<Item = &'a Media>, schemas: &mut Schemas) -> Value {
    media.map(|media| (media.kind.to_owned(), json!({"schema": media.shape.schema(schemas)}))).collect()
}

fn responses(info: &RouteInfo, schemas: &mut Schemas) -> Value {
    let mut responses = Map::new();
    for answer in &info.answers {
        let mut response = json!({"description": description(answer.status)});
        if let Some(media) = &answer.media {
            response["content"] = content(std::iter::once(media), schemas);
        }
        responses.insert(answer.status.to_string(), response);
    }
    let error = if info.dialect == Dialect::Est { "PlainText" } else { "Problem" };
    for class in ["4XX", "5XX"] {
        responses.insert(class.to_owned(), json!({"$ref": format!("#/components/responses/{error}")}));
    }
    responses.into()
}

fn description(status: u16) -> &'static str {
    match status {
        201 => "Made.",
        204 => "Done; no body.",
        207 => "Some items were rejected.",
        422 => "No item was acceptable.",
        _ => "Done.",
    }
}

/// `get_v1_devices_d_presence`: stable as long as method and path are.
fn operation_id(info: &RouteInfo) -> String {
    let mut id = info.method.as_str().to_ascii_lowercase();
    for part in info.path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|part| !part.is_empty()) {
        id.push('_');
        id.push_str(part);
    }
    id
}

fn parameters(info: &RouteInfo) -> Value {
    let in_path = info.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let mut parameters: Vec<Value> = in_path
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
        .collect();
    parameters.extend(info.query.iter().map(|parameter| json!(parameter)));
    let header = |name: &str, schema: Value| json!({"name": name, "in": "header", "required": false, "schema": schema});
    if info.has_versions && info.method.as_str() != "GET" {
        parameters.push(header("If-Match", json!({"type": "string"})));
    }
    if info.is_idempotent_by_key {
        parameters.push(header("Idempotency-Key", json!({"type": "string", "minLength": 1, "maxLength": 255})));
    }
    parameters.into()
}

fn security(info: &RouteInfo) -> Value {
    match info.permission {
        Permission::EnrollmentToken if info.dialect == Dialect::Est => json!([{"enrollment": []}]),
        Permission::Public | Permission::EnrollmentToken => json!([]),
        Permission::Cert | Permission::CertMaybeExpired => json!([{"mutual_tls": []}]),
        Permission::CertAndToken => json!([{"mutual_tls": [], "bearer": []}]),
        Permission::Operator(_) => json!([{"bearer": []}]),
    }
}
