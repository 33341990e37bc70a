//! Guards: what keeps one call within an expression from using all memory or all time.
//!
//! The engine's own limits are looked at between calls: not within `$pad('x', 1e12)`, and not while
//! a small value whose parts are shared unfolds. Where an expression could do such a thing, its
//! syntax tree gets guards around the operands in question: functions that weigh a value before it
//! is used. An expression that needs none, and that is nearly every one, is left as it is.

use std::{cell::Cell, collections::BTreeSet, mem};

use jsonata_core::{
    ast::{AstNode, BinaryOp, PathStep, Stage},
    evaluator::{Evaluator, EvaluatorError},
    value::{JValue, with_stack},
};

/// The most that one value may weigh: its text in bytes, and [`PART`] for each of its parts,
/// shared ones as often as they occur.
const HEAVIEST: usize = 64 << 20;
/// What one part of a value weighs: about what it takes in memory.
const PART: usize = 16;
/// What all values that one evaluation builds may weigh together, without the parts of parts.
const MOST_BUILT: usize = 256 << 20;
/// The longest text that a pattern is matched against all over, and the longest `$eval`.
const LONGEST_SEARCHED: usize = 256 * 1024;
/// The greatest width that `$pad` fills up to.
const WIDEST: f64 = 1e6;
/// The longest picture of a number or a date, in bytes, and the widest field in it.
const LONGEST_PICTURE: usize = 256;
/// A text this short makes no product with another too large.
const SHORT: usize = 32;
/// Values deeper than this are not read.
const DEEPEST: usize = 1_000;

/// What the error of a guard begins with.
pub(crate) const TOO_LARGE: &str = "U9001";

// No expression can be written that names these.
const WEIGH: &str = "guard: weigh";
const TIMES: &str = "guard: times";
const SEARCHED: &str = "guard: searched";
const WIDTH: &str = "guard: width";
const PICTURE: &str = "guard: picture";

/// Builtins whose result is a number, a truth value, or a text about as long as what they read.
const SCALAR: [&str; 33] = [
    "string",
    "length",
    "substring",
    "substringBefore",
    "substringAfter",
    "uppercase",
    "lowercase",
    "trim",
    "contains",
    "number",
    "abs",
    "floor",
    "ceil",
    "round",
    "power",
    "sqrt",
    "random",
    "sum",
    "max",
    "min",
    "average",
    "count",
    "boolean",
    "not",
    "exists",
    "type",
    "now",
    "millis",
    "toMillis",
    "fromMillis",
    "formatNumber",
    "formatBase",
    "formatInteger",
];
/// Builtins whose result is a text or a list: made anew by each call, as long as what they read.
const COPYING: [&str; 20] = [
    "string",
    "substring",
    "substringBefore",
    "substringAfter",
    "uppercase",
    "lowercase",
    "trim",
    "replace",
    "join",
    "pad",
    "split",
    "match",
    "append",
    "reverse",
    "sort",
    "distinct",
    "merge",
    "spread",
    "keys",
    "zip",
];
/// Builtins whose result is a text that may be longer than what they read.
const TEXTUAL: [&str; 7] =
    ["replace", "join", "pad", "base64encode", "base64decode", "encodeUrl", "encodeUrlComponent"];
/// Builtins that are guarded where they are called, and so cannot be passed on as functions.
const ONLY_CALLED: [&str; 6] = ["replace", "join", "pad", "match", "formatNumber", "formatInteger"];

