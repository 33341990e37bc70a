//! Documents: YAML (and with it JSON) as a tree in which every part knows its place.
//!
//! Reading is bounded: in length, depth, and number of parts after aliases are followed, so that
//! no document can unfold to more than it says.

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError};
use serde_json::Value;

use crate::problem::{Problem, ProblemCode, Span};

/// The longest document, in bytes.
pub const LONGEST: usize = 1 << 20;
/// The deepest nesting.
const DEEPEST: usize = 64;
/// The most parts.
const MOST_PARTS: usize = 100_000;

/// A part of a document.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What it is.
    pub content: Content,
    /// Where it stands.
    pub span: Span,
}

/// What a part of a document is.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Null, a truth value, a number or a text.
    Scalar(Value),
    /// A list.
    List(Vec<Node>),
    /// A map, in the order of the document.
    Map(Vec<Entry>),
}

/// One entry of a map.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub key_span: Span,
    /// The value.
    pub value: Node,
}

impl Node {
    /// The same as plain JSON.
    pub fn to_json(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::List(items) => items.iter().map(Node::to_json).collect(),
            Content::Map(entries) => entries.iter().map(|entry| (entry.key.clone(), entry.value.to_json())).collect(),
        }
    }

    /// The entry of a map.
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// The entries of a map; none of anything else.
    pub fn entries(&self) -> &[Entry] {
        match &self.content {
            Content::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The text of a scalar.
    pub fn as_str(&self) -> Option<&str> {
        match &self.content {
            Content::Scalar(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// What it is, in words.
    pub fn kind(&self) -> &'static str {
        match &self.content {
            Content::Scalar(Value::Null) => "nothing",
            Content::Scalar(Value::Bool(_)) => "a truth value",
            Content::Scalar(Value::Number(_)) => "a number",
            Content::Scalar(_) => "a text",
            Content::List(_) => "a list",
            Content::Map(_) => "a map",
        }
    }

    /// The part that a path of keys and indices leads to, or the last one on the way.
    pub fn along<'a>(&self, path: impl IntoIterator<Item = &'a str>) -> &Node {
        let mut node = self;
        for segment in path {
            let next = match &node.content {
                Content::Map(_) => node.get(segment).map(|entry| &entry.value),
                Content::List(items) => segment.parse::<usize>().ok().and_then(|index| items.get(index)),
                Content::Scalar(_) => None,
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        node
    }
}

/// Reads a document; all of what is wrong with its text comes back as problems.
pub fn read(text: &str) -> Result<Node, Vec<Problem>> {
    if text.len() > LONGEST {
        let message = format!("the document has {} bytes; a flow has at most {LONGEST}", text.len());
        return Err(vec![Problem::new(ProblemCode::TooLarge, Span { line: 1, column: 1, length: 1 }, message)]);
    }
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let outcome = match event {
            Ok((event, span)) => builder.take(event, place(span)),
            Err(error) => Err(scan_problem(&error)),
        };
        if let Err(problem) = outcome {
            builder.problems.push(problem);
            return Err(builder.problems);
        }
    }
    builder.finish()
}

fn place(span: saphyr_parser::Span) -> Span {
    let same_line = span.start.line() == span.end.line();
    let length = if same_line { span.end.col().saturating_sub(span.start.col()).max(1) } else { 1 };
    Span { line: span.start.line().max(1), column: span.start.col() + 1, length }
}

fn scan_problem(error: &ScanError) -> Problem {
    let marker = error.marker();
    let span = Span { line: marker.line().max(1), column: marker.col() + 1, length: 1 };
    Problem::new(ProblemCode::Syntax, span, format!("this is not YAML: {}", error.info()))
        .hint("check the indentation, and put texts with `: ` or `{{` into quotes")
}

/// A list or map that is not complete yet.
struct Open {
    node: Node,
    anchor: usize,
    /// The key that waits for its value.
    key: Option<(String, Span)>,
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    root: Option<Node>,
    anchors: Vec<(usize, Node)>,
    parts: usize,
    documents: usize,
    problems: Vec<Problem>,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Problem> {
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(Problem::new(ProblemCode::Syntax, span, "a file holds one flow")
                        .hint("put each flow into a file of its own"));
                }
            }
            Event::Scalar(text, style, anchor, _) => {
                let node = Node { content: Content::Scalar(scalar(&text, style)), span };
                self.complete(node, anchor)?;
            }
            Event::SequenceStart(anchor, _) => self.begin(Content::List(Vec::new()), anchor, span)?,
            Event::MappingStart(anchor, _) => self.begin(Content::Map(Vec::new()), anchor, span)?,
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(done) = self.open.pop() {
                    self.complete(done.node, done.anchor)?;
                }
            }
            Event::Alias(anchor) => {
                let node = self.anchors.iter().rev().find(|(id, _)| *id == anchor).map(|(_, node)| node.clone());
                let node = node.ok_or_else(|| Problem::new(ProblemCode::Syntax, span, "the alias names no anchor"))?;
                self.count(size(&node), span)?;
                self.complete(node, 0)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn begin(&mut self, content: Content, anchor: usize, span: Span) -> Result<(), Problem> {
        if self.open.len() >= DEEPEST {
            let message = format!("the document is nested deeper than {DEEPEST} levels");
            return Err(Problem::new(ProblemCode::TooLarge, span, message));
        }
        // Of a list or a map only the beginning is shown.
        let span = Span { length: 1, ..span };
        self.open.push(Open { node: Node { content, span }, anchor, key: None });
        Ok(())
    }

    fn count(&mut self, parts: usize, span: Span) -> Result<(), Problem> {
        self.parts += parts;
        if self.parts > MOST_PARTS {
            let message = format!("the document has more than {MOST_PARTS} parts");
            return Err(Problem::new(ProblemCode::TooLarge, span, message));
        }
        Ok(())
    }

    /// Puts a complete part where it belongs.
    fn complete(&mut self, node: Node, anchor: usize) -> Result<(), Problem> {
        self.count(1, node.span)?;
        if anchor > 0 {
            self.anchors.push((anchor, node.clone()));
        }
        let Some(parent) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match (&mut parent.node.content, parent.key.take()) {
            (Content::List(items), _) => items.push(node),
            (Content::Map(entries), Some((key, key_span))) => {
                if entries.iter().any(|entry| entry.key == key) {
                    self.problems.push(Problem::new(
                        ProblemCode::DuplicateKey,
                        key_span,
                        format!("`{key}` stands twice in this map"),
                    ));
                } else {
                    entries.push(Entry { key, key_span, value: node });
                }
            }
            (Content::Map(_), None) => parent.key = Some((key_text(&node)?, node.span)),
            (Content::Scalar(_), _) => {}
        }
        Ok(())
    }

    fn finish(self) -> Result<Node, Vec<Problem>> {
        if !self.problems.is_empty() {
            return Err(self.problems);
        }
        let start = Span { line: 1, column: 1, length: 1 };
        Ok(self.root.unwrap_or(Node { content: Content::Scalar(Value::Null), span: start }))
    }
}

fn size(node: &Node) -> usize {
    1 + match &node.content {
        Content::Scalar(_) => 0,
        Content::List(items) => items.iter().map(size).sum(),
        Content::Map(entries) => entries.iter().map(|entry| size(&entry.value)).sum(),
    }
}

fn key_text(node: &Node) -> Result<String, Problem> {
    match &node.content {
        Content::Scalar(Value::String(text)) => Ok(text.clone()),
        Content::Scalar(value) => Ok(value.to_string()),
        _ => Err(Problem::new(ProblemCode::Syntax, node.span, "a key must be a text")
            .hint("put a text that begins with `{` into quotes")),
    }
}

/// A plain scalar has the type of the YAML 1.2 core schema; a quoted one is a text.
fn scalar(text: &str, style: ScalarStyle) -> Value {
    if style != ScalarStyle::Plain {
        return Value::String(text.to_owned());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => number(text).unwrap_or_else(|| Value::String(text.to_owned())),
    }
}

fn number(text: &str) -> Option<Value> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    if let Some(hex) = text.strip_prefix("0x") {
        return i64::from_str_radix(hex, 16).ok().map(Value::from);
    }
    if let Ok(whole) = text.parse::<i64>() {
        return Some(Value::from(whole));
    }
    let plain = digits.bytes().all(|c| c.is_ascii_digit() || matches!(c, b'.' | b'e' | b'E' | b'+' | b'-'));
    plain.then(|| text.parse::<f64>().ok()).flatten().and_then(serde_json::Number::from_f64).map(Value::Number)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parts_know_their_places() {
        let node = read("name: a\nsteps:\n  form: { use: webhook.receive, with: { path: 'x', n: 12 } }\n").unwrap();
        assert_eq!(
            node.to_json(),
            json!({"name": "a", "steps": {"form": {"use": "webhook.receive", "with": {"path": "x", "n": 12}}}})
        );
        let number = node.along(["steps", "form", "with", "n"]);
        assert_eq!(number.span, Span { line: 3, column: 55, length: 2 });
    }

    #[test]
    fn json_is_yaml() {
        assert_eq!(
            read("{\"a\": [1, 2.5, null, \"yes\", true]}").unwrap().to_json(),
            json!({"a": [1, 2.5, null, "yes", true]})
        );
    }

    #[test]
    fn documents_are_bounded() {
        let codes = |text: &str| read(text).unwrap_err()[0].code;
        let bomb = (1..30)
            .fold("a0: &a0 [x, x]\n".to_owned(), |text, n| format!("{text}a{n}: &a{n} [*a{p}, *a{p}]\n", p = n - 1));
        assert_eq!(codes(&bomb), ProblemCode::TooLarge);
        assert_eq!(codes(&"[".repeat(100)), ProblemCode::TooLarge);
        assert_eq!(codes(&"x".repeat(LONGEST + 1)), ProblemCode::TooLarge);
        assert_eq!(codes("a: 1\na: 2"), ProblemCode::DuplicateKey);
        assert_eq!(codes("a: [1"), ProblemCode::Syntax);
        assert_eq!(codes("a: 1\n---\nb: 2"), ProblemCode::Syntax);
    }
}
