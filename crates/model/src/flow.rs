//! Flows as they are written: the steps of a document, each with its place.
//!
//! Reading a flow finds every problem of form: unknown keys, missing fields, wrong types. What
//! the parts mean together is looked at by [`crate::check`].

mod placement;

use std::{fmt::Display, num::NonZeroU32, str::FromStr};

use serde_json::Value;

use crate::{
    ContainerLimits, Expression, FlowName, Lapse, Misfire, Rate, RetryPolicy, Runtime, Schedule, Size, StepId, Workers,
    document::{Content, Entry, Node},
    expression::{BUILTINS, ExpressionError, PROVIDED, Reads, bare},
    problem::{Problem, ProblemCode, Span, nearest},
};

/// The most steps of one flow.
pub const MOST_STEPS: usize = 1_000;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub span: Span,
}

/// A flow as it is written.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Its name.
    pub name: FlowName,
    /// What it is for.
    pub description: String,
    /// Its steps, in the order of the document.
    pub steps: Vec<Step>,
    /// The names of steps that could not be read: what they would have been is not known.
    pub unread: Vec<String>,
    /// The step that receives every dead letter.
    pub on_error: Option<Placed<StepId>>,
    /// Where its steps run unless they say otherwise.
    pub runtime: Option<Placed<Runtime>>,
    /// Where `steps` stands.
    pub steps_span: Span,
}

/// A step as it is written.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its name.
    pub id: Placed<StepId>,
    /// The operation it uses.
    pub operation: Placed<String>,
    /// What it is called on screens.
    pub title: Option<String>,
    /// The steps it comes after: `step` or `step.output`.
    pub after: Vec<Placed<After>>,
    /// Which messages are let in.
    pub when: Option<Placed<Expression>>,
    /// The configuration.
    pub with: Node,
    /// How to repeat what failed.
    pub retry: RetryPolicy,
    /// Where it runs.
    pub runtime: Option<Placed<Runtime>>,
    /// How many run at the same time.
    pub workers: Option<Placed<Workers>>,
    /// How many messages each of them works on at the same time.
    pub prefetch: Option<Placed<NonZeroU32>>,
    /// How much its containers may use.
    pub container: Option<Placed<ContainerLimits>>,
    /// At most so many messages in each period.
    pub rate: Option<Rate>,
    /// Which messages keep their order.
    pub order: Option<Placed<Order>>,
    /// How long one attempt may take.
    pub timeout: Lapse,
    /// When a polling trigger is due; none within if what is written is no schedule.
    pub schedule: Option<Placed<Option<Schedule>>>,
    /// How much its queue may hold.
    pub limit: QueueLimit,
}

/// How much the queue of a step may hold; what is not said is the server's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueLimit {
    /// Messages.
    pub messages: Option<u64>,
    /// Bytes.
    pub bytes: Option<Size>,
}

/// A step that another comes after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct After {
    /// Which step.
    pub step: StepId,
    /// Which of its outputs; none means its only one.
    pub output: Option<String>,
}

/// Which messages keep their order.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// All of the queue's.
    Whole,
    /// Those for which the expression has the same result.
    Key(Expression),
}

/// How long one attempt may take, unless the step says otherwise.
pub const DEFAULT_TIMEOUT: Lapse = Lapse::seconds(300);

const FLOW_KEYS: [&str; 5] = ["name", "description", "steps", "on_error", "runtime"];
const STEP_KEYS: [&str; 16] = [
    "use",
    "title",
    "after",
    "when",
    "with",
    "retry",
    "runtime",
    "workers",
    "prefetch",
    "container",
    "rate",
    "order",
    "timeout",
    "schedule",
    "limit",
    "description",
];

impl Flow {
    /// Reads a flow; nothing comes back where a problem leaves no sensible flow.
    pub fn read(document: &Node, problems: &mut Vec<Problem>) -> Option<Flow> {
        let mut reader = Reader::new(document, "a flow", problems)?;
        reader.known(&FLOW_KEYS);
        let name = reader.required("name").and_then(|entry| reader.parsed::<FlowName>(entry, ProblemCode::InvalidName));
        let description = reader.text("description").unwrap_or_default();
        let on_error = reader.get("on_error").and_then(|entry| {
            let value = reader.parsed(entry, ProblemCode::InvalidName)?;
            Some(Placed { value, span: entry.value.span })
        });
        let runtime = reader.runtime();
        let steps_entry = reader.required("steps")?;
        let steps = read_steps(&steps_entry.value, problems)?;
        let read = |entry: &&Entry| !steps.iter().any(|step| step.id.value.as_str() == entry.key);
        let unread = steps_entry.value.entries().iter().filter(read).map(|entry| entry.key.clone()).collect();
        // Without a name it is still looked at as a whole: its problems are to be found in one pass.
        let name = name.or_else(|| FlowName::new("unnamed").ok())?;
        Some(Flow { name, description, steps, unread, on_error, runtime, steps_span: steps_entry.key_span })
    }
}

