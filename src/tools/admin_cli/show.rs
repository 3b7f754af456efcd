//! Items as tables. What a newer service adds is left out, what an older one lacks is `-`.

use std::io::Write;

use comfy_table::{Table, presets};
use serde_json::Value;

const NONE: &str = "-";

/// Prints the items as JSON, one a line, or as the table that `rows` makes of them.
pub(super) fn print(items: &[Value], json: bool, table: fn(&[Value]) -> Table) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        for item in items {
            writeln!(out, "{item}")?;
        }
    } else {
        writeln!(out, "{}", table(items).trim_fmt())?;
    }
    Ok(())
}

pub(super) fn devices(items: &[Value]) -> Table {
    let mut table = with_header(&["NAME", "FLEET", "STATE", "PRESENCE", "SINCE", "LAST SEEN", "VALUES"]);
    for item in items {
        let presence = |name| field(item, &["presence", name]);
        table.add_row(vec![
            field(item, &["name"]),
            field(item, &["fleet"]),
            field(item, &["state"]),
            presence("state"),
            time(&presence("since")),
            time(&presence("last_seen")),
            values(item.get("latest").and_then(|latest| latest.get("values"))),
        ]);
    }
    table
}

pub(super) fn readings(items: &[Value]) -> Table {
    let mut table = with_header(&["TIME", "VALUES", "RECEIVED"]);
    for item in items {
        // The time of a reading is data: all of its digits are shown.
        table.add_row(vec![field(item, &["ts"]), values(item.get("values")), time(&field(item, &["received_at"]))]);
    }
    table
}

pub(super) fn leases(items: &[Value]) -> Table {
    let mut table = with_header(&["DUTY", "REPLICA", "ADDRESS", "EPOCH", "SINCE", "RENEWED", "STATE"]);
    for item in items {
        let expired = item.get("expired").and_then(Value::as_bool);
        let state = match (expired, item.get("holder").is_some_and(Value::is_string)) {
            (None, _) => NONE,
            (Some(true), true) => "expired",
            (Some(_), false) => "free",
            (Some(false), true) => "held",
        };
        table.add_row(vec![
            field(item, &["role"]),
            field(item, &["holder"]),
            field(item, &["addr"]),
            field(item, &["epoch"]),
            time(&field(item, &["acquired_at"])),
            time(&field(item, &["renewed_at"])),
            state.to_owned(),
        ]);
    }
    table
}

pub(super) fn events(items: &[Value]) -> Table {
    let mut table = with_header(&["ID", "TIME", "KIND", "DEVICE", "CAUSE", "DETAIL"]);
    for item in items {
        table.add_row(vec![
            field(item, &["id"]),
            time(&field(item, &["at"])),
            field(item, &["kind"]),
            field(item, &["device_id"]),
            field(item, &["cause"]),
            values(item.get("detail")),
        ]);
    }
    table
}

fn with_header(names: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(names.to_vec());
    table
}

/// The text of a nested member. Control characters, which a device may have sent, do not reach the terminal.
fn field(item: &Value, path: &[&str]) -> String {
    let found = path.iter().try_fold(item, |at, name| at.get(name));
    match found {
        None | Some(Value::Null) => NONE.to_owned(),
        Some(Value::String(text)) => text.chars().filter(|c| !c.is_control()).collect(),
        Some(other) => other.to_string(),
    }
}

/// `name=value name=value`
fn values(of: Option<&Value>) -> String {
    let Some(members) = of.and_then(Value::as_object).filter(|members| !members.is_empty()) else {
        return NONE.to_owned();
    };
    let clean = |text: &str| text.chars().filter(|c| !c.is_control()).collect::<String>();
    let pairs: Vec<_> =
        members.iter().map(|(name, value)| format!("{}={}", clean(name), clean(&value.to_string()))).collect();
    pairs.join(" ")
}

/// A time of our own, to the second.
fn time(text: &str) -> String {
    match text.split_once('.') {
        Some((seconds, _)) => format!("{}Z", seconds.replace('T', " ")),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tables_are_lenient_and_clean() {
        let items = [
            json!({"name": "pump-1", "fleet": "plant", "state": "active", "new": 1,
                "presence": {"state": "online", "since": "2026-11-23T10:41:25.000001Z", "last_seen": null},
                "latest": {"values": {"a": 1.5, "note": "x\u{1b}[2J"}}}),
            json!({"name": 7}),
        ];
        let text = devices(&items).trim_fmt();
        assert!(text.contains("2026-11-23 10:41:25Z"), "{text}");
        assert!(text.contains("a=1.5") && !text.contains('\u{1b}'), "{text}");
        assert_eq!(text.lines().count(), 3);
    }

    #[test]
    fn a_lease_is_held_expired_or_free() {
        let state = |lease: Value| leases(&[lease]).trim_fmt();
        assert!(state(json!({"holder": "x", "expired": false})).contains("held"));
        assert!(state(json!({"holder": "x", "expired": true})).contains("expired"));
        assert!(state(json!({"holder": null, "expired": true})).contains("free"));
    }
}
