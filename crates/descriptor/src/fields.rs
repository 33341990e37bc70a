//! The fields of steps and credentials as JSON Schema: what a form showed is what is allowed.

use serde_json::{Map, Value, json};

use crate::{plain::plain, text};

/// One part of a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialField {
    /// Its key.
    pub key: String,
    /// What people call it.
    pub label: String,
    /// Whether it must be there.
    pub required: bool,
    /// Whether it must not be shown.
    pub hidden: bool,
}

/// The parts of a credential, in the order of the form.
pub(crate) fn credential_fields(document: &Map<String, Value>) -> Vec<CredentialField> {
    let fields = document.get("credentials").and_then(|credentials| credentials.get("fields"));
    let fields = fields.and_then(Value::as_object).map(in_order).unwrap_or_default();
    let field = |(key, about): (&str, &Map<String, Value>)| CredentialField {
        key: key.to_owned(),
        label: label(key, about).to_owned(),
        required: is_required(about),
        hidden: matches!(text(about, "viewClass"), "PasswordFieldView" | "OAuthFieldView"),
    };
    fields.into_iter().map(field).collect()
}

/// What people call a field: its label, or its key.
fn label<'a>(key: &'a str, about: &'a Map<String, Value>) -> &'a str {
    let label = text(about, "label");
    if label.is_empty() { key } else { label }
}

fn is_required(about: &Map<String, Value>) -> bool {
    about.get("required") == Some(&Value::Bool(true))
}

/// The fields as a form showed them: those with a higher order first.
fn in_order(fields: &Map<String, Value>) -> Vec<(&str, &Map<String, Value>)> {
    let described = fields.iter().filter_map(|(key, about)| Some((key.as_str(), about.as_object()?)));
    let mut described: Vec<_> = described.collect();
    described.sort_by_key(|(_, about)| std::cmp::Reverse(about.get("order").and_then(Value::as_i64).unwrap_or(0)));
    described
}

/// The schema of a map of fields: those of the component, then those of the operation.
pub(crate) fn fields(groups: &[Option<&Value>]) -> Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for fields in groups.iter().filter_map(|group| group.and_then(Value::as_object)) {
        for (key, about) in in_order(fields) {
            properties.insert(key.to_owned(), field(key, about));
            required.retain(|known| known != key);
            if is_required(about) {
                required.push(key.to_owned());
            }
        }
    }
    object(properties, required)
}

fn object(properties: Map<String, Value>, required: Vec<String>) -> Value {
    let mut schema = json!({ "type": "object", "properties": properties, "additionalProperties": false });
    if let Some(schema) = schema.as_object_mut().filter(|_| !required.is_empty()) {
        schema.insert("required".into(), required.into());
    }
    schema
}

/// The schema of a component's credential; none if it takes none.
pub(crate) fn credential(document: &Map<String, Value>) -> Option<Value> {
    let kinds = document.get("authClientTypes").and_then(Value::as_array).filter(|kinds| !kinds.is_empty());
    if let Some(kinds) = kinds {
        let kinds: Vec<&str> = kinds.iter().filter_map(Value::as_str).collect();
        let description = format!("What the component authenticates with: {}.", kinds.join(", "));
        return Some(json!({ "type": "object", "description": description }));
    }
    let credentials = document.get("credentials")?.as_object()?;
    let mut schema = fields(&[credentials.get("fields")]);
    let dance = ["oauth2", "oauth1"].into_iter().find(|kind| credentials.contains_key(*kind));
    if let (Some(kind), Some(schema)) = (dance, schema.as_object_mut()) {
        let about = format!("Authenticates with {kind}: give the tokens that it came to, such as `oauth`.");
        schema.insert("description".into(), about.into());
        // Where the tokens lie is the component's own affair.
        schema.insert("additionalProperties".into(), true.into());
    }
    Some(schema)
}

/// The schema of one field.
fn field(key: &str, about: &Map<String, Value>) -> Value {
    let mut schema = match text(about, "viewClass") {
        "CheckBoxView" => json!({ "type": "boolean" }),
        "PasswordFieldView" => json!({ "type": "string", "format": "password" }),
        "SelectView" | "SelectPropertyView" => choice(about),
        "MultiSelectView" => json!({ "type": "array", "items": choice(about) }),
        "OAuthFieldView" => json!({ "type": "object" }),
        view if is_text(view) => json!({ "type": "string" }),
        _ => json!({}),
    };
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("title".into(), label(key, about).into());
        let description = description(about);
        if !description.is_empty() {
            schema.insert("description".into(), description.into());
        }
    }
    schema
}

fn is_text(view: &str) -> bool {
    view.starts_with("TextField") || view.starts_with("TextArea") || view.starts_with("Code") || view == "JSONataView"
}

/// What can be selected: the values of a fixed list, or any text where the component is asked.
fn choice(about: &Map<String, Value>) -> Value {
    match about.get("model").and_then(Value::as_object).filter(|model| !model.is_empty()) {
        Some(model) => json!({ "type": "string", "enum": model.keys().collect::<Vec<_>>() }),
        None => json!({ "type": "string" }),
    }
}

/// What a form said besides the label.
fn description(about: &Map<String, Value>) -> String {
    let mut sentences: Vec<String> = Vec::new();
    let mut add = |sentence: &str| {
        let sentence = plain(sentence);
        let sentence = sentence.trim();
        if !sentence.is_empty() {
            sentences.push(if sentence.ends_with(['.', '!', '?', ':']) {
                sentence.into()
            } else {
                format!("{sentence}.")
            });
        }
    };
    let help = about.get("help").and_then(Value::as_object);
    add(help.map_or("", |help| text(help, "description")));
    add(text(about, "note"));
    add(text(about, "prompt"));
    match about.get("model") {
        Some(Value::Object(model)) => add(&labels(model)),
        Some(Value::String(_)) => {
            add("The component knows which values there are: `flowline components model` asks it")
        }
        _ => {}
    }
    if !text(about, "placeholder").is_empty() {
        add(&format!("For example `{}`", text(about, "placeholder")));
    }
    let needed: Vec<&str> =
        about.get("require").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    if !needed.is_empty() {
        add(&format!("Depends on `{}`", needed.join("`, `")));
    }
    sentences.join(" ")
}

/// What the values of a list are called, where that says more than they do.
fn labels(model: &Map<String, Value>) -> String {
    let labelled = model.iter().filter_map(|(value, label)| Some((value, label.as_str()?)));
    let differing = labelled.filter(|(value, label)| *value != label).take(50);
    differing.map(|(value, label)| format!("`{value}`: {label}")).collect::<Vec<_>>().join(", ")
}
