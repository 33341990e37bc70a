//! What every operation keeps to, so that forms, reference pages and checks can rely on it.

use std::{collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc};

use flowline_model::{OperationKind, OperationSpec, Outputs, Problem, check, document};
use futures::FutureExt;
use serde_json::{Value, json};

use super::{TestHost, request};
use crate::{Catalog, Operation, Run};

/// The trigger before an action whose example is checked.
const START: &str = "conformance.start";

/// Checks every operation of a catalog; returns all that is wrong, one line each.
pub async fn conformance(catalog: &Catalog) -> Vec<String> {
    let mut complaints = Vec::new();
    for spec in catalog.specs() {
        let mut found = words(spec);
        found.extend(schema(spec));
        found.extend(examples(spec));
        if let Some(operation) = catalog.get(&spec.name) {
            found.extend(behaviour(operation).await);
        }
        complaints.extend(found.into_iter().map(|complaint| format!("{}: {complaint}", spec.name)));
    }
    complaints
}

/// Name, title, summary and outputs.
fn words(spec: &OperationSpec) -> Vec<String> {
    let is_word = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_lowercase())
            && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let parts: Vec<&str> = spec.name.split('.').collect();
    let known_outputs = match &spec.outputs {
        Outputs::Named { keys_of, always } => {
            let field = spec.config.get("properties").and_then(|properties| properties.get(keys_of));
            (field.is_some() || keys_of.is_empty()) && always.iter().all(|name| is_word(name))
        }
        Outputs::One => true,
        Outputs::None => spec.kind == OperationKind::Action,
    };
    let ordered = spec.ordered_by.as_ref();
    let known_order = ordered.is_none_or(|field| spec.config.pointer(&format!("/properties/{field}")).is_some());
    complaints([
        (parts.len() == 2 && parts.iter().all(|part| is_word(part)), "the name is not `component.operation`"),
        (!spec.title.is_empty() && !spec.title.ends_with(['.', ' ']), "the title is empty or ends with a full stop"),
        (spec.summary.ends_with('.') && spec.summary.len() > 10, "the summary is not a sentence"),
        (spec.description.is_empty() || spec.description.ends_with(['.', '`']), "the description stops in the middle"),
        (known_outputs, "the outputs do not fit the configuration"),
        (known_order, "`ordered_by` names no field of the configuration"),
        (!spec.examples.is_empty(), "there is no example"),
    ])
}

fn complaints<const N: usize>(checks: [(bool, &str); N]) -> Vec<String> {
    checks.into_iter().filter(|(fine, _)| !fine).map(|(_, complaint)| complaint.to_owned()).collect()
}

/// The schema of the configuration: closed, and every field described.
fn schema(spec: &OperationSpec) -> Vec<String> {
    let mut found = complaints([
        (spec.config.get("type") == Some(&json!("object")), "the configuration is not an object"),
        (spec.config.get("additionalProperties") == Some(&json!(false)), "unknown fields are not refused"),
    ]);
    undescribed(&spec.config, &spec.config, "with", &mut found);
    found
}

fn undescribed(schema: &Value, root: &Value, path: &str, found: &mut Vec<String>) {
    let described =
        |schema: &Value| schema.get("description").and_then(Value::as_str).is_some_and(|text| !text.is_empty());
    match schema {
        Value::Object(members) => {
            for (key, member) in members {
                let Some(properties) = member.as_object().filter(|_| key == "properties") else {
                    undescribed(member, root, path, found);
                    continue;
                };
                // An alternative that consists of one field is described as a whole.
                let alternative = properties.len() == 1 && described(schema) && !std::ptr::eq(schema, root);
                for (name, property) in properties {
                    let path = format!("{path}.{name}");
                    if !alternative && !described(property) && !referenced(property, root).is_some_and(described) {
                        found.push(format!("`{path}` is not described"));
                    }
                    undescribed(property, root, &path, found);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| undescribed(item, root, path, found)),
        _ => {}
    }
}

fn referenced<'a>(schema: &Value, root: &'a Value) -> Option<&'a Value> {
    root.pointer(schema.get("$ref")?.as_str()?.strip_prefix('#')?)
}

