//! What an operation can answer: its own successes, and of the shared errors those that its row allows for.

use serde_json::{Map, Value, json};

use super::content;
use super::shape::{Schemas, reference};
use crate::http::dialect::{Dialect, PLAIN_TEXT};
use crate::http::error::PROBLEM_JSON;
use crate::http::route::{Method, Permission, RouteInfo};
use crate::observe::net::Port;
use crate::wire::problem::Slug;

/// Statuses of errors, each with the name of its shared answer and with what it says besides its slugs.
const ERRORS: &[(u16, &str, &str)] = &[
    (400, "BadRequest", "Malformed, or a field is not valid."),
    (401, "Unauthorized", "Who is calling? The certificate or the token is missing or not good."),
    (403, "Forbidden", "The caller is known, and may not."),
    (404, "NotFound", "Not there, or not the caller's to know."),
    (405, "MethodNotAllowed", "The path, but not with this method."),
    (406, "NotAcceptable", "`Accept` excludes what this call answers."),
    (408, "BodyTimeout", "The body came too slowly."),
    (409, "Conflict", "It conflicts with the present state."),
    (412, "PreconditionFailed", "`If-Match` names an older version."),
    (413, "TooLarge", "The body is too large."),
    (415, "UnsupportedMediaType", "The `Content-Type` or the `Content-Encoding` is not taken."),
    (429, "TooManyRequests", "The caller's quota is used up. Nothing was done."),
    (431, "HeaderTooLarge", "The header section is too large. Given before routing: the bare status, without a body."),
    (500, "Internal", "A fault of ours."),
    (
        503,
        "Unavailable",
        "We cannot, now: send it again after the pause. Nothing was stored, or it is unknown and safe to send again.",
    ),
];

/// The challenge where EST is spoken.
const BASIC: &str = "Basic-Challenge";
/// Ends the names of the same answers where EST is spoken.
const IN_WORDS: &str = "InWords";

/// The answers of one operation.
pub fn of(info: &RouteInfo, schemas: &mut Schemas) -> Value {
    let mut answers = Map::new();
    for answer in &info.answers {
        let mut response = json!({"description": description(answer.status), "headers": success_headers(info)});
        if let Some(media) = &answer.media {
            response["content"] = content(std::iter::once(media), schemas);
        }
        answers.insert(answer.status.to_string(), response);
    }
    // RFC 7030 has errors in plain text.
    let words = if info.dialect == Dialect::Est { IN_WORDS } else { "" };
    for (status, name, _) in ERRORS.iter().filter(|(status, ..)| can_be(info, *status)) {
        answers.insert(status.to_string(), json!({"$ref": format!("#/components/responses/{name}{words}")}));
    }
    answers.into()
}

/// May this route answer so?
fn can_be(info: &RouteInfo, status: u16) -> bool {
    let reads_body = !info.takes.is_empty();
    let is_limited = is_limited(info);
    let may_lack = match info.permission {
        Permission::Operator(action) => action.needs().is_some(),
        Permission::Public => false,
        _ => true,
    };
    match status {
        401 => info.permission != Permission::Public,
        403 => may_lack,
        404 => {
            info.path.contains('{')
                || info.query.iter().any(|it| matches!(&*it.name, "fleet" | "device"))
                || info.also.contains(&404)
        }
        406 => info.produces().is_some(),
        408 | 415 => reads_body,
        409 => info.also.contains(&409),
        412 => info.has_versions && info.method != Method::Get,
        429 => {
            is_limited
                || matches!(
                    info.permission,
                    Permission::EnrollmentToken | Permission::CertMaybeExpired | Permission::Operator(_)
                )
        }
        _ => true,
    }
}

/// Requests of known devices count against a rate. (Of others, failed attempts do.)
fn is_limited(info: &RouteInfo) -> bool {
    matches!(info.permission, Permission::Cert | Permission::CertAndToken)
}

/// The shared answers, by name.
pub fn shared(port: Port) -> Value {
    let listed = ERRORS.iter().filter(|(status, ..)| match status {
        412 => port == Port::Admin,
        _ => true,
    });
    let mut all = Map::new();
    for (status, name, text) in listed {
        all.insert((*name).to_owned(), shared_error(*status, text));
        if port == Port::Device && EST_ERRORS.contains(status) {
            all.insert(format!("{name}{IN_WORDS}"), in_words(*status, text));
        }
    }
    all.into()
}

/// What a call of EST can end in.
const EST_ERRORS: &[u16] = &[400, 401, 403, 405, 406, 408, 409, 413, 415, 429, 431, 500, 503];

/// The same where EST is spoken.
fn in_words(status: u16, text: &str) -> Value {
    let mut answer = shared_error(status, text);
    if answer.get("content").is_none() {
        return answer;
    }
    answer["description"] = json!(text);
    if status == 401 {
        answer["headers"]["WWW-Authenticate"] = header(BASIC);
    }
    answer["content"] = json!({PLAIN_TEXT: {
        "schema": {"type": "string"},
        "example": "What is wrong.\nWhat to do.\n",
    }});
    answer
}

