//! Templates: configuration with `{{ … }}` in it, compiled once and rendered for each message.

use serde_json::{Map, Value};

use crate::expression::{Expression, ExpressionError, Limits, Reads, Scope};

/// A configuration value that may hold expressions.
#[derive(Clone, Debug, PartialEq)]
pub enum Template {
    /// No expression in it.
    Constant(Value),
    /// A text that is exactly one expression: the result keeps its type.
    Expression(Expression),
    /// A text with expressions in it: results are put into the text.
    Text(Vec<Part>),
    /// A list with a template in it.
    List(Vec<Template>),
    /// A map with a template in it.
    Map(Vec<(String, Template)>),
}

/// A stretch of a text with expressions in it.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// As it stands.
    Literal(String),
    /// Its result.
    Expression(Expression),
}

/// Why a template cannot be compiled or rendered: in which field, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{error}", if path.is_empty() { String::new() } else { format!("in `{path}`: ") })]
pub struct TemplateError {
    /// The field, as keys and indices joined by dots.
    pub path: String,
    /// Why.
    pub error: ExpressionError,
}

impl TemplateError {
    fn within(mut self, segment: &str) -> Self {
        self.path = if self.path.is_empty() { segment.to_owned() } else { format!("{segment}.{}", self.path) };
        self
    }
}

impl From<ExpressionError> for TemplateError {
    fn from(error: ExpressionError) -> Self {
        Self { path: String::new(), error }
    }
}

impl Template {
    /// Compiles a text.
    pub fn compile_text(text: &str) -> Result<Self, ExpressionError> {
        if !text.contains("{{") {
            return Ok(Self::Constant(Value::String(text.to_owned())));
        }
        let mut parts = split(text)?;
        Ok(match parts.as_mut_slice() {
            [Part::Expression(_)] => match parts.remove(0) {
                Part::Expression(expression) => Self::Expression(expression),
                Part::Literal(text) => Self::Constant(Value::String(text)),
            },
            _ => Self::Text(parts),
        })
    }

    /// A list of templates; constant if all of them are.
    pub fn list(items: Vec<Template>) -> Self {
        match items.iter().map(Template::constant).collect::<Option<Vec<_>>>() {
            Some(values) => Self::Constant(values.into_iter().cloned().collect()),
            None => Self::List(items),
        }
    }

    /// A map of templates; constant if all of them are.
    pub fn map(entries: Vec<(String, Template)>) -> Self {
        if entries.iter().all(|(_, template)| template.constant().is_some()) {
            let fields = entries.into_iter().filter_map(|(key, template)| match template {
                Template::Constant(value) => Some((key, value)),
                _ => None,
            });
            return Self::Constant(Value::Object(fields.collect()));
        }
        Self::Map(entries)
    }

    /// The value, if there is no expression in it.
    pub fn constant(&self) -> Option<&Value> {
        match self {
            Self::Constant(value) => Some(value),
            _ => None,
        }
    }

    /// The field of a map; none of anything else.
    pub fn field(&self, name: &str) -> Option<Template> {
        match self {
            Self::Map(entries) => entries.iter().find(|(key, _)| key == name).map(|(_, template)| template.clone()),
            Self::Constant(value) => value.get(name).cloned().map(Template::Constant),
            _ => None,
        }
    }

    /// What its expressions read.
    pub fn reads(&self) -> Reads {
        let mut reads = Reads::default();
        self.collect_reads(&mut reads);
        reads
    }

    fn collect_reads(&self, reads: &mut Reads) {
        match self {
            Self::Constant(_) => {}
            Self::Expression(expression) => reads.extend(&expression.reads()),
            Self::Text(parts) => parts.iter().for_each(|part| {
                if let Part::Expression(expression) = part {
                    reads.extend(&expression.reads());
                }
            }),
            Self::List(items) => items.iter().for_each(|item| item.collect_reads(reads)),
            Self::Map(entries) => entries.iter().for_each(|(_, entry)| entry.collect_reads(reads)),
        }
    }

