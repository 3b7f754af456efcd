//! The rules. Each takes one file and says where it breaks them.

use super::source::{Finding, Kind, Source};

/// A module imports only strictly lower ranks; of equal ranks, only itself.
pub const RANKS: &[(&str, u8)] = &[
    ("domain", 0),
    ("observe", 0),
    ("lifecycle", 1),
    ("wire", 2),
    ("net", 2),
    ("store", 2),
    ("identity", 3),
    ("ingest", 3),
    ("presence", 3),
    ("messaging", 3),
    ("jobs", 3),
    ("client", 3),
    ("admission", 4),
    ("http", 5),
    ("config", 6),
    // Over `config`: `everbeat dev` writes settings and reads them.
    ("tools", 7),
    // It names decoders of every rank, and nothing names it.
    ("fuzzing", 7),
    ("app", 7),
    ("cli", 8),
    ("main", 9),
    ("lib", 9),
];

/// Macros that `#[macro_export]` puts at the crate's root, and the module they belong to.
const ROOT_MACROS: &[(&str, &str)] = &[("statements", "store")];

/// Crates that are named in few places only.
const ONLY_UNDER: &[(&str, &[&str])] = &[
    ("axum", &["http/"]),
    ("hyper", &["net/", "client/"]),
    ("hyper_util", &["net/", "client/"]),
    ("hyper_rustls", &["client/"]),
    // The database's TLS is made of rustls too.
    ("rustls", &["net/", "client/", "store/settings.rs"]),
    ("tokio_rustls", &["net/", "client/"]),
    ("sqlx", &["store/"]),
    ("tokio_postgres", &["store/"]),
    ("tokio_postgres_rustls", &["store/"]),
    ("deadpool", &["store/"]),
    ("deadpool_postgres", &["store/"]),
    ("metrics", &["observe/"]),
];

pub const FILE_LINES_MAX: usize = 400;
pub const FUNCTION_LINES_MAX: usize = 70;
pub const ARGUMENTS_MAX: usize = 6;

fn rank(module: &str) -> Option<u8> {
    RANKS.iter().find(|(name, _)| *name == module).map(|(_, rank)| *rank)
}

/// Ranks: imports go strictly downwards.
pub fn ranks(source: &Source) -> Vec<Finding> {
    let own = source.top();
    let Some(own_rank) = rank(own) else {
        return vec![source.finding(1, format!("module {own} has no rank: add it to tests/architecture/rules.rs"))];
    };
    imports(source)
        .into_iter()
        .map(|(line, name)| match ROOT_MACROS.iter().find(|(root_macro, _)| *root_macro == name) {
            Some((_, module)) => (line, (*module).to_owned()),
            None => (line, name),
        })
        .filter(|(_, module)| module != own)
        .filter_map(|(line, module)| match rank(&module) {
            None => Some(source.finding(line, format!("names crate::{module}, which has no rank"))),
            Some(theirs) if theirs >= own_rank => {
                Some(source.finding(line, format!("{own} (rank {own_rank}) imports {module} (rank {theirs})")))
            }
            Some(_) => None,
        })
        .collect()
}

/// Every module of the crate that the file names, with the line: through `crate::`, `everbeat::` or `super::`.
fn imports(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (index, token) in source.tokens.iter().enumerate() {
        let line = token.line;
        let begins = token.kind == Kind::Ident && source.begins_path(index);
        match token.text.as_str() {
            "crate" if begins => after(source, index + 1, &mut found),
            "everbeat" if begins && source.top() == "main" => after(source, index + 1, &mut found),
            "super" if begins => {
                // `super::super::x` names the module x of the crate when it climbs to the root.
                let mut climbed = 1;
                while source.at(index + 2 * climbed - 1, &["::", "super"]) {
                    climbed += 1;
                }
                if source.module(line).len() == climbed {
                    after(source, index + 2 * climbed - 1, &mut found);
                }
            }
            _ => {}
        }
    }
    // `pub(crate)` and `pub(super)` have nothing after them, so they added nothing.
    found
}

