//! Expressions: JSONata, compiled once, evaluated within limits.
//!
//! An expression sees a message body as `$` and, where it names them, `$steps`, `$headers`,
//! `$flow`, `$execution`, `$var` and `$secret`. Evaluation never panics, loops for ever, recurses
//! without end or takes all memory: the engine limits time, depth and length of sequences between
//! calls, and `guard` limits what one call may do.

mod fields;

use std::{
    borrow::Cow,
    cell::{Cell, OnceCell, RefCell},
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use jsonata_core::{
    evaluator::{Context, Evaluator, EvaluatorError, EvaluatorOptions},
    value::JValue,
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::fields::Fields;
use crate::guard;

/// The longest source text of one expression, in bytes.
pub const LONGEST_SOURCE: usize = 64 * 1024;

/// Compiled expressions kept by each thread.
const CACHED: usize = 4_096;

/// How much one evaluation may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Wall-clock time.
    pub time: Duration,
    /// Nesting of calls.
    pub depth: usize,
    /// Items of one sequence.
    pub sequence: usize,
    /// Values and bytes of text of the result.
    pub result: usize,
}

impl Limits {
    /// For evaluation on a thread that others wait for: a few milliseconds.
    pub const BRIEF: Limits = Limits { time: Duration::from_millis(5), ..Limits::FULL };
    /// For evaluation on a thread of its own: one second.
    pub const FULL: Limits = Limits { time: Duration::from_secs(1), depth: 1_000, sequence: 100_000, result: 8 << 20 };
}

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    /// It is not JSONata.
    #[error("{0}")]
    Syntax(String),
    /// It failed on this input.
    #[error("{0}")]
    Evaluation(String),
    /// It used more time than it may.
    #[error("the expression took longer than {0:?}")]
    Timeout(Duration),
    /// Its result, or a value on the way to it, is too large.
    #[error("the expression's result, or a value on the way to it, is too large")]
    TooLarge,
}

/// What an expression reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// `$steps.<id>`: these earlier outputs.
    pub steps: BTreeSet<String>,
    /// `$steps` in a way that does not tell which.
    pub all_steps: bool,
    /// `$var.<name>`.
    pub vars: BTreeSet<String>,
    /// `$secret.<name>`.
    pub secrets: BTreeSet<String>,
    /// `$var` or `$secret` in a way that does not tell which.
    pub dynamic: BTreeSet<String>,
    /// Which of the provided variables it names at all.
    pub variables: BTreeSet<String>,
    /// Variables and functions that it names, and that nobody provides.
    pub unknown: BTreeSet<String>,
    /// The message body itself.
    pub body: bool,
}

impl Reads {
    /// Adds what another expression reads.
    pub fn extend(&mut self, other: &Reads) {
        self.steps.extend(other.steps.iter().cloned());
        self.all_steps |= other.all_steps;
        self.vars.extend(other.vars.iter().cloned());
        self.secrets.extend(other.secrets.iter().cloned());
        self.dynamic.extend(other.dynamic.iter().cloned());
        self.variables.extend(other.variables.iter().cloned());
        self.unknown.extend(other.unknown.iter().cloned());
        self.body |= other.body;
    }

    /// Whether anything of it changes with each message.
    pub fn is_of_a_message(&self) -> bool {
        let constant = |name: &String| ["var", "secret", "flow"].contains(&name.as_str());
        self.body || !self.variables.iter().all(constant)
    }
}

/// The functions of JSONata.
#[rustfmt::skip]
pub const BUILTINS: [&str; 64] = [
    "string", "length", "substring", "substringBefore", "substringAfter", "uppercase", "lowercase", "trim", "pad",
    "contains", "split", "join", "match", "replace", "eval", "base64encode", "base64decode", "encodeUrlComponent",
    "encodeUrl", "decodeUrlComponent", "decodeUrl", "number", "abs", "floor", "ceil", "round", "power", "sqrt",
    "random", "formatNumber", "formatBase", "formatInteger", "parseInteger", "sum", "max", "min", "average",
    "boolean", "not", "exists", "count", "append", "sort", "reverse", "shuffle", "distinct", "zip", "keys", "lookup",
    "spread", "merge", "sift", "each", "error", "assert", "type", "map", "filter", "reduce", "single", "now",
    "millis", "fromMillis", "toMillis",
];