    /// The value for a scope; none if it is one expression without a result. Fields of maps
    /// without a result are left out; items of lists become null.
    pub fn render(&self, scope: &Scope<'_>, limits: Limits) -> Result<Option<Value>, TemplateError> {
        Ok(Some(match self {
            Self::Constant(value) => value.clone(),
            Self::Expression(expression) => return Ok(expression.evaluate(scope, limits)?),
            Self::Text(parts) => Value::String(render_text(parts, scope, limits)?),
            Self::List(items) => {
                let mut list = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    let item = item.render(scope, limits).map_err(|error| error.within(&index.to_string()))?;
                    list.push(item.unwrap_or(Value::Null));
                }
                Value::Array(list)
            }
            Self::Map(entries) => {
                let mut map = Map::with_capacity(entries.len());
                for (key, entry) in entries {
                    if let Some(value) = entry.render(scope, limits).map_err(|error| error.within(key))? {
                        map.insert(key.clone(), value);
                    }
                }
                Value::Object(map)
            }
        }))
    }
}

fn render_text(parts: &[Part], scope: &Scope<'_>, limits: Limits) -> Result<String, ExpressionError> {
    let mut text = String::new();
    for part in parts {
        match part {
            Part::Literal(literal) => text.push_str(literal),
            Part::Expression(expression) => match expression.evaluate(scope, limits)? {
                None | Some(Value::Null) => {}
                Some(Value::String(result)) => text.push_str(&result),
                Some(result) => text.push_str(&result.to_string()),
            },
        }
        if text.len() > limits.result {
            return Err(ExpressionError::TooLarge);
        }
    }
    Ok(text)
}

/// Cuts a text into literals and expressions. An expression may hold `}}` itself (nested
/// objects), so it ends at the first `}}` up to which it compiles.
fn split(text: &str) -> Result<Vec<Part>, ExpressionError> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("{{") {
        if start > 0 {
            parts.push(Part::Literal(rest[..start].to_owned()));
        }
        let (expression, length) = first_expression(&rest[start + 2..])?;
        parts.push(Part::Expression(expression));
        rest = &rest[start + 2 + length..];
    }
    if !rest.is_empty() {
        parts.push(Part::Literal(rest.to_owned()));
    }
    Ok(parts)
}

/// The most `}}` that are tried as the end of one expression.
const MOST_ENDS: usize = 32;

/// The expression that a text begins with, and where the text goes on behind its `}}`.
fn first_expression(text: &str) -> Result<(Expression, usize), ExpressionError> {
    let mut first_error = None;
    for (end, _) in text.match_indices("}}").take(MOST_ENDS) {
        // `}}}` ends an object and then the expression.
        let end = if text[end..].starts_with("}}}") { end + 1 } else { end };
        match Expression::compile(text[..end].trim()) {
            Ok(expression) => return Ok((expression, end + 2)),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(first_error.unwrap_or_else(|| ExpressionError::Syntax("`{{` is not closed by `}}`".into())))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(text: &str, body: Value) -> Option<Value> {
        Template::compile_text(text).unwrap().render(&Scope::new(&body), Limits::FULL).unwrap()
    }

    #[test]
    fn one_expression_keeps_its_type_and_others_become_text() {
        let body = json!({"n": 3, "name": "Ada", "list": [1, 2]});
        for (text, expected) in [
            ("{{ n }}", Some(json!(3))),
            (" {{ n }}", Some(json!(" 3"))),
            ("{{ missing }}", None),
            ("Hi {{ name }}, {{ n + 1 }} {{ list }}{{ missing }}!", Some(json!("Hi Ada, 4 [1,2]!"))),
            ("{{ {'a': {'b': n}} }}", Some(json!({"a": {"b": 3}}))),
            ("{{{'a': n}}}", Some(json!({"a": 3}))),
            ("no braces", Some(json!("no braces"))),
        ] {
            assert_eq!(render(text, body.clone()), expected, "{text}");
        }
    }

    #[test]
    fn what_does_not_compile_says_why() {
        for text in ["{{ n", "{{ n + }}", "{{ }}"] {
            assert!(Template::compile_text(text).is_err(), "{text}");
        }
    }

    #[test]
    fn fields_without_a_result_are_left_out() {
        let template = Template::map(vec![
            ("a".into(), Template::compile_text("{{ missing }}").unwrap()),
            ("b".into(), Template::list(vec![Template::compile_text("{{ missing }}").unwrap()])),
        ]);
        assert_eq!(template.render(&Scope::new(&json!({})), Limits::FULL).unwrap(), Some(json!({"b": [null]})));
    }
}
