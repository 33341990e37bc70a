//! An example of a step's `with`: every field that must be there.

use serde_json::{Map, Value};

/// The example for the schema of a `with`, as YAML.
pub(crate) fn yaml(config: &Value, component: &str) -> String {
    let mut lines = Vec::new();
    let secret = component.replace('-', "_");
    for part in ["fields", "credential"] {
        let Some(schema) = config.pointer(&format!("/properties/{part}")) else { continue };
        let required = required(schema);
        if !required.is_empty() {
            lines.push(format!("{part}:"));
        }
        for (name, schema) in required {
            let value = if part == "credential" { secret_of(&secret, name) } else { value(schema) };
            lines.push(format!("  {}: {value}", Value::from(name)));
        }
    }
    if config.pointer("/properties/body").is_some() {
        lines.push("body: \"{{ $ }}\"".to_owned());
    }
    if lines.is_empty() { "{}".to_owned() } else { lines.join("\n") }
}

fn required(schema: &Value) -> Vec<(&str, &Value)> {
    let names = schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let properties = schema.get("properties").and_then(Value::as_object);
    let of = |name| Some((name, properties.and_then(|properties: &Map<String, Value>| properties.get(name))?));
    names.filter_map(of).collect()
}

fn secret_of(component: &str, name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    format!("\"{{{{ $secret.{component}_{} }}}}\"", name.chars().map(plain).collect::<String>())
}

fn value(schema: &Value) -> String {
    if let Some(choice) = schema.get("enum").and_then(|choices| choices.get(0)) {
        return choice.to_string();
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("boolean") => "true".to_owned(),
        Some("array") => "[]".to_owned(),
        Some("string") => "\"…\"".to_owned(),
        _ => "{}".to_owned(),
    }
}