/// The names that Flowline provides to expressions.
pub const PROVIDED: [&str; 6] = ["steps", "headers", "flow", "execution", "var", "secret"];

/// A JSONata expression that is known to parse.
#[derive(Clone, PartialEq, Eq)]
pub struct Expression {
    source: Arc<str>,
    /// The field that it names, if it does no more.
    fields: Option<Arc<Fields>>,
}

impl Expression {
    /// Checks that `source` is JSONata.
    pub fn compile(source: &str) -> Result<Self, ExpressionError> {
        let compiled = compiled(source)?;
        let fields = Fields::named_by(compiled.expression.ast()).map(Arc::new);
        Ok(Self { source: source.into(), fields })
    }

    /// The text it was compiled from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What it reads.
    pub fn reads(&self) -> Reads {
        compiled(&self.source).map(|compiled| compiled.reads.clone()).unwrap_or_default()
    }

    /// The value for `scope`; none where the result is undefined.
    pub fn evaluate(&self, scope: &Scope<'_>, limits: Limits) -> Result<Option<Value>, ExpressionError> {
        if let Some(value) = self.fields.as_ref().and_then(|fields| fields.of(scope.message)) {
            let mut budget = limits.result;
            return value.map(|value| copy(value, &mut budget, 0)).transpose();
        }
        let compiled = compiled(&self.source)?;
        let result = caught(|| compiled.evaluate(scope, limits))?;
        caught(|| to_json(&result, limits))
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.source, f)
    }
}

impl Serialize for Expression {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}

impl<'de> Deserialize<'de> for Expression {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let source = Cow::<str>::deserialize(deserializer)?;
        Self::compile(bare(&source)).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Expression {
    fn schema_name() -> Cow<'static, str> {
        "Expression".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "jsonata" })
    }
}

/// The expression within `{{ }}` if the text is exactly one, else the text itself: fields that
/// always hold an expression may be written with or without the braces.
pub fn bare(text: &str) -> &str {
    let trimmed = text.trim();
    trimmed
        .strip_prefix("{{")
        .and_then(|rest| rest.strip_suffix("}}"))
        .filter(|inner| !inner.contains("{{"))
        .map_or(trimmed, str::trim)
}

/// What expressions see: a message's body and the provided names.
pub struct Scope<'a> {
    message: &'a Value,
    /// The body as the engine takes it: converted once for all that read it, and only if one does.
    converted: OnceCell<JValue>,
    provided: BTreeMap<&'static str, Cow<'a, Value>>,
}

impl<'a> Scope<'a> {
    /// A scope in which `$` is `body`.
    pub fn new(body: &'a Value) -> Self {
        Self { message: body, converted: OnceCell::new(), provided: BTreeMap::new() }
    }

    fn body(&self) -> &JValue {
        self.converted.get_or_init(|| to_jvalue(self.message))
    }

    /// Provides one of the names in [`PROVIDED`].
    pub fn provide(&mut self, name: &'static str, value: Cow<'a, Value>) {
        self.provided.insert(name, value);
    }
}

struct Compiled {
    expression: jsonata_core::Expression,
    /// Whether guards were put into it.
    guarded: bool,
    reads: Reads,
}

