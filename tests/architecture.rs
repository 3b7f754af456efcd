//! Holds the plan of the house: ranks, what stands where, and sizes. Each rule reads `src/` and fails with file and
//! line; each is also given a planted breach, so that a rule that sees nothing any more is noticed.

#[path = "architecture/rules.rs"]
mod rules;
#[path = "architecture/source.rs"]
mod source;

use std::path::Path;
use std::sync::OnceLock;

use source::{Finding, Source};

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))
}

fn sources() -> &'static [Source] {
    static SOURCES: OnceLock<Vec<Source>> = OnceLock::new();
    SOURCES.get_or_init(|| source::read_all(root()))
}

/// Fails with every breach, one a line.
fn none(findings: impl IntoIterator<Item = Finding>) {
    let mut lines: Vec<String> = findings.into_iter().map(|finding| finding.to_string()).collect();
    lines.dedup();
    assert!(lines.is_empty(), "{} breaches:\n{}", lines.len(), lines.join("\n"));
}

fn holds(rule: fn(&Source) -> Vec<Finding>) {
    none(sources().iter().flat_map(rule));
}

#[test]
fn imports_go_strictly_down_the_ranks() {
    holds(rules::ranks);
}

#[test]
fn crates_stand_under_their_module() {
    holds(rules::only_under);
}

#[test]
fn files_functions_and_argument_lists_are_small() {
    let mut sizes: Vec<usize> = sources().iter().map(|source| source.lines).collect();
    sizes.sort_unstable();
    println!("{} files, median {} lines, longest {:?}", sizes.len(), sizes[sizes.len() / 2], sizes.last());
    holds(rules::sizes);
}

#[test]
fn nothing_panics_on_purpose() {
    holds(rules::no_panics);
}

#[test]
fn every_queue_has_a_limit() {
    holds(rules::no_unbounded);
}

#[test]
fn tasks_start_in_one_place() {
    holds(rules::no_bare_spawn);
}

#[test]
fn the_environment_is_read_in_config() {
    holds(rules::environment);
}

#[test]
fn the_clock_is_a_parameter() {
    holds(rules::clock);
}

#[test]
fn metric_names_stand_in_observe() {
    let known = rules::declared_metrics(sources());
    assert!(!known.is_empty(), "observe/ declares metrics");
    none(sources().iter().flat_map(|source| rules::metric_names(source, &known)));
}

#[test]
fn nothing_is_unfinished() {
    let text = |source: &Source| std::fs::read_to_string(root().join(&source.path)).expect("it was read before");
    none(sources().iter().flat_map(|source| rules::unfinished(&format!("src/{}", source.path), &text(source))));
}

/// The lines on which a rule finds fault with a planted text.
fn caught(rule: fn(&Source) -> Vec<Finding>, path: &str, text: &str) -> Vec<usize> {
    let mut lines: Vec<usize> = rule(&Source::parse(path, text)).into_iter().map(|finding| finding.line).collect();
    lines.dedup();
    lines
}

