//! The table of routes, its descriptions, and the page of problems.

#![cfg(test)]

use serde_json::{Value, json};

use super::openapi::{document, text};
use super::route::{Permission, RouteInfo};
use super::routes::table;
use crate::observe::net::Port;
use crate::wire::problem::Slug;

#[test]
fn routes_occur_once_and_say_what_they_do() {
    let mut seen = std::collections::HashSet::new();
    for RouteInfo { port, method, path, summary, answers, .. } in table() {
        assert!(seen.insert((port.as_str(), method.as_str(), path)), "{path} occurs twice");
        assert!(summary.ends_with('.'), "{path}: the summary is a sentence");
        assert!(!answers.is_empty(), "{path} answers nothing");
    }
}

/// Grows only for a reason that stands in API.md.
const PUBLIC: &[(&str, &str)] = &[
    ("device", "/openapi.json"),
    ("device", "/v1/ca"),
    ("device", "/.well-known/est/cacerts"),
    ("device", "/.well-known/est/csrattrs"),
    ("device", "/v1/crl"),
    ("device", "/v1/crl.pem"),
    ("admin", "/openapi.json"),
    ("ops", "/livez"),
    ("ops", "/readyz"),
    ("ops", "/metrics"),
];

#[test]
fn permissions_fit_their_listeners() {
    for info in table() {
        let fits = match (info.port, info.permission) {
            (port, Permission::Public) => PUBLIC.contains(&(port.as_str(), info.path)),
            (Port::Device, permission) => !matches!(permission, Permission::Operator(_)),
            (Port::Admin, permission) => matches!(permission, Permission::Operator(_)),
            (Port::Ops, _) => false,
        };
        assert!(fits, "{} {} {:?}", info.method.as_str(), info.path, info.permission);
    }
}

#[test]
fn the_descriptions_list_exactly_the_table() {
    for port in [Port::Device, Port::Admin] {
        let document = document(port);
        let paths = document["paths"].as_object().unwrap();
        let described = paths.iter().flat_map(|(path, item)| {
            item.as_object().unwrap().keys().map(move |method| format!("{} {path}", method.to_uppercase()))
        });
        let mut described: Vec<String> = described.collect();
        let infos = table().into_iter().filter(|info| info.port == port);
        let mut listed: Vec<String> = infos.map(|info| format!("{} {}", info.method.as_str(), info.path)).collect();
        described.sort_unstable();
        listed.sort_unstable();
        assert_eq!(described, listed);
    }
}

#[test]
fn est_is_described_as_it_is() {
    let document = document(Port::Device);
    let of = |path: &str, method: &str| document["paths"][format!("/.well-known/est/{path}")][method].clone();
    let certificates = "application/pkcs7-mime; smime-type=certs-only";
    for (path, security) in [("simpleenroll", "enrollment"), ("simplereenroll", "mutual_tls")] {
        let operation = of(path, "post");
        assert_eq!(operation["security"], json!([{security: []}]));
        assert_eq!(
            operation["requestBody"]["content"].as_object().unwrap().keys().collect::<Vec<_>>(),
            ["application/pkcs10"]
        );
        assert!(operation["responses"]["200"]["content"][certificates].is_object(), "{operation}");
    }
    assert_eq!(document["components"]["securitySchemes"]["enrollment"]["scheme"], "basic");
    let errors = &document["components"]["responses"]["BadRequestInWords"]["content"];
    assert_eq!(errors.as_object().unwrap().keys().collect::<Vec<_>>(), ["text/plain; charset=utf-8"]);
    assert!(of("cacerts", "get")["responses"]["200"]["content"][certificates].is_object());
    assert!(of("csrattrs", "get")["responses"]["204"].get("content").is_none());
}

#[test]
fn every_reference_of_a_description_leads_somewhere() {
    for port in [Port::Device, Port::Admin] {
        let document = document(port);
        let mut ids = std::collections::HashSet::new();
        walk(&document, &mut |value| {
            if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{reference}");
            }
            if let Some(id) = value.get("operationId").and_then(Value::as_str) {
                assert!(ids.insert(id.to_owned()), "{id} occurs twice");
                // RFC 7030 has errors in plain text.
                let words = if id.contains("_well_known_est_") { "InWords" } else { "" };
                for (status, name) in [("400", "BadRequest"), ("500", "Internal"), ("503", "Unavailable")] {
                    let shared = json!({"$ref": format!("#/components/responses/{name}{words}")});
                    assert_eq!(value["responses"][status], shared, "{id}");
                }
            }
        });
    }
}

fn walk(value: &Value, visit: &mut impl FnMut(&Value)) {
    visit(value);
    match value {
        Value::Array(items) => items.iter().for_each(|item| walk(item, visit)),
        Value::Object(members) => members.values().for_each(|member| walk(member, visit)),
        _ => {}
    }
}

#[test]
fn the_documents_that_are_checked_in_are_of_this_code() {
    let documents = [
        (Port::Device, include_str!("../../docs/openapi/device.json")),
        (Port::Admin, include_str!("../../docs/openapi/admin.json")),
    ];
    for (port, checked_in) in documents {
        assert!(text(port) == checked_in, "docs/openapi/{}.json is stale: run ./script/openapi", port.as_str());
    }
}

#[test]
fn every_slug_is_documented_and_nothing_else() {
    let page = include_str!("../../docs/problems.md");
    let documented: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("### `")?.split('`').next()).collect();
    let known: Vec<&str> = Slug::ALL.iter().map(|slug| slug.as_str()).collect();
    assert_eq!(documented, known);
    for slug in Slug::ALL {
        let heading = format!("### `{}` ({})", slug.as_str(), slug.status());
        let mut after = page.lines().skip_while(|line| **line != *heading).skip(1).filter(|line| !line.is_empty());
        assert!(after.next().is_some_and(|line| !line.starts_with('#')), "{heading} says nothing");
    }
}
