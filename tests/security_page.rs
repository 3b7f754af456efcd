//! docs/security.md names a test for each of its rows. Tests are renamed and removed; the page must not go on naming them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::path::Path;

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The rows of the tables: each with the tests that its last cell names, as `file::test`.
fn rows(page: &str) -> Vec<(&str, Vec<&str>)> {
    let tables = page.lines().filter(|line| line.starts_with("| ") && line.contains("::"));
    tables.map(|row| (row, tests(row))).collect()
}

fn tests(row: &str) -> Vec<&str> {
    let cell = row.trim_end_matches('|').rsplit(" | ").next().unwrap_or_default();
    cell.split('`').filter(|word| word.contains("::")).collect()
}

/// Is there such a test?
fn exists(test: &str) -> bool {
    let Some((file, name)) = test.split_once("::") else { return false };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let code = std::fs::read_to_string(path).unwrap_or_default();
    code.lines().any(|line| line.trim_start().trim_start_matches("async ").starts_with(&format!("fn {name}(")))
}

/// The part of the page that people write; what scripts write has no tests.
fn page() -> String {
    let page = read("docs/security.md");
    page.split("## Beside honest devices").next().unwrap().to_owned()
}

#[test]
fn every_row_names_tests_that_exist() {
    let page = page();
    let (tables, named) = (page.lines().filter(|line| line.starts_with("| ")), rows(&page));
    let headings = tables.clone().filter(|line| line.ends_with("| test |")).count();
    assert_eq!(tables.count(), named.len() + headings, "a row without a test");
    assert!(named.len() > 60, "{} rows", named.len());
    let missing: Vec<&str> = named.iter().flat_map(|(_, tests)| tests).copied().filter(|test| !exists(test)).collect();
    assert!(missing.is_empty(), "no such tests: {missing:#?}");
    assert!(named.iter().all(|(_, tests)| !tests.is_empty()));
}

#[test]
fn every_attack_has_a_row() {
    let page = page();
    let named: BTreeSet<&str> = rows(&page).into_iter().flat_map(|(_, tests)| tests).collect();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile");
    let mut attacks = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap();
        let code = std::fs::read_to_string(&path).unwrap();
        let pairs = code.lines().zip(code.lines().skip(1));
        for (_, function) in pairs.filter(|(attribute, _)| attribute.starts_with("#[tokio::test")) {
            let name = function.trim_start_matches("async fn ").split('(').next().unwrap();
            let full = format!("tests/hostile/{file}::{name}");
            assert!(named.contains(full.as_str()), "docs/security.md has no row for {full}");
            attacks += 1;
        }
    }
    assert!(attacks > 20, "{attacks}");
}

#[test]
fn what_is_not_there_is_noticed() {
    assert!(exists("tests/security_page.rs::what_is_not_there_is_noticed"));
    assert!(!exists("tests/security_page.rs::what_is_not_there"));
    assert!(!exists("tests/nowhere.rs::what_is_not_there_is_noticed"));
    assert_eq!(tests("| a `b::c` | d | `e.rs::f`, `g.rs::h` |"), ["e.rs::f", "g.rs::h"]);
}