/// `(file, text, lines with a breach)`
type Planted = (&'static str, &'static str, &'static [usize]);

fn sees(rule: fn(&Source) -> Vec<Finding>, planted: &[Planted]) {
    for (path, text, lines) in planted {
        assert_eq!(caught(rule, path, text), *lines, "in {path}:\n{text}");
    }
}

#[test]
fn the_rank_rule_sees_a_planted_breach() {
    sees(
        rules::ranks,
        &[
            ("store/fleet.rs", "use crate::domain::ids::FleetId;\nuse crate::store::error::StoreError;", &[]),
            ("store/fleet.rs", "use crate::domain::ids::FleetId;\nuse crate::http::routes;", &[2]),
            ("presence/mod.rs", "use crate::identity::Identity;", &[1]),
            ("identity/mod.rs", "use crate::{domain::ids,\n jobs::{self, lease}, store::x};", &[2]),
            ("store/fleet.rs", "fn f() {\n  crate::app::run();\n}", &[2]),
            ("store/fleet.rs", "fn f() {\n  println!(\"{}\", crate::app::VERSION);\n}", &[2]),
            ("store/mod.rs", "use super::http::x;", &[1]),
            ("store/changes/mod.rs", "use super::super::{domain, http};", &[1]),
            ("store/changes/mod.rs", "use super::http::x;", &[]),
            ("store/mod.rs", "mod inner {\n  use super::http;\n  use super::super::http::x;\n}", &[3]),
            ("domain/ids.rs", "pub(crate) fn f() {}\n/// [`crate::http`]\npub(super) fn g() {}", &[]),
            ("domain/ids.rs", "#[cfg(test)]\nmod tests {\n  use crate::store::x;\n}", &[]),
            ("domain/ids.rs", "#[cfg(all(test, unix))]\nuse crate::store::x;", &[]),
            ("domain/ids.rs", "#[cfg(any(test, unix))]\nuse crate::store::x;", &[2]),
            ("domain/ids.rs", "#[cfg(not(test))]\nuse crate::store::x;", &[2]),
            ("store/x.rs", "crate::statements! {}", &[]),
            ("net/x.rs", "crate::statements! {}", &[1]),
            ("novel/mod.rs", "fn f() {}", &[1]),
            ("main.rs", "fn main() { everbeat::cli::run() }", &[]),
            ("cli.rs", "use crate::app;", &[]),
            ("app.rs", "use crate::cli;", &[1]),
        ],
    );
}

#[test]
fn the_placement_rule_sees_a_planted_breach() {
    sees(
        rules::only_under,
        &[
            ("http/routes.rs", "use axum::Router;", &[]),
            ("identity/mod.rs", "use axum::Router;", &[1]),
            ("identity/mod.rs", "fn f() {\n  let x: ::sqlx::PgPool;\n}", &[2]),
            ("http/mod.rs", "fn f() {\n  sqlx::query!(\"select 1\");\n}", &[2]),
            ("http/mod.rs", "use tokio_postgres;", &[1]),
            ("store/settings.rs", "use rustls::ClientConfig;", &[]),
            ("store/fleet.rs", "use rustls::ClientConfig;", &[1]),
            ("http/mod.rs", "fn f(metrics: u8) { let hyper = metrics; crate::observe::metrics::x(); }", &[]),
            ("http/mod.rs", "fn f() { metrics::counter!(\"x\").increment(1); }", &[1]),
        ],
    );
}

#[test]
fn the_size_rule_sees_planted_breaches() {
    let function = |lines: usize| format!("fn f() {{\n{}}}\n", "    g();\n".repeat(lines));
    assert_eq!(caught(rules::sizes, "store/x.rs", &function(rules::FUNCTION_LINES_MAX)), [0; 0]);
    assert_eq!(caught(rules::sizes, "store/x.rs", &function(rules::FUNCTION_LINES_MAX + 1)), [1]);
    let file = |lines: usize| "const A: u8 = 1;\n".repeat(lines);
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", file(500));
    assert_eq!(caught(rules::sizes, "store/x.rs", &(file(rules::FILE_LINES_MAX) + &tests)), [0; 0]);
    assert_eq!(caught(rules::sizes, "store/x.rs", &file(rules::FILE_LINES_MAX + 1)), [1]);
    let method = |arguments: &str| format!("impl A {{\n  fn f(&self, {arguments}) {{}}\n}}");
    let six = "a: u8, b: u8, c: u8, d: u8, e: u8, f: u8";
    assert_eq!(caught(rules::sizes, "store/x.rs", &method(six)), [0; 0]);
    assert_eq!(caught(rules::sizes, "store/x.rs", &method(&format!("{six}, g: u8"))), [2]);
}

#[test]
fn the_token_rules_see_planted_breaches() {
    sees(
        rules::no_panics,
        &[
            ("a.rs", "fn f() {\n  g().unwrap();\n  h().expect(\"x\");\n}", &[2, 3]),
            ("a.rs", "fn f() {\n  vec![g().unwrap()];\n  todo!();\n  unimplemented!()\n}", &[2, 3, 4]),
            ("a.rs", "fn f() {\n  unsafe { g() }\n}\nunsafe impl Send for A {}", &[2, 4]),
            ("a.rs", "fn f() {\n  self.expect(b'[')?;\n  self.x.expect(\"y\");\n}", &[3]),
            ("a.rs", "// .unwrap()\nfn f() { g().unwrap_or(1); \".unwrap()\"; }", &[]),
            ("a.rs", "#[cfg(test)]\nmod tests {\n  #[test]\n  fn f() { g().unwrap(); }\n}", &[]),
        ],
    );
    sees(
        rules::no_unbounded,
        &[
            ("a.rs", "fn f() {\n  tokio::sync::mpsc::unbounded_channel();\n}", &[2]),
            ("a.rs", "use std::sync::mpsc::channel;", &[1]),
            ("a.rs", "use tokio::sync::mpsc::channel;", &[]),
        ],
    );
    sees(
        rules::no_bare_spawn,
        &[
            ("a.rs", "fn f() {\n  tokio::spawn(g());\n  tokio::task::spawn(g());\n}", &[2, 3]),
            ("a.rs", "use tokio::{net, spawn};", &[1]),
            ("a.rs", "fn f() { tokio::task::spawn_blocking(g); tasks::spawn(g()); tasks.tracked(g()); }", &[]),
            ("lifecycle/tasks.rs", "fn f() { tokio::spawn(g()); }", &[]),
        ],
    );
    sees(
        rules::environment,
        &[
            ("store/x.rs", "use std::env;\nfn f() {\n  env::var(\"X\");\n}", &[1, 3]),
            ("store/x.rs", "use std::{env, fs};", &[1]),
            ("store/x.rs", "const V: &str = env!(\"CARGO_PKG_VERSION\");", &[]),
            ("config/mod.rs", "use std::env;", &[]),
        ],
    );
    sees(
        rules::clock,
        &[
            ("store/x.rs", "fn f() {\n  SystemTime::now();\n  OffsetDateTime::now_utc();\n}", &[2, 3]),
            ("store/x.rs", "use std::time::{Duration, Instant};", &[1]),
            ("store/x.rs", "use tokio::time::{Duration, Instant};", &[]),
            ("domain/time.rs", "fn f() { SystemTime::now(); }", &[]),
        ],
    );
}

#[test]
fn files_that_are_tests_as_a_whole_are_told_apart() {
    let files = |path: &str, text: &str| Source::parse(path, text).test_files();
    assert_eq!(files("net/mod.rs", "#[cfg(test)]\nmod tests;\nmod serve;"), ["net/tests.rs", "net/tests/"]);
    assert_eq!(files("client/http.rs", "#[cfg(test)]\nmod wire;"), ["client/http/wire.rs", "client/http/wire/"]);
    assert_eq!(files("lib.rs", "#[cfg(test)] mod probe;"), ["probe.rs", "probe/"]);
    assert!(files("net/mod.rs", "#[cfg(not(test))]\nmod serve;").is_empty());
    assert!(sources().iter().any(|source| source.path == "net/serve.rs"));
}

#[test]
fn the_metric_rule_sees_a_planted_breach() {
    let known = rules::declared_metrics(&[Source::parse("observe/x.rs", "const A: &str = \"everbeat_x_depth\";")]);
    assert_eq!(known, ["everbeat_x_depth"]);
    let text = "const A: &str = \"everbeat_owner\";\nconst B: &str = \"everbeat_x_depth{}\";\nconst C: &str = \"everbeat_y_total\";";
    let found = rules::metric_names(&Source::parse("http/ops.rs", text), &known);
    assert_eq!(found.iter().map(|finding| finding.line).collect::<Vec<_>>(), [2, 3]);
    assert!(rules::metric_names(&Source::parse("observe/x.rs", text), &known).is_empty());
}

#[test]
fn the_rule_on_unfinished_work_sees_a_planted_breach() {
    let text = format!("fn f() {{}}\n// {}: later\n// a method\n", concat!("FIX", "ME"));
    let found = rules::unfinished("src/a.rs", &text);
    assert_eq!(found.iter().map(|finding| finding.line).collect::<Vec<_>>(), [2]);
}