impl Compiled {
    fn evaluate(&self, scope: &Scope<'_>, limits: Limits) -> Result<JValue, ExpressionError> {
        let options = EvaluatorOptions {
            timeout_ms: Some(u64::try_from(limits.time.as_millis()).unwrap_or(u64::MAX)),
            max_stack_depth: Some(limits.depth),
            max_sequence_length: Some(limits.sequence),
            ..EvaluatorOptions::default()
        };
        let result = if self.reads.variables.is_empty() && !self.guarded {
            self.expression.evaluate_with_options(scope.body(), options)
        } else {
            guard::begin();
            NESTED.set(0);
            let mut context = Context::new();
            for name in &self.reads.variables {
                if let Some(value) = scope.provided.get(name.as_str()) {
                    context.bind(name.clone(), to_jvalue(value));
                }
            }
            self.walk(context, options, scope.body())
        };
        result.map_err(|error| evaluation_error(&error, limits))
    }

    /// Walks the tree: slower than its bytecode, but with variables and guards.
    fn walk(&self, context: Context, options: EvaluatorOptions, input: &JValue) -> Result<JValue, EvaluatorError> {
        let mut evaluator = Evaluator::with_options(context, options.clone());
        if self.guarded {
            guard::install(&mut evaluator, move |source, input| evaluate_nested(source, input, &options))?;
        }
        evaluator.evaluate(self.expression.ast(), input)
    }
}

thread_local! {
    /// How many `$eval` are within each other.
    static NESTED: Cell<usize> = const { Cell::new(0) };
}

/// What `$eval` gives: it sees its input, and none of the variables around it.
fn evaluate_nested(source: &str, input: &JValue, options: &EvaluatorOptions) -> Result<JValue, EvaluatorError> {
    const DEEPEST: usize = 4;
    if NESTED.get() >= DEEPEST {
        return Err(EvaluatorError::EvaluationError(format!("`$eval` nests deeper than {DEEPEST}")));
    }
    let compiled = compile(source).map_err(|error| EvaluatorError::EvaluationError(format!("in `$eval`: {error}")))?;
    NESTED.set(NESTED.get() + 1);
    let result = compiled.walk(Context::new(), options.clone(), input);
    NESTED.set(NESTED.get() - 1);
    result
}

fn evaluation_error(error: &EvaluatorError, limits: Limits) -> ExpressionError {
    match error.code() {
        Some("D1012") => ExpressionError::Timeout(limits.time),
        Some(guard::TOO_LARGE) => ExpressionError::TooLarge,
        _ => ExpressionError::Evaluation(error.message().to_owned()),
    }
}

thread_local! {
    /// Compiled programs are not `Send`; each thread keeps those it used.
    static COMPILED: RefCell<HashMap<String, Rc<Compiled>>> = RefCell::default();
}

fn compiled(source: &str) -> Result<Rc<Compiled>, ExpressionError> {
    if let Some(found) = COMPILED.with_borrow(|cache| cache.get(source).cloned()) {
        return Ok(found);
    }
    let fresh = Rc::new(compile(source)?);
    COMPILED.with_borrow_mut(|cache| {
        if cache.len() >= CACHED {
            cache.clear();
        }
        cache.insert(source.to_owned(), Rc::clone(&fresh));
    });
    Ok(fresh)
}

fn compile(source: &str) -> Result<Compiled, ExpressionError> {
    if source.len() > LONGEST_SOURCE {
        return Err(ExpressionError::Syntax(format!("longer than {LONGEST_SOURCE} bytes")));
    }
    caught(|| {
        let expression =
            jsonata_core::Expression::compile(source).map_err(|error| ExpressionError::Syntax(error.to_string()))?;
        let reads = reads(expression.ast());
        let with_guards = guard::guarded(expression.ast()).map_err(ExpressionError::Syntax)?;
        let guarded = with_guards.is_some();
        let expression = with_guards.map_or(expression, jsonata_core::Expression::from_ast);
        Ok(Compiled { expression, guarded, reads })
    })
}

