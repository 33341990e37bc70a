//! The reference of components: what their specs say, for terminals and as pages.

use std::{collections::BTreeSet, fmt::Write as _, sync::Arc};

use flowline_model::{OperationKind, OperationSpec, Outputs};
use serde::Serialize;
use serde_json::Value;

use crate::registry::Registry;

/// Fields are followed so deep into each other.
const DEEPEST: usize = 5;

/// A component and its operations.
#[derive(Debug, Serialize)]
pub(crate) struct Component {
    /// What stands before the dot in the names of its operations.
    pub(crate) name: String,
    /// One sentence.
    pub(crate) summary: String,
    /// Its operations, by name.
    pub(crate) operations: Vec<Arc<OperationSpec>>,
}

/// Every component that offers something: the built-in ones in the order of their list, then the
/// registered ones.
pub(crate) fn components(registry: &Registry) -> Vec<Component> {
    let catalog = registry.catalog();
    let component = |name: &str, summary: &str| Component {
        name: name.to_owned(),
        summary: summary.to_owned(),
        operations: catalog.specs().filter(|spec| spec.component() == name).cloned().collect(),
    };
    let built_in = flowline_components::COMPONENTS.iter().map(|info| component(info.name, info.summary));
    let registered = registry.components().iter().map(|known| {
        let descriptor = known.descriptor();
        component(descriptor.name(), descriptor.summary())
    });
    built_in.chain(registered).filter(|component| !component.operations.is_empty()).collect()
}

/// One field of a configuration.
#[derive(Debug, PartialEq)]
pub(crate) struct Field {
    /// Its name, below the fields it is part of: `auth.basic.user`.
    pub(crate) path: String,
    /// What it holds, in words.
    pub(crate) kind: String,
    /// Whether it must be there.
    pub(crate) required: bool,
    /// What counts if it is not there, as JSON.
    pub(crate) default: Option<String>,
    /// What it is for.
    pub(crate) description: String,
}

/// Every field of an operation's configuration, parts after the whole.
pub(crate) fn fields(spec: &OperationSpec) -> Vec<Field> {
    let mut gathering = Gathering { root: &spec.config, fields: Vec::new(), open: BTreeSet::new() };
    gathering.properties(&spec.config, "");
    gathering.fields
}

struct Gathering<'a> {
    root: &'a Value,
    fields: Vec<Field>,
    /// The definitions that are being followed, so that none is followed into itself.
    open: BTreeSet<&'a str>,
}

impl<'a> Gathering<'a> {
    /// What a schema stands for: the definition it refers to, and the one alternative to nothing.
    fn resolve(&self, schema: &'a Value) -> &'a Value {
        let mut schema = schema;
        for _ in 0..8 {
            let next = schema.get("$ref").and_then(Value::as_str).and_then(|name| self.definition(name));
            match next.or_else(|| only_alternative(schema)) {
                Some(next) => schema = next,
                None => break,
            }
        }
        schema
    }

    fn definition(&self, reference: &str) -> Option<&'a Value> {
        self.root.pointer(reference.strip_prefix('#')?)
    }