/// The names after `::` at this index: one, or the first of each branch of a group.
fn after(source: &Source, index: usize, found: &mut Vec<(usize, String)>) {
    if source.text(index) != "::" {
        return;
    }
    let Some(next) = source.tokens.get(index + 1) else { return };
    if next.kind == Kind::Ident {
        // Functions, macros and types at the root of the crate would be found here, as modules without a rank.
        found.push((next.line, next.text.clone()));
        return;
    }
    let mut depth = 0;
    for at in index + 1..source.tokens.len() {
        match source.tokens[at].kind {
            Kind::Open => depth += 1,
            Kind::Close => depth -= 1,
            Kind::Ident if depth == 1 && matches!(source.text(at - 1), "{" | ",") && source.text(at) != "self" => {
                found.push((source.tokens[at].line, source.text(at).to_owned()));
            }
            _ => {}
        }
        if depth == 0 {
            return;
        }
    }
}

/// Some crates stand under one module only.
pub fn only_under(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    for (index, token) in source.tokens.iter().enumerate() {
        if token.kind != Kind::Ident || !source.begins_path(index) {
            continue;
        }
        if let Some((name, places)) = ONLY_UNDER.iter().find(|(name, _)| *name == token.text)
            && !source.under(places)
        {
            found.push(source.finding(token.line, format!("{name} belongs under {}", places.join(", "))));
        }
    }
    found
}

/// Files and functions stay small.
pub fn sizes(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    if source.lines > FILE_LINES_MAX {
        found.push(source.finding(1, format!("{} lines without tests, at most {FILE_LINES_MAX}", source.lines)));
    }
    for function in &source.functions {
        if function.lines > FUNCTION_LINES_MAX {
            let what = format!("fn {} has {} lines, at most {FUNCTION_LINES_MAX}", function.name, function.lines);
            found.push(source.finding(function.line, what));
        }
        if function.arguments > ARGUMENTS_MAX {
            let what = format!("fn {} has {} arguments, at most {ARGUMENTS_MAX}", function.name, function.arguments);
            found.push(source.finding(function.line, what));
        }
    }
    found
}

/// A breach wherever one of these sequences of tokens stands.
fn sequences(source: &Source, bad: &[(&[&str], &str)]) -> Vec<Finding> {
    let mut found = Vec::new();
    for (index, token) in source.tokens.iter().enumerate() {
        for (sequence, what) in bad {
            if source.at(index, sequence) {
                found.push(source.finding(token.line, format!("{}: {what}", sequence.concat())));
            }
        }
    }
    found
}

/// No panics on purpose, and nothing unfinished.
pub fn no_panics(source: &Source) -> Vec<Finding> {
    let found = sequences(
        source,
        &[
            (&[".", "unwrap", "("], "say what to do with the error"),
            (&[".", "expect", "("], "say what to do with the error"),
            (&["todo", "!"], "unfinished"),
            (&["unimplemented", "!"], "unfinished"),
            (&["unsafe", "{"], "no unsafe code"),
            (&["unsafe", "fn"], "no unsafe code"),
            (&["unsafe", "impl"], "no unsafe code"),
        ],
    );
    // A parser's own `expect` is none of Option's or Result's; clippy, which knows types, sees those too.
    let own = |finding: &Finding| {
        let indexes = (0..source.tokens.len()).filter(|index| source.tokens[*index].line == finding.line);
        finding.what.starts_with(".expect") && indexes.clone().any(|index| source.at(index, &["self", ".", "expect"]))
    };
    found.into_iter().filter(|finding| !own(finding)).collect()
}

/// Every queue has a limit.
pub fn no_unbounded(source: &Source) -> Vec<Finding> {
    sequences(
        source,
        &[
            (&["unbounded_channel"], "every queue has a limit"),
            (&["UnboundedSender"], "every queue has a limit"),
            (&["UnboundedReceiver"], "every queue has a limit"),
            (&["unbounded", "("], "every queue has a limit"),
            (&["std", "::", "sync", "::", "mpsc"], "its channel has no limit: use tokio's"),
        ],
    )
}

/// A task is started in one place, where its name and what its failure means are declared.
pub fn no_bare_spawn(source: &Source) -> Vec<Finding> {
    if source.under(&["lifecycle/tasks.rs"]) {
        return Vec::new();
    }
    let why = "use lifecycle::tasks";
    let mut found = sequences(
        source,
        &[
            (&["tokio", "::", "spawn"], why),
            (&["task", "::", "spawn"], why),
            (&["task", "::", "spawn_local"], why),
            (&["task", "::", "JoinSet"], why),
            (&["JoinSet", "::", "new"], why),
            (&["Handle", "::", "current", "(", ")", ".", "spawn"], why),
        ],
    );
    found.extend(grouped(source, "tokio", "spawn").map(|line| source.finding(line, format!("tokio::spawn: {why}"))));
    found.extend(grouped(source, "task", "spawn").map(|line| source.finding(line, format!("task::spawn: {why}"))));
    found
}

