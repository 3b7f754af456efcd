//! Defaults, files and environment become one tree of the right shape.

use std::collections::HashMap;
use std::path::PathBuf;

use config::{Config, Environment, File, FileFormat};
use serde_json::Value;

use super::{ConfigErrors, Keys};

const DEFAULTS: &str = include_str!("../../config/default.toml");

/// Lays `files` and `environment` over the defaults, and compares the shape with that of the defaults.
pub(super) fn merge(files: &[PathBuf], environment: HashMap<String, String>) -> Result<Keys, ConfigErrors> {
    let one = |error: config::ConfigError| ConfigErrors(vec![error.to_string()]);
    let defaults = Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
    let shape: Value = defaults.clone().build().and_then(Config::try_deserialize).map_err(one)?;
    let mut builder = defaults;
    for file in files {
        builder = builder.add_source(File::from(file.as_path()).format(FileFormat::Toml));
    }
    builder = builder.add_source(variables(environment));
    let merged: Value = builder.build().and_then(Config::try_deserialize).map_err(one)?;
    let mut errors = Vec::new();
    let merged = conform(&shape, merged, "", &mut errors);
    if !errors.is_empty() {
        return Err(ConfigErrors(errors));
    }
    serde_json::from_value(merged).map_err(|error| ConfigErrors(vec![error.to_string()]))
}

fn variables(environment: HashMap<String, String>) -> Environment {
    Environment::with_prefix("EVERBEAT").prefix_separator("__").separator("__").source(Some(environment))
}

/// Gives `value` the shape of `shape`: the same keys, the same types. Texts of the environment become numbers, truth
/// values and lists where those belong.
fn conform(shape: &Value, value: Value, path: &str, errors: &mut Vec<String>) -> Value {
    let mut wrong = |wanted: &str| {
        errors.push(format!("{path}: must be {wanted}"));
        Value::Null
    };
    match (shape, value) {
        (Value::Object(known), Value::Object(given)) => {
            let mut out = serde_json::Map::new();
            for (key, value) in given {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match known.get(&key) {
                    Some(shape) => drop(out.insert(key, conform(shape, value, &path, errors))),
                    None => errors.push(format!("{path}: there is no such key; config/default.toml lists them all")),
                }
            }
            Value::Object(out)
        }
        (Value::Object(_), _) => wrong("a section"),
        (Value::Number(_), Value::Number(number)) => Value::Number(number),
        (Value::Number(_), Value::String(text)) => match text.trim().parse::<i64>() {
            Ok(number) => number.into(),
            Err(_) => wrong("a whole number"),
        },
        (Value::Number(_), _) => wrong("a whole number"),
        (Value::Bool(_), Value::Bool(truth)) => Value::Bool(truth),
        (Value::Bool(_), Value::String(text)) if text == "true" || text == "false" => Value::Bool(text == "true"),
        (Value::Bool(_), _) => wrong("true or false"),
        (Value::Array(_), Value::Array(items)) if items.iter().all(Value::is_string) => Value::Array(items),
        (Value::Array(_), Value::String(text)) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Value::Array(items.map(|item| Value::String(item.to_owned())).collect())
        }
        (Value::Array(_), _) => wrong("a list of texts"),
        (_, Value::String(text)) => Value::String(text),
        (_, Value::Number(number)) => Value::String(number.to_string()),
        _ => wrong("a text"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn the_environment_is_laid_over_the_defaults() {
        let given = environment(&[
            ("EVERBEAT__DATABASE__CONTROL__PASSWORD", "12345"),
            ("EVERBEAT__DATABASE__HOSTS", "a:1, b:2"),
            ("EVERBEAT__LEASES__TTL_MS", "4000"),
            ("EVERBEAT_TOKEN", "not a setting"),
        ]);
        let keys = merge(&[], given).unwrap();
        assert_eq!(keys.database.control.password, "12345");
        assert_eq!(keys.database.hosts, ["a:1", "b:2"]);
        assert_eq!(keys.leases.ttl_ms, 4_000);
    }

    #[test]
    fn every_unknown_key_and_wrong_type_is_named_at_once() {
        let given = environment(&[
            ("EVERBEAT__LEASES__TTL", "4000"),
            ("EVERBEAT__INGEST__ITEMS_MAX", "many"),
            ("EVERBEAT__REPLICA__DEV", "perhaps"),
        ]);
        let mut errors = merge(&[], given).unwrap_err().0;
        errors.sort();
        assert_eq!(errors.len(), 3, "{errors:?}");
        assert_eq!(errors[0], "ingest.items_max: must be a whole number");
        assert!(errors[1].starts_with("leases.ttl: there is no such key"));
        assert_eq!(errors[2], "replica.dev: must be true or false");
    }
}