fn shared_error(status: u16, text: &str) -> Value {
    let slugs: Vec<Slug> = Slug::ALL.iter().copied().filter(|slug| slug.status() == status).collect();
    let named: Vec<String> = slugs.iter().map(|slug| format!("`{}`", slug.as_str())).collect();
    let mut answer = json!({"description": format!("{text} Slugs: {}.", named.join(", "))});
    if status == 431 {
        return answer;
    }
    let headers = error_headers(status).iter().map(|name| ((*name).to_owned(), header(name)));
    answer["headers"] = headers.collect::<Map<_, _>>().into();
    let example = slugs.first().map(|slug| example(*slug));
    answer["content"] = json!({PROBLEM_JSON: {"schema": reference("Problem"), "example": example}});
    answer
}

fn example(slug: Slug) -> Value {
    let mut problem = json!({
        "type": slug.urn(),
        "title": slug.title(),
        "status": slug.status(),
        "detail": "What happened, and what to do.",
        "request_id": "0192f6d0-7b7a-7c3e-9d5e-0123456789ab",
    });
    if matches!(slug.status(), 429 | 503) {
        problem["retry_after_ms"] = json!(2_000);
    }
    problem
}

fn error_headers(status: u16) -> &'static [&'static str] {
    match status {
        401 => &["X-Request-Id", "WWW-Authenticate"],
        405 => &["X-Request-Id", "Allow"],
        415 => &["X-Request-Id", "Accept", "Accept-Encoding"],
        429 => &["X-Request-Id", "Retry-After", "RateLimit-Policy", "RateLimit"],
        503 => &["X-Request-Id", "Retry-After"],
        _ => &["X-Request-Id"],
    }
}

fn success_headers(info: &RouteInfo) -> Value {
    let mut names = vec!["X-Request-Id"];
    if info.has_versions {
        names.push("ETag");
    }
    if is_limited(info) {
        names.extend(["RateLimit-Policy", "RateLimit"]);
    }
    if info.has_secrets {
        names.push("Cache-Control");
    }
    if info.method != Method::Get {
        names.push("X-Everbeat-Durability");
    }
    if info.is_idempotent_by_key {
        names.extend(["Location", "Idempotency-Replayed"]);
    }
    let headers = names.into_iter().map(|name| (name.to_owned(), header(name)));
    headers.collect::<Map<_, _>>().into()
}

fn header(name: &str) -> Value {
    json!({"$ref": format!("#/components/headers/{name}")})
}

/// All headers that answers have, by name.
pub fn headers(port: Port) -> Value {
    let text = |text: &str, required: bool, schema: Value| json!({"description": text, "required": required, "schema": schema});
    let string = || json!({"type": "string"});
    let mut all = json!({
        "X-Request-Id": text("The caller's, or made by us.", true, json!({"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"})),
        "WWW-Authenticate": text("RFC 6750, 3.", true, json!({"type": "string", "pattern": "^Bearer "})),
        BASIC: text("RFC 7617, 2.", true, json!({"type": "string", "pattern": "^Basic "})),
        "Allow": text("The methods that the path has.", true, string()),
        "Accept": text("The media types that are taken, where that was at fault.", false, string()),
        "Accept-Encoding": text("The content codings that are taken, where that was at fault.", false, string()),
        "Retry-After": text("Seconds; `retry_after_ms` in the body is finer.", true, json!({"type": "integer", "minimum": 1})),
        "RateLimit-Policy": text(
            "How often the device and its fleet may come: `q` requests at once, and as many in each `w` seconds (draft-ietf-httpapi-ratelimit-headers-10). Absent without a limit.",
            false,
            json!({"type": "string", "pattern": "^\"(device|fleet)\";q=[0-9]+;w=[0-9]+(, \"fleet\";q=[0-9]+;w=[0-9]+)?$"}),
        ),
        "RateLimit": text(
            "What is left of it: `r` requests; in `t` seconds there is more.",
            false,
            json!({"type": "string", "pattern": "^\"(device|fleet)\";r=[0-9]+;t=[0-9]+(, \"fleet\";r=[0-9]+;t=[0-9]+)?$"}),
        ),
        "ETag": text("The version of the resource; strong.", true, json!({"type": "string", "pattern": "^\"[0-9]+\"$"})),
        "X-Everbeat-Durability": text(
            "`degraded`: what was changed is on the primary alone (`durability.policy` is `accept`). Absent: it is where the policy wants it.",
            false,
            json!({"type": "string", "const": "degraded"}),
        ),
        "Cache-Control": text("Secrets are not to be stored.", true, json!({"type": "string", "const": "no-store"})),
        "Location": text("Where the new resource is.", false, string()),
        "Idempotency-Replayed": text("`true`: the answer to a repetition.", false, json!({"type": "string", "const": "true"})),
    });
    if let (Some(all), true) = (all.as_object_mut(), port != Port::Device) {
        all.remove(BASIC);
    }
    all
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
