//! The configuration of a step: checked against its operation's schema, compiled to a template.

use std::collections::BTreeSet;

use jsonschema::{ValidationError, error::ValidationErrorKind};
use serde_json::Value;

use crate::{
    Expression, Lapse, OperationSpec, Size, Template,
    document::{Content, Entry, Node},
    expression::bare,
    flow::{bad_expression, unknown_variables},
    problem::{Problem, ProblemCode, Span, nearest},
};

/// Checks `with` against the schema and compiles it; notes every problem.
pub(crate) fn compile(with: &Node, spec: &OperationSpec, problems: &mut Vec<Problem>) -> Template {
    let mut compiler = Compiler { schema: &spec.config, problems };
    let template = compiler.template(with, vec![&spec.config]);
    check_schema(with, spec, problems);
    template
}

struct Compiler<'a, 'p> {
    schema: &'a Value,
    problems: &'p mut Vec<Problem>,
}

impl<'a> Compiler<'a, '_> {
    /// Compiles a part; `schemas` are those that may describe it.
    fn template(&mut self, node: &Node, schemas: Vec<&'a Value>) -> Template {
        let schemas = self.unfold(schemas);
        match &node.content {
            Content::Scalar(Value::String(text)) => self.text(text, node.span, &schemas),
            Content::Scalar(value) => Template::Constant(value.clone()),
            Content::List(items) => {
                let inner: Vec<_> = schemas.iter().filter_map(|schema| schema.get("items")).collect();
                Template::list(items.iter().map(|item| self.template(item, inner.clone())).collect())
            }
            Content::Map(entries) => Template::map(
                entries
                    .iter()
                    .map(|entry| {
                        let inner = schemas.iter().filter_map(|schema| field_schema(schema, &entry.key)).collect();
                        (entry.key.clone(), self.template(&entry.value, inner))
                    })
                    .collect(),
            ),
        }
    }

    fn text(&mut self, text: &str, span: Span, schemas: &[&Value]) -> Template {
        let deferred = schemas.iter().any(|schema| schema.get("format").is_some_and(|format| format == "jsonata"));
        let compiled = if deferred {
            Expression::compile(bare(text))
                .map(|expression| (expression.reads(), Template::Constant(Value::String(text.to_owned()))))
        } else {
            Template::compile_text(text).map(|template| (template.reads(), template))
        };
        match compiled {
            Ok((reads, template)) => {
                self.problems.extend(unknown_variables(&reads, span));
                template
            }
            Err(error) => {
                self.problems.push(bad_expression(&error, span));
                Template::Constant(Value::String(text.to_owned()))
            }
        }
    }

    /// Follows references and alternatives to every schema that may describe a part.
    fn unfold(&self, schemas: Vec<&'a Value>) -> Vec<&'a Value> {
        let mut found: Vec<&'a Value> = Vec::new();
        let mut open = schemas;
        while let Some(schema) = open.pop() {
            if found.iter().any(|known| std::ptr::eq(*known, schema)) {
                continue;
            }
            found.push(schema);
            if let Some(target) = schema.get("$ref").and_then(Value::as_str).and_then(|target| target.strip_prefix('#'))
            {
                open.extend(self.schema.pointer(target));
            }
            for key in ["anyOf", "oneOf", "allOf"] {
                open.extend(schema.get(key).and_then(Value::as_array).into_iter().flatten());
            }
        }
        found
    }
}

fn field_schema<'a>(schema: &'a Value, key: &str) -> Option<&'a Value> {
    schema.get("properties").and_then(|properties| properties.get(key)).or_else(|| schema.get("additionalProperties"))
}