    /// The fields of a map, and of every alternative that is one.
    fn properties(&mut self, schema: &'a Value, above: &str) {
        let schema = self.resolve(schema);
        let required: Vec<&str> = strings(schema.get("required")).collect();
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            for (name, property) in properties {
                let path = if above.is_empty() { name.clone() } else { format!("{above}.{name}") };
                self.field(path, property, required.contains(&name.as_str()));
            }
        }
        for alternative in alternatives(schema) {
            let alternative = self.resolve(alternative);
            let properties = alternative.get("properties").and_then(Value::as_object);
            for (name, property) in properties.into_iter().flatten() {
                let path = format!("{above}.{name}");
                let known = self.fields.iter().any(|field| field.path == path);
                if !known {
                    let path = path.trim_start_matches('.').to_owned();
                    self.field_of(path, property, false, text(alternative, "description"));
                }
            }
        }
    }

    fn field(&mut self, path: String, property: &'a Value, required: bool) {
        self.field_of(path, property, required, String::new());
    }

    /// One field, described by its property, what that refers to, or the alternative it makes up.
    fn field_of(&mut self, path: String, property: &'a Value, required: bool, otherwise: String) {
        let schema = self.resolve(property);
        let own = text(property, "description");
        let own = if own.is_empty() { otherwise } else { own };
        let description = if own.is_empty() { text(schema, "description") } else { own };
        let default = property.get("default").filter(|default| !default.is_null()).map(Value::to_string);
        self.fields.push(Field { path: path.clone(), kind: self.kind(schema), required, default, description });
        let reference = referred(property);
        let deep = path.matches('.').count() >= DEEPEST;
        if deep || reference.is_some_and(|name| !self.open.insert(name)) {
            return;
        }
        let inner = schema.get("items").unwrap_or(schema);
        let below = if schema.get("items").is_some() { format!("{path}[]") } else { path.clone() };
        self.properties(inner, &below);
        if let Some(values) = schema.get("additionalProperties").filter(|values| values.is_object()) {
            self.properties(values, &format!("{path}.*"));
        }
        if let Some(name) = reference {
            self.open.remove(name);
        }
    }

    /// What a schema allows, in the words of documents.
    fn kind(&self, schema: &'a Value) -> String {
        let schema = self.resolve(schema);
        if let Some(format) = schema.get("format").and_then(Value::as_str) {
            match format {
                "lapse" => return "length of time".to_owned(),
                "size" => return "size".to_owned(),
                "expression" => return "expression".to_owned(),
                _ => {}
            }
        }
        if let Some(value) = schema.get("const") {
            return format!("`{}`", plain(value));
        }
        if let Some(values) = schema.get("enum").and_then(Value::as_array) {
            return values.iter().map(|value| format!("`{}`", plain(value))).collect::<Vec<_>>().join(", ");
        }
        let named = match schema.get("type") {
            Some(Value::Array(kinds)) => {
                kinds.iter().filter_map(Value::as_str).filter(|kind| *kind != "null").collect()
            }
            Some(Value::String(kind)) => vec![kind.as_str()],
            _ => Vec::new(),
        };
        let words: Vec<String> = named.into_iter().map(|kind| self.word(kind, schema)).collect();
        if !words.is_empty() {
            return words.join(" or ");
        }
        let mut kinds: Vec<String> = Vec::new();
        for alternative in alternatives(schema) {
            let kind = self.kind(alternative);
            if kind != "nothing" && !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        if kinds.is_empty() { "anything".to_owned() } else { kinds.join(" or ") }
    }

    fn word(&self, kind: &str, schema: &'a Value) -> String {
        match kind {
            "string" => "text".to_owned(),
            "integer" => "whole number".to_owned(),
            "boolean" => "true or false".to_owned(),
            "null" => "nothing".to_owned(),
            "array" => schema.get("items").map_or_else(|| "list".to_owned(), |of| format!("list of {}", self.kind(of))),
            "object" => match schema.get("additionalProperties").filter(|values| values.is_object()) {
                Some(values) => format!("map of {}", self.kind(values)),
                None => "map".to_owned(),
            },
            other => other.to_owned(),
        }
    }
}

/// The one alternative that is not nothing.
fn only_alternative(schema: &Value) -> Option<&Value> {
    let mut open = alternatives(schema).filter(|alternative| text(alternative, "type") != "null");
    let only = open.next()?;
    open.next().is_none().then_some(only)
}

fn alternatives(schema: &Value) -> impl Iterator<Item = &Value> {
    let lists = ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|name| schema.get(name));
    lists.filter_map(Value::as_array).flatten()
}

/// The definition that a schema refers to, directly or as the alternative to nothing.
fn referred(schema: &Value) -> Option<&str> {
    let reference = schema.get("$ref").or_else(|| only_alternative(schema)?.get("$ref"));
    reference.and_then(Value::as_str)
}