fn read_steps(node: &Node, problems: &mut Vec<Problem>) -> Option<Vec<Step>> {
    let Content::Map(entries) = &node.content else {
        problems.push(
            Problem::new(ProblemCode::WrongType, node.span, format!("`steps` is a map of steps, not {}", node.kind()))
                .hint("write `steps:` and below it, indented, a name for each step"),
        );
        return None;
    };
    if entries.len() > MOST_STEPS {
        let message = format!("a flow has at most {MOST_STEPS} steps");
        problems.push(Problem::new(ProblemCode::TooLarge, node.span, message));
        return None;
    }
    Some(entries.iter().filter_map(|entry| read_step(entry, problems)).collect())
}

fn read_step(entry: &Entry, problems: &mut Vec<Problem>) -> Option<Step> {
    let id = match StepId::new(&entry.key) {
        Ok(id) => Some(Placed { value: id, span: entry.key_span }),
        Err(error) => {
            problems.push(Problem::new(ProblemCode::InvalidName, entry.key_span, error.to_string()));
            None
        }
    };
    let mut reader = Reader::new(&entry.value, "a step", problems)?;
    reader.known(&STEP_KEYS);
    let operation = reader.required_at("use", entry.key_span).and_then(|found| {
        let value = reader.text("use")?;
        Some(Placed { value, span: found.value.span })
    });
    let empty = Node { content: Content::Map(Vec::new()), span: entry.key_span };
    let with = reader.get("with").map(|found| found.value.clone());
    let with = with.filter(|node| node.content != Content::Scalar(Value::Null)).unwrap_or(empty);
    let step = Step {
        title: reader.text("title"),
        after: reader.after(),
        when: reader.expression("when"),
        retry: reader.retry(),
        runtime: reader.runtime(),
        workers: reader.workers(),
        prefetch: reader.prefetch(),
        container: reader.container(),
        rate: reader.get("rate").and_then(|found| reader.parsed(found, ProblemCode::InvalidValue)),
        order: reader.order(),
        timeout: reader.lapse("timeout").unwrap_or(DEFAULT_TIMEOUT),
        schedule: reader.schedule(),
        limit: reader.limit(),
        with,
        id: id?,
        operation: operation?,
    };
    Some(step)
}

/// Reads the entries of one map and notes what is wrong with them.
struct Reader<'a, 'p> {
    node: &'a Node,
    what: &'static str,
    problems: &'p mut Vec<Problem>,
}

impl<'a, 'p> Reader<'a, 'p> {
    fn new(node: &'a Node, what: &'static str, problems: &'p mut Vec<Problem>) -> Option<Self> {
        if matches!(node.content, Content::Map(_)) {
            return Some(Self { node, what, problems });
        }
        let message = format!("{what} is a map of keys and values, not {}", node.kind());
        problems.push(Problem::new(ProblemCode::WrongType, node.span, message));
        None
    }

    fn note(&mut self, code: ProblemCode, span: Span, message: String) {
        self.problems.push(Problem::new(code, span, message));
    }

    fn known(&mut self, keys: &[&str]) {
        for entry in self.node.entries() {
            if !keys.contains(&entry.key.as_str()) {
                let message = format!("{} has no `{}`", self.what, entry.key);
                let problem = Problem::new(ProblemCode::UnknownKey, entry.key_span, message);
                self.problems.push(problem.did_you_mean(&entry.key, keys.iter().copied()));
            }
        }
    }