/// Runs the engine so that a bug in it (two are known) is an error and not a crash.
fn caught<T>(run: impl FnOnce() -> Result<T, ExpressionError>) -> Result<T, ExpressionError> {
    catch_unwind(AssertUnwindSafe(run))
        .unwrap_or_else(|_| Err(ExpressionError::Evaluation("the expression engine failed on this input".into())))
}

fn to_jvalue(value: &Value) -> JValue {
    JValue::deserialize(value).unwrap_or(JValue::Undefined)
}

/// A result as JSON; none if it is undefined or a function. Shared parts count each time they
/// occur, so a small value that unfolds to a huge one is refused before it does.
fn to_json(result: &JValue, limits: Limits) -> Result<Option<Value>, ExpressionError> {
    let mut budget = limits.result;
    unfold(result, &mut budget, 0)
}

/// The deepest nesting of a result, as deep as JSON parsers read.
const DEEPEST_RESULT: usize = 120;

/// Counts one value of a result against what the result may have.
fn spend(text: Option<&str>, budget: &mut usize, depth: usize) -> Result<(), ExpressionError> {
    let cost = 1 + text.map_or(0, str::len);
    *budget = budget.checked_sub(cost).ok_or(ExpressionError::TooLarge)?;
    if depth > DEEPEST_RESULT { Err(ExpressionError::TooLarge) } else { Ok(()) }
}

/// A part of a message as a result: the same, within the same limits.
fn copy(value: &Value, budget: &mut usize, depth: usize) -> Result<Value, ExpressionError> {
    spend(value.as_str(), budget, depth)?;
    Ok(match value {
        Value::Number(number) if number.is_f64() => number.as_f64().map_or(Value::Null, json_number),
        Value::Array(items) => {
            Value::Array(items.iter().map(|item| copy(item, budget, depth + 1)).collect::<Result<_, _>>()?)
        }
        Value::Object(fields) => {
            let mut object = serde_json::Map::with_capacity(fields.len());
            for (name, field) in fields {
                *budget = budget.checked_sub(name.len()).ok_or(ExpressionError::TooLarge)?;
                object.insert(name.clone(), copy(field, budget, depth + 1)?);
            }
            Value::Object(object)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    })
}

fn unfold(value: &JValue, budget: &mut usize, depth: usize) -> Result<Option<Value>, ExpressionError> {
    spend(value.as_str(), budget, depth)?;
    Ok(Some(match value {
        JValue::Null => Value::Null,
        JValue::Bool(flag) => Value::Bool(*flag),
        JValue::Number(number) => json_number(*number),
        JValue::String(text) => Value::String(str::to_owned(text)),
        JValue::Array(items) => {
            let mut list = Vec::with_capacity(items.len().min(1_024));
            for item in items.iter() {
                list.push(unfold(item, budget, depth + 1)?.unwrap_or(Value::Null));
            }
            Value::Array(list)
        }
        JValue::Object(fields) => {
            let mut object = serde_json::Map::new();
            for (name, field) in fields.iter() {
                *budget = budget.checked_sub(name.len()).ok_or(ExpressionError::TooLarge)?;
                if let Some(field) = unfold(field, budget, depth + 1)? {
                    object.insert(name.clone(), field);
                }
            }
            Value::Object(object)
        }
        _ => return Ok(None),
    }))
}

/// Whole numbers become JSON integers as far as a double holds them exactly.
fn json_number(number: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() <= EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "whole and within 2^53")]
        return Value::from(number as i64);
    }
    serde_json::Number::from_f64(number).map_or(Value::Null, Value::Number)
}

/// Which provided names an expression reads, found in its syntax tree.
fn reads(ast: &jsonata_core::ast::AstNode) -> Reads {
    let mut reads = Reads::default();
    if let Ok(tree) = serde_json::to_value(ast) {
        collect_reads(&tree, true, &mut reads);
        let mut names = Names::default();
        names.collect(&tree);
        let known = |name: &&str| PROVIDED.contains(name) || BUILTINS.contains(name) || names.bound.contains(name);
        reads.unknown = names.used.iter().filter(|name| !known(name)).map(|name| (*name).to_owned()).collect();
    }
    reads
}