/// Lines where `module::{…, name, …}` stands.
fn grouped<'a>(source: &'a Source, module: &'a str, name: &'a str) -> impl Iterator<Item = usize> + 'a {
    let starts = (0..source.tokens.len()).filter(move |index| source.at(*index, &[module, "::", "{"]));
    starts.flat_map(move |index| {
        let mut named = Vec::new();
        after(source, index + 1, &mut named);
        named.into_iter().filter(move |(_, found)| found == name).map(|(line, _)| line)
    })
}

/// The environment is read where the configuration is.
pub fn environment(source: &Source) -> Vec<Finding> {
    if source.under(&["config/"]) {
        return Vec::new();
    }
    let why = "the environment is read in config/";
    let mut found: Vec<Finding> = sequences(source, &[(&["std", "::", "env"], why), (&["env", "::", "var"], why)]);
    found.extend(grouped(source, "std", "env").map(|line| source.finding(line, format!("std::env: {why}"))));
    found
}

/// The time is a parameter.
pub fn clock(source: &Source) -> Vec<Finding> {
    if source.under(&["domain/time.rs"]) {
        return Vec::new();
    }
    let why = "the clock is a parameter: domain::time::Clock";
    let mut found = sequences(
        source,
        &[
            (&["SystemTime", "::", "now"], why),
            (&["OffsetDateTime", "::", "now_utc"], why),
            (&["OffsetDateTime", "::", "now_local"], why),
            (&["std", "::", "time", "::", "Instant"], "use tokio::time::Instant"),
        ],
    );
    let of_std = |line: &usize| source.tokens.iter().any(|token| token.line == *line && token.text == "std");
    let instants = grouped(source, "time", "Instant").filter(of_std);
    found.extend(instants.map(|line| source.finding(line, "std::time::Instant: use tokio::time::Instant")));
    found
}

/// Endings by which a text is known as a metric's name. (Database roles begin with `everbeat_` too.)
const UNITS: &[&str] = &["_total", "_seconds", "_bytes", "_ratio", "_count", "_sum", "_bucket", "_info"];

/// Metric names stand in observe/. `known` are those that stand there.
pub fn metric_names(source: &Source, known: &[String]) -> Vec<Finding> {
    if source.under(&["observe/"]) {
        return Vec::new();
    }
    let literals = source.tokens.iter().filter(|token| token.kind == Kind::Literal);
    literals
        .filter_map(|token| {
            let name = names_in(&token.text)
                .into_iter()
                .find(|name| known.contains(name) || UNITS.iter().any(|unit| name.ends_with(unit)))?;
            Some(source.finding(token.line, format!("{name}: metric names stand in observe/")))
        })
        .collect()
}

/// The metric names that observe/ declares.
pub fn declared_metrics(sources: &[Source]) -> Vec<String> {
    let observe = sources.iter().filter(|source| source.top() == "observe");
    let literals = observe.flat_map(|source| &source.tokens).filter(|token| token.kind == Kind::Literal);
    literals.flat_map(|token| names_in(&token.text)).collect()
}

/// Words of a text that begin with `everbeat_`.
fn names_in(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("everbeat_")).map(str::to_owned).collect()
}

/// What is unfinished is finished or gone. Read in the text, since comments are no tokens.
pub fn unfinished(path: &str, text: &str) -> Vec<Finding> {
    // Written in two parts, so that this file may be searched for them too.
    let marks = [concat!("FIX", "ME"), concat!("TO", "DO"), concat!("X", "XX")];
    let lines = text.lines().enumerate();
    lines
        .filter_map(|(index, line)| {
            let mark = marks
                .iter()
                .find(|mark| line.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == **mark))?;
            Some(Finding {
                path: path.to_owned(),
                line: index + 1,
                what: format!("{mark}: finish it, or open an issue"),
            })
        })
        .collect()
}