fn check_schema(with: &Node, spec: &OperationSpec, problems: &mut Vec<Problem>) {
    let validator = jsonschema::options()
        .with_format("lapse", |text| text.parse::<Lapse>().is_ok())
        .with_format("size", |text| text.parse::<Size>().is_ok())
        .should_validate_formats(true)
        .build(&spec.config);
    let validator = match validator {
        Ok(validator) => validator,
        Err(error) => {
            let message = format!("the schema of `{}` is broken: {error}", spec.name);
            problems.push(Problem::new(ProblemCode::InvalidValue, with.span, message));
            return;
        }
    };
    let document = with.to_json();
    let mut found = Vec::new();
    for error in validator.iter_errors(&document) {
        report(&error, with, &mut found);
    }
    let mut known = BTreeSet::new();
    field_names(&spec.config, &mut known);
    problems.extend(found.into_iter().map(|problem| suggest(problem, &known)));
}

/// The names of every field that a schema describes, at any depth.
fn field_names<'a>(schema: &'a Value, names: &mut BTreeSet<&'a str>) {
    match schema {
        Value::Object(members) => {
            if let Some(Value::Object(properties)) = members.get("properties") {
                names.extend(properties.keys().map(String::as_str));
            }
            members.values().for_each(|member| field_names(member, names));
        }
        Value::Array(items) => items.iter().for_each(|item| field_names(item, names)),
        _ => {}
    }
}

fn suggest(problem: Problem, known: &BTreeSet<&str>) -> Problem {
    let word = problem.message.rsplit('`').nth(1).unwrap_or_default().to_owned();
    let near = nearest(&word, &known.iter().copied().collect::<Vec<_>>());
    match near {
        Some(near) if problem.code == ProblemCode::UnknownKey => problem.hint(format!("did you mean `{near}`?")),
        _ => problem,
    }
}

/// Whether a part is decided by an expression, so that its value is not known yet.
fn is_templated(node: &Node) -> bool {
    node.as_str().is_some_and(|text| text.contains("{{"))
}

fn place<'n>(error: &ValidationError<'_>, with: &'n Node) -> &'n Node {
    let path = error.instance_path().to_string();
    let segments: Vec<String> =
        path.split('/').skip(1).map(|segment| segment.replace("~1", "/").replace("~0", "~")).collect();
    with.along(segments.iter().map(String::as_str))
}

/// The alternatives that an error says none of fits.
fn alternatives<'e>(error: &'e ValidationError<'_>) -> Option<&'e [Vec<ValidationError<'static>>]> {
    match error.kind() {
        ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => Some(context),
        _ => None,
    }
}

/// Whether an error would go away with the right results of expressions.
fn is_excused(error: &ValidationError<'_>, with: &Node) -> bool {
    if is_templated(place(error, with)) {
        return true;
    }
    alternatives(error)
        .is_some_and(|context| context.iter().any(|branch| branch.iter().all(|inner| is_excused(inner, with))))
}

fn report(error: &ValidationError<'_>, with: &Node, problems: &mut Vec<Problem>) {
    if is_excused(error, with) {
        return;
    }
    let node = place(error, with);
    let path = error.instance_path().to_string().trim_start_matches('/').replace('/', ".");
    let field = if path.is_empty() { "`with`".to_owned() } else { format!("`{path}`") };
    if let Some(context) = alternatives(error) {
        let mut choices = Vec::new();
        collect_choices(context, with, node.span, &mut choices);
        if let Content::Scalar(value) = &node.content
            && !choices.is_empty()
        {
            let problem = not_a_choice(&field, node.span, value, &choices);
            let other = context.iter().flatten().any(|error| matches!(error.kind(), ValidationErrorKind::Type { .. }));
            // Where it could also be a map or a list, the choices are not all.
            problems.push(if other {
                Problem { hint: problem.hint.filter(|hint| hint.starts_with("did")), ..problem }
            } else {
                problem
            });
            return;
        }
        if let Some(branch) = most_likely(context, with) {
            branch.iter().for_each(|inner| report(inner, with, problems));
            return;
        }
    }
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            for key in unexpected {
                let span = node.get(key).map_or(node.span, |entry| entry.key_span);
                problems.push(Problem::new(ProblemCode::UnknownKey, span, format!("{field} has no `{key}`")));
            }
        }
        ValidationErrorKind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            // One that is there, mistyped, is told as an unknown key.
            let mistyped = |entry: &Entry| nearest(&entry.key, &[name]).is_some();
            if !node.entries().iter().any(mistyped) {
                problems.push(Problem::new(ProblemCode::MissingField, node.span, format!("{field} needs `{name}`")));
            }
        }
        ValidationErrorKind::Type { kind } => {
            let message = format!("{field} is {}, not {}", expected(&format!("{kind:?}")), node.kind());
            problems.push(Problem::new(ProblemCode::WrongType, node.span, message));
        }
        _ => problems.push(invalid(error, &field, node)),
    }
}