/// The variables and functions of an expression, wherever in it they stand.
#[derive(Default)]
struct Names<'a> {
    used: BTreeSet<&'a str>,
    bound: BTreeSet<&'a str>,
}

impl<'a> Names<'a> {
    fn collect(&mut self, tree: &'a Value) {
        let Value::Object(node) = tree else {
            tree.as_array().into_iter().flatten().for_each(|item| self.collect(item));
            return;
        };
        for (key, child) in node {
            match (key.as_str(), child) {
                ("Variable", Value::String(name)) if !name.is_empty() => drop(self.used.insert(name)),
                ("focus" | "index_var" | "Index", Value::String(name)) => drop(self.bound.insert(name)),
                ("params", Value::Array(names)) => {
                    self.bound.extend(names.iter().filter_map(Value::as_str).map(|name| name.trim_start_matches('$')));
                }
                ("Function", function) if function["is_builtin"] == true => {
                    self.used.extend(function["name"].as_str());
                }
                ("Binary", binary) if binary["op"] == "ColonEqual" => {
                    self.bound.extend(binary["lhs"]["Variable"].as_str());
                }
                _ => {}
            }
            self.collect(child);
        }
    }
}

/// Collects from a part of the tree; `whole` says that names in it are those of the body.
fn collect_reads(tree: &Value, whole: bool, reads: &mut Reads) {
    match tree {
        Value::Object(node) => {
            reads.body |= node.contains_key("ParentVariable") || whole && node.contains_key("Name");
            if let Some(name) = node.get("Variable").and_then(Value::as_str) {
                reads.body |= whole && name.is_empty();
                note_read(name, None, reads);
            } else if let Some(steps) = node.get("Path").and_then(|path| path.get("steps")).and_then(Value::as_array) {
                collect_path(steps, whole, reads);
            } else {
                node.values().for_each(|child| collect_reads(child, whole, reads));
            }
        }
        Value::Array(items) => items.iter().for_each(|child| collect_reads(child, whole, reads)),
        Value::String(kind) => reads.body |= whole && ["Wildcard", "Descendant"].contains(&kind.as_str()),
        _ => {}
    }
}

/// A path may begin `$steps.name`: then only that output is read. Names after its first part are
/// those of what the first part gave.
fn collect_path(steps: &[Value], whole: bool, reads: &mut Reads) {
    let node = |index: usize| steps.get(index).and_then(|step| step.get("node"));
    let Some((first, rest)) = steps.split_first() else { return };
    match node(0).and_then(|first| first.get("Variable")).and_then(Value::as_str) {
        Some(name) => {
            reads.body |= whole && name.is_empty();
            let member = node(1).and_then(|second| second.get("Name")).and_then(Value::as_str);
            note_read(name, member, reads);
        }
        None => first.get("node").into_iter().for_each(|node| collect_reads(node, whole, reads)),
    }
    first.get("stages").into_iter().for_each(|stages| collect_reads(stages, false, reads));
    rest.iter().for_each(|step| collect_reads(step, false, reads));
}

