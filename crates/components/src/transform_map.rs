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
    #[schemars(required, with = "Value")]
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
