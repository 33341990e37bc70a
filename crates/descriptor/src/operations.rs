//! A trigger or action of a descriptor as the spec of an operation. `with` of a step that uses it
//! is `{ fields, credential, body }`.

use flowline_model::OperationSpec;
use serde_json::{Map, Value, json};

use crate::{Descriptor, Entry, dialect, example, fields, plain::plain, text};

/// Where the schema of the body stands in that of `with`.
const BODY: &str = "/properties/body";

/// The spec of one operation.
pub(crate) fn spec(descriptor: &Descriptor, entry: &Entry<'_>) -> OperationSpec {
    let name = format!("{}.{}", descriptor.name(), entry.key);
    let title = match text(entry.about, "title") {
        "" => entry.key,
        title => title,
    };
    let summary = summary(descriptor, entry, title);
    let spec = if entry.is_polling() {
        OperationSpec::polling(&name, title, &summary)
    } else if entry.is_trigger {
        OperationSpec::action(&name, title, &summary)
    } else {
        OperationSpec::action(&name, title, &summary).writes_outside()
    };
    let mut spec = spec.description(&description(descriptor, entry));
    spec.config = config(descriptor, entry);
    let example = example::yaml(&spec.config, descriptor.name());
    spec.example(&example)
}

fn summary(descriptor: &Descriptor, entry: &Entry<'_>, title: &str) -> String {
    let help = entry.about.get("help").and_then(Value::as_object).map_or("", |help| text(help, "description"));
    let said = [text(entry.about, "description"), help].into_iter().find(|said| !said.is_empty());
    let sentence = plain(said.and_then(|said| said.lines().next()).unwrap_or_default());
    if sentence.is_empty() { format!("{title}, of {}.", descriptor.title()) } else { sentence }
}

/// What is to be known besides the fields, as Markdown.
fn description(descriptor: &Descriptor, entry: &Entry<'_>) -> String {
    let mut paragraphs = vec![format!(
        "Of the component {}, which runs in a container of its own. `fields` and `credential` are given to it when it \
         starts; `body` is what it receives, and is the whole body of the message if it is left out.",
        descriptor.title()
    )];
    if entry.is_trigger && !entry.is_polling() {
        paragraphs.push("It waits to be told: it stands after `webhook.receive`, which receives the requests.".into());
    }
    if has_dynamic_metadata(entry) {
        paragraphs.push("Which data it takes depends on its fields; the component itself knows.".into());
    }
    let deprecated = |map: &Map<String, Value>| map.get("deprecated") == Some(&Value::Bool(true));
    if deprecated(entry.about) || deprecated(descriptor.document()) {
        paragraphs.push("Its makers advise against using it.".into());
    }
    let links = [descriptor.document().get("docsUrl"), entry.about.get("help").and_then(|help| help.get("link"))];
    let links = links.into_iter().flatten().filter_map(Value::as_str).filter(|link| link.starts_with("http"));
    paragraphs.extend(links.map(|link| format!("<{link}>")));
    paragraphs.join("\n\n")
}

fn has_dynamic_metadata(entry: &Entry<'_>) -> bool {
    matches!(entry.about.get("dynamicMetadata"), Some(Value::Bool(true) | Value::String(_)))
}

/// The schema of `with`.
fn config(descriptor: &Descriptor, entry: &Entry<'_>) -> Value {
    let document = descriptor.document();
    let mut parts = Map::new();
    let mut required: Vec<&str> = Vec::new();
    let fields = fields::fields(&[document.get("fields"), entry.about.get("fields")]);
    let credential = fields::credential(document);
    for (name, schema) in [("fields", Some(fields)), ("credential", credential)] {
        let Some(schema) = schema else { continue };
        if schema.get("required").is_some() {
            required.push(name);
        }
        parts.insert(name.to_owned(), schema);
    }
    if !entry.is_polling() {
        parts.insert("body".to_owned(), body(entry));
    }
    let mut schema =
        json!({ "type": "object", "properties": parts, "required": required, "additionalProperties": false });
    if let Some(schema) = schema.as_object_mut().filter(|_| required.is_empty()) {
        schema.remove("required");
    }
    schema
}

/// The schema of what the component receives.
fn body(entry: &Entry<'_>) -> Value {
    let source = entry.about.get("metadata").and_then(|metadata| metadata.get("in"));
    // What the component works out itself says more than what is written down.
    let source = source.filter(|source| source.is_object() && !has_dynamic_metadata(entry));
    let mut schema = source.map_or_else(|| json!({}), |source| dialect::schema(source, BODY));
    if let Some(schema) = schema.as_object_mut() {
        schema.entry("description").or_insert_with(|| "What the component receives as the body of its message.".into());
    }
    schema
}