fn note_read(name: &str, member: Option<&str>, reads: &mut Reads) {
    if !PROVIDED.contains(&name) {
        return;
    }
    reads.variables.insert(name.to_owned());
    match (name, member) {
        ("steps", Some(step)) => drop(reads.steps.insert(step.to_owned())),
        ("steps", None) => reads.all_steps = true,
        ("var", Some(var)) => drop(reads.vars.insert(var.to_owned())),
        ("secret", Some(secret)) => drop(reads.secrets.insert(secret.to_owned())),
        ("var" | "secret", None) => drop(reads.dynamic.insert(name.to_owned())),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn evaluate(source: &str, body: Value) -> Result<Option<Value>, ExpressionError> {
        Expression::compile(source)?.evaluate(&Scope::new(&body), Limits::FULL)
    }

    #[test]
    fn results_keep_their_types() {
        let lines = json!([{"p": 2, "q": 3}, {"p": 1.5, "q": 2}]);
        let large = 9_007_199_254_740_993_u64;
        let body = json!({"first": "Ada", "last": "Lovelace", "large": large, "lines": lines});
        for (source, expected) in [
            ("first & ' ' & last", Some(json!("Ada Lovelace"))),
            ("$sum(lines.(p * q))", Some(json!(9))),
            ("lines.p", Some(json!([2, 1.5]))),
            ("missing", None),
            ("large", Some(json!(large))),
            ("$", Some(body.clone())),
            ("{'a': missing, 'b': null}", Some(json!({"b": null}))),
        ] {
            assert_eq!(evaluate(source, body.clone()).unwrap(), expected, "{source}");
        }
    }

    #[test]
    fn what_an_expression_reads_is_known() {
        let reads = Expression::compile("$steps.customer.name & $var.team & $foo & $headers.'x-a'").unwrap().reads();
        assert_eq!(reads.steps, BTreeSet::from(["customer".to_owned()]));
        assert_eq!(reads.vars, BTreeSet::from(["team".to_owned()]));
        assert!(!reads.all_steps);
        let reads = Expression::compile("$map([1], function($i) { $steps.a.b[$i = $secret.c] })").unwrap().reads();
        assert_eq!(reads.steps, BTreeSet::from(["a".to_owned()]));
        assert_eq!(reads.secrets, BTreeSet::from(["c".to_owned()]));
        assert!(Expression::compile("$lookup($steps, 'a')").unwrap().reads().all_steps);
    }

    #[test]
    fn whether_an_expression_reads_the_body_is_known() {
        for source in ["name", "$", "$$", "$.a", "a.b", "$var.x & name", "$var.list[a = $$.b]", "*", "{'a': b}", "**.c"]
        {
            assert!(Expression::compile(source).unwrap().reads().body, "{source}");
        }
        for source in ["1", "'name'", "$var.x", "$var.list[a = 1].(b & c)", "$map($var.l, function($v) { $v.a })"] {
            assert!(!Expression::compile(source).unwrap().reads().body, "{source}");
        }
    }

    #[test]
    fn provided_names_are_seen() {
        let expression = Expression::compile("$steps.customer.name & '/' & $headers.a").unwrap();
        let body = json!({});
        let mut scope = Scope::new(&body);
        scope.provide("steps", Cow::Owned(json!({"customer": {"name": "Ada"}})));
        scope.provide("headers", Cow::Owned(json!({"a": "1"})));
        assert_eq!(expression.evaluate(&scope, Limits::FULL).unwrap(), Some(json!("Ada/1")));
    }

    #[test]
    fn runaway_expressions_end() {
        let runaway = [
            "($f := function() { $f() }; $f())",
            "($f := function($x) { $f($x + 1) + 1 }; $f(0))",
            "[1..9999999].($ * 2)",
            "$fromMillis(0, '[,1]')",
        ];
        for source in runaway {
            let brief = Limits { time: Duration::from_millis(50), ..Limits::FULL };
            let result = Expression::compile(source).and_then(|e| e.evaluate(&Scope::new(&json!({})), brief));
            assert!(result.is_err(), "{source}: {result:?}");
        }
    }

    #[test]
    fn a_small_value_that_unfolds_to_a_huge_one_is_refused() {
        let doubling = format!("($x := ['a']; {} $x)", "$x := [[$x], [$x]];".repeat(40));
        assert!(evaluate(&doubling, json!({})).is_err());
    }

    #[test]
    fn braces_are_optional_where_an_expression_is_expected() {
        assert_eq!(bare("{{ total > 10 }}"), "total > 10");
        assert_eq!(bare("total > 10"), "total > 10");
    }
}
