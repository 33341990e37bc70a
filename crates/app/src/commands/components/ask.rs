//! `flowline components verify` and `model`: questions that only a component itself can answer.
//! What it is given is secret: it goes to its container and nowhere else.

use std::{collections::BTreeMap, env, io::IsTerminal as _, process::ExitCode};

use flowline_descriptor::CredentialField;
use flowline_gateway::{ServiceCall, ServiceResult, Verb};
use serde_json::{Map, Value, json};

use crate::{
    cli::{ComponentModel, Given, VerifyComponent},
    commands::print_json,
    docker::{Engine, Question},
    failure::{Doing as _, Failure, Outcome},
    registry::{self, Registered},
    secrets,
};

/// How the environment names parts of credentials.
const PREFIX: &str = "FLOWLINE_CREDENTIAL_";
/// What must not be shown is at least so long; shorter texts are words that may stand anywhere.
const SHORTEST: usize = 4;

pub(super) async fn verify(options: VerifyComponent) -> Outcome {
    let registry = registry::read(&options.data.data)?;
    let component = registry.get(&options.name)?;
    let given = Inputs::gather(component, &options.given)?;
    let answer = ask(component, &options.given, given, Verb::VerifyCredentials, None, None).await?;
    // As the contract has it: only what says otherwise is not verified.
    let verified = answer.get("verified").is_none_or(|verified| verified != &Value::Bool(false));
    let reason = answer.get("reason").and_then(Value::as_str).unwrap_or_default();
    if options.json {
        print_json(&json!({ "verified": verified, "reason": reason }))?;
    } else if verified {
        anstream::println!("the credential works");
    }
    match (verified, options.json) {
        (true, _) => Ok(ExitCode::SUCCESS),
        (false, true) => Ok(ExitCode::FAILURE),
        (false, false) if reason.is_empty() => Err(Failure::new("the credential does not work")),
        (false, false) => Err(Failure::new(format!("the credential does not work: {reason}"))),
    }
}

pub(super) async fn model(options: ComponentModel) -> Outcome {
    let wrong =
        || Failure::usage(format!("`{}` is not an operation", options.operation)).hint("write COMPONENT.OPERATION");
    let (name, function) = options.operation.split_once('.').ok_or_else(wrong)?;
    let registry = registry::read(&options.data.data)?;
    let component = registry.get(name)?;
    let document = component.descriptor().document();
    let operation = ["triggers", "actions"].into_iter().find_map(|group| document.get(group)?.get(function));
    let operation = operation.ok_or_else(|| {
        Failure::usage(format!("the component `{name}` has no operation `{function}`"))
            .hint(format!("`flowline components {name}` lists them"))
    })?;
    let (verb, method) = match &options.of {
        None => (Verb::GetMetaModel, None),
        Some(field) => (Verb::SelectModel, Some(method(operation, field)?)),
    };
    let given = Inputs::gather(component, &options.given)?;
    let answer = ask(component, &options.given, given, verb, Some(function), method).await?;
    print_json(&answer)
}

/// The method of a field's model.
fn method(operation: &Value, field: &str) -> Outcome<String> {
    let about = operation.get("fields").and_then(|fields| fields.get(field));
    let about = about.ok_or_else(|| Failure::usage(format!("the operation has no field `{field}`")))?;
    let method = about.get("model").and_then(Value::as_str);
    method
        .map(str::to_owned)
        .ok_or_else(|| Failure::usage(format!("the values of `{field}` are not the component's to tell")))
}

async fn ask(
    component: &Registered,
    options: &Given,
    inputs: Inputs,
    verb: Verb,
    function: Option<&str>,
    method: Option<String>,
) -> Outcome<Value> {
    let stored = component.stored();
    let mut command = stored.command.clone();
    if let Some(script) = command.last_mut()
        && let Some(folder) = script.strip_suffix("run.js")
    {
        *script = format!("{folder}runService.js");
    }
    let function = function.map(str::to_owned);
    let config = Value::Object(inputs.config.clone());
    let call = ServiceCall { verb, component: stored.name.clone(), function, method, config };
    let question =
        Question { image: &stored.image, command, environment: &stored.environment, call, within: options.timeout.0 };
    let answer = Engine::connect().await?.ask(&question).await.map_err(|failure| inputs.scrubbed(failure))?;
    match answer {
        ServiceResult::Success(answer) => Ok(inputs.scrub_value(answer)),
        ServiceResult::Error(error) => {
            let message = error.get("message").and_then(Value::as_str).unwrap_or("it does not say why");
            Err(Failure::new(format!("the component could not answer: {}", inputs.scrub(message))))
        }
    }
}

/// Fields and credential, as a component gets them.
struct Inputs {
    config: Map<String, Value>,
    hidden: Vec<String>,
}

impl Inputs {
    /// From the command line, the environment, a file, and what a person types, in this order.
    fn gather(component: &Registered, given: &Given) -> Outcome<Self> {
        let file = given.credential_file.as_deref().map(secrets::read_file).transpose()?.unwrap_or_default();
        let fields = component.descriptor().credential_fields();
        let mut credential: BTreeMap<String, String> = file;
        for field in &fields {
            if let Ok(value) = env::var(variable(&field.key)) {
                credential.insert(field.key.clone(), value);
            }
        }
        credential.extend(given.credential.iter().map(|pair| (pair.name.clone(), pair.value.clone())));
        for field in fields.iter().filter(|field| field.required) {
            if !credential.contains_key(&field.key) {
                credential.insert(field.key.clone(), prompt(field)?);
            }
        }
        let hidden = credential.values().filter(|value| value.len() >= SHORTEST).cloned().collect();
        let fields = given.field.iter().map(|pair| (pair.name.clone(), Value::from(pair.value.as_str())));
        // Tokens and the like are objects: what is JSON in a file is taken as that.
        let structured = |text: String| match serde_json::from_str::<Value>(&text) {
            Ok(value @ (Value::Object(_) | Value::Array(_))) => value,
            _ => Value::String(text),
        };
        let config = fields.chain(credential.into_iter().map(|(key, value)| (key, structured(value)))).collect();
        Ok(Self { config, hidden })
    }

    fn scrub(&self, text: &str) -> String {
        self.hidden.iter().fold(text.to_owned(), |text, hidden| text.replace(hidden.as_str(), "•••"))
    }

    fn scrubbed(&self, failure: Failure) -> Failure {
        failure.map_text(|text| self.scrub(&text))
    }

    fn scrub_value(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.scrub(&text)),
            Value::Array(items) => items.into_iter().map(|item| self.scrub_value(item)).collect(),
            Value::Object(entries) => {
                Value::Object(entries.into_iter().map(|(key, value)| (key, self.scrub_value(value))).collect())
            }
            other => other,
        }
    }
}

/// The variable of the environment that holds a part of a credential.
fn variable(key: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    format!("{PREFIX}{}", key.chars().map(plain).collect::<String>())
}

/// Asks a person for a part of a credential.
fn prompt(field: &CredentialField) -> Outcome<String> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(format!("the credential lacks `{}`", field.key))
            .hint(format!("set {} or name a file with `--credential-file`", variable(&field.key))));
    }
    let cannot = || format!("`{}` cannot be read", field.key);
    if field.hidden {
        return rpassword::prompt_password(format!("{}: ", field.label)).doing(cannot);
    }
    anstream::eprint!("{}: ", field.label);
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).doing(cannot)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
