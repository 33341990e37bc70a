//! `transform.map`: makes a new body out of the message.
//!
//! Expressions are evaluated before it runs, so all that is left to do is to emit the result.

use flowline_sdk::prelude::*;

use crate::evaluated::present;

/// What becomes of a message.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MapConfig {
    /// The new body: a map of any depth with expressions in it, or one expression. Fields whose
    /// expression has no result are left out.
    #[serde(default, deserialize_with = "present")]
    #[schemars(!default, with = "Value")]
    map: Option<Value>,
}

pub(crate) struct Map;

impl Action for Map {
    type Config = MapConfig;

    fn spec() -> OperationSpec {
        OperationSpec::action("transform.map", "Map", "Makes a new body out of the message.")
            .description(
                "Fields whose expression has no result are left out. Where `map` is one expression and that has no \
                 result, the message is rejected: nothing disappears unseen. To drop messages on purpose use \
                 `transform.filter`. Files go on with the message.",
            )
            .example("map:\n  name: \"{{ first & ' ' & last }}\"\n  email: \"{{ $lowercase(email) }}\"")
            .example("map: \"{{ $merge([$, {'seen': true}]) }}\"")
    }

    async fn run(&self, _: &Context, config: MapConfig, input: Message) -> Result<Vec<Emit>, Fault> {
        let body = config
            .map
            .ok_or_else(|| Fault::reject("nothing_mapped", "the expression of `map` has no result for this message"))?;
        Ok(vec![Emit::new(body).attachments(input.attachments)])
    }
}

#[cfg(test)]
mod tests {
    use flowline_sdk::testing::TestHost;

    use super::*;

    #[tokio::test]
    async fn the_result_is_emitted_and_a_missing_one_rejects_the_message() {
        let host = TestHost::new();
        for (config, expected) in [
            (json!({ "map": { "a": 1 } }), Ok(json!({ "a": 1 }))),
            (json!({ "map": null }), Ok(json!(null))),
            (json!({}), Err("nothing_mapped".to_owned())),
        ] {
            let mut input = host.message(json!({ "old": true }));
            let file = Attachment { id: "1".into(), name: "a".into(), content_type: "text/plain".into(), size: 1 };
            input.attachments = vec![file.clone()];
            let ran = host.run(&Operation::action(Map), config, input).await;
            let expected = expected.map(|body: Value| vec![Emit::new(body).attachments(vec![file])]);
            assert_eq!(ran.map(|ran| ran.emits).map_err(|fault| fault.code), expected);
        }
    }
}
