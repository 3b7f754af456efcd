//! OpenAPI 3.1, made of the table of routes and of the wire shapes. Nothing is listed by hand: a route that is in the
//! table is in its listener's document. Ops is not described: it is no API.
//!
//! What the types cannot say of themselves is in two files beside this one: `limits.json` (a merge patch, RFC 7396, over
//! the schemas) and `examples.json`. `script/openapi` writes the documents to `docs/openapi`.

mod answers;
mod shape;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use bytes::Bytes;
use serde_json::{Map, Value, json};

pub use self::shape::Shape;
use self::shape::{Schemas, component};
use super::dialect::Dialect;
use super::route::{JSON, Media, Permission, RouteInfo};
use super::routes::table;
use crate::observe::net::Port;
use crate::wire::problem::Problem;

static DEVICE: LazyLock<Bytes> = LazyLock::new(|| bytes_of(Port::Device));
static ADMIN: LazyLock<Bytes> = LazyLock::new(|| bytes_of(Port::Admin));
static LIMITS: LazyLock<Value> = LazyLock::new(|| written(include_str!("openapi/limits.json")));
static EXAMPLES: LazyLock<Value> = LazyLock::new(|| written(include_str!("openapi/examples.json")));

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
    let schemas: BTreeMap<String, Value> =
        schemas.into_iter().map(|(name, schema)| (name.clone(), limited(&name, json!(schema)))).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": format!("Everbeat, {} listener", port.as_str()),
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "Every error is a problem (RFC 9457); clients ignore fields that they do not know.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": answers::shared(port),
            "headers": answers::headers(port),
            "securitySchemes": security_schemes(port),
        },
    })
}

/// The document as it is checked in: for people and their programs, and for `git diff`.
pub fn text(port: Port) -> String {
    let mut text = serde_json::to_string_pretty(&document(port)).unwrap_or_default();
    text.push('\n');
    text
}

fn bytes_of(port: Port) -> Bytes {
    serde_json::to_vec(&document(port)).unwrap_or_default().into()
}

