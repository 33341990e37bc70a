//! Specs: what an operation says of itself. Forms, reference pages, checks and `list` output
//! derive from them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Runtime;

/// What an operation is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// Transforms what it receives or acts on it.
    Action,
    /// A trigger that asks at intervals and remembers a snapshot.
    Polling,
    /// A trigger that waits to be told over HTTP.
    Webhook,
}

/// Where the names of an operation's outputs come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outputs {
    /// One output without a name: `after: step`.
    One,
    /// Named outputs: `after: step.name`. The names are the keys of this field of the
    /// configuration and the names that always exist.
    Named {
        /// The configuration field whose keys are output names.
        keys_of: String,
        /// Names that always exist.
        always: Vec<String>,
    },
    /// None: no step can come after it.
    None,
}

/// What an operation says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OperationSpec {
    /// `component.operation`, such as `http.request`: what `use` says in a flow.
    pub name: String,
    /// What it is used for.
    pub kind: OperationKind,
    /// A few words, such as "Send an HTTP request".
    pub title: String,
    /// One or two sentences.
    pub summary: String,
    /// More, as Markdown; may be empty.
    pub description: String,
    /// Whether it changes something outside Flowline.
    pub writes_outside: bool,
    /// Its outputs.
    pub outputs: Outputs,
    /// Field of the configuration whose value is the order key: messages with the same value are
    /// processed one at a time, in order, whatever the flow says.
    pub ordered_by: Option<String>,
    /// Where it can run, the preferred place first.
    #[serde(default)]
    pub runtimes: Vec<Runtime>,
    /// Fields of the configuration that a worker is told once, when it starts: they cannot read
    /// messages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constant: Vec<String>,
    /// JSON Schema (2020-12) of its configuration.
    pub config: Value,
    /// Example configurations, as YAML of a step's `with`.
    pub examples: Vec<String>,
}

impl OperationSpec {
    fn new(kind: OperationKind, name: &str, title: &str, summary: &str) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            title: title.to_owned(),
            summary: summary.to_owned(),
            description: String::new(),
            writes_outside: false,
            outputs: Outputs::One,
            ordered_by: None,
            runtimes: match kind {
                OperationKind::Webhook => vec![Runtime::Task],
                OperationKind::Action | OperationKind::Polling => vec![Runtime::Task, Runtime::Docker],
            },
            constant: Vec::new(),
            config: Value::Bool(true),
            examples: Vec::new(),
        }
    }

    /// The spec of an action.
    pub fn action(name: &str, title: &str, summary: &str) -> Self {
        Self::new(OperationKind::Action, name, title, summary)
    }

    /// The spec of a polling trigger.
    pub fn polling(name: &str, title: &str, summary: &str) -> Self {
        Self::new(OperationKind::Polling, name, title, summary)
    }

    /// The spec of a webhook trigger.
    pub fn webhook(name: &str, title: &str, summary: &str) -> Self {
        Self::new(OperationKind::Webhook, name, title, summary)
    }

    /// With more to read, as Markdown.
    #[must_use]
    pub fn description(mut self, markdown: &str) -> Self {
        self.description = markdown.to_owned();
        self
    }

    /// With an example of its configuration, as YAML.
    #[must_use]
    pub fn example(mut self, yaml: &str) -> Self {
        self.examples.push(yaml.to_owned());
        self
    }

    /// Changes something outside Flowline.
    #[must_use]
    pub fn writes_outside(mut self) -> Self {
        self.writes_outside = true;
        self
    }

    /// With these outputs.
    #[must_use]
    pub fn outputs(mut self, outputs: Outputs) -> Self {
        self.outputs = outputs;
        self
    }

    /// Processes messages with the same value of this field one at a time, in order.
    #[must_use]
    pub fn ordered_by(mut self, field: &str) -> Self {
        self.ordered_by = Some(field.to_owned());
        self
    }

    /// Runs in these places only, the preferred one first.
    #[must_use]
    pub fn runtimes(mut self, runtimes: &[Runtime]) -> Self {
        self.runtimes = runtimes.to_vec();
        self
    }

    /// A worker is told these fields of the configuration once, when it starts.
    #[must_use]
    pub fn constant(mut self, fields: &[&str]) -> Self {
        self.constant = fields.iter().map(|field| (*field).to_owned()).collect();
        self
    }

    /// Where it runs if `asked` was said of the step and `default` of the server: of what it
    /// cannot do nothing comes.
    pub fn runtime(&self, asked: Option<Runtime>, default: Runtime) -> Runtime {
        let said = asked.into_iter().chain([default]).find(|runtime| self.runtimes.contains(runtime));
        said.or_else(|| self.runtimes.first().copied()).unwrap_or_default()
    }

    /// The component's name: what stands before the dot.
    pub fn component(&self) -> &str {
        self.name.split('.').next().unwrap_or(&self.name)
    }

    /// Whether a flow can begin with it.
    pub fn is_trigger(&self) -> bool {
        self.kind != OperationKind::Action
    }
}