/// A value of the right type that is not allowed.
fn invalid(error: &ValidationError<'_>, field: &str, node: &Node) -> Problem {
    let mut choices = Vec::new();
    collect_choice(error, &mut choices);
    if let (Content::Scalar(value), false) = (&node.content, choices.is_empty()) {
        return not_a_choice(field, node.span, value, &choices);
    }
    let text = node.as_str().unwrap_or_default();
    let reason = match error.kind() {
        ValidationErrorKind::Format { format } if format == "lapse" => {
            text.parse::<Lapse>().err().map(|e| e.to_string())
        }
        ValidationErrorKind::Format { format } if format == "size" => text.parse::<Size>().err().map(|e| e.to_string()),
        _ => None,
    };
    let message = format!("{field}: {}", reason.unwrap_or_else(|| error.to_string()));
    Problem::new(ProblemCode::InvalidValue, node.span, message)
}

fn not_a_choice(field: &str, span: Span, value: &Value, choices: &[String]) -> Problem {
    let written = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let problem = Problem::new(ProblemCode::InvalidValue, span, format!("{field} cannot be `{written}`"));
    problem.did_you_mean(&written, choices.iter().map(String::as_str))
}

/// The values that alternatives allow at the place of one part.
fn collect_choices(context: &[Vec<ValidationError<'static>>], with: &Node, span: Span, choices: &mut Vec<String>) {
    for error in context.iter().flatten().filter(|error| place(error, with).span == span) {
        collect_choice(error, choices);
        if let Some(inner) = alternatives(error) {
            collect_choices(inner, with, span, choices);
        }
    }
}

fn collect_choice(error: &ValidationError<'_>, choices: &mut Vec<String>) {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match error.kind() {
        ValidationErrorKind::Constant { expected_value } => choices.push(text(expected_value)),
        ValidationErrorKind::Enum { options } => choices.extend(options.as_array().into_iter().flatten().map(text)),
        _ => {}
    }
}

/// The type that a schema asks for, in the words of documents.
fn expected(kind: &str) -> String {
    let lower = kind.to_ascii_lowercase();
    let words = [
        ("integer", "a whole number"),
        ("number", "a number"),
        ("string", "a text"),
        ("boolean", "true or false"),
        ("array", "a list"),
        ("object", "a map"),
    ];
    let named: Vec<&str> = words.iter().filter(|(name, _)| lower.contains(name)).map(|(_, words)| *words).collect();
    if named.is_empty() { "something else".to_owned() } else { named.join(" or ") }
}

/// The alternative that was most likely meant: the one whose errors lie deepest and are fewest.
fn most_likely<'e>(
    context: &'e [Vec<ValidationError<'static>>],
    with: &Node,
) -> Option<&'e Vec<ValidationError<'static>>> {
    let depth = |error: &ValidationError<'_>| error.instance_path().to_string().matches('/').count();
    let is_type = |error: &ValidationError<'_>| matches!(error.kind(), ValidationErrorKind::Type { .. });
    context.iter().filter(|branch| !branch.is_empty()).min_by_key(|branch| {
        let open: Vec<_> = branch.iter().filter(|error| !is_excused(error, with)).collect();
        let shallowest = open.iter().map(|error| depth(error)).min().unwrap_or(usize::MAX);
        let mismatched = open.iter().filter(|error| is_type(error)).count();
        (usize::MAX - shallowest, mismatched, open.len())
    })
}