/// A file of this module; a test reads them.
fn written(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

fn security_schemes(port: Port) -> Value {
    let mut schemes = json!({"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}});
    if port == Port::Device {
        schemes["mutual_tls"] = json!({"type": "mutualTLS", "description": "The certificate that enrollment gave."});
        schemes["client_credentials"] = json!({
            "type": "oauth2",
            "description": "How a device gets its bearer token: over mutual TLS, which is its only credential (RFC 8705).",
            "flows": {"clientCredentials": {"tokenUrl": "/v1/token", "scopes": {}}},
        });
        schemes["enrollment"] = json!({
            "type": "http",
            "scheme": "basic",
            "description": "The device's name, and an enrollment token as the password.",
        });
    }
    schemes
}

/// With what the type cannot say of itself.
fn limited(name: &str, mut schema: Value) -> Value {
    if let Some(patch) = LIMITS["schemas"].get(name) {
        merge(&mut schema, patch);
    }
    if let Some(example) = EXAMPLES["schemas"].get(name) {
        schema["examples"] = json!([example]);
    }
    schema
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(members) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in members {
        match (target.as_object_mut(), value) {
            (Some(target), Value::Null) => drop(target.remove(name)),
            _ => merge(&mut target[name.as_str()], value),
        }
    }
}

fn operation(info: &RouteInfo, schemas: &mut Schemas) -> Value {
    let mut operation = json!({
        "operationId": operation_id(info),
        "summary": info.summary,
        "parameters": parameters(info),
        "responses": answers::of(info, schemas),
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
    let described = media.map(|media| {
        let mut content = json!({"schema": media.shape.schema(schemas)});
        if let Some(example) = media.shape.example(&EXAMPLES["schemas"], schemas).or_else(|| of_kind(media.kind)) {
            content["example"] = example;
        }
        (media.kind.to_owned(), content)
    });
    described.collect()
}

/// An example of a text of this media type.
fn of_kind(kind: &str) -> Option<Value> {
    EXAMPLES["media"].get(kind).cloned()
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
        .map(|parameter| known(parameter, "path"))
        .collect();
    parameters.extend(info.query.iter().map(|parameter| known(never_null(json!(parameter)), "query")));
    let header = |name: &str| json!({"name": name, "in": "header", "required": false, "schema": {"type": "string"}});
    let mut headers = vec![header("X-Request-Id")];
    if info.has_versions && info.method.as_str() != "GET" {
        headers.push(header("If-Match"));
    }
    if info.is_idempotent_by_key {
        headers.push(header("Idempotency-Key"));
    }
    if info.takes_readings {
        headers.push(header("X-Request-Deadline-Ms"));
    }
    parameters.extend(headers.into_iter().map(|parameter| known(parameter, "headers")));
    parameters.into()
}

/// With its limits and its example. What is called the same in one place is the same everywhere.
fn known(mut parameter: Value, place: &str) -> Value {
    let name = parameter["name"].as_str().unwrap_or_default().to_owned();
    if let Some(patch) = LIMITS[place].get(&name) {
        merge(&mut parameter, patch);
    }
    if let Some(example) = EXAMPLES[place].get(&name) {
        parameter["example"] = example.clone();
    }
    parameter
}

/// A parameter may be absent; there is no way to write null.
fn never_null(mut parameter: Value) -> Value {
    let kind =
        parameter["schema"]["type"].as_array().and_then(|kinds| kinds.iter().find(|kind| *kind != "null")).cloned();
    if let Some(kind) = kind {
        parameter["schema"]["type"] = kind;
    }
    parameter
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Every name in the two files is that of something.
    #[test]
    fn the_files_beside_it_say_nothing_of_what_is_not_there() {
        let documents = [document(Port::Device), document(Port::Admin)];
        let in_use = |place: &str| {
            let parameters = documents.iter().flat_map(|document| {
                let operations =
                    document["paths"].as_object().unwrap().values().flat_map(|path| path.as_object().unwrap().values());
                operations.flat_map(|operation| operation["parameters"].as_array().unwrap().clone())
            });
            let place = if place == "headers" { "header" } else { place }.to_owned();
            let here = parameters.filter(move |parameter| parameter["in"] == *place);
            here.map(|parameter| parameter["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let schemas: Vec<String> =
            documents.iter().flat_map(|it| it["components"]["schemas"].as_object().unwrap().keys().cloned()).collect();
        for file in [&*LIMITS, &*EXAMPLES] {
            for (place, known) in [
                ("schemas", schemas.clone()),
                ("path", in_use("path")),
                ("query", in_use("query")),
                ("headers", in_use("headers")),
            ] {
                let names = file[place].as_object().unwrap_or_else(|| panic!("{place} is no object"));
                for name in names.keys() {
                    assert!(known.contains(name), "{place}: there is no {name}");
                }
            }
        }
    }

    #[test]
    fn every_body_and_every_parameter_has_its_example() {
        for document in [document(Port::Device), document(Port::Admin)] {
            for (path, item) in document["paths"].as_object().unwrap() {
                for operation in item.as_object().unwrap().values() {
                    for parameter in operation["parameters"].as_array().unwrap() {
                        assert!(parameter.get("example").is_some(), "{path}: {}", parameter["name"]);
                    }
                    let bodies =
                        operation["responses"].as_object().unwrap().values().chain(operation.get("requestBody"));
                    for (kind, media) in bodies.filter_map(|body| body["content"].as_object()).flatten() {
                        assert!(media.get("example").is_some(), "{path}: {kind}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_merge_patch() {
        let mut target = json!({"a": {"b": 1, "c": 2}, "d": [1]});
        merge(&mut target, &json!({"a": {"b": null, "e": {"f": 3}}, "d": 4}));
        assert_eq!(target, json!({"a": {"c": 2, "e": {"f": 3}}, "d": 4}));
    }
}
