//! `transform.split`: makes one message of every item of a list.

use flowline_sdk::prelude::*;

/// The most items that one message may be split into.
const MOST_ITEMS: usize = 100_000;

/// What is split.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SplitConfig {
    /// The list. A single value counts as a list of one; no result as an empty list.
    #[serde(default)]
    #[schemars(!default, with = "Value")]
    items: Option<Value>,
    /// The most items: a message with more of them is rejected.
    #[serde(default = "ten_thousand")]
    #[schemars(range(min = 1, max = MOST_ITEMS))]
    max: usize,
}

fn ten_thousand() -> usize {
    10_000
}

pub(crate) struct Split;

impl Action for Split {
    type Config = SplitConfig;

    fn spec() -> OperationSpec {
        OperationSpec::action("transform.split", "Split", "Makes one message of every item of a list.")
            .description(
                "Each message has an item as its body and says in the headers `split.index` (from 0) and \
                 `split.count` which one it is. The files of the message go with every item. An expression that \
                 selects a single item gives that item and not a list, so a single value counts as a list of one.",
            )
            .example("items: \"{{ lines }}\"")
            .example("items: \"{{ lines[quantity > 0] }}\"\nmax: 500")
    }

    async fn run(&self, _: &Context, config: SplitConfig, input: Message) -> Result<Vec<Emit>, Fault> {
        let items = match config.items {
            None => Vec::new(),
            Some(Value::Array(items)) => items,
            Some(single) => vec![single],
        };
        let count = items.len();
        let max = config.max.min(MOST_ITEMS);
        if count > max {
            return Err(Fault::reject(
                "too_many_items",
                format!("the list has {count} items; at most {max} are split"),
            ));
        }
        let emit = |(index, item): (usize, Value)| {
            Emit::new(item)
                .header("split.index", index.to_string())
                .header("split.count", count.to_string())
                .attachments(input.attachments.clone())
        };
        Ok(items.into_iter().enumerate().map(emit).collect())
    }
}

#[cfg(test)]
mod tests {
    use flowline_sdk::testing::TestHost;

    use super::*;

    async fn split(config: Value) -> Result<Vec<Emit>, Fault> {
        let host = TestHost::new();
        host.run(&Operation::action(Split), config, host.message(json!({}))).await.map(|ran| ran.emits)
    }

    #[tokio::test]
    async fn every_item_becomes_a_message() {
        for (config, bodies) in [
            (json!({ "items": [1, "b", null] }), vec![json!(1), json!("b"), json!(null)]),
            (json!({ "items": [] }), vec![]),
            (json!({}), vec![]),
            (json!({ "items": null }), vec![]),
            (json!({ "items": { "sku": 1 } }), vec![json!({ "sku": 1 })]),
        ] {
            let emits = split(config.clone()).await.unwrap();
            let places = (0..).map(|index: usize| index.to_string());
            for (emit, index) in emits.iter().zip(places) {
                assert_eq!(emit.headers["split.index"], index);
                assert_eq!(emit.headers["split.count"], bodies.len().to_string());
            }
            assert_eq!(emits.into_iter().map(|emit| emit.body).collect::<Vec<_>>(), bodies, "{config}");
        }
    }

    #[tokio::test]
    async fn a_list_that_is_too_long_is_rejected() {
        let fault = split(json!({ "items": [1, 2, 3], "max": 2 })).await.unwrap_err();
        assert_eq!((fault.kind, fault.code.as_str()), (FaultKind::Reject, "too_many_items"));
    }
}