fn strings(list: Option<&Value>) -> impl Iterator<Item = &str> {
    list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

fn text(schema: &Value, key: &str) -> String {
    schema.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What an operation is used for, in a word.
pub(crate) fn kind(kind: OperationKind) -> &'static str {
    match kind {
        OperationKind::Action => "action",
        OperationKind::Polling => "polling trigger",
        OperationKind::Webhook => "webhook trigger",
    }
}

/// What can come after an operation, as a sentence.
pub(crate) fn outputs(outputs: &Outputs) -> String {
    match outputs {
        Outputs::One => "One output: `after: <step>`.".to_owned(),
        Outputs::None => "No output: no step can come after it.".to_owned(),
        Outputs::Named { keys_of, always } => {
            let always = always.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            let also = if always.is_empty() { String::new() } else { format!(", and always {always}") };
            format!("Named outputs, `after: <step>.<name>`: the keys of `{keys_of}`{also}.")
        }
    }
}

/// The reference page of a component, as Markdown.
pub(crate) fn page(component: &Component) -> String {
    let mut page = format!(
        "<!-- Generated from the specs of the operations; see CONTRIBUTING.md. -->\n\n# {}\n\n{}\n",
        component.name, component.summary
    );
    for operation in &component.operations {
        section(&mut page, operation);
    }
    page
}

/// The list of all reference pages, as Markdown.
pub(crate) fn index(components: &[Component]) -> String {
    let mut page = "<!-- Generated from the specs of the operations; see CONTRIBUTING.md. -->\n\n# Components\n\n\
                    | Operation | Kind | What it does |\n|---|---|---|\n"
        .to_owned();
    for operation in components.iter().flat_map(|component| &component.operations) {
        let OperationSpec { name, summary, .. } = &**operation;
        let (component, anchor) = (operation.component(), anchor(name));
        let kind = kind(operation.kind);
        let _ = writeln!(page, "| [`{name}`]({component}.md#{anchor}) | {kind} | {} |", cell(summary));
    }
    page
}

fn section(page: &mut String, operation: &OperationSpec) {
    let OperationSpec { name, title, summary, description, .. } = operation;
    let writes = if operation.writes_outside { " It changes something outside Flowline." } else { "" };
    let _ = write!(page, "\n## {name}\n\n**{title}** ({}). {summary}{writes}\n", kind(operation.kind));
    if !description.is_empty() {
        let _ = write!(page, "\n{}\n", description.trim());
    }
    let _ = write!(page, "\n{}\n", outputs(&operation.outputs));
    if let Some(field) = &operation.ordered_by {
        let _ = write!(page, "\nMessages with the same `{field}` are processed one at a time, in order.\n");
    }
    let fields = fields(operation);
    if !fields.is_empty() {
        page.push_str("\n| Field | Type | Default | |\n|---|---|---|---|\n");
    }
    for Field { path, kind, required, default, description } in &fields {
        let default = match default {
            _ if *required => "required".to_owned(),
            Some(default) => format!("`{}`", cell(default)),
            None => String::new(),
        };
        let _ = writeln!(page, "| `{path}` | {} | {default} | {} |", cell(kind), cell(description));
    }
    for example in &operation.examples {
        let _ = write!(page, "\n```yaml\n{}\n```\n", step(operation, example));
    }
}

/// An example configuration as the step it stands in.
pub(crate) fn step(operation: &OperationSpec, example: &str) -> String {
    let with: Vec<String> = example.trim_end().lines().map(|line| format!("  {line}")).collect();
    format!("use: {}\nwith:\n{}", operation.name, with.join("\n"))
}

/// A text that fits into a cell of a Markdown table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

/// The anchor that a heading gets.
fn anchor(heading: &str) -> String {
    heading.chars().filter(|character| *character != '.').collect()
}
