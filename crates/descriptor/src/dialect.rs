//! The schema dialect of descriptors as JSON Schema: `required: true` on a property becomes its
//! parent's list, references stay inside, and what is not known is left out, so that the result
//! is always a valid schema.

use serde_json::{Map, Value, json};

/// How deep parts lie in each other.
const DEEPEST: usize = 24;
/// Formats that texts are checked for; others say nothing about what is allowed.
const FORMATS: [&str; 8] = ["date", "date-time", "time", "email", "uri", "uuid", "ipv4", "hostname"];
/// Keywords that mean the same in both, and the kind of value that they have.
const NUMBERS: [&str; 6] = ["minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"];
const TYPES: [&str; 7] = ["string", "number", "integer", "boolean", "object", "array", "null"];

/// Converts a schema that will stand at `place`, a JSON pointer such as `/properties/body`.
pub(crate) fn schema(source: &Value, place: &str) -> Value {
    Conversion { root: source, place }.convert(source, 0)
}

struct Conversion<'a> {
    root: &'a Value,
    place: &'a str,
}

impl Conversion<'_> {
    fn convert(&self, source: &Value, depth: usize) -> Value {
        let Some(source) = source.as_object().filter(|_| depth < DEEPEST) else { return json!({}) };
        let mut target = Map::new();
        self.texts(source, &mut target);
        self.limits(source, &mut target);
        self.parts(source, &mut target, depth);
        Value::Object(target)
    }

    fn texts(&self, source: &Map<String, Value>, target: &mut Map<String, Value>) {
        for key in ["title", "description"] {
            if let Some(text) = source.get(key).and_then(Value::as_str).filter(|text| !text.is_empty()) {
                target.insert(key.into(), text.into());
            }
        }
        if let Some(default) = source.get("default") {
            target.insert("default".into(), default.clone());
        }
    }

    fn limits(&self, source: &Map<String, Value>, target: &mut Map<String, Value>) {
        if let Some(kind) = source.get("type").and_then(kind) {
            target.insert("type".into(), kind);
        }
        if let Some(choices) = source.get("enum").and_then(Value::as_array).and_then(|choices| distinct(choices)) {
            target.insert("enum".into(), choices);
        }
        let format = source.get("format").and_then(Value::as_str).filter(|format| FORMATS.contains(format));
        if let Some(format) = format {
            target.insert("format".into(), format.into());
        }
        for key in NUMBERS {
            let whole = key.starts_with("min") && key != "minimum" || key.starts_with("max") && key != "maximum";
            let fits = |value: &&Value| if whole { value.is_u64() } else { value.is_number() };
            if let Some(limit) = source.get(key).filter(fits) {
                target.insert(key.into(), limit.clone());
            }
        }
    }

    fn parts(&self, source: &Map<String, Value>, target: &mut Map<String, Value>, depth: usize) {
        if let Some(reference) = source.get("$ref").and_then(Value::as_str).and_then(|name| self.reference(name)) {
            target.insert("$ref".into(), reference.into());
        }
        if let Some(properties) = source.get("properties").and_then(Value::as_object) {
            target.insert("properties".into(), self.all(properties, depth));
            let required = required(source, properties);
            if !required.is_empty() {
                target.insert("required".into(), required.into());
            }
            target.entry("type").or_insert_with(|| "object".into());
        }
        if let Some(items) = source.get("items").filter(|items| items.is_object()) {
            target.insert("items".into(), self.convert(items, depth + 1));
        }
        match source.get("additionalProperties") {
            Some(Value::Bool(allowed)) => drop(target.insert("additionalProperties".into(), (*allowed).into())),
            Some(values @ Value::Object(_)) => {
                target.insert("additionalProperties".into(), self.convert(values, depth + 1));
            }
            _ => {}
        }
        for key in ["anyOf", "oneOf", "allOf"] {
            let parts = source.get(key).and_then(Value::as_array).filter(|parts| !parts.is_empty());
            if let Some(parts) = parts {
                let parts: Value = parts.iter().map(|part| self.convert(part, depth + 1)).collect();
                target.insert(key.into(), parts);
            }
        }
        if let Some(definitions) = source.get("definitions").and_then(Value::as_object).filter(|_| depth == 0) {
            target.insert("definitions".into(), self.all(definitions, depth));
        }
    }

    fn all(&self, schemas: &Map<String, Value>, depth: usize) -> Value {
        let converted = schemas.iter().map(|(name, schema)| (name.clone(), self.convert(schema, depth + 1)));
        Value::Object(converted.collect())
    }

    /// A reference to a part of the same schema, as seen from where the schema will stand.
    fn reference(&self, name: &str) -> Option<String> {
        let pointer = name.strip_prefix('#')?;
        let kept = pointer.is_empty() || pointer.starts_with("/definitions/") || pointer.starts_with("/properties/");
        (kept && self.root.pointer(pointer)?.is_object()).then(|| format!("#{}{pointer}", self.place))
    }
}

/// The type, in the words of JSON Schema.
fn kind(written: &Value) -> Option<Value> {
    let known = |name: &str| match name.to_ascii_lowercase().as_str() {
        "int" | "long" => Some("integer"),
        "float" | "double" => Some("number"),
        "bool" => Some("boolean"),
        "date" | "text" => Some("string"),
        name => TYPES.into_iter().find(|known| *known == name),
    };
    match written {
        Value::String(name) => known(name).map(Value::from),
        // One that is not known may be anything.
        Value::Array(names) => {
            let mut kinds: Vec<&str> = Vec::new();
            for name in names {
                let kind = name.as_str().and_then(known)?;
                if !kinds.contains(&kind) {
                    kinds.push(kind);
                }
            }
            (!kinds.is_empty()).then(|| kinds.into())
        }
        _ => None,
    }
}

/// The choices, each once; none if there are none.
fn distinct(choices: &[Value]) -> Option<Value> {
    let mut found: Vec<Value> = Vec::new();
    for choice in choices {
        if !found.contains(choice) {
            found.push(choice.clone());
        }
    }
    (!found.is_empty()).then_some(Value::Array(found))
}

/// The names of the properties that must be there, in either way to say so.
fn required(source: &Map<String, Value>, properties: &Map<String, Value>) -> Vec<String> {
    let listed: Vec<&str> =
        source.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let says_so = |schema: &Value| schema.get("required") == Some(&Value::Bool(true));
    let required = properties.iter().filter(|(name, schema)| says_so(schema) || listed.contains(&name.as_str()));
    required.map(|(name, _)| name.clone()).collect()
}