/// Every example fits, as the `with` of a step in a flow.
fn examples(spec: &OperationSpec) -> Vec<String> {
    let complain = |example: &String, problems: Vec<Problem>| {
        let first = example.lines().next().unwrap_or_default().to_owned();
        problems
            .into_iter()
            .map(move |problem| format!("the example `{first}`: {}", problem.message))
            .collect::<Vec<_>>()
    };
    let fits = |example: &String| {
        let with = document::read(example)?.to_json();
        check(&flow(spec, with).to_string(), &known(spec)).map(drop)
    };
    let found = spec.examples.iter().filter_map(|example| Some(complain(example, fits(example).err()?)));
    found.flatten().collect()
}

/// The smallest flow that uses an operation.
fn flow(spec: &OperationSpec, with: Value) -> Value {
    let mut step = json!({ "use": spec.name, "with": with });
    match spec.kind {
        OperationKind::Action => {
            step["after"] = json!("start");
            json!({ "name": "conformance", "steps": { "start": { "use": START }, "step": step } })
        }
        OperationKind::Polling => {
            step["schedule"] = json!({ "every": "5m" });
            json!({ "name": "conformance", "steps": { "step": step } })
        }
        OperationKind::Webhook => json!({ "name": "conformance", "steps": { "step": step } }),
    }
}

fn known(spec: &OperationSpec) -> BTreeMap<String, Arc<OperationSpec>> {
    let start = OperationSpec::webhook(START, "Start", "Begins a flow.");
    [start, spec.clone()].into_iter().map(|spec| (spec.name.clone(), Arc::new(spec))).collect()
}

/// Configurations that no operation accepts.
fn nonsense() -> [Value; 4] {
    [json!({ "no such field": 1 }), json!("text"), json!(7), json!({ "": {} })]
}

/// Whatever it is given, it answers; what cannot be its configuration is a fault.
async fn behaviour(operation: &Operation) -> Vec<String> {
    let mut found = Vec::new();
    if matches!(operation.run, Run::Image(_) | Run::Process) {
        // What runs elsewhere is tried elsewhere.
        return found;
    }
    for config in nonsense() {
        match attempt(operation, config.clone()).await {
            None => found.push(format!("it panics with the configuration {config}")),
            Some(true) => found.push(format!("it accepts the configuration {config}")),
            Some(false) => {}
        }
    }
    for config in [json!({}), Value::Null] {
        if attempt(operation, config.clone()).await.is_none() {
            found.push(format!("it panics with the configuration {config}"));
        }
    }
    found
}

/// Whether it succeeds; none if it panics.
async fn attempt(operation: &Operation, config: Value) -> Option<bool> {
    let host = TestHost::new();
    let run = async {
        match &operation.run {
            Run::Action(_) => host.run(operation, config, host.message(json!({}))).await.is_ok(),
            Run::Polling(_) => host.poll(operation, config, None).await.is_ok(),
            Run::Webhook(webhook) => {
                let accepted = webhook.accepts(config.clone()).is_ok();
                let request = request("POST", "/hook/test", &[("content-type", "application/json")], "{}");
                host.receive(operation, config, request).await.is_ok() || accepted
            }
            Run::Image(_) | Run::Process => unreachable!("it runs elsewhere"),
        }
    };
    AssertUnwindSafe(run).catch_unwind().await.ok()
}

#[cfg(test)]
mod tests {
    use crate::prelude::*;

    use super::*;

    #[derive(Deserialize, JsonSchema)]
    struct Loose {
        #[expect(dead_code, reason = "only its schema counts")]
        field: Option<bool>,
    }

    struct Careless;

    impl Action for Careless {
        type Config = Loose;

        fn spec() -> OperationSpec {
            OperationSpec::action("Careless", "Careless.", "no sentence").example("field: 7").ordered_by("key")
        }

        async fn run(&self, _: &Context, _: Loose, _: Message) -> Result<Vec<Emit>, Fault> {
            panic!("always")
        }
    }

    #[tokio::test]
    async fn what_is_careless_is_found() {
        let found = conformance(&Catalog::new([Operation::action(Careless)])).await.join("\n");
        for complaint in [
            "the name is not",
            "full stop",
            "not a sentence",
            "unknown fields are not refused",
            "`with.field` is not described",
            "`ordered_by` names no field",
            "the example `field: 7`",
            "it panics with the configuration {}",
        ] {
            assert!(found.contains(complaint), "{complaint}: {found}");
        }
    }
}