thread_local! {
    /// What the evaluation under way has built so far.
    static BUILT: Cell<usize> = const { Cell::new(0) };
    /// The heaviest value that it multiplied with another.
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

/// The tree with guards where it needs them; none if it needs none. Fails if a builtin is used in
/// a way that cannot be guarded.
pub(crate) fn guarded(tree: &AstNode) -> Result<Option<AstNode>, String> {
    let mut tree = tree.clone();
    let mut guard = Guard::default();
    guard.survey(&mut tree);
    guard.visit(&mut tree);
    match guard.passed_on {
        Some(name) => {
            Err(format!("`${name}` must be called with its arguments: write `function($x) {{ ${name}($x, …) }}`"))
        }
        None => Ok(guard.changed.then_some(tree)),
    }
}

/// Begins an evaluation: nothing is built yet.
pub(crate) fn begin() {
    BUILT.set(0);
    LARGEST.set(0);
}

/// Gives an evaluator the functions that guards call. `eval` evaluates a source on an input.
pub(crate) fn install(
    evaluator: &mut Evaluator,
    eval: impl Fn(&str, &JValue) -> Result<JValue, EvaluatorError> + 'static,
) -> Result<(), EvaluatorError> {
    for (name, check) in
        [(WEIGH, weigh as Check), (TIMES, times), (SEARCHED, searched), (WIDTH, width), (PICTURE, picture)]
    {
        evaluator.register_fn(name, move |args: &[JValue]| {
            let value = args.first().unwrap_or(&JValue::Undefined);
            check(value).map(|()| value.clone())
        })?;
    }
    evaluator.register_fn_override("eval", move |args: &[JValue]| {
        let Some(source) = args.first().and_then(JValue::as_str) else { return Ok(JValue::Undefined) };
        searched(&args[0])?;
        eval(source, args.get(1).unwrap_or(&JValue::Undefined))
    })
}

type Check = fn(&JValue) -> Result<(), EvaluatorError>;

fn refuse(what: &str) -> EvaluatorError {
    EvaluatorError::EvaluationError(format!("{TOO_LARGE}: {what}"))
}

/// Refuses a value that is too heavy, and the one with which too much was built.
fn weigh(value: &JValue) -> Result<(), EvaluatorError> {
    let shallow = match value {
        JValue::String(text) => text.len(),
        JValue::Array(items) => items.len() * PART,
        JValue::Object(fields) => fields.len() * PART,
        _ => PART,
    };
    let built = BUILT.get() + shallow;
    BUILT.set(built);
    if built > MOST_BUILT {
        return Err(refuse("the expression builds too much"));
    }
    weight(value).map(|_| ())
}

fn weight(value: &JValue) -> Result<usize, EvaluatorError> {
    let mut left = HEAVIEST;
    spend(value, &mut left, 0).ok_or_else(|| refuse("a value in the expression is too large"))?;
    Ok(HEAVIEST - left)
}

fn spend(value: &JValue, left: &mut usize, depth: usize) -> Option<()> {
    let text = value.as_str().map_or(0, str::len);
    *left = left.checked_sub(PART + text)?;
    match value {
        JValue::Array(_) | JValue::Object(_) if depth > DEEPEST => None,
        JValue::Array(items) => with_stack(|| items.iter().try_for_each(|item| spend(item, left, depth + 1))),
        JValue::Object(fields) => with_stack(|| {
            fields.iter().try_for_each(|(name, field)| {
                *left = left.checked_sub(name.len())?;
                spend(field, left, depth + 1)
            })
        }),
        _ => Some(()),
    }
}

/// For the operands of `$replace` and `$join`: each may stand in the result as often as the other
/// has parts, so their product is bounded.
fn times(value: &JValue) -> Result<(), EvaluatorError> {
    weigh(value)?;
    let weight = weight(value)?;
    let product = LARGEST.get().max(PART).saturating_mul(weight) / PART;
    LARGEST.set(LARGEST.get().max(weight));
    if product > MOST_BUILT && weight > SHORT + PART {
        return Err(refuse("the texts to put together are too large"));
    }
    Ok(())
}

fn searched(value: &JValue) -> Result<(), EvaluatorError> {
    match value.as_str() {
        Some(text) if text.len() > LONGEST_SEARCHED => Err(refuse("the text is too long for this function")),
        _ => Ok(()),
    }
}

fn width(value: &JValue) -> Result<(), EvaluatorError> {
    match value {
        JValue::Number(number) if number.abs() > WIDEST => Err(refuse("`$pad` pads to a million characters at most")),
        _ => weigh(value),
    }
}

fn picture(value: &JValue) -> Result<(), EvaluatorError> {
    match value.as_str() {
        Some(text) if !is_harmless_picture(text) => Err(refuse("the picture is too long, or a field in it too wide")),
        _ => Ok(()),
    }
}

/// Short, and without a width of four digits or more (a year's `[Y0001]` is not a width).
fn is_harmless_picture(text: &str) -> bool {
    let widths = text.split([',', '-']).skip(1);
    let wide = |field: &str| field.trim_start().bytes().take_while(u8::is_ascii_digit).count() > 3;
    text.len() <= LONGEST_PICTURE && !(text.contains('[') && widths.into_iter().any(wide))
}

/// Puts guards into a tree.
#[derive(Default)]
struct Guard {
    /// It has variables or functions of its own, so that values can grow in a loop.
    loops: bool,
    /// It has a path that builds values out of values it built: they grow without a loop.
    chained: bool,
    /// How many steps of paths are around the node that is visited: it is evaluated for each item.
    within: usize,
    /// The names of its own variables.
    bound: BTreeSet<String>,
    /// A builtin that is used other than by a call.
    passed_on: Option<String>,
    changed: bool,
}

impl Guard {
    /// Finds out what kind of expression it is.
    fn survey(&mut self, node: &mut AstNode) {
        match node {
            AstNode::Lambda { params, .. } => {
                self.loops = true;
                self.bound.extend(params.iter().map(|name| name.trim_start_matches('$').to_owned()));
            }
            AstNode::Transform { .. } => self.loops = true,
            AstNode::Binary { op: BinaryOp::ColonEqual, lhs, .. } => {
                self.loops = true;
                if let AstNode::Variable(name) = &**lhs {
                    self.bound.insert(name.clone());
                }
            }
            AstNode::Path { steps } => {
                let builders = steps.iter().filter(|step| !self.is_harmless(&step.node)).count();
                self.chained |= builders > 2;
                self.bound.extend(steps.iter().flat_map(|step| [&step.focus, &step.index_var]).flatten().cloned());
            }
            _ => {}
        }
        for child in children(node) {
            with_stack(|| self.survey(child));
        }
    }

    fn visit(&mut self, node: &mut AstNode) {
        self.visit_children(node);
        match node {
            AstNode::Function { name, args, .. } => {
                let name = name.clone();
                self.call(&name, None, args);
                if self.copies(&name, args) {
                    self.wrap(WEIGH, node);
                }
            }
            AstNode::Binary { op, lhs, rhs } => {
                let op = *op;
                self.binary(op, lhs, rhs);
                let small = |side: &AstNode| matches!(side, AstNode::Number(number) if number.abs() <= 1_000.0);
                let builds = match op {
                    BinaryOp::Concatenate => self.loops || (self.within > 0 && (reaches_out(lhs) || reaches_out(rhs))),
                    BinaryOp::Range => !(small(lhs) && small(rhs)),
                    BinaryOp::ChainPipe => match &mut **rhs {
                        AstNode::Function { name, args, .. } => {
                            let name = name.clone();
                            self.copies(&name, args) || self.copies(&name, std::slice::from_mut(lhs))
                        }
                        _ => false,
                    },
                    _ => false,
                };
                if builds {
                    self.wrap(WEIGH, node);
                }
            }
            AstNode::Lambda { body, .. } => self.tail(body),
            AstNode::Array(items) | AstNode::ArrayGroup(items) if self.chained => {
                items.iter_mut().for_each(|item| self.weigh_unless_literal(item));
            }
            AstNode::Object(fields) if self.chained => {
                fields.iter_mut().for_each(|(_, value)| self.weigh_unless_literal(value));
            }
            AstNode::Variable(name) if ONLY_CALLED.contains(&name.as_str()) && !self.bound.contains(name) => {
                self.passed_on = Some(name.clone());
            }
            AstNode::Variable(name) if name == "eval" => self.changed = true,
            _ => {}
        }
    }

    fn visit_children(&mut self, node: &mut AstNode) {
        let is_path = usize::from(matches!(node, AstNode::Path { .. }));
        self.within += is_path;
        let nodes = match node {
            // What stands behind `~>` is no call of its own: an operand comes through the pipe.
            AstNode::Binary { op: BinaryOp::ChainPipe, lhs, rhs } if matches!(**rhs, AstNode::Function { .. }) => {
                std::iter::once(&mut **lhs).chain(children(rhs)).collect()
            }
            _ => children(node),
        };
        for child in nodes {
            with_stack(|| self.visit(child));
        }
        self.within -= is_path;
    }

    /// Whether a call makes a copy that a loop may make many times.
    fn copies(&self, name: &str, args: &mut [AstNode]) -> bool {
        COPYING.contains(&name)
            && !args.contains(&AstNode::Placeholder)
            && (self.loops || (self.within > 0 && args.iter_mut().any(reaches_out)))
    }

    fn binary(&mut self, op: BinaryOp, lhs: &mut AstNode, rhs: &mut AstNode) {
        match op {
            BinaryOp::Concatenate | BinaryOp::Equal | BinaryOp::NotEqual | BinaryOp::In => {
                self.weigh_unless_harmless(lhs);
                self.weigh_unless_harmless(rhs);
            }
            BinaryOp::ColonEqual => self.weigh_unless_harmless(rhs),
            BinaryOp::ChainPipe => match rhs {
                AstNode::Function { name, args, .. } => self.call(&name.clone(), Some(lhs), args),
                _ if self.loops => self.weigh_unless_harmless(lhs),
                _ => {}
            },
            _ => {}
        }
    }

    /// Guards the operands of a call; `piped` is the one that comes through `~>`.
    fn call(&mut self, name: &str, piped: Option<&mut AstNode>, args: &mut Vec<AstNode>) {
        let from_context = piped.is_none();
        match name {
            "replace" if from_context && args.len() == 2 => args.insert(0, input()),
            "match" if from_context && args.len() == 1 => args.insert(0, input()),
            "eval" if args.len() + usize::from(!from_context) == 1 => {
                args.push(input());
                self.changed = true;
            }
            _ => {}
        }
        let mut operands: Vec<&mut AstNode> = piped.into_iter().chain(args.iter_mut()).collect();
        match name {
            "string" | "distinct" => operands.into_iter().for_each(|operand| self.weigh_unless_harmless(operand)),
            "join" | "replace" => self.product(name, &mut operands),
            "match" => {
                if let Some(text) = operands.first_mut() {
                    self.guard(name, SEARCHED, text);
                }
            }
            "pad" => operands.iter_mut().for_each(|operand| self.guard(name, WIDTH, operand)),
            "formatNumber" | "formatInteger" | "parseInteger" | "fromMillis" | "toMillis" => {
                let first = usize::from(operands.len() > 1);
                operands.iter_mut().skip(first).for_each(|operand| self.guard(name, PICTURE, operand));
            }
            _ if self.loops && !is_guard(name) => {
                operands.into_iter().for_each(|operand| self.weigh_unless_harmless(operand));
            }
            _ => {}
        }
    }

    /// Guards the text and what is put into it many times, unless that is short.
    fn product(&mut self, name: &str, operands: &mut [&mut AstNode]) {
        let repeated = if name == "join" { 1 } else { 2 };
        match operands.get(repeated) {
            Some(AstNode::String(text)) if text.len() <= SHORT => {}
            Some(AstNode::Lambda { .. }) | None => {}
            Some(_) => {
                self.guard(name, TIMES, operands[repeated]);
                self.guard(name, TIMES, operands[0]);
                return;
            }
        }
        if let Some(first) = operands.first_mut() {
            self.weigh_unless_harmless(first);
        }
    }

    /// Guards what a function returns, so that it may be called again and again. A call in the
    /// last place stays there: its operands are guarded.
    fn tail(&mut self, body: &mut AstNode) {
        match body {
            AstNode::Conditional { then_branch, else_branch, .. } => {
                self.tail(then_branch);
                if let Some(branch) = else_branch {
                    self.tail(branch);
                }
            }
            AstNode::Block(items) => {
                if let Some(last) = items.last_mut() {
                    self.tail(last);
                }
            }
            AstNode::Function { .. } | AstNode::Call { .. } => {}
            _ => self.weigh_unless_harmless(body),
        }
    }

    fn guard(&mut self, name: &str, check: &str, operand: &mut AstNode) {
        match operand {
            AstNode::Placeholder => self.passed_on = Some(name.to_owned()),
            AstNode::Number(number) if number.abs() <= WIDEST => {}
            AstNode::String(text) if text.len() <= LONGEST_PICTURE && is_harmless_picture(text) => {}
            AstNode::Boolean(_) | AstNode::Null | AstNode::Object(_) if check == PICTURE => {}
            _ => self.wrap(check, operand),
        }
    }

    fn weigh_unless_harmless(&mut self, node: &mut AstNode) {
        if !self.is_harmless(node) {
            self.wrap(WEIGH, node);
        }
    }

    fn weigh_unless_literal(&mut self, node: &mut AstNode) {
        if !is_literal(node) {
            self.wrap(WEIGH, node);
        }
    }

    fn wrap(&mut self, check: &str, node: &mut AstNode) {
        let inner = mem::replace(node, AstNode::Null);
        *node = AstNode::Function { name: check.to_owned(), args: vec![inner], is_builtin: true };
        self.changed = true;
    }

    /// Whether a value is no heavier than the values it is made from.
    fn is_harmless(&self, node: &AstNode) -> bool {
        match node {
            AstNode::Path { steps } => steps.iter().all(|step| self.is_harmless(&step.node)),
            AstNode::Binary { op: BinaryOp::Coalesce | BinaryOp::Default, lhs, rhs } => {
                self.is_harmless(lhs) && self.is_harmless(rhs)
            }
            AstNode::Binary { op: BinaryOp::Range | BinaryOp::ChainPipe | BinaryOp::ColonEqual, .. } => false,
            AstNode::Conditional { then_branch, else_branch, .. } => {
                self.is_harmless(then_branch) && else_branch.as_ref().is_none_or(|branch| self.is_harmless(branch))
            }
            AstNode::Block(items) => items.last().is_none_or(|last| self.is_harmless(last)),
            AstNode::FunctionApplication(inner) => self.is_harmless(inner),
            AstNode::Sort { input, .. } => self.is_harmless(input),
            AstNode::Array(items) | AstNode::ArrayGroup(items) => items.iter().all(is_own_part),
            AstNode::Object(fields) => fields.iter().all(|(_, value)| is_own_part(value)),
            AstNode::Function { name, args, .. } => {
                is_guard(name)
                    || SCALAR.contains(&name.as_str())
                    || (TEXTUAL.contains(&name.as_str()) && !self.loops)
                    || args.contains(&AstNode::Placeholder)
            }
            AstNode::ObjectTransform { .. } | AstNode::Call { .. } | AstNode::Descendant => false,
            _ => true,
        }
    }
}

fn input() -> AstNode {
    AstNode::Variable(String::new())
}

/// Whether it reads more than the item that it is evaluated for.
fn reaches_out(node: &mut AstNode) -> bool {
    match node {
        AstNode::Variable(name) => !name.is_empty(),
        AstNode::ParentVariable(_) | AstNode::Parent(_) => true,
        _ => children(node).into_iter().any(|child| with_stack(|| reaches_out(child))),
    }
}

fn is_guard(name: &str) -> bool {
    name.starts_with("guard: ")
}

fn is_literal(node: &AstNode) -> bool {
    matches!(
        node,
        AstNode::String(_)
            | AstNode::Number(_)
            | AstNode::Boolean(_)
            | AstNode::Null
            | AstNode::Name(_)
            | AstNode::Lambda { .. }
    )
}

/// Whether a part of a new value is a literal or a field of the item it is made for.
fn is_own_part(node: &AstNode) -> bool {
    match node {
        AstNode::Path { steps } => steps.iter().all(|step| matches!(step.node, AstNode::Name(_))),
        _ => is_literal(node),
    }
}

/// The nodes right below one.
fn children(node: &mut AstNode) -> Vec<&mut AstNode> {
    match node {
        AstNode::Path { steps } => steps.iter_mut().flat_map(step_children).collect(),
        AstNode::Binary { lhs, rhs, .. } => vec![lhs, rhs],
        AstNode::Unary { operand: inner, .. }
        | AstNode::FunctionApplication(inner)
        | AstNode::Lambda { body: inner, .. } => vec![inner],
        AstNode::Call { procedure, args } => std::iter::once(&mut **procedure).chain(args).collect(),
        AstNode::Function { args: items, .. }
        | AstNode::Array(items)
        | AstNode::ArrayGroup(items)
        | AstNode::Block(items) => items.iter_mut().collect(),
        AstNode::Object(fields) => fields.iter_mut().flat_map(|(key, value)| [key, value]).collect(),
        AstNode::ObjectTransform { input, pattern } => {
            std::iter::once(&mut **input).chain(pattern.iter_mut().flat_map(|(key, value)| [key, value])).collect()
        }
        AstNode::Conditional { condition, then_branch, else_branch } => {
            [condition, then_branch].into_iter().chain(else_branch).map(|inner| &mut **inner).collect()
        }
        AstNode::Sort { input, terms } => {
            std::iter::once(&mut **input).chain(terms.iter_mut().map(|(term, _)| term)).collect()
        }
        AstNode::Transform { location, update, delete } => {
            [location, update].into_iter().chain(delete).map(|inner| &mut **inner).collect()
        }
        AstNode::String(_)
        | AstNode::Name(_)
        | AstNode::Number(_)
        | AstNode::Boolean(_)
        | AstNode::Null
        | AstNode::Undefined
        | AstNode::Placeholder
        | AstNode::Regex { .. }
        | AstNode::Variable(_)
        | AstNode::ParentVariable(_)
        | AstNode::Wildcard
        | AstNode::Descendant
        | AstNode::Parent(_) => Vec::new(),
    }
}

fn step_children(step: &mut PathStep) -> impl Iterator<Item = &mut AstNode> {
    let filters = step.stages.iter_mut().filter_map(|stage| match stage {
        Stage::Filter(inner) => Some(&mut **inner),
        Stage::KeepArray | Stage::Index(_) => None,
    });
    std::iter::once(&mut step.node).chain(filters)
}
