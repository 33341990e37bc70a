//! A few operations that tests check flows against: one of each kind, with schemas as components
//! derive them.
#![allow(dead_code, reason = "each test uses some of it")]

use std::{collections::BTreeMap, sync::Arc};

use flowline_model::{Expression, Lapse, OperationSpec, Outputs, Plan, Problem, Runtime, Size, check};
use schemars::{JsonSchema, generate::SchemaSettings};
use serde::{Deserialize, Serialize};

/// A webhook's configuration.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Hook {
    /// The path below the flow's address.
    path: Option<String>,
    /// How senders prove who they are.
    verify: Option<Verify>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Verify {
    /// Anybody may send.
    None,
    /// A signature.
    Hmac { secret: String, header: String },
    /// A token.
    Token { token: String },
}

/// A polling trigger's configuration.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Poll {
    url: String,
}

/// An HTTP request's configuration.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Request {
    url: String,
    #[serde(default)]
    method: Method,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: Option<serde_json::Value>,
    timeout: Option<Lapse>,
    largest: Option<Size>,
    #[serde(default)]
    tries: u8,
    #[serde(default)]
    follow: bool,
    pages: Option<Pages>,
}

#[derive(Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "UPPERCASE")]
enum Method {
    #[default]
    Get,
    Post,
}

/// How to ask for the next page.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(tag = "by", rename_all = "snake_case", deny_unknown_fields)]
enum Pages {
    /// A number in the query.
    Number { parameter: String, first: Option<u32> },
    /// A link in a header.
    Link,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Map {
    map: serde_json::Value,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Switch {
    /// Names of outputs, and the condition of each.
    routes: BTreeMap<String, Expression>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Aggregate {
    key: Option<String>,
    count: u32,
}

/// The configuration of a component in an image.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct InImage {
    #[serde(default)]
    fields: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    credential: serde_json::Map<String, serde_json::Value>,
    body: Option<serde_json::Value>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Program {
    command: Vec<String>,
    input: Option<serde_json::Value>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Nothing {}

fn with<C: JsonSchema>(mut spec: OperationSpec) -> Arc<OperationSpec> {
    spec.config = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<C>().to_value();
    Arc::new(spec)
}

/// The operations, by name.
pub(crate) fn operations() -> BTreeMap<String, Arc<OperationSpec>> {
    let routes = Outputs::Named { keys_of: "routes".into(), always: vec!["otherwise".into()] };
    [
        with::<Hook>(OperationSpec::webhook("webhook.receive", "Receive", "Waits for requests.")),
        with::<Poll>(OperationSpec::polling("http.poll", "Poll", "Asks a feed.")),
        with::<Request>(OperationSpec::action("http.request", "Request", "Sends a request.").writes_outside()),
        with::<Map>(OperationSpec::action("transform.map", "Map", "Makes a new body.")),
        with::<Switch>(OperationSpec::action("router.switch", "Switch", "Chooses an output.").outputs(routes)),
        with::<Aggregate>(OperationSpec::action("transform.aggregate", "Join", "Waits for several.").ordered_by("key")),
        with::<InImage>(
            OperationSpec::action("shop.create-order", "Create order", "Creates an order.")
                .runtimes(&[Runtime::Docker])
                .constant(&["fields", "credential"]),
        ),
        with::<Program>(
            OperationSpec::action("process.run", "Run", "Runs a program.")
                .runtimes(&[Runtime::Process])
                .constant(&["command"]),
        ),
        with::<Nothing>(OperationSpec::action("log.write", "Log", "Writes a line.").outputs(Outputs::None)),
    ]
    .into_iter()
    .map(|spec| (spec.name.clone(), spec))
    .collect()
}

/// The plan of a flow that checks.
pub(crate) fn plan(text: &str) -> Plan {
    check(text, &operations()).unwrap_or_else(|problems| panic!("{text}\n{}", render(text, &problems)))
}

/// The problems of a flow that does not check, as a person would be shown them.
pub(crate) fn problems(text: &str) -> String {
    match check(text, &operations()) {
        Ok(_) => "no problems\n".to_owned(),
        Err(problems) => render(text, &problems),
    }
}

/// Each problem with the line it stands on, and a mark under the place.
pub(crate) fn render(text: &str, problems: &[Problem]) -> String {
    let mut out = String::new();
    for Problem { code, message, span, hint } in problems {
        let line = text.split('\n').nth(span.line - 1).unwrap_or_default();
        let mark = " ".repeat(span.column - 1) + &"^".repeat(span.length);
        out += &format!("{}:{}+{} {code}: {message}\n", span.line, span.column, span.length);
        out += &format!("  | {line}\n  | {mark}\n");
        if let Some(hint) = hint {
            out += &format!("  = {hint}\n");
        }
    }
    out
}

/// A flow whose only trigger is a webhook called `in`, and these steps after it, as YAML.
pub(crate) fn flow(steps: &str) -> String {
    format!("name: test\nsteps:\n  in: {{ use: webhook.receive }}\n{steps}")
}