    fn get(&self, key: &str) -> Option<&'a Entry> {
        self.node.get(key).filter(|entry| entry.value.content != Content::Scalar(Value::Null))
    }

    fn required(&mut self, key: &str) -> Option<&'a Entry> {
        self.required_at(key, self.node.span)
    }

    fn required_at(&mut self, key: &str, span: Span) -> Option<&'a Entry> {
        let found = self.get(key);
        if found.is_none() {
            self.note(ProblemCode::MissingField, span, format!("{} needs `{key}`", self.what));
        }
        found
    }

    fn text(&mut self, key: &str) -> Option<String> {
        let entry = self.get(key)?;
        if let Some(text) = entry.value.as_str() {
            return Some(text.to_owned());
        }
        self.wrong_type(entry, "a text");
        None
    }

    fn wrong_type(&mut self, entry: &Entry, expected: &str) {
        let message = format!("`{}` is {expected}, not {}", entry.key, entry.value.kind());
        self.note(ProblemCode::WrongType, entry.value.span, message);
    }

    /// A text that a type can be read from; numbers count as texts.
    fn parsed<T>(&mut self, entry: &Entry, code: ProblemCode) -> Option<T>
    where
        T: FromStr<Err: Display>,
    {
        let text = match &entry.value.content {
            Content::Scalar(Value::String(text)) => text.clone(),
            Content::Scalar(number @ Value::Number(_)) => number.to_string(),
            _ => {
                self.wrong_type(entry, "a text");
                return None;
            }
        };
        text.parse().map_err(|error: T::Err| self.note(code, entry.value.span, error.to_string())).ok()
    }

    fn lapse(&mut self, key: &str) -> Option<Lapse> {
        self.get(key).and_then(|entry| self.parsed(entry, ProblemCode::InvalidValue))
    }

    fn count(&mut self, key: &str) -> Option<NonZeroU32> {
        let entry = self.get(key)?;
        let number = match &entry.value.content {
            Content::Scalar(value) => value.as_u64(),
            _ => None,
        };
        let count = number.and_then(|number| u32::try_from(number).ok()).filter(|number| *number <= 1_000);
        let count = count.and_then(NonZeroU32::new);
        if count.is_none() {
            let message = format!("`{key}` is a whole number from 1 to 1000");
            self.note(ProblemCode::InvalidValue, entry.value.span, message);
        }
        count
    }

    fn compiled(&mut self, text: &str, span: Span) -> Option<Expression> {
        match Expression::compile(bare(text)) {
            Ok(expression) => {
                self.problems.extend(unknown_variables(&expression.reads(), span));
                Some(expression)
            }
            Err(error) => {
                self.problems.push(bad_expression(&error, span));
                None
            }
        }
    }

    fn expression(&mut self, key: &str) -> Option<Placed<Expression>> {
        let entry = self.get(key)?;
        let text = match &entry.value.content {
            Content::Scalar(Value::String(text)) => text.clone(),
            Content::Scalar(Value::Bool(flag)) => flag.to_string(),
            _ => {
                self.wrong_type(entry, "an expression");
                return None;
            }
        };
        let value = self.compiled(&text, entry.value.span)?;
        Some(Placed { value, span: entry.value.span })
    }

    fn after(&mut self) -> Vec<Placed<After>> {
        let Some(entry) = self.get("after") else { return Vec::new() };
        let nodes = match &entry.value.content {
            Content::List(items) => items.iter().collect(),
            _ => vec![&entry.value],
        };
        let mut found = Vec::new();
        for node in nodes {
            let Some(text) = node.as_str() else {
                let message = format!("`after` names steps, it is not {}", node.kind());
                self.note(ProblemCode::WrongType, node.span, message);
                continue;
            };
            let (step, output) = text.split_once('.').map_or((text, None), |(step, output)| (step, Some(output)));
            match StepId::new(step) {
                Ok(step) => {
                    let value = After { step, output: output.map(str::to_owned) };
                    if found.iter().any(|placed: &Placed<After>| placed.value == value) {
                        self.note(ProblemCode::InvalidValue, node.span, format!("`{text}` stands twice in `after`"));
                    }
                    found.push(Placed { value, span: node.span });
                }
                Err(error) => self.note(ProblemCode::InvalidName, node.span, error.to_string()),
            }
        }
        found
    }

    fn order(&mut self) -> Option<Placed<Order>> {
        let entry = self.get("order")?;
        let span = entry.value.span;
        match &entry.value.content {
            Content::Scalar(Value::Bool(true)) => Some(Placed { value: Order::Whole, span }),
            Content::Scalar(Value::Bool(false)) => None,
            Content::Scalar(Value::String(text)) => {
                self.compiled(text, span).map(|key| Placed { value: Order::Key(key), span })
            }
            _ => {
                self.wrong_type(entry, "`true` or an expression for a key");
                None
            }
        }
    }

    fn retry(&mut self) -> RetryPolicy {
        let mut policy = RetryPolicy::default();
        let Some(entry) = self.get("retry") else { return policy };
        if entry.value.content == Content::Scalar(Value::Bool(false)) {
            return RetryPolicy { horizon: Lapse::seconds(0), ..policy };
        }
        let Some(mut inner) = Reader::new(&entry.value, "`retry`", self.problems) else { return policy };
        inner.known(&["first", "factor", "longest", "for"]);
        policy.first = inner.lapse("first").unwrap_or(policy.first);
        policy.longest = inner.lapse("longest").unwrap_or(policy.longest);
        policy.horizon = inner.lapse("for").unwrap_or(policy.horizon);
        if let Some(factor) = inner.get("factor") {
            match factor.value.to_json().as_f64().filter(|factor| (1.0..=100.0).contains(factor)) {
                Some(number) => policy.factor = number,
                None => {
                    let message = "`factor` is a number from 1 to 100".to_owned();
                    inner.note(ProblemCode::InvalidValue, factor.value.span, message);
                }
            }
        }
        policy
    }

    fn limit(&mut self) -> QueueLimit {
        let mut limit = QueueLimit::default();
        let Some(entry) = self.get("limit") else { return limit };
        let Some(mut inner) = Reader::new(&entry.value, "`limit`", self.problems) else { return limit };
        inner.known(&["messages", "bytes"]);
        limit.bytes = inner.get("bytes").and_then(|found| inner.parsed(found, ProblemCode::InvalidValue));
        if let Some(found) = inner.get("messages") {
            limit.messages = found.value.to_json().as_u64().filter(|count| *count > 0);
            if limit.messages.is_none() {
                let message = "`messages` is a whole number, at least 1".to_owned();
                inner.note(ProblemCode::InvalidValue, found.value.span, message);
            }
        }
        limit
    }

    fn schedule(&mut self) -> Option<Placed<Option<Schedule>>> {
        let entry = self.get("schedule")?;
        let span = entry.key_span;
        let value = Reader::new(&entry.value, "`schedule`", self.problems).and_then(|mut inner| inner.times(span));
        Some(Placed { value, span })
    }

    /// The times of a schedule: this reader reads its map.
    fn times(&mut self, span: Span) -> Option<Schedule> {
        self.known(&["every", "cron", "time_zone", "misfire"]);
        let misfire = self.misfire();
        let zone = self.text("time_zone");
        let (entry, schedule) = match (self.get("every"), self.get("cron")) {
            (Some(every), None) => (every, Schedule::every(self.lapse("every")?, misfire)),
            (None, Some(cron)) => {
                (cron, Schedule::cron(&self.text("cron")?, zone.as_deref().unwrap_or("UTC"), misfire))
            }
            _ => {
                self.problems.push(
                    Problem::new(ProblemCode::BadSchedule, span, "a schedule has either `every` or `cron`")
                        .hint("write for example `every: 5m` or `cron: \"0 8 * * *\"`"),
                );
                return None;
            }
        };
        schedule.map_err(|error| self.note(ProblemCode::BadSchedule, entry.value.span, error.to_string())).ok()
    }

    fn misfire(&mut self) -> Misfire {
        let Some(entry) = self.get("misfire") else { return Misfire::default() };
        serde_json::from_value(entry.value.to_json()).unwrap_or_else(|_| {
            let problem = Problem::new(ProblemCode::InvalidValue, entry.value.span, "`misfire` is once, all or skip");
            self.problems.push(problem.did_you_mean(entry.value.as_str().unwrap_or(""), ["once", "all", "skip"]));
            Misfire::default()
        })
    }
}

/// What is said of an expression that does not compile.
pub(crate) fn bad_expression(error: &ExpressionError, span: Span) -> Problem {
    let message = format!("this is not an expression: {error}");
    Problem::new(ProblemCode::BadExpression, span, message)
}

/// What is said of variables and functions that an expression names and nobody provides.
pub(crate) fn unknown_variables(reads: &Reads, span: Span) -> Vec<Problem> {
    let problem = |name: &String| {
        let message = format!("there is no variable or function `${name}`");
        let known = PROVIDED.into_iter().chain(BUILTINS).collect::<Vec<_>>();
        let near = nearest(name, &known).map(|near| format!("did you mean `${near}`?"));
        let other = || format!("expressions see {}", PROVIDED.map(|name| format!("`${name}`")).join(", "));
        Problem::new(ProblemCode::UnknownVariable, span, message).hint(near.unwrap_or_else(other))
    };
    reads.unknown.iter().map(problem).collect()
}
