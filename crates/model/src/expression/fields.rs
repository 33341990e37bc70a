//! Expressions that only name a field, as `customer.address.city`, or the whole message, `$`: what
//! most are. They are read from the JSON itself; all others need it converted first.

use jsonata_core::ast::{AstNode, PathStep};
use serde_json::Value;

/// The names on the way from the message to a field; empty for the message itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fields(Vec<String>);

impl Fields {
    /// Of an expression that is no more than that.
    pub(super) fn named_by(expression: &AstNode) -> Option<Self> {
        match expression {
            node if is_message(node) => Some(Self(Vec::new())),
            AstNode::Name(name) => Some(Self(vec![name.clone()])),
            AstNode::Path { steps } => {
                let steps = match steps.split_first() {
                    Some((first, rest)) if is_plain(first) && is_message(&first.node) => rest,
                    _ => steps,
                };
                steps.iter().map(name).collect::<Option<Vec<_>>>().map(Self)
            }
            _ => None,
        }
    }

    /// What the expression gives for a message. None where it does more than to read fields: what
    /// is not in an object, JSONata looks for in the items of lists, and flattens what it finds.
    pub(super) fn of<'v>(&self, message: &'v Value) -> Option<Option<&'v Value>> {
        let mut value = message;
        if value.is_array() {
            return None;
        }
        for name in &self.0 {
            match value.as_object()?.get(name) {
                Some(field) => value = field,
                None => return Some(None),
            }
        }
        (!value.is_array()).then_some(Some(value))
    }
}

fn is_message(node: &AstNode) -> bool {
    matches!(node, AstNode::Variable(name) if name.is_empty())
}

fn is_plain(step: &PathStep) -> bool {
    step.stages.is_empty()
        && step.focus.is_none()
        && step.index_var.is_none()
        && step.ancestor_label.is_none()
        && !step.is_tuple
        && !step.inner_tuple
}

fn name(step: &PathStep) -> Option<String> {
    match &step.node {
        AstNode::Name(name) if is_plain(step) => Some(name.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(source: &str) -> Option<Fields> {
        Fields::named_by(jsonata_core::Expression::compile(source).unwrap().ast())
    }

    #[test]
    fn what_only_names_a_field_is_known() {
        for (source, names) in [
            ("$", &[][..]),
            ("name", &["name"]),
            ("`my name`", &["my name"]),
            ("a.b.c", &["a", "b", "c"]),
            ("$.a.b", &["a", "b"]),
        ] {
            assert_eq!(fields(source).unwrap().0, names, "{source}");
        }
        for source in
            ["a[0]", "a[]", "a[b = 1]", "a.*", "a.$", "a^(b)", "a#$i", "a@$x.b", "$$", "$x", "'a'", "a.(b)", "%.a"]
        {
            let read = jsonata_core::Expression::compile(source).ok().and_then(|it| Fields::named_by(it.ast()));
            assert_eq!(read, None, "{source}");
        }
    }

    /// On whatever message, it is what the engine gives, or none.
    #[test]
    fn fields_are_what_the_engine_gives() {
        let leaves =
            [json!(1), json!("x"), json!(null), json!({}), json!([]), json!([1]), json!([[1]]), json!([{"b": 1}])];
        let mut messages = leaves.to_vec();
        for leaf in &leaves {
            messages.push(json!({ "a": leaf }));
            messages.push(json!({ "a": { "b": leaf } }));
            messages.push(json!([{ "a": leaf }, { "a": { "b": leaf } }]));
            messages.push(json!({ "a": [{ "b": leaf }] }));
        }
        let mut read = 0;
        for source in ["$", "a", "a.b", "$.a", "$.a.b", "b"] {
            let expression = jsonata_core::Expression::compile(source).unwrap();
            for message in &messages {
                let Some(found) = fields(source).unwrap().of(message) else { continue };
                let input = super::super::to_jvalue(message);
                let expected = expression.evaluate_with_options(&input, Default::default()).unwrap();
                let expected = super::super::to_json(&expected, super::super::Limits::FULL).unwrap();
                assert_eq!(found, expected.as_ref(), "{source} of {message}");
                read += 1;
            }
        }
        assert!(read > 60, "{read}");
    }
}
